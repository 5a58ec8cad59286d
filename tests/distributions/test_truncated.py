"""One-dimensional distributions on an interval, against numerical integration."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special
from support.goodness_of_fit import assert_follows, distribution_function

from gmm_lightning.distributions.truncation.hull import PiecewiseExponentialHull
from gmm_lightning.distributions.truncation.truncated import (
    TruncatedNormals,
    log_interval_mass,
    sample_truncated_chi,
    sample_truncated_normals,
)

pytestmark = pytest.mark.usefixtures("double")
ROWS = 20_000
INF = math.inf


# -- the probability of an interval -------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "value"),
    # From 60 digits; the third and fourth are thin, the last two far away.
    [
        (-INF, INF, 0.0),
        (-1.0, 2.0, -0.20016629432446258),
        (0.5, 0.5 + 2.0**-40, -28.7698257556027125),
        (37.0, 37.0 + 2.0**-40, -713.144825755619311),
        (10.0, INF, -53.2312851505124706),
        (-40.0, -39.0, -765.083156564377544),
        (-INF, -1000.0, -500007.826694812184),
    ],
)
def test_log_interval(low: float, high: float, value: float) -> None:
    found = log_interval_mass(torch.tensor([low]), torch.tensor([high]))
    torch.testing.assert_close(found, torch.tensor([value]), rtol=1e-14, atol=1e-14)
    mirrored = log_interval_mass(torch.tensor([-high]), torch.tensor([-low]))
    torch.testing.assert_close(found, mirrored, rtol=1e-15, atol=1e-15)


def test_log_interval_adds_up() -> None:
    cuts = torch.cat([torch.linspace(-9, 9, 1801), torch.tensor([INF])])
    parts = log_interval_mass(cuts[:-1], cuts[1:])
    whole = log_interval_mass(torch.tensor([-9.0]), torch.tensor([INF]))
    torch.testing.assert_close(parts.logsumexp(0, keepdim=True), whole, rtol=0, atol=1e-14)


# -- normals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (-INF, INF),
        (-1.0, 2.0),
        (-0.3, INF),
        (3.0, 3.1),
        (-INF, -19.0),  # 1e-80
        (30.2, INF),  # 1e-200
        (37.05, INF),  # 1e-300
        (-60.0, -55.0),
    ],
)
def test_truncated_normals(low: float, high: float, generator: torch.Generator) -> None:
    normals = TruncatedNormals(*torch.tensor([[low], [high]], device=generator.device))
    x = normals.draw(torch.zeros(ROWS, dtype=torch.long, device=generator.device), generator)
    assert ((x >= low) & (x <= high)).all()
    near = low if low > 0 else high if high < 0 else 0.0
    ends = max(low, near - 60.0), min(high, near + 60.0)
    assert_follows(x, distribution_function(lambda t: -0.5 * (t - near) * (t + near), *ends))


def test_truncated_normals_far_out_are_exponential(generator: torch.Generator) -> None:
    low = torch.full((1,), 1e8, device=generator.device)
    normals = TruncatedNormals(low, torch.full_like(low, INF))
    t = normals.hull.draw(torch.zeros(ROWS, dtype=torch.long, device=low.device), generator)
    assert_follows(t * 1e8, lambda v: -np.expm1(-v))


def test_each_row_has_its_own_interval(generator: torch.Generator) -> None:
    low = torch.linspace(-50, 50, ROWS, device=generator.device)
    x = TruncatedNormals(low, low + 0.5).draw(torch.arange(ROWS, device=low.device), generator)
    assert ((x >= low) & (x <= low + 0.5)).all()
    inside = log_interval_mass(low, x) - log_interval_mass(low, low + 0.5)
    assert_follows(inside.exp(), lambda u: u.clip(0, 1))


def test_one_in_each_interval(generator: torch.Generator) -> None:
    """The same distribution, whichever way an interval goes: near and wide, thin, far, or open."""
    device = generator.device
    for width in (INF, 20.0, 0.5, 1e-3, 1e-4, 1e-9):
        low = torch.linspace(-50, 50, ROWS, device=device)
        wide = torch.full_like(low, width)
        x = sample_truncated_normals(low, low + wide, wide, generator)
        assert torch.isfinite(x).all()
        assert ((x >= low) & (x <= low + wide)).all()
        # Rounding of the rows themselves: a share of a thin interval, at most.
        inside = (
            log_interval_mass(low, x, x - low) - log_interval_mass(low, low + wide, wide)
        ).exp()
        if width > 1e-6:
            assert_follows(inside, lambda u: u.clip(0, 1))
        # The mirror image by itself, and the middle alone.
        mirrored = sample_truncated_normals(-low - wide, -low, wide, generator)
        assert ((mirrored >= -low - wide) & (mirrored <= -low)).all()
        near = low.abs() < 5
        if width > 1e-6:
            assert_follows(inside[near], lambda u: u.clip(0, 1))


# -- lengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 10, 100, 1000])
@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 1.0), (0.0, INF), (0.5, 0.6), (10.0, INF), (40.0, INF), (50.0, 50.001), (300.0, INF)],
)
def test_truncated_chi(d: int, low: float, high: float, generator: torch.Generator) -> None:
    like = torch.zeros(ROWS, device=generator.device)
    r = sample_truncated_chi(d, low, high, like, generator)
    assert ((r >= low) & (r <= high)).all()
    end = min(high, max(low, d**0.5) + 20.0)

    def log_density(t: np.ndarray) -> np.ndarray:
        return special.xlogy(d - 1, t) - 0.5 * t**2

    assert_follows(r, distribution_function(log_density, low, end))


def test_a_thin_shell_is_uniform(generator: torch.Generator) -> None:
    # Over a width of 1e-9 the density at a radius of 100 varies by 1e-7 of itself.
    like = torch.zeros(ROWS, device=generator.device)
    r = sample_truncated_chi(10, 100.0, 100.0 + 1e-9, like, generator)
    assert_follows((r - 100.0) * 1e9, lambda u: u.clip(0, 1))


@pytest.mark.parametrize("d", [2, 3, 10, 1000])
@pytest.mark.parametrize("width", [1e-3, 1.0, 1e3])
def test_the_envelope_is_tight(d: int, width: float) -> None:
    """More than four draws in five are accepted: nobody waits for a shell."""
    for low in (0.0, 0.9 * (d - 1) ** 0.5, (d - 1) ** 0.5, 2.0 * d**0.5, 100.0):
        mode = torch.tensor([min(max((d - 1) ** 0.5, low), low + width)])

        def log_density(
            t: torch.Tensor, which: torch.Tensor, mode: torch.Tensor = mode
        ) -> torch.Tensor:
            return (d - 1) * torch.log1p(t / mode) - t * (mode + 0.5 * t)

        def slope(t: torch.Tensor, which: torch.Tensor, mode: torch.Tensor = mode) -> torch.Tensor:
            return (d - 1) / (mode + t) - mode - t

        hull = PiecewiseExponentialHull(log_density, slope, low - mode, low + width - mode)
        _, log_accept = hull.propose(torch.zeros(20_000, dtype=torch.long), None)
        assert (log_accept <= 1e-12).all()
        assert log_accept.exp().mean() > 0.8


def test_parameters_that_are_not_numbers_end_in_an_error() -> None:
    normals = TruncatedNormals(torch.tensor([math.nan]), torch.tensor([1.0]))
    with pytest.raises(ArithmeticError, match="not finite"):
        normals.draw(torch.zeros(3, dtype=torch.long), None)
