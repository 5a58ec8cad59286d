"""Every family against dense algebra, which knows nothing of its compact form."""

from __future__ import annotations

import math

import pytest
import torch
from support.random_layers import BATCHES, FAMILIES, random_layer, rounding, rows
from torch import Tensor

from gmm_lightning import GMMLayer, e_step, fit_em, m_step
from gmm_lightning.covariances import Covariance, as_covariance, registry
from gmm_lightning.errors import CollapseError, InvalidArgumentError
from gmm_lightning.statistics import Moments

over_families = pytest.mark.parametrize("family", FAMILIES)
over_batches = pytest.mark.parametrize("batch", BATCHES, ids=str)
K, D = 3, 4


def random_scale(family: Covariance, generator: torch.Generator, batch: tuple = ()) -> Tensor:
    shape = (*batch, *family.shape(K, D))
    raw = torch.randn(shape, generator=generator, device=generator.device)
    return family.scale(0.4 * raw)


@over_families
def test_raw_is_the_inverse_of_scale(family: str, generator: torch.Generator) -> None:
    one = as_covariance(family)
    scale = random_scale(one, generator)
    # The logarithm and its inverse.
    assert torch.allclose(one.scale(one.raw(scale)), scale, rtol=rounding(1e-14), atol=0)
    unit = one.covariance_matrix(one.scale(torch.zeros(one.shape(K, D))), D)
    assert torch.equal(unit, torch.eye(D).expand_as(unit))


@over_families
def test_groups_and_pool(family: str) -> None:
    one = as_covariance(family)
    counts = torch.tensor([[1.0, 2.0, 4.0], [1.0, 0.0, 1.0]])
    assert one.sum_tied(counts).shape == (2, one.groups(K))
    assert torch.equal(one.sum_tied(counts).sum(-1), counts.sum(-1))
    assert one.shape(K, D)[0] == one.groups(K) == (1 if one.tied else K)


@over_batches
@over_families
def test_density_parts_equal_dense_algebra(
    family: str, batch: tuple, generator: torch.Generator
) -> None:
    one = as_covariance(family)
    scale = random_scale(one, generator, batch)
    dense = one.covariance_matrix(scale, D)
    factor = one.scale_tril(scale, D)
    close = {"rtol": rounding(1e-12), "atol": rounding(1e-12)}
    assert dense.shape == factor.shape == (*batch, one.groups(K), D, D)
    assert torch.equal(factor.triu(1), torch.zeros_like(factor))
    assert torch.allclose(factor @ factor.mT, dense, **close)
    assert torch.allclose(one.half_log_det(scale, D), 0.5 * torch.logdet(dense), **close)
    diff = torch.randn(5, *batch, K, D, generator=generator, device=generator.device)
    white = one.whiten(scale, diff)
    distance = (diff.unsqueeze(-2) @ torch.linalg.inv(dense) @ diff.unsqueeze(-1))[..., 0, 0]
    assert torch.allclose(white.square().sum(-1), distance, **close)
    other = torch.randn(D, D, generator=generator, device=generator.device)
    projected = one.project((other @ other.mT).expand_as(dense))
    trace = torch.linalg.solve(dense, other @ other.mT).diagonal(dim1=-2, dim2=-1).sum(-1)
    if type(one).project is not Covariance.project:
        # A structured family sees the part of the matrix that has its structure.
        trace = one.trace_precision_product(
            scale, one.project((other @ other.mT).expand_as(dense)), D
        )
        ones = torch.ones(*batch, one.groups(K))
        restored = one.covariance_matrix(one.estimate(projected, ones), D)
        assert torch.allclose(
            torch.linalg.solve(dense, restored).diagonal(dim1=-2, dim2=-1).sum(-1), trace, **close
        )
    assert torch.allclose(one.trace_precision_product(scale, projected, D), trace, **close)


@over_families
def test_colour_undoes_whiten(family: str, generator: torch.Generator) -> None:
    one = as_covariance(family)
    scale = random_scale(one, generator)
    noise = torch.randn(one.groups(K), D, generator=generator, device=generator.device)
    coloured = one.unwhiten(scale, noise)
    back = one.whiten(scale, coloured.unsqueeze(0))[0]
    assert torch.allclose(back, noise, rtol=rounding(1e-12), atol=rounding(1e-12))


@over_batches
@over_families
def test_outer_equals_the_projected_dense_sum(
    family: str, batch: tuple, generator: torch.Generator
) -> None:
    one = as_covariance(family)
    weights = torch.rand(6, *batch, K, generator=generator, device=generator.device)
    diff = torch.randn(6, *batch, K, D, generator=generator, device=generator.device)
    dense = (weights[..., None, None] * diff.unsqueeze(-1) * diff.unsqueeze(-2)).sum(0)
    if one.tied:
        dense = dense.sum(-3, keepdim=True)
    found = one.outer(weights, diff)
    assert torch.allclose(found, one.project(dense), rtol=rounding(1e-12), atol=rounding(1e-12))
    variances = one.variances(found, D)
    assert variances.shape == (*batch, one.groups(K), D)
    # Whatever a family averages, the total variance stays.
    total = dense.diagonal(dim1=-2, dim2=-1).sum(-1)
    assert torch.allclose(variances.sum(-1), total, rtol=rounding(1e-12))


@pytest.mark.usefixtures("double")
@over_families
def test_estimate_is_a_maximum(family: str, generator: torch.Generator) -> None:
    one = as_covariance(family)
    draw = torch.randn(9, K, D, dtype=torch.float64)
    scatter = one.outer(torch.ones(9, K), draw)
    dof = one.sum_tied(torch.tensor([3.0, 4.0, 5.0]))
    scale = one.estimate(scatter, dof)
    raw = one.raw(scale).requires_grad_()
    value = one.scale(raw)
    objective = -dof * one.half_log_det(value, D) - 0.5 * one.trace_precision_product(
        value, scatter, D
    )
    (slope,) = torch.autograd.grad(objective.sum(), raw)
    # A stationary point to rounding of sums of order ten.
    assert slope.abs().max() < 1e-11
    worse = one.scale(raw.detach() + 0.01)
    other = -dof * one.half_log_det(worse, D) - 0.5 * one.trace_precision_product(worse, scatter, D)
    assert (other < objective).all()


@pytest.mark.usefixtures("double")
@over_families
def test_the_floor_is_the_constrained_maximum(family: str) -> None:
    one = as_covariance(family)
    low = one.project(torch.diag_embed(torch.tensor([1e-6, 4.0])).expand(one.groups(K), 2, 2))
    dof = torch.full((one.groups(K),), 2.0)
    bound = torch.tensor([[0.5, 0.5]])
    raised, smallest = one.floor(2 * low, dof, bound)
    dense = one.covariance_matrix(one.estimate(raised, dof), 2)
    eigenvalues = torch.linalg.eigvalsh(dense)
    assert (eigenvalues > 0.5 - 1e-12).all()
    assert smallest.shape == (one.groups(K),)
    isotropic = one.project(torch.eye(2)).dim() == 0
    if isotropic:
        # The average, 2.0000005, is above the bound already.
        assert torch.isinf(smallest).all()
        assert torch.equal(raised, 2 * low)
    else:
        assert torch.allclose(smallest, torch.tensor(2e-6), rtol=1e-6)
        assert torch.allclose(eigenvalues, torch.tensor([0.5, 4.0]), rtol=1e-12)
    # A covariance that satisfies the bound is left as it is, bit for bit.
    fine = one.outer(torch.ones(1, K), torch.ones(1, K, 2)) + one.project(
        9 * torch.eye(2).expand(one.groups(K), 2, 2)
    )
    same, none = one.floor(fine, dof, bound)
    assert torch.equal(same, fine)
    assert torch.isinf(none).all()


@pytest.mark.usefixtures("double")
@over_families
def test_the_floor_scales_with_each_feature(family: str) -> None:
    one = as_covariance(family)
    bound = torch.tensor([[1e-16, 1e8]])
    nothing = one.project(torch.zeros(one.groups(K), 2, 2))
    raised, _ = one.floor(nothing, torch.ones(one.groups(K)), bound)
    expected = one.project(bound.diag_embed().expand(one.groups(K), 2, 2))
    assert torch.allclose(raised, expected, rtol=1e-14)


@over_families
def test_a_singular_estimate_without_floor_is_an_event(family: str) -> None:
    # "Ones and zeros" of tests/golden/README.md: typed, never NaN.
    layer = GMMLayer(2, 2, registry.get(family)(relative_floor=0.0))
    x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    with torch.no_grad():
        layer.means.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        layer.raw_scale.sub_(4.0)
    with pytest.raises(CollapseError, match="relative_floor or reg_covar"):
        fit_em(layer, x, initializer=None)
    assert all(torch.isfinite(p).all() for p in layer.parameters())


# Counted by hand: (K, D, covariance parameters with means and weights).
COUNTS = {
    "full": {(2, 3): 19, (3, 2): 17, (2, 5): 41, (3, 4): 44},
    "diag": {(2, 3): 13, (2, 5): 21, (3, 4): 26},
    "spherical": {(2, 5): 13, (3, 4): 17},
    "tied": {(2, 5): 26, (3, 4): 24},
    "tied_diag": {(3, 4): 18},
    "tied_spherical": {(3, 4): 15},
}


@pytest.mark.parametrize("family", COUNTS)
def test_free_parameters(family: str) -> None:
    for (k, d), expected in COUNTS[family].items():
        assert GMMLayer(d, k, family).num_free_parameters == expected


@over_families
def test_free_parameters_do_not_count_the_batch(family: str) -> None:
    one, many = GMMLayer(D, K, family), GMMLayer(D, K, family, batch_shape=(2, 3))
    assert one.num_free_parameters == many.num_free_parameters
    assert one.covariance.num_free_parameters(1, 1) == 1


@over_families
def test_reg_covar_is_added_to_the_estimate(family: str, generator: torch.Generator) -> None:
    x = rows(30, 2, generator)
    layer = random_layer(family, generator=generator)
    stats = e_step(layer, x)
    m_step(layer, stats)
    plain = layer.covariance_matrix.detach().clone()
    other = GMMLayer(2, K, registry.get(family)(reg_covar=0.25), device=generator.device)
    m_step(other, stats)
    added = (other.covariance_matrix - plain).detach()
    eye = 0.25 * torch.eye(2)
    # Two roundings through a factor of entries of order one.
    assert torch.allclose(added, eye.expand_as(added), rtol=0, atol=rounding(1e-13))


@pytest.mark.parametrize("field", ["reg_covar", "relative_floor"])
@pytest.mark.parametrize("value", [-1e-3, math.nan, math.inf])
@over_families
def test_refuses_bad_fields(family: str, field: str, value: float) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{field} .* >= 0, got {value}"):
        registry.get(family)(**{field: value})


@over_families
def test_a_family_is_a_value(family: str) -> None:
    one = registry.get(family)(reg_covar=0.5)
    assert one == registry.get(family)(**one.config())
    assert one != registry.get(family)()
    assert hash(one) == hash(registry.get(family)(reg_covar=0.5))
    assert as_covariance(one) is one


@over_families
def test_a_component_of_a_family_has_no_rows(family: str) -> None:
    one = as_covariance(family)
    layer = GMMLayer(2, 2, family)
    x = torch.tensor([[0.0, 1.0], [2.0, 1.5], [1.0, 5.0]])
    with torch.no_grad():
        layer.means[1] = 1e6
    stats = e_step(layer, x)
    assert float(stats.counts[1]) == 0.0
    moments = Moments.from_statistics(stats, one)
    assert torch.equal(moments.means[1], layer.means[1].to(moments.means))
    assert torch.isfinite(moments.scatter).all()
