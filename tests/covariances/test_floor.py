"""Scatters raised to a floor in the time of their rank, against eigendecompositions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Generator, Tensor

from gmm_lightning.covariances import as_covariance
from gmm_lightning.covariances._floor import satisfied_bound, smallest_singular_value
from gmm_lightning.linalg import thin_factor

EPS = torch.finfo(torch.float64).eps
D = 120


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def scatter_of(rank: int, seed: int = 0) -> Tensor:
    """Of a rank, with eigenvalues over six decades and features of different units."""
    factor = normal(D, rank, seed=seed) * torch.logspace(0, -3, rank, dtype=torch.float64)
    factor = factor * torch.logspace(-2, 2, D, dtype=torch.float64).unsqueeze(-1)
    return factor @ factor.mT


def raised_by_eigenvalues(scatter: Tensor, dof: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    unit = (bound * dof.unsqueeze(-1)).sqrt()
    scale = unit.unsqueeze(-1) * unit.unsqueeze(-2)
    values, vectors = torch.linalg.eigh(scatter / scale)
    raised = (vectors * values.clamp(min=1.0).unsqueeze(-2)) @ vectors.mT
    return raised * scale, values[..., 0]


@pytest.mark.parametrize("rank", [1, 30, 80, 100, D])
def test_raised_as_by_an_eigendecomposition(rank: int) -> None:
    family, dof = as_covariance("full"), torch.tensor([30.0, 50.0], dtype=torch.float64)
    scatter = torch.stack([scatter_of(rank), scatter_of(rank, seed=1)])
    variances = scatter.diagonal(dim1=-2, dim2=-1) / dof.unsqueeze(-1)
    bound = 1e-4 * variances
    raised, smallest = family.floor(scatter, dof, bound)
    expected, least = raised_by_eigenvalues(scatter, dof, bound)
    # Relative to the bound, matrices have entries of 1e4, norms up to 1e4 D, and errors of a few
    # eps times that.
    error = 8 * 1e4 * D * EPS
    unit = (bound * dof.unsqueeze(-1)).sqrt()
    gap = (raised - expected) / unit.unsqueeze(-1) / unit.unsqueeze(-2)
    assert float(gap.abs().max()) < error
    assert torch.allclose(smallest, least, rtol=1e-6, atol=error)
    if rank < 0.7 * D:
        assert (smallest == 0).all()
    # What satisfies the bound stays as it is.
    again, none = family.floor(2 * raised, dof, bound)
    assert torch.equal(again, 2 * raised)
    assert (none == math.inf).all()


def test_a_thin_factor_is_one_or_none() -> None:
    matrix = scatter_of(40)
    factor = thin_factor(matrix)
    assert factor is not None
    assert 40 <= factor.shape[-1] <= 48
    error = (factor @ factor.mT - matrix).abs().max()
    assert float(error) < 64 * D * EPS * float(matrix.diagonal().max())
    assert thin_factor(scatter_of(40) + torch.eye(D, dtype=torch.float64)) is None
    # What is not semidefinite has no factor: its negative part would be left out.
    flat = normal(D, 1, seed=2)
    assert thin_factor(matrix - 1e-3 * flat @ flat.mT) is None
    assert thin_factor(torch.zeros(D, D, dtype=torch.float64)) is None
    assert thin_factor(torch.full((D, D), torch.nan, dtype=torch.float64)) is None
    assert thin_factor(matrix.float()) is None


@pytest.mark.parametrize("spread", [1e-9, 0.05, 1.0])
def test_the_smallest_singular_value(spread: float) -> None:
    """Near 1 to 1e-7, whether it stands alone or not; far above, to a half of its square."""
    bulk = 1 + spread * torch.linspace(0, 1, D - 20, dtype=torch.float64)
    values = torch.cat([bulk, torch.logspace(1, 4, 20, dtype=torch.float64)])
    turn = torch.linalg.qr(normal(D, D)).Q
    covariance = (turn * values) @ turn.mT
    factor = torch.linalg.cholesky(torch.stack([covariance, 1e4 * covariance]))
    near, far = smallest_singular_value(factor).square()
    # The Cholesky factor has the errors of eigenvalues of 1e4.
    assert float(near) == pytest.approx(1.0, rel=2e-7 + 1e4 * D * EPS)
    assert 1e4 * (1 - 1e-6) <= float(far) <= 2e4


def test_a_lowered_bound_is_satisfied_and_does_not_creep() -> None:
    own = 1 + 0.3 * normal(1, D).abs()
    covariance = torch.diag_embed(own) + scatter_of(30).unsqueeze(0)
    factor = torch.linalg.cholesky(covariance)
    asked = own * (1 + 0.2 * normal(1, D, seed=3).abs())
    bound = satisfied_bound(torch.zeros(1, 1, dtype=torch.float64), asked, factor)
    unit = bound.sqrt()
    least = torch.linalg.eigvalsh(covariance / unit.unsqueeze(-1) / unit.unsqueeze(-2))[:, 0]
    assert 1 - 2e-6 <= float(least) <= 1 + 2e-5
    # A covariance at the bound, with the rounding of its factor, gives the same bound again.
    for shift in (-3e-7, 0.0, 3e-7):
        at = torch.diag_embed((1 + shift) * bound) + scatter_of(30).unsqueeze(0)
        again = satisfied_bound(torch.zeros_like(own), asked, torch.linalg.cholesky(at))
        assert torch.equal(again, bound)


@pytest.mark.parametrize("size", [49, 64, 100, 200])
@pytest.mark.parametrize("unit", [0.5, 1.0, 3.0])
def test_singular_values_that_are_all_the_same(size: int, unit: float) -> None:
    factor = unit * torch.eye(size, dtype=torch.float64)
    assert float(smallest_singular_value(factor.unsqueeze(0))) == pytest.approx(unit, rel=1e-12)
