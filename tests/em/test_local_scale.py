"""The unit of the floor: local, and the same wherever a few rows lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from torch import Tensor

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.em import EMResult
from gmm_lightning.em.local_scale import local_scale, narrowest_windows
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.rows import as_source

pytestmark = pytest.mark.usefixtures("double")


def blobs(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(600, 3, generator=generator)
    return torch.cat([left, 0.01 * torch.randn(400, 3, generator=generator) + 5])


def moved(x: Tensor, how: str, seed: int) -> Tensor:
    """The rows with one of a hundred elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(x), generator=generator)[: len(x) // 100]
    new = x.clone()
    spread = torch.randn(len(some), x.shape[1], generator=generator)
    new[some] = {
        "far away": 1e9 * spread,
        "to the median": x.median(0).values.expand_as(spread),
        "next to a row": x[seed] + 1e-9 * spread,
        "anywhere": x.amin(0) + (x.amax(0) - x.amin(0)) * spread.sigmoid(),
        "onto other rows": x[torch.randint(len(x), (len(some),), generator=generator)],
    }[how]
    return new


HOWS = ("far away", "to the median", "next to a row", "anywhere", "onto other rows")


@pytest.mark.parametrize("how", HOWS)
def test_one_row_of_a_hundred_moves_it_by_a_factor_of_two_at_most(how: str) -> None:
    iris = torch.tensor(load_iris().data)
    # Columns of few values: moved to other such values.
    for x in (blobs(), iris) if how == "onto other rows" else (blobs(),):
        before = narrowest_windows(x)
        for seed in range(5):
            ratio = narrowest_windows(moved(x, how, seed)) / before
            assert ((ratio > 0.5) & (ratio < 2)).all()


def test_it_moves_with_shifts_and_scales() -> None:
    x, unit = blobs(), torch.tensor([1e-6, 3.0, 1e5])
    expected = narrowest_windows(x) * unit
    assert torch.allclose(narrowest_windows(x * unit + 10 * unit), expected, rtol=1e-9)
    assert torch.equal(narrowest_windows(x.flip(0)), narrowest_windows(x))
    both = torch.stack([x, 2 * x], 1)
    assert torch.equal(narrowest_windows(both)[1], 2 * narrowest_windows(x))
    assert torch.equal(narrowest_windows(x, torch.full((1000,), 0.1)), narrowest_windows(x))


@pytest.mark.parametrize("spread", [1e-6, 1.0])
def test_the_floor_is_far_below_every_cluster(spread: float) -> None:
    generator = torch.Generator().manual_seed(1)
    tight = spread * torch.randn(100, 1, generator=generator)
    wide = 1e3 * torch.randn(1900, 1, generator=generator) + 7
    unit = narrowest_windows(torch.cat([tight, wide]))
    least = 1e-4 * float(unit)  # A relative floor of 1e-8.
    assert least < 0.01 * float(tight.std())


def test_columns_of_few_values() -> None:
    steps = torch.arange(1600).remainder(16).double()
    zeros = torch.cat([torch.zeros(1200), torch.randn(400) + 50])
    rare = torch.cat([torch.zeros(1597), torch.ones(3)])
    x = torch.stack([steps, zeros, rare, torch.full((1600,), 7.0)], 1)
    unit = narrowest_windows(x)
    # Windows hold 4 % of all rows, so 15 % of these 400.
    assert unit.tolist() == [1.0, pytest.approx(0.27, abs=0.1), 1.0, 0.0]
    assert narrowest_windows(torch.tensor([[3.0]])).tolist() == [0.0]
    assert narrowest_windows(torch.tensor([[3.0], [5.0]])).tolist() == [2.0]


@pytest.mark.parametrize("fill", [0.0, 1e15, 1e30])
def test_rows_of_weight_zero_have_no_say(fill: float) -> None:
    x = blobs()
    # Each mixture of a batch has rows that the other one leaves out.
    weight = torch.zeros(3 * len(x), 2)
    weight[: len(x), 0] = weight[2 * len(x) :, 1] = 1.0
    rows = torch.full((3 * len(x), 2, 3), fill)
    rows[: len(x), 0], rows[2 * len(x) :, 1] = x, x
    both = local_scale(as_source(rows, weight, num_features=3, batch_shape=(2,)))
    alone = local_scale(as_source(x, num_features=3))
    assert torch.allclose(both, alone.expand(2, 3), rtol=1e-12)


def test_a_feature_is_constant_whatever_rows_of_weight_zero_hold() -> None:
    # More rows than are sampled, and one without weight that the sample may leave out.
    x = torch.randn(200_000, 2)
    x[:, 1] = 3.0
    weight = torch.ones(len(x))
    weight[0] = weight[100] = 0.0
    x[0], x[100] = -1e9, 1e9
    scale = local_scale(as_source(x, weight, num_features=2))
    assert scale[0] > 0
    assert scale[1] == 0


def test_what_is_constant_in_a_sample_only_is_not_constant() -> None:
    x = torch.zeros(1 << 16, 1)
    x[12345] = 4.0
    assert local_scale(as_source(x, None, num_features=1, batch_shape=torch.Size(()))) == 4.0


# -- fits of rows that lie far apart --------------------------------------------------------------


def far_row() -> Tensor:
    rng = np.random.default_rng(0)
    parts = [rng.normal(-3, 1, (300, 2)), rng.normal(3, 1, (200, 2)), [[1e8, 1e8]]]
    return torch.tensor(np.concatenate(parts))


def prices() -> Tensor:
    rng = np.random.default_rng(0)
    near = [rng.normal(5, 1, (1000, 1)), rng.normal(15, 2, (1000, 1))]
    return torch.tensor(np.concatenate([*near, rng.normal(1e6, 1e4, (200, 1))]))


def fitted(x: Tensor, k: int, **options: Any) -> tuple[GMMLayer, EMResult]:
    layer = GMMLayer(x.shape[1], k, options.pop("family", "full"), options.pop("priors", None))
    generator = torch.Generator().manual_seed(0)
    return layer, fit_em(layer, x, num_restarts=5, generator=generator, **options)


@pytest.mark.parametrize("priors", [None, "niw"])
@pytest.mark.parametrize("family", ["full", "diag", "spherical"])
def test_one_row_far_away_leaves_clusters_as_they_are(family: str, priors: str | None) -> None:
    # scikit-learn: means -3.08 and 2.91, deviations 1.003 and 0.956.
    layer, _ = fitted(far_row(), 3, family=family, priors=priors)
    order = layer.means[:, 0].argsort()
    assert layer.means[order, 0][:2].tolist() == pytest.approx([-3.08, 2.91], abs=0.02)
    deviation = layer.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()[order][:2]
    assert torch.allclose(deviation, torch.ones(2, 2), atol=0.07)


@pytest.mark.parametrize("priors", [None, "niw"])
def test_a_cluster_far_away_leaves_the_others_as_they_are(priors: str | None) -> None:
    layer, result = fitted(prices(), 3, priors=priors, tol=1e-8, max_iter=1000)
    order = layer.means[:, 0].argsort()
    deviation = layer.covariance_matrix[order, 0, 0].detach().sqrt()
    assert layer.means[order, 0][:2].tolist() == pytest.approx([5, 15], abs=0.2)
    assert deviation[:2].tolist() == pytest.approx([1, 2], abs=0.3)
    # scikit-learn's default ends at -4.0671: it has one component on both.
    assert float(result.log_likelihood) > -3.9
    assert not result.events


def test_a_constant_feature_leaves_the_likelihood_as_it_is() -> None:
    x = torch.randn(300, 2)
    both = torch.cat([x, torch.full((300, 1), 7.0)], 1)
    for family in ("full", "diag", "tied", "tied_diag"):
        layer, result = fitted(both, 2, family=family)
        plain, expected = fitted(x, 2, family=family)
        assert result.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-6)
        assert layer.num_free_parameters == plain.num_free_parameters
        assert layer.constant_features == result.constant_features == [2]
        assert "constant" in str(result.events[-1])
        assert (layer.sample(3)[:, 2] == 7).all()


@pytest.mark.parametrize("family", ["tied", "tied_diag", "tied_spherical"])
def test_a_shared_covariance_of_clusters_far_apart(family: str) -> None:
    # 1e9 deviations apart: the moments of all rows have no digits left for those within.
    labels = torch.arange(600) % 2
    x = torch.randn(600, 2)
    within = sum((x[labels == c] - x[labels == c].mean(0)).square().sum(0) for c in (0, 1)) / 600
    layer, result = fitted(x + 1e9 * labels.unsqueeze(-1), 2, family=family)
    expected = within.mean().expand(2) if family == "tied_spherical" else within
    assert torch.allclose(layer.covariance_matrix[0].diagonal(), expected, rtol=1e-6)
    assert not result.events


def test_rows_that_a_dtype_cannot_hold_are_refused() -> None:
    rng = np.random.default_rng(0)
    offset = np.array([0.0, 5.0]).repeat(500)[:, None] + rng.normal(0, 0.1, (1000, 1))
    with pytest.raises(InvalidDataError, match=r"around 1.7e\+09 .*float32 has steps .*double"):
        fit_em(GMMLayer(1, 2, dtype=torch.float32), 1.7e9 + offset)
    layer = GMMLayer(1, 2)
    fit_em(layer, 1.7e9 + offset, generator=torch.Generator().manual_seed(0))
    assert sorted((layer.means - 1.7e9).flatten().tolist()) == pytest.approx([0, 5], abs=0.02)
    # Near enough to zero, float32 holds them.
    single = GMMLayer(1, 2, dtype=torch.float32)
    fit_em(single, 2e4 + offset / 10, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(
        single.covariance_matrix.flatten().sqrt().double(), torch.tensor(0.01), rtol=0.1
    )
