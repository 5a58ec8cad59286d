"""Mixtures of Student-t distributions against scipy, and their marginals and conditionals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from gmm_lightning.covariances import DiagCovariance, FullCovariance, SphericalCovariance
from gmm_lightning.distributions import StudentMixture
from gmm_lightning.errors import InvalidArgumentError

pytestmark = pytest.mark.usefixtures("double")

DF = torch.tensor([3.5, 12.0], dtype=torch.float64)
LOG_WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64).log()
LOC = torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 1.0]], dtype=torch.float64)


def dense() -> StudentMixture:
    factor = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0)).tril()
    factor.diagonal(dim1=-2, dim2=-1).abs_().add_(0.5)
    return StudentMixture(LOG_WEIGHTS, DF, LOC, factor, FullCovariance())


def diagonal() -> StudentMixture:
    scale = torch.tensor([[1.0, 0.5, 2.0], [0.3, 1.0, 1.0]])
    return StudentMixture(LOG_WEIGHTS, DF, LOC, scale, DiagCovariance(), independent=True)


def test_densities_are_those_of_scipy() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)) * 2
    mixture = dense()
    matrices = mixture.scale @ mixture.scale.mT
    terms = [stats.multivariate_t.logpdf(x, LOC[k], matrices[k], float(DF[k])) for k in range(2)]
    expected = np.logaddexp(*(t + float(w) for t, w in zip(terms, LOG_WEIGHTS, strict=True)))
    np.testing.assert_allclose(mixture.log_prob(x), expected, rtol=1e-10)
    mixture = diagonal()
    terms = [stats.t.logpdf(x, float(DF[k]), LOC[k], mixture.scale[k]).sum(-1) for k in range(2)]
    expected = np.logaddexp(*(t + float(w) for t, w in zip(terms, LOG_WEIGHTS, strict=True)))
    np.testing.assert_allclose(mixture.log_prob(x), expected, rtol=1e-10)
    sphere = StudentMixture(LOG_WEIGHTS, DF, LOC, torch.tensor([0.7, 1.5]), SphericalCovariance())
    matrices = torch.tensor([0.49, 2.25])[:, None, None] * torch.eye(3)
    terms = [stats.multivariate_t.logpdf(x, LOC[k], matrices[k], float(DF[k])) for k in range(2)]
    expected = np.logaddexp(*(t + float(w) for t, w in zip(terms, LOG_WEIGHTS, strict=True)))
    np.testing.assert_allclose(sphere.log_prob(x), expected, rtol=1e-10)


@pytest.mark.parametrize("make", [dense, diagonal])
def test_a_joint_density_is_a_marginal_times_a_conditional(make: object) -> None:
    mixture = make()  # type: ignore[operator]
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
    given, rest = [2, 0], [1]
    conditional = mixture.condition(given, x[:, given])
    assert conditional.batch_shape == (7,)
    total = mixture.marginal(given).log_prob(x[:, given]) + conditional.log_prob(x[:, rest])
    torch.testing.assert_close(total, mixture.log_prob(x))
    # A marginal sums to one over what it leaves out.
    grid = torch.linspace(-60, 60, 40_001)
    rows = torch.stack([torch.full_like(grid, 0.3), grid, torch.full_like(grid, -0.2)], -1)
    integral = torch.trapezoid(mixture.log_prob(rows).exp(), grid)
    expected = mixture.marginal([0, 2]).log_prob(rows[0, [0, 2]]).exp()
    # The tails beyond the grid are of the order 60^-df.
    torch.testing.assert_close(integral, expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("make", [dense, diagonal])
def test_draws_follow_the_density(make: object) -> None:
    mixture = make()  # type: ignore[operator]
    drawn = mixture.sample((50, 100), generator=0).reshape(-1, 3)
    for d in range(3):
        one = mixture.marginal([d])

        def cdf(values: np.ndarray, one: StudentMixture = one) -> np.ndarray:
            scale = one.scale.reshape(2)
            parts = [stats.t.cdf(values, float(DF[k]), one.loc[k, 0], scale[k]) for k in range(2)]
            return 0.3 * parts[0] + 0.7 * parts[1]

        assert stats.kstest(drawn[:, d].numpy(), cdf).pvalue > 1e-3
    threshold = mixture.density_threshold(0.8, generator=1)
    inside = (mixture.log_prob(mixture.sample(10_000, generator=2)) > threshold).double().mean()
    # Both are estimated from 10,000 draws: five standard errors of their difference.
    assert abs(float(inside) - 0.8) < 5 * (2 * 0.8 * 0.2 / 10_000) ** 0.5
    assert mixture.sample(0, generator=0).shape == (0, 3)


def test_what_cannot_be_conditioned_on_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match="leaves at least one"):
        dense().condition([0, 1, 2], torch.zeros(3))
    with pytest.raises(InvalidArgumentError, match="each once"):
        dense().condition([0, 0], torch.zeros(2))
    with pytest.raises(InvalidArgumentError, match=r"\(0, 1\)"):
        dense().density_threshold(1.0)
    low = StudentMixture(
        LOG_WEIGHTS, torch.tensor([0.5, 3.0]), LOC, dense().scale, FullCovariance()
    )
    assert torch.isnan(low.mean).all()
