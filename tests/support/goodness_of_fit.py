"""Reference distributions by numerical integration, and the tests against them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import stats

from gmm_lightning.distributions import MixtureOfGaussians

# Seeds are fixed, so a test passes for good or not at all. About a hundred comparisons at this
# level would fail one seed in a hundred if the code is right.
SIGNIFICANCE = 1e-4


def distribution_function(
    log_density: Callable[[np.ndarray], np.ndarray], low: float, high: float
) -> Callable[[np.ndarray], np.ndarray]:
    """The distribution function of an unnormalised density, by the trapezium rule.

    Two passes: a coarse one finds where the density is above e^-60 of its maximum.
    """
    for _ in range(4):
        grid = np.linspace(low, high, 20_001)
        with np.errstate(divide="ignore"):
            h = log_density(grid)
        kept = np.flatnonzero(h > np.nanmax(h) - 60)
        low, high = grid[max(kept[0] - 1, 0)], grid[min(kept[-1] + 1, len(grid) - 1)]
    weight = np.exp(h - np.nanmax(h))
    mass = np.concatenate([[0], np.cumsum(0.5 * (weight[1:] + weight[:-1]))])
    return lambda x: np.interp(x, grid, mass / mass[-1])


def assert_follows(x: torch.Tensor, function: Callable[[np.ndarray], np.ndarray]) -> None:
    """Kolmogorov-Smirnov against a distribution function."""
    found = stats.kstest(x.double().cpu().numpy(), function)
    assert found.pvalue > SIGNIFICANCE, found


def assert_same_distribution(x: torch.Tensor, y: torch.Tensor) -> None:
    """Two-sample Kolmogorov-Smirnov, feature by feature."""
    for a, b in zip(x.double().cpu().T, y.double().cpu().T, strict=True):
        found = stats.ks_2samp(a.numpy(), b.numpy())
        assert found.pvalue > SIGNIFICANCE, found


def assert_shares(z: torch.Tensor, log_share: list[float] | np.ndarray) -> None:
    """Chi-square of component counts against unnormalised log shares."""
    share = np.exp(np.asarray(log_share) - np.max(log_share))
    share /= share.sum()
    counts = np.bincount(z.cpu().numpy().ravel(), minlength=len(share))
    # Expected counts below five make no chi-square; they are pooled with the rest of them.
    rare = share * counts.sum() < 5
    if rare.any():
        assert counts[rare].sum() <= 25
        counts, share = counts[~rare], share[~rare]
    if len(counts) > 1:
        found = stats.chisquare(counts, counts.sum() * share / share.sum())
        assert found.pvalue > SIGNIFICANCE, found


def mixture_of(
    weights: list[float], means: list[list[float]], factors: torch.Tensor | float = 1.0
) -> MixtureOfGaussians:
    """A mixture with dense factors: `(D, D)` for all, `(K, D, D)`, or round with one deviation."""
    centre = torch.tensor(means)
    k, d = centre.shape
    if not isinstance(factors, torch.Tensor):
        factors = factors * torch.eye(d)
    return MixtureOfGaussians(torch.tensor(weights).log(), centre, factors.expand(k, d, d))


def random_factor(d: int, generator: torch.Generator) -> torch.Tensor:
    """A dense factor with eigenvalues between about 0.3 and 2."""
    device = generator.device
    noise = torch.randn(d, d, generator=generator, device=device) / d**0.5
    return torch.linalg.cholesky(noise @ noise.mT + 0.1 * torch.eye(d, device=device))
