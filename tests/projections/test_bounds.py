"""Bounds of weights, means and variances, and means on a line, by other solvers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear, minimize_scalar
from support.projections import gain_within
from support.random_layers import random_layer, rows
from torch import Generator, Tensor

from gmm_lightning import GMMLayer, e_step, fit_em, m_step
from gmm_lightning.em import initialize_layer
from gmm_lightning.errors import CheckpointError, InvalidArgumentError, InvalidDataError
from gmm_lightning.layers import require_state
from gmm_lightning.projections import EigenvalueRatio, FixedWeights, LinearMeans, Projection
from gmm_lightning.statistics import Moments

pytestmark = pytest.mark.usefixtures("double")


OPEN = ((0.0, 0.0), (1e9, 1e9))


def moments_of(layer: GMMLayer, x: Tensor) -> Moments:
    return Moments.from_statistics(e_step(layer, x), layer.covariance)


def projected(layer: GMMLayer, x: Tensor, projection: Projection | None = None) -> Moments:
    own = layer.projections[0] if projection is None else projection
    return own(moments_of(layer, x), layer.covariance, layer.distribution())


def by_halving(mass: Any, lower: Any, upper: Any) -> Any:
    """`min(max(m / t, l), u)` with the t for which they sum to one, found by halving."""
    low, high = 1e-30, 1e30
    for _ in range(400):
        t = (low * high) ** 0.5
        total = np.clip(mass / t, lower, upper).sum()
        low, high = (t, high) if total > 1 else (low, t)
    return np.clip(mass / t, lower, upper)


@pytest.mark.parametrize("seed", range(6))
def test_bounded_weights_fill_like_water(seed: int) -> None:
    random = np.random.default_rng(seed)
    for _ in range(20):
        k = int(random.integers(2, 9))
        lower, upper = np.sort(random.uniform(0, 2 / k, (2, k)), axis=0)
        lower, upper = lower * 0.9 / max(1, lower.sum()), np.minimum(upper + 0.6 / k, 1)
        if upper.sum() < 1:
            continue
        mass = random.gamma(0.5, 20, k)
        layer = GMMLayer(1, k, bounds={"weight": (lower.tolist(), upper.tolist())})
        layer.set_parameters(weights=mass)
        # Thirty halvings a decimal: to the rounding of a sum of few numbers.
        np.testing.assert_allclose(
            layer.weights.detach().numpy(), by_halving(mass, lower, upper), rtol=1e-10, atol=1e-12
        )


def test_bounded_weights_at_the_edges() -> None:
    for bounds, weights, expected in (
        ((0.2, 1.0), [0.0, 0.0, 1.0], [0.2, 0.2, 0.6]),
        (([0.5, 0.5], 1.0), [0.1, 0.9], [0.5, 0.5]),
        ((0.0, [0.1, 0.2, 1.0]), [1.0, 1.0, 0.0], [0.1, 0.2, 0.7]),
        ((0.0, 0.4), [1.0, 0.0, 0.0], [0.4, 0.3, 0.3]),
        ((0.0, 1.0), [0.1, 0.9], [0.1, 0.9]),
    ):
        layer = GMMLayer(1, len(weights), bounds={"weight": bounds})
        layer.set_parameters(weights=weights)
        # A weight of zero is the smallest positive number.
        assert layer.weights.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_dense_means_in_a_box_are_the_nearest(seed: int) -> None:
    """`min (x - m)' P (x - m)` in a box, by scipy's bounded least squares."""
    generator = Generator().manual_seed(seed)
    d = 4
    a = torch.randn(3, d, d, generator=generator)
    covariances = a @ a.mT + 0.1 * torch.eye(d)
    layer = GMMLayer(d, 3, bounds={"mean": (-0.3, [0.2, 0.5, 0.1, 1.0])})
    means = torch.randn(3, d, generator=generator)
    layer.set_parameters(means=means, covariance_matrix=covariances)
    x = 3 * torch.randn(60, d, generator=generator) + 1
    free, found = moments_of(layer, x), projected(layer, x)
    upper = np.array([0.2, 0.5, 0.1, 1.0])
    for k in range(3):
        root = torch.linalg.inv(torch.linalg.cholesky(covariances[k])).numpy()
        target = root @ free.means[k].numpy()
        best = lsq_linear(root, target, bounds=(-0.3, upper), method="bvls", tol=1e-14).x
        np.testing.assert_allclose(found.means[k].detach().numpy(), best, rtol=1e-8, atol=1e-8)
    gap = found.means - free.means
    added = free.counts[:, None, None] * gap.unsqueeze(-1) * gap.unsqueeze(-2)
    torch.testing.assert_close(found.scatter, free.scatter + added, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("family", ["full", "diag", "tied_diag"])
@pytest.mark.parametrize(
    "bounds", [((0.5, 0.1), (1.5, 0.3)), ((0.5, 0.3), None), (None, (1.0, 2.0))], ids=str
)
def test_variances_between_bounds_of_each_feature(
    family: str, bounds: Any, generator: Generator
) -> None:
    x = rows(120, 2, generator)
    layer = GMMLayer(2, 3, family, bounds={"variance": bounds})
    result = fit_em(layer, x, tol=0.0, max_iter=200, generator=generator)
    assert min(torch.tensor(result.history).diff().tolist()) > -1e-13
    assert gain_within(layer, x, 1e-4, generator) < 1e-6
    lower, upper = (torch.tensor(b or d) for b, d in zip(bounds, OPEN, strict=True))
    dense = layer.covariance_matrix.detach()
    # In every direction, to rounding.
    assert float(torch.linalg.eigvalsh(dense - torch.diag(lower.double())).min()) > -1e-12
    assert float(torch.linalg.eigvalsh(torch.diag(upper.double()) - dense).min()) > -1e-6


def test_one_variance_is_within_the_bounds_of_all_features() -> None:
    layer = GMMLayer(2, 2, "spherical", bounds={"variance": ([0.1, 0.4], [2.0, 3.0])})
    layer.set_parameters(covariance_matrix=torch.stack([torch.eye(2) * s for s in (0.2, 9.0)]))
    assert layer.scale.square().tolist() == pytest.approx([0.4, 2.0], rel=1e-12)


@pytest.mark.parametrize("family", ["full", "diag", "spherical", "tied"])
@pytest.mark.parametrize("ratio", [1.0, 2.0, 8.0])
def test_the_threshold_of_an_eigenvalue_ratio(
    family: str, ratio: float, generator: Generator
) -> None:
    """The m that minimises `sum n (log e + d / e)`, by a search on a grid."""
    x = rows(50, 2, generator) * torch.tensor([1.0, 3.0])
    layer = random_layer(family, generator=generator)
    free = moments_of(layer, x)
    found = projected(layer, x, EigenvalueRatio(ratio))

    def eigenvalues(moments: Moments) -> Tensor:
        dof = moments.dof.reshape(-1, *[1] * (moments.scatter.dim() - 1))
        one = moments.scatter / dof
        values = torch.linalg.eigvalsh(one) if one.dim() == 3 else one
        return values.reshape(len(free.dof), -1)

    before, after = eigenvalues(free), eigenvalues(found)
    assert float(after.max() / after.min()) <= ratio * (1 + 1e-12)

    def loss(log_m: float) -> float:
        m = float(np.exp(log_m))
        e = before.clamp(m, ratio * m)
        return float((free.dof.unsqueeze(-1) * (e.log() + before / e)).sum())

    grid = np.linspace(np.log(float(before.min())) - 3, np.log(float(before.max())) + 1, 400)
    best = grid[np.argmin([loss(m) for m in grid])]
    exact = minimize_scalar(loss, bracket=(best - 0.05, best, best + 0.05), tol=1e-12).fun
    ours = float((free.dof.unsqueeze(-1) * (after.log() + before / after)).sum())
    assert ours <= exact + 1e-9 * abs(exact)


def test_a_ratio_that_holds_changes_nothing(generator: Generator) -> None:
    layer, x = random_layer("full", generator=generator), rows(60, 2, generator)
    free, found = moments_of(layer, x), projected(layer, x, EigenvalueRatio(1e6))
    assert torch.equal(free.scatter, found.scatter)


@pytest.mark.parametrize("shape", ["(K, P)", "(K, D, P)"])
@pytest.mark.parametrize("family", ["full", "tied", "diag"])
def test_means_on_a_lattice_by_least_squares(family: str, shape: str, generator: Generator) -> None:
    """`b = (sum n A' P A)^-1 sum n A' P m`, term by term."""
    d, k = 2, 4
    grid = torch.tensor([[1.0, i, j] for i in (0, 1) for j in (0, 1)])
    wide = torch.stack([torch.kron(row.unsqueeze(0), torch.eye(d)) for row in grid])
    matrix = grid if shape == "(K, P)" else torch.randn(k, d, 3, generator=generator)
    layer = random_layer(family, "normal", num_components=k, generator=generator, given=True)
    layer.projections.append(LinearMeans(matrix))
    own = wide if shape == "(K, P)" else matrix
    x = rows(80, d, generator)
    moments = layer.all_priors[0].update(moments_of(layer, x), layer.covariance)
    found = layer.projections[0](moments, layer.covariance, layer.distribution())
    precision = layer.precision_matrix.detach().expand(k, d, d)
    left, right = torch.zeros(own.shape[-1], own.shape[-1]), torch.zeros(own.shape[-1])
    for n, a, p, m in zip(moments.mean_precision, own, precision, moments.means, strict=True):
        left, right = left + n * a.T @ p @ a, right + n * a.T @ p @ m
    b = torch.linalg.solve(left, right)
    torch.testing.assert_close(found.means, own @ b, rtol=1e-9, atol=1e-9)


def test_lattices_keep_what_the_rows_leave_open(generator: Generator) -> None:
    """A component without rows does not make b infinite."""
    layer = random_layer("full", generator=generator)
    layer.projections.append(LinearMeans([[1, 0], [1, 1], [1, 2]]))
    layer.set_parameters(means=[[0.0, 0.0], [400.0, 0.0], [800.0, 0.0]])
    fit_em(layer, rows(40, 2, generator), initializer=None, max_iter=4)
    assert bool(torch.isfinite(layer.means).all())
    first, second, third = layer.means.detach()
    torch.testing.assert_close(third - second, second - first, rtol=1e-9, atol=1e-9)


def test_bounds_and_frozen_parts_stand_beside_each_other(generator: Generator) -> None:
    x = rows(80, 2, generator)
    layer = GMMLayer(2, 3, bounds={"mean": (0.0, 3.0), "variance": (0.5, 1.2)})
    layer.set_parameters(means=[[0.5, 0.5], [1.0, 1.0], [2.0, 2.0]])
    layer.freeze([{"means": [1]}, {"covariances": [0]}])
    before = layer.means[1].detach().clone(), layer.raw_scale[0].detach().clone()
    result = fit_em(layer, x, tol=0.0, max_iter=60, generator=generator)
    assert torch.equal(layer.means[1], before[0])
    assert torch.equal(layer.raw_scale[0], before[1])
    assert 0.0 <= layer.means.detach().min() <= layer.means.detach().max() <= 3.0
    assert min(torch.tensor(result.history).diff().tolist()) > -1e-13


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bounds": {"weight": (0.5, 1.0)}}, "no weights satisfy the bounds.*got 1.5 and 3"),
        ({"bounds": {"weight": (0.0, 0.2)}}, "no weights satisfy the bounds.*0.6"),
        ({"bounds": {"weight": (-0.1, 1.0)}}, "lower bound of weights must be from 0 to 1"),
        ({"bounds": {"variance": (2.0, 1.0)}}, "must not be above the upper ones"),
        ({"bounds": {"variance": (-1.0, 1.0)}}, "must be from 0 to inf"),
        ({"bounds": {"variance": (0.0, 0.0)}}, "the upper ones > 0"),
        ({"bounds": {"variance": ([0.1, 0.2], [1.0, 1.0])}}, "must be the same for all features"),
        ({"bounds": {"variance": (0.1, 0.5, 1.0)}}, "a lower and an upper bound for variance"),
        ({"bounds": {"variance": "big"}}, "a lower and an upper bound for variance"),
        ({"bounds": {"variance": 2.0}}, "a lower and an upper bound for variance, got 2.0"),
        ({"bounds": {"variance": ("a", 1.0)}}, "'variance_bounds' takes numbers, got lower='a'"),
        ({"bounds": {"eigenvalue_ratio": (1.0, 2.0)}}, "ratio must be a finite number >= 1"),
        ({"bounds": {"mean": (float("nan"), 1.0)}}, "must be from -inf to inf, got nan"),
        ({"bounds": {"mean": ([0.0] * 5, None)}}, "must broadcast to"),
        ({"bounds": {"colour": (0, 1)}}, "unknown bound 'colour'; known are: eigenvalue"),
        ({"bounds": (0, 1)}, "expected bounds by name"),
        ({"bounds": {"eigenvalue_ratio": 0.5}}, "ratio must be a finite number >= 1, got 0.5"),
        ({"projections": "best"}, "unknown projection 'best'; known are: eigenvalue_ratio"),
        ({"projections": 3}, "expected a projection as a name"),
        ({"projections": LinearMeans([[1.0], [1.0]])}, r"must be of shape \(3, P\)"),
        ({"projections": LinearMeans(np.ones((3, 2)).tolist())}, "must be independent.*rank is 1"),
        (
            {"projections": ["equal_weights", "fixed_weights"]},
            "'equal_weights' and 'fixed_weights' are both on the weights: keep one of them",
        ),
        (
            {"freeze": ["weights"], "bounds": {"weight": (0.1, 0.9)}},
            "'frozen' and 'weight_bounds' are both on the weights",
        ),
        (
            {"freeze": {"covariances": [0]}, "bounds": {"eigenvalue_ratio": 4}},
            "both on the covariances",
        ),
    ],
    ids=str,
)
def test_bounds_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        GMMLayer(2, 3, **options)


@pytest.mark.parametrize(
    ("bounds", "feature"),
    [((100.0, 200.0), "0"), ((None, [9.0, -9.0]), "1"), (([[9.0, 0.0]] * 3, None), "0")],
    ids=str,
)
def test_bounds_of_means_that_exclude_the_data_are_refused(
    bounds: Any, feature: str, generator: Generator
) -> None:
    x = rows(60, 2, generator).clamp(-5, 5)
    layer = GMMLayer(2, 3, bounds={"mean": bounds})
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    words = f"the bounds of means exclude the data: all values of feature {feature} lie between"
    for start in (lambda: fit_em(layer, x), lambda: initialize_layer(layer, x)):
        with pytest.raises(InvalidDataError, match=words):
            start()
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0, equal_nan=True)
    # One component may be kept where there are no rows; a row without weight is none.
    far = GMMLayer(2, 3, bounds={"mean": ([[9.0, 0.0], [-9.0, -9.0], [-9.0, -9.0]], None)})
    fit_em(far, x, max_iter=2, generator=generator)
    x = torch.cat([x, torch.full((1, 2), 150.0)])
    with pytest.raises(InvalidDataError, match="exclude the data"):
        fit_em(layer, x, sample_weight=(x[:, 0] <= 5).double())


def test_a_frozen_part_outside_of_its_bounds_is_refused(generator: Generator) -> None:
    layer = GMMLayer(2, 3, freeze={"means": [1]}, bounds={"mean": (0.0, 1.0)})
    layer.set_parameters(means=[[0.5, 0.5], [7.0, 0.5], [0.2, 0.2]])
    with pytest.raises(InvalidArgumentError, match="frozen means are outside of the 'mean_bounds'"):
        fit_em(layer, rows(30, 2, generator))


@pytest.mark.parametrize(
    "arguments", [[], [0.5, 0.6], [-0.2, 1.2], [float("nan"), 1.0], 1.0], ids=str
)
def test_fixed_weights_are_weights(arguments: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="must be >= 0 and sum to 1"):
        FixedWeights(arguments)


def test_fixed_weights_are_used_as_they_are(generator: Generator) -> None:
    layer = random_layer("full", generator=generator)
    layer.projections.append(FixedWeights([0.2, 0.3, 0.5]))
    m_step(layer, e_step(layer, rows(30, 2, generator)))
    assert layer.weights.tolist() == pytest.approx([0.2, 0.3, 0.5], rel=1e-14)
    assert layer.num_free_parameters == 15


@pytest.mark.parametrize(
    "bounds", [{"variance": (0.1, None)}, {"mean": (None, 5.0)}, {"mean": (0.0, None)}]
)
def test_a_file_holds_bounds_of_one_side(bounds: Any, tmp_path: Path) -> None:
    """An infinite bound is none; no file may hold NaN for one."""
    layer = GMMLayer(2, 2, bounds=bounds)
    layer.save_pretrained(tmp_path)
    twin = GMMLayer.from_pretrained(tmp_path)
    assert twin.to_config() == layer.to_config()
    state = layer.state_dict()
    state["projections.0.upper"] = torch.full_like(state["projections.0.upper"], torch.nan)
    with pytest.raises(CheckpointError, match=r"projections.0.upper must be numbers or infinite"):
        require_state(twin, state, "the file")
