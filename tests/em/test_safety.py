"""Digits where they are scarce: which kernel, float32 against float64, other units."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.random_layers import FAMILIES, finite, random_layer, rows
from torch import Generator, Tensor

from gmm_lightning import GMMLayer, e_step, fit_em, m_step
from gmm_lightning.covariances import registry
from gmm_lightning.em import MixtureModel, MixtureParameters
from gmm_lightning.em.plan import EStepPlan, make_plan

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)


def blobs(generator: Generator, d: int = 2, spread: float = 1.0, apart: float = 8.0) -> Tensor:
    """Three groups of 100 rows in a triangle, with few enough digits for float32 at 1e4."""
    x = torch.randn(300, d, generator=generator, device=generator.device)
    x = (x * 256).round() / 256 * spread
    x[100:200, 0] += apart
    x[200:, -1] += apart
    return x


LABELS = torch.arange(300) // 100


def fit(
    x: Tensor, family: str, dtype: torch.dtype, **options: Any
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Means, covariances, weights and total log-likelihood after a few iterations."""
    layer = GMMLayer(x.shape[-1], 3, family, dtype=dtype)
    options = {"initializer": LABELS, "max_iter": 8, "tol": 0.0} | options
    result = fit_em(layer, x, **options)
    assert finite(layer)
    assert not result.events
    wide = [v.detach().double() for v in (layer.means, layer.covariance_matrix, layer.weights)]
    assert isinstance(result.log_likelihood, float)
    return wide[0], wide[1], wide[2], result.log_likelihood


def plan_of(layer: GMMLayer, *, shared: bool = True) -> EStepPlan | None:
    """The plan of an E-step over many rows."""
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    return make_plan(model, parameters, 1 << 20, shared=shared)


# -- the choice -----------------------------------------------------------------------------------


def coarseness(plan: EStepPlan | None) -> int:
    """How a plan computes its most demanding component: the greater, the more digits."""
    if plan is None:
        return 4
    if any(terms.centre is None for terms in plan.whitened):
        return 3
    return 2 if plan.whitened else int(torch.float64 in plan.dtypes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shared", [True, False])
@over_families
def test_the_tighter_and_the_farther_the_more_digits(
    family: str, shared: bool, dtype: torch.dtype
) -> None:
    found = []
    # Components of deviation `spread`, 2 apart: what cancels is about `1 / spread^2`.
    for spread in (1.0, 1e-1, 1e-2, 1e-3, 1e-5, 1e-9):
        layer = GMMLayer(2, 8, family, dtype=dtype, batch_shape=(2,))
        tight = torch.eye(2).expand(2, 8, 2, 2) * spread**2
        means = torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).repeat(4, 1).expand(2, 8, 2)
        layer.set_parameters(means=means, covariance_matrix=tight)
        found.append(coarseness(plan_of(layer, shared=shared)))
    assert found == sorted(found)
    assert found[0] == (dtype == torch.float64)
    assert found[1] <= 1
    assert found[-1] >= 2


@over_families
def test_an_offset_alone_takes_no_digits(family: str) -> None:
    for dtype, offset in ((torch.float32, 1e6), (torch.float64, 1e14)):
        layer = random_layer(family, generator=Generator().manual_seed(0)).to(dtype)
        with torch.no_grad():
            layer.means += offset
        plan = plan_of(layer)
        assert plan is not None
        assert plan.dtypes == {dtype}


@pytest.mark.parametrize("family", ["full", "tied"])
def test_correlation_that_all_share_takes_no_digits(family: str) -> None:
    layer = GMMLayer(3, 2, family, dtype=torch.float32)
    turn = torch.linalg.qr(torch.randn(3, 3)).Q
    dense = turn @ torch.diag(torch.tensor([1.0, 1e-3, 1e-6])) @ turn.mT
    layer.set_parameters(means=torch.randn(2, 3) @ dense, covariance_matrix=dense.expand(2, 3, 3))
    plan = plan_of(layer)
    assert plan is not None
    assert plan.dtypes == {torch.float32}


@over_families
def test_a_layer_that_is_broken_takes_differences(family: str) -> None:
    for value in (float("nan"), -1e4):
        layer = GMMLayer(2, 2, family)
        with torch.no_grad():
            layer.raw_scale.fill_(value)
        assert coarseness(plan_of(layer)) >= 3


# -- float32 against float64 ----------------------------------------------------------------------


def mixtures(generator: Generator) -> dict[str, Tensor]:
    """Rows that break other libraries, exact in float32."""
    correlated = blobs(generator, 3)
    # Condition 1e4 along directions that no axis has: the floor of float32 ends at 5e5.
    turn = torch.tensor([[0.6, 0.8, 0.0], [-0.8, 0.6, 0.0], [0.0, 0.0, 1.0]])
    correlated = correlated * torch.tensor([1.0, 1e-2, 1.0]) @ turn
    return {
        "plain": blobs(generator),
        "offset": blobs(generator) + 1e4,
        "tight and far": blobs(generator, spread=0.1, apart=50.0),
        # Below 16 eps of the variance of all rows, and still no noise of sums.
        "needles": blobs(generator, spread=0.02, apart=50.0),
        "overlapping": blobs(generator, apart=1.5),
        "correlated": correlated.float().double(),
        "one feature": blobs(generator, 1),
        "mixed units": blobs(generator, 5) * torch.tensor([1e-6, 1.0, 1e6, 1e3, 1e-3]),
    }


@pytest.mark.parametrize("data", list(mixtures(Generator().manual_seed(0))))
@over_families
def test_float32_agrees_with_float64(family: str, data: str, generator: Generator) -> None:
    x = mixtures(generator)[data].float().double()
    single, exact = (fit(x, family, dtype) for dtype in (torch.float32, torch.float64))
    # docs/numerics.md, 10, with covariances relative to the deviations they belong to.
    deviation = exact[1].diagonal(dim1=-2, dim2=-1).sqrt()
    unit = deviation.unsqueeze(-1) * deviation.unsqueeze(-2)
    assert ((single[1] - exact[1]).abs() <= 1e-3 * unit).all()
    # Means are numbers of float32.
    slack = 1e-3 * deviation + 1e-7 * exact[0].abs()
    assert ((single[0] - exact[0]).abs() <= slack).all()
    assert torch.allclose(single[2], exact[2], rtol=0, atol=1e-4)
    assert single[3] == pytest.approx(exact[3], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("family", ["spherical", "tied_spherical", "diag", "full"])
def test_two_values_far_apart_have_no_negative_variance(family: str) -> None:
    x = torch.tensor([[9999.0], [0.0]], dtype=torch.float32).repeat(50, 1)
    for floor in (1e-8, 1e-4):
        layer = GMMLayer(1, 2, registry.get(family)(relative_floor=floor), dtype=torch.float32)
        with torch.no_grad():
            layer.means.copy_(torch.tensor([[9000.0], [100.0]]))
            layer.raw_scale += 6.0
        fit_em(layer, x, initializer=None, max_iter=30, tol=0.0)
        variance = layer.covariance_matrix.detach().double().reshape(-1)
        least = floor * 9999.0**2
        # The floor, and no noise of sums on top of it.
        assert torch.allclose(variance, torch.full((2,), least), rtol=2e-2)
        assert layer.means.detach().reshape(-1).tolist() == pytest.approx([9999.0, 0.0], abs=1e-2)


@over_families
def test_an_offset_of_1e8_in_float64(family: str, generator: Generator) -> None:
    x = blobs(generator, 3)
    plain, moved = (fit(y, family, torch.float64) for y in (x, x + 1e8))
    # The rows keep 8 binary digits after the point at 1e8, so the data are the same.
    assert torch.equal(x + 1e8 - 1e8, x)
    assert torch.allclose(plain[1], moved[1], rtol=1e-6, atol=1e-8)
    assert torch.allclose(plain[2], moved[2], rtol=0, atol=1e-8)
    assert plain[3] == pytest.approx(moved[3], rel=1e-7)


@over_families
def test_clusters_a_hundred_thousand_deviations_apart(family: str, generator: Generator) -> None:
    # Their deviation is far below the distance, and far above the floor, which is local.
    x = blobs(generator, spread=1e-3, apart=100.0).float().double()
    for dtype in (torch.float32, torch.float64):
        layer = GMMLayer(2, 3, family, dtype=dtype)
        result = fit_em(layer, x, initializer=LABELS, max_iter=8, tol=0.0)
        assert not result.events
        assert torch.allclose(layer.weights.double(), torch.full((3,), 1 / 3), atol=1e-6)
        expected = torch.stack([part.mean(0) for part in x.split(100)])
        assert torch.allclose(layer.means.double(), expected, rtol=1e-6, atol=1e-6)
        # No pass lowers the objective by more than the digits of a density in float32.
        rounding = {torch.float32: 1e-4, torch.float64: 1e-9}[dtype]
        assert (torch.tensor(result.history).diff() > -rounding).all()
        found = layer.covariance_matrix.diagonal(dim1=-2, dim2=-1).double()
        variance = torch.stack([part.var(0, correction=0) for part in x.split(100)])
        if layer.covariance.tied:
            variance = variance.mean(0, keepdim=True).expand(3, 2)
        if family.endswith("spherical"):
            variance = variance.mean(-1, keepdim=True).expand(3, 2)
        # Rows of float32 at a distance of 100 have steps of a hundredth of a deviation.
        assert torch.allclose(found, variance, rtol=2e-2)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_column_of_zeros_stays_constant_beside_a_flat_direction(
    dtype: torch.dtype, seed: int
) -> None:
    generator = Generator().manual_seed(seed)
    x = 1e8 * torch.randn(60, 3, generator=generator, dtype=torch.float64)
    x[:, 1], x[:30, 2] = 0.0, x[:30, 0]
    layer = GMMLayer(3, 4, dtype=dtype)
    result = fit_em(layer, x.to(dtype), max_iter=60, tol=0.0, generator=generator)
    assert "floored" in {event.action for event in result.events}
    assert torch.allclose(layer.covariance_matrix[:, 1, 1], torch.tensor(0.5 / math.pi).to(dtype))
    assert not layer.covariance_matrix[:, 1, ::2].any()
    # A variance that is 1e5 (1e8) times smaller than the others is known to eps 1e5 (2e-8) of
    # itself, and so are its logarithm and the squared distances, in each of four components.
    least = {torch.float32: -1e-4, torch.float64: -1e-7}[dtype]
    assert (torch.tensor(result.history).diff() > least).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_column_that_is_a_sum_of_others_does_not_stop_float32(seed: int) -> None:
    generator = Generator().manual_seed(seed)
    x = torch.randn(300, 4, generator=generator, dtype=torch.float64).float()
    x[:150] += 3
    x[:, 3] = x[:, :3].sum(1)
    layer = GMMLayer(4, 4, dtype=torch.float32)
    result = fit_em(layer, x, generator=generator)
    assert result.events
    assert result.num_iterations >= 4
    assert (torch.tensor(result.history).diff() > 0).all()


# -- change of units ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("factor", [2.0**-27, 2.0**40], ids=["1e-8", "1e12"])
@over_families
def test_units_are_arbitrary(
    family: str, factor: float, dtype: torch.dtype, generator: Generator
) -> None:
    x = blobs(generator, 3, apart=3.0)
    for options in ({}, {"annealing": 0.5}, {"hard": True}):
        one, other = (fit(y, family, dtype, **options) for y in (x, factor * x))
        # A power of two changes no digit of the rows; logarithms of the scales round anew.
        close = {torch.float32: 2e-4, torch.float64: 1e-9}[dtype]
        assert torch.allclose(factor * one[0], other[0], rtol=close, atol=close * factor)
        assert torch.allclose(factor**2 * one[1], other[1], rtol=close, atol=close * factor**2)
        assert torch.allclose(one[2], other[2], rtol=0, atol=close)


@pytest.mark.parametrize("initializer", ["kmeans", "maxdist", "random_from_data"])
@over_families
def test_a_whole_fit_moves_with_the_data(
    family: str, initializer: str, generator: Generator
) -> None:
    x = blobs(generator)
    fitted = []
    for factor, offset in ((1.0, 0.0), (2.0**-20, 0.0), (2.0**20, 2.0**24)):
        layer = GMMLayer(2, 3, family, "niw")
        seeded = Generator(x.device).manual_seed(5)
        result = fit_em(
            layer,
            factor * x + offset,
            initializer=initializer,
            max_iter=20,
            tol=1e-6,
            generator=seeded,
        )
        dense = layer.covariance_matrix.detach() / factor**2
        fitted.append(((layer.means.detach() - offset) / factor, dense, result.num_iterations))
    for means, dense, iterations in fitted[1:]:
        # 2^24 beside units of 2^20 costs eight digits of the rows' 53 bits.
        assert torch.allclose(means, fitted[0][0], rtol=1e-6, atol=1e-6)
        assert torch.allclose(dense, fitted[0][1], rtol=1e-6, atol=1e-6)
        assert iterations == fitted[0][2]


# -- floors of zero -------------------------------------------------------------------------------


@over_families
def test_without_a_floor_a_healthy_fit_is_the_same(family: str, generator: Generator) -> None:
    x = rows(80, 2, generator)
    fitted = []
    for floor in (0.0, 1e-8):
        layer = GMMLayer(2, 3, registry.get(family)(relative_floor=floor))
        seeded = Generator(x.device).manual_seed(2)
        result = fit_em(layer, x, num_restarts=3, prune=False, max_iter=20, generator=seeded)
        fitted.append(torch.as_tensor(result.restart_objectives))
    # With a floor the starts run side by side, and batched products may add in another order.
    assert torch.allclose(fitted[0], fitted[1], rtol=1e-9)


@over_families
def test_one_step_far_outside_of_the_layer(family: str, generator: Generator) -> None:
    # Rows 1e6 deviations away from where the layer is: the means come right in one step.
    x = rows(60, 2, generator) + 1e6
    layer = random_layer(family, generator=generator)
    for _ in range(3):
        m_step(layer, e_step(layer, x))
        assert finite(layer)
    assert torch.allclose(layer.distribution().mean, x.mean(0), rtol=1e-12)
    assert torch.allclose(
        layer.distribution().variance.sum(), x.var(0, correction=0).sum(), rtol=1e-6
    )
