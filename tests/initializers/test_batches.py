"""Rows of many mixtures are assigned together as each would be alone."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.em import MixtureModel
from gmm_lightning.em.row_assignment import assign_rows
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.initializers import Initializer, KMeans, Mixed, registry, standardize
from gmm_lightning.rows import Batch

pytestmark = pytest.mark.usefixtures("double")
DRAWN = [name for name in registry.names if name not in ("given", "mixed")]
LENGTHS = (40, 25, 7, 40)


def seeded(seed: int = 5) -> Generator:
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def sets(d: int, *, weighted: bool) -> tuple[Tensor, Tensor]:
    """Rows of several mixtures `(B, N, D)` and their weights; short ones are filled up."""
    x = torch.randn(len(LENGTHS), max(LENGTHS), d) + 3 * torch.randint(3, (4, 40, 1))
    weight = torch.rand(x.shape[:2]) + 0.1 if weighted else torch.ones(x.shape[:2])
    for own, w, n in zip(x, weight, LENGTHS, strict=True):
        own[n:], w[n:] = own[0], 0.0
    return x, weight


class Halves(Initializer):
    """A third party's: it knows one set of rows alone."""

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        assert bool((weight > 0).all())
        return (x[:, 0] > x[:, 0].median()).long()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", [*DRAWN, "whitened", "third party"])
def test_each_as_if_alone(name: str, weighted: bool) -> None:
    special = {"whitened": KMeans(num_starts=2, whiten=True), "third party": Halves()}
    initializer = special.get(name) or registry.create(name)
    for d in (1, 3):
        x, weight = sets(d, weighted=weighted)
        one, many = seeded(), seeded()
        found = initializer.assign_many(x, 3, weight, 2, many)
        for own, w, mine, n in zip(x, weight, found, LENGTHS, strict=True):
            alone = [initializer.assign(own[:n], 3, w[:n], one) for _ in range(2)]
            assert torch.equal(mine[:, :n], torch.stack(alone))
        assert torch.equal(one.get_state(), many.get_state())


def test_mixed_starts_of_a_batch_differ() -> None:
    x, weight = sets(2, weighted=False)
    labels = Mixed([KMeans()]).assign_many(x, 2, weight, 4, seeded())
    assert labels.shape == (4, 4, 40)
    assert torch.equal(labels[:, 0], KMeans().assign_many(x, 2, weight, 4, seeded())[:, 0])
    for own, n in zip(labels, LENGTHS, strict=True):
        # A start that repeats the partition of an earlier one is replaced.
        assert len({tuple((one[:n] == one[0]).tolist()) for one in own}) > 1


@pytest.mark.parametrize("name", ["kmeans", "random"])
def test_rows_of_weight_zero_anywhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(30, 3, 2), torch.ones(30, 3)
    weight[::4, 0] = weight[5:9, 1] = 0.0
    weight[:20, 2] = 0.0
    x[weight == 0] = float("inf")
    model = MixtureModel.from_layer(GMMLayer(2, 3, batch_shape=(3,)), 2)
    initializer = registry.create(name)
    found = assign_rows(model, initializer, Batch(x, weight), 3, seeded())
    assert found.shape[:2] == (30, 6)
    one = seeded()
    for m in range(3):
        kept = weight[:, m] > 0
        w = weight[kept, m]
        for start in range(2):
            alone = initializer.assign(standardize(x[kept, m], w), 3, w, one)
            assert torch.equal(found[kept, start * 3 + m], alone)
    # However few mixtures go together.
    monkeypatch.setattr("gmm_lightning.em.row_assignment.rows_per_chunk", lambda *_, **__: 1)
    assert torch.equal(assign_rows(model, initializer, Batch(x, weight), 3, seeded()), found)


def test_a_mixture_with_too_few_rows() -> None:
    weight = torch.ones(6, 2)
    weight[2:, 1] = 0.0
    with pytest.raises(InvalidDataError, match="there are 2 rows to fit"):
        fit_em(GMMLayer(1, 3, batch_shape=(2,)), torch.randn(6, 2, 1), sample_weight=weight)


@pytest.mark.parametrize("distance", [3.0, 1e6])
def test_the_start_of_a_batch_is_each_start(distance: float) -> None:
    # At 1e6 statistics are taken about a row of each cluster.
    x = torch.randn(60, 5, 2) + distance * torch.randint(3, (60, 5, 1))
    layer = GMMLayer(2, 3, batch_shape=(5,))
    fit_em(layer, x, initializer="kmeans", max_iter=0, num_restarts=2, generator=seeded())
    one = seeded()
    for m in range(5):
        alone = GMMLayer(2, 3)
        fit_em(alone, x[:, m], initializer="kmeans", max_iter=0, num_restarts=2, generator=one)
        # Sums in another order.
        torch.testing.assert_close(layer.means[m], alone.means, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            layer.covariance_matrix[m], alone.covariance_matrix, rtol=1e-8, atol=1e-10
        )
