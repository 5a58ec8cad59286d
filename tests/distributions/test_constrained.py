"""Draws within a region follow the mixture given the region, components included."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from support.covering import covering
from support.goodness_of_fit import (
    SIGNIFICANCE,
    assert_follows,
    assert_same_distribution,
    assert_shares,
    distribution_function,
    mixture_of,
    random_factor,
)
from support.random_layers import FAMILIES, random_layer

from gmm_lightning.distributions import (
    Ball,
    Box,
    Confidence,
    HalfSpace,
    MixtureOfGaussians,
    Shell,
    Where,
)

ROWS = 10_000
INF = math.inf
EVERY = {
    "shell": Shell(1.0, 2.0),
    "confidence": Confidence(0.95, 1.0),
    "ball": Ball([0.5, 0.5], 1.0),
    "far_ball": Ball([40.0, 30.0], 1.0),
    "box": Box([0.0, -INF], [1.0, 2.0]),
    "far_box": Box([25.0, 20.0], INF),
    "half_space": HalfSpace([1.0, -2.0], 3.0),
    "where": Where(lambda x: x.sum(-1).sin() > 0),
}
over_regions = pytest.mark.parametrize("name", EVERY)
double = pytest.mark.usefixtures("double")


def normal_given(low: float, high: float) -> object:
    """The distribution function of a standard normal on an interval, at any distance."""
    near = low if low > 0 else high if high < 0 else 0.0
    ends = max(low, near - 50.0), min(high, near + 50.0)
    return distribution_function(lambda t: -0.5 * (t - near) * (t + near), *ends)


def radius_of(mixture: MixtureOfGaussians, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Mahalanobis radius about the drawn component."""
    white = mixture.covariance.whiten(mixture.scale, x.unsqueeze(-2) - mixture.means)
    return white.norm(dim=-1).gather(-1, z.unsqueeze(-1)).squeeze(-1)


# -- radii --------------------------------------------------------------------------------------


@double
@pytest.mark.parametrize(
    ("d", "region"),
    covering(
        [1, 2, 10, 100],
        [Shell(0, 1), Shell(2, 5), Shell(40, INF), Confidence(0.95, 1)],
        strength=1,
    ),
)
def test_radial(d: int, region: Shell | Confidence, generator: torch.Generator) -> None:
    factors = torch.stack([random_factor(d, generator) for _ in range(2)])
    mixture = mixture_of([0.3, 0.7], [[0.0] * d, [3.0] * d], factors)
    x, z = mixture.sample(ROWS, within=region, return_component=True, generator=generator)
    low, high = region.radii(d)
    r = radius_of(mixture, x, z)
    # The radius comes back to rounding of the factor.
    assert ((r >= low * (1 - 1e-9)) & (r <= high * (1 + 1e-9))).all()

    def log_density(t: np.ndarray) -> np.ndarray:
        return special.xlogy(d - 1, t) - 0.5 * t**2

    end = min(high, max(low, d**0.5) + 20)
    assert_follows(r.clamp(low, end), distribution_function(log_density, low, end))
    # Components keep their weights.
    assert_shares(z, np.log([0.3, 0.7]))
    # A coordinate u of a uniform direction: (1 + u) / 2 is Beta((d - 1) / 2, (d - 1) / 2).
    white = mixture.covariance.whiten(factors, x.unsqueeze(-2) - mixture.means)[..., 0]
    u = (white.gather(-1, z.unsqueeze(-1)).squeeze(-1) / r).cpu()
    if d == 1:
        assert_shares((u > 0).long(), [0.0, 0.0])
    else:
        assert_follows((1 + u) / 2, stats.beta((d - 1) / 2, (d - 1) / 2).cdf)


# -- half-spaces --------------------------------------------------------------------------------


@double
@pytest.mark.parametrize(
    ("d", "depth"), covering([1, 2, 10, 100], [0.5, 19.0, 30.0, 36.5], strength=1)
)
def test_half_space(d: int, depth: float, generator: torch.Generator) -> None:
    """Depths have probabilities of about 0.3, 1e-80, 1e-200 and 1e-300."""
    factor = random_factor(d, generator)
    normal = torch.randn(d, generator=generator, device=generator.device)
    s = float((factor.mT @ normal).norm())
    along = factor @ (factor.mT @ normal) / s
    # The second mean is 0.02 deviations nearer, the third a whole one and nearly weightless.
    means = torch.stack([0 * along, 0.02 * along, along])
    log_weights = torch.tensor([0.5, 0.5, 0.5 * math.exp(-depth)]).log()
    mixture = MixtureOfGaussians(log_weights, means, factor.expand(3, d, d))
    region = HalfSpace(normal, depth * s)
    x, z = mixture.sample(ROWS, within=region, return_component=True, generator=generator)
    assert region.contains(x).all()
    gaps = depth - np.array([0.0, 0.02, 1.0])
    assert_shares(z, log_weights.cpu().numpy() + special.log_ndtr(-gaps))
    y = x - means[z]
    t = y @ normal / s
    for k in z.unique().tolist():
        if (z == k).sum() > 100:
            assert_follows(t[z == k], normal_given(gaps[k], INF))
    if d > 1:
        # What is left across the normal is free.
        across = torch.linalg.solve_triangular(factor, (y - t[:, None] * along).mT, upper=False)
        e = factor.mT @ normal / s
        basis = torch.linalg.svd(e[None], full_matrices=True).Vh[1:]
        for row in basis[:2]:
            assert_follows(row @ across, stats.norm.cdf)


# -- boxes --------------------------------------------------------------------------------------


@double
@pytest.mark.parametrize("d", [1, 2, 10, 100])
def test_box_of_independent_features(d: int, generator: torch.Generator) -> None:
    """Intervals from the middle to far out; the probability of all falls below 1e-300."""
    low = torch.linspace(-1.0, 30.0 / d**0.5, d)
    n = 4000 if d == 100 else ROWS
    high = torch.where(torch.arange(d) % 2 == 0, low + 0.7, INF)
    mixture = mixture_of([0.5, 0.5], [[0.0] * d, [0.3] + [0.0] * (d - 1)], torch.eye(d))
    region = Box(low, high)
    x, z = mixture.sample(n, within=region, return_component=True, generator=generator)
    assert region.contains(x).all()
    p = [stats.norm.cdf(0.7 - 1 - m) - stats.norm.cdf(-1 - m) for m in (0.0, 0.3)]
    assert_shares(z, np.log(p))
    for j in {0, d // 2, d - 1}:
        for k in (0, 1):
            shift = 0.3 if (j, k) == (0, 1) else 0.0
            given = normal_given(float(low[j]) - shift, float(high[j]) - shift)
            assert_follows(x[z == k, j] - shift, given)


@double
@pytest.mark.parametrize("corner", [0.5, 15.0, 23.0])
def test_box_in_two_correlated_features(corner: float, generator: torch.Generator) -> None:
    """A quadrant; its probability is about 0.1, 1e-80 and 1e-190."""
    rho = 0.3
    root = (1 - rho**2) ** 0.5
    factor = torch.tensor([[1.0, 0.0], [rho, root]])
    mixture = mixture_of([1.0, 1.0], [[0.0, 0.0], [0.1, 0.0]], factor)
    region = Box([corner, corner], INF)
    x, z = mixture.sample(ROWS, within=region, return_component=True, generator=generator)
    assert region.contains(x).all()
    logs = []
    for k, shift in enumerate((0.0, 0.1)):

        def log_density(t: np.ndarray, shift: float = shift) -> np.ndarray:
            gap = corner - rho * (t - shift)
            return -0.5 * (t - shift) ** 2 + special.log_ndtr(-gap / root)

        assert_follows(x[z == k, 0], distribution_function(log_density, corner, corner + 12))
        grid = np.linspace(corner, corner + 12, 200_001)
        logs.append(special.logsumexp(log_density(grid)))
    assert_shares(z, logs)


@double
@pytest.mark.parametrize("d", [3, 10, 100])
def test_orthant(d: int, generator: torch.Generator) -> None:
    """All of `(Z_0 + Z_i) / sqrt(2)` positive: has probability `1 / (d + 1)`, in any dimension."""
    matrix = 0.5 * torch.eye(d) + 0.5
    mixture = mixture_of([1.0], [[0.0] * d], torch.linalg.cholesky(matrix))
    n = 2000 if d == 100 else ROWS
    x = mixture.sample(n, within=Box(0.0, INF), generator=generator)
    assert (x >= 0).all()
    common = np.linspace(-6, 8, 2001)
    weight = stats.norm.pdf(common) * special.ndtr(common) ** d
    assert weight.sum() * (common[1] - common[0]) == pytest.approx(1 / (d + 1), rel=1e-6)
    grid = np.linspace(0, 8, 2001)
    below = special.ndtr(math.sqrt(2) * grid[:, None] - common) - special.ndtr(-common)
    function = (weight * below / special.ndtr(common)).sum(1) / weight.sum()
    for j in (0, d - 1):
        assert_follows(x[:, j], lambda t: np.interp(t, grid, function))


@double
@pytest.mark.parametrize("d", [2, 10, 100])
def test_a_small_box_is_filled_evenly(d: int, generator: torch.Generator) -> None:
    mixture = mixture_of([1.0], [[0.0] * d], random_factor(d, generator))
    region = Box(0.3, 0.3 + 1e-7)
    x = mixture.sample(2000, within=region, generator=generator)
    assert region.contains(x).all()
    # Within 1e-7 the density changes by no more than 1e-4 of itself.
    for j in (0, d - 1):
        assert_follows((x[:, j] - 0.3) * 1e7, lambda u: u.clip(0, 1))


# -- balls --------------------------------------------------------------------------------------


@double
def test_ball_between_two_components(generator: torch.Generator) -> None:
    mixture = mixture_of([0.5, 0.5], [[0.0, 0.0], [3.0, 0.0]])
    region = Ball([0.5, 0.0], 1.0)
    _, z = mixture.sample(100_000, within=region, return_component=True, generator=generator)
    inside = [stats.ncx2.cdf(1.0, 2, gap**2) for gap in (0.5, 2.5)]
    assert inside[1] / sum(inside) == pytest.approx(0.085, abs=5e-4)
    assert_shares(z, np.log(inside))


@double
@pytest.mark.parametrize(
    ("d", "radius", "gap"),
    covering([1, 2, 10, 100], [0.01, 0.7, 3.0, 20.0, 300.0], [-1.0, 5.0, 36.0]),
)
def test_ball_and_round_component(
    d: int, radius: float, gap: float, generator: torch.Generator
) -> None:
    """The coordinate towards the centre has the density `phi(t) F(R^2 - (t - c)^2)`.

    F is the chi-square distribution of the others. The ball begins `gap` deviations from the mean,
    or its centre lies half a radius off it.
    """
    c = radius + gap if gap >= 0 else 0.5 * radius
    mixture = mixture_of([1.0], [[0.0] * d], 1.0)
    region = Ball([c] + [0.0] * (d - 1), radius)
    n = 1000 if d == 100 else 10_000
    x = mixture.sample(n, within=region, generator=generator)
    assert region.contains(x).all()

    def log_density(t: np.ndarray) -> np.ndarray:
        value = -0.5 * (t - max(gap, 0)) * (t + max(gap, 0))
        if d == 1:
            return value
        left = 0.5 * (radius**2 - (t - c) ** 2).clip(min=0)
        half = 0.5 * (d - 1)
        # log of the lower incomplete gamma function, by its series where it underflows.
        with np.errstate(divide="ignore"):
            direct = np.log(special.gammainc(half, left))
            series = half * np.log(left) - left - special.gammaln(half + 1)
            series += np.log(special.hyp1f1(1, half + 1, left.clip(max=50)))
        return value + np.where(left < 10, series, direct)

    assert_follows(x[:, 0], distribution_function(log_density, c - radius, c + radius))
    if d > 1:
        # Both sides are equally probable.
        assert_shares((x[:, 1] > 0).long(), [0.0, 0.0])


@double
@pytest.mark.parametrize(
    ("d", "where"), covering([2, 10], [(0.5, 1.0), (1.5, 1.5), (1.0, 4.0)], strength=1)
)
def test_ball_against_brute_force(
    d: int, where: tuple[float, float], generator: torch.Generator
) -> None:
    distance, radius = where
    factors = torch.stack([random_factor(d, generator) for _ in range(3)])
    means = torch.randn(3, d, generator=generator, device=generator.device)
    mixture = MixtureOfGaussians(torch.tensor([0.2, 0.3, 0.5]).log(), means, factors)
    region = Ball(means[0] + distance / d**0.5, radius)
    x, z = mixture.sample(4000, within=region, return_component=True, generator=generator)
    free, label = mixture.sample(300_000, return_component=True, generator=generator)
    keep = region.contains(free)
    assert_same_distribution(x, free[keep])
    counts = np.stack([np.bincount(v.cpu(), minlength=3) for v in (z, label[keep])])
    counts = counts[:, counts.sum(0) > 20]
    if counts.shape[1] > 1:
        assert stats.chi2_contingency(counts).pvalue > SIGNIFICANCE


@double
def test_a_component_far_from_the_ball_does_no_harm(generator: torch.Generator) -> None:
    mixture = mixture_of([0.001, 0.999], [[0.0, 0.0], [500.0, 0.0]])
    x, z = mixture.sample(
        ROWS, within=Ball([0.0, 0.0], 1.0), return_component=True, generator=generator
    )
    assert (z == 0).all()
    assert_follows(x.norm(dim=-1), lambda r: np.expm1(-0.5 * r**2) / np.expm1(-0.5))


# -- everything together ------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "name"), covering(FAMILIES, EVERY, strength=1))
def test_families_and_batches(family: str, name: str, generator: torch.Generator) -> None:
    layer = random_layer(family, batch=(2, 3), generator=generator)
    region = EVERY[name]
    x, z = layer.sample((4, 5), within=region, return_component=True, generator=generator)
    assert x.shape == (4, 5, 2, 3, 2)
    assert z.shape == (4, 5, 2, 3)
    assert x.dtype == layer.means.dtype
    assert x.isfinite().all()
    if hasattr(region, "contains"):
        assert region.contains(x).all()


@over_regions
def test_same_seed_same_rows(name: str, generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    one, same, other = (
        layer.sample(50, within=EVERY[name], generator=generator.manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@over_regions
def test_no_rows(name: str, generator: torch.Generator) -> None:
    layer = random_layer("diag", batch=(3,), generator=generator)
    x, z = layer.sample((2, 0), within=EVERY[name], return_component=True)
    assert x.shape == (2, 0, 3, 2)
    assert z.shape == (2, 0, 3)
    assert z.dtype == torch.long


@over_regions
def test_single_precision_rows_stay_inside(name: str, generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator).float()
    x, z = layer.sample(2000, within=EVERY[name], return_component=True, generator=generator)
    assert x.dtype == torch.float32
    if hasattr(EVERY[name], "contains"):
        assert EVERY[name].contains(x).all()
    else:
        low, high = EVERY[name].radii(2)
        r = radius_of(layer.distribution(), x, z)
        # Rounding of rows and factors in float32.
        assert ((r > low - 1e-4) & (r < high + 1e-4)).all()


@double
@over_regions
def test_rows_come_in_random_order(name: str, generator: torch.Generator) -> None:
    mixture = mixture_of([0.5, 0.5], [[0.0, 0.0], [0.2, 0.1]], 1.0)
    _, z = mixture.sample(2000, within=EVERY[name], return_component=True, generator=generator)
    runs, share = (z.diff() != 0).sum(), (z == 0).double().mean()
    # Independent neighbours differ with probability 2 p (1 - p); five standard errors.
    expected = 2 * share * (1 - share)
    assert abs(runs / 1999 - expected) < 5 * (expected / 1999) ** 0.5 + 1e-12


@double
@over_regions
def test_a_component_that_is_asked_for(name: str, generator: torch.Generator) -> None:
    """Each row from its own component is what the whole mixture has where it drew that one."""
    layer = random_layer("full", generator=generator)
    region = EVERY[name]
    asked = torch.arange(3, device=generator.device).repeat(1000)
    x, z = layer.sample(
        3000, within=region, component=asked, return_component=True, generator=generator
    )
    assert torch.equal(z, asked)
    free, label = layer.sample(ROWS, within=region, return_component=True, generator=generator)
    for k in range(3):
        if (label == k).sum() > 50:
            assert_same_distribution(x[z == k], free[label == k])
    alone = layer.sample(2000, within=region, component=2, generator=generator)
    assert_same_distribution(alone, x[z == 2])


@double
def test_temperature_comes_first(generator: torch.Generator) -> None:
    mixture = mixture_of([0.2, 0.8], [[0.0], [2.0]])
    region, t = HalfSpace([1.0], 3.0), 4.0
    x, z = mixture.sample(
        ROWS, within=region, temperature=t, return_component=True, generator=generator
    )
    weights = np.array([0.2, 0.8]) ** (1 / t)
    assert_shares(z, np.log(weights) + special.log_ndtr(-np.array([3.0, 1.0]) / 2))
    assert_follows(x[z == 1, 0] / 2 - 1, normal_given(0.5, INF))
    r = mixture.sample(
        ROWS, within=Shell(1.0, 2.0), component=0, temperature=t, generator=generator
    )
    assert r.abs().min() > 2
    assert r.abs().max() < 4


@double
def test_where_is_rejection(generator: torch.Generator) -> None:
    mixture = mixture_of([0.3, 0.7], [[0.0], [1.0]])
    x, z = mixture.sample(
        ROWS, within=Where(lambda x: x[:, 0] > 2), return_component=True, generator=generator
    )
    assert_shares(z, np.log([0.3, 0.7]) + special.log_ndtr([-2.0, -1.0]))
    assert_follows(x[z == 1, 0] - 1, normal_given(1.0, INF))
