"""Regions as values: what they refuse, what they contain."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.goodness_of_fit import mixture_of

from gmm_lightning.distributions import (
    Ball,
    Box,
    Confidence,
    EuclideanRegion,
    HalfSpace,
    MahalanobisRegion,
    Shell,
    Where,
)
from gmm_lightning.distributions.truncation import GaussianComponent, box_envelopes
from gmm_lightning.errors import GMMError, InvalidArgumentError, RegionError

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Shell(-1.0, 2.0), r"radii of a shell must be numbers of at least 0, got -1.0"),
        (lambda: Shell(0.0, NAN), "at least 0, got 0.0 and nan"),
        (lambda: Shell("a", 2.0), "at least 0"),
        (lambda: Shell(2.0, 1.0), "low < high, got 2.0 and 1.0"),
        (lambda: Shell(1.0, 1.0), "low < high"),
        (lambda: Shell(0.0, 0.0), "low < high"),
        (lambda: Shell(INF, INF), "low < high"),
        (lambda: Confidence(-0.1, 0.5), "at least 0 and at most 1, got -0.1"),
        (lambda: Confidence(0.5, 1.1), "at most 1, got 0.5 and 1.1"),
        (lambda: Confidence(0.9, 0.5), "low < high"),
        (lambda: Confidence(1.0, 1.0), "low < high"),
        (lambda: Ball([0.0, 0.0], 0.0), "finite number > 0, got 0.0"),
        (lambda: Ball([0.0, 0.0], -1.0), "finite number > 0, got -1.0"),
        (lambda: Ball([0.0, 0.0], INF), "finite number > 0, got inf"),
        (lambda: Ball([0.0, NAN], 1.0), "row of finite numbers"),
        (lambda: Ball([[0.0, 0.0]], 1.0), "row of finite numbers"),
        (lambda: Ball(torch.zeros(1, 2), 1.0), "row of finite numbers"),
        (lambda: Ball([], 1.0), "row of finite numbers"),
        (lambda: Ball(3.0, 1.0), "row of finite numbers"),
        (lambda: Box([0.0, 2.0], [1.0, 1.0]), r"empty intervals \[1\]"),
        (lambda: Box([0.0, 1.0], [1.0, 1.0]), r"empty intervals \[1\]"),
        (lambda: Box([INF], [INF]), r"empty intervals \[0\]"),
        (lambda: Box(-INF, -INF), r"empty intervals \[0\]"),
        (lambda: Box([0.0, NAN], 1.0), "row of numbers"),
        (lambda: Box("ab", 1.0), "row of numbers"),
        (lambda: Box([0.0, 0.0], [1.0, 1.0, 1.0]), "same width, got 2 and 3"),
        (lambda: HalfSpace([0.0, 0.0], 1.0), "must not be zero"),
        (lambda: HalfSpace([INF, 0.0], 1.0), "row of finite numbers"),
        (lambda: HalfSpace([1.0, 0.0], INF), "offset .* finite number, got inf"),
        (lambda: Where(3), "fn must be a function"),
        (lambda: Where(torch.isfinite, max_draws=0), "max_draws must be an integer >= 1, got 0"),
        (lambda: Where(torch.isfinite, max_draws=1e6), "integer >= 1"),
    ],
)
def test_refuses(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        make()


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (Ball([0.0, 0.0, 0.0], 1.0), "center of the ball must have 2 entries, got 3"),
        (Box([0.0], [1.0, 1.0, 1.0]), "upper end of the box must have 2 entries, got 3"),
        (HalfSpace([1.0], 0.0), "normal of the half-space must have 2 entries, got 1"),
        (Where(lambda x: x[:, 0]), r"boolean tensor of shape \(\d+,\) .* got Tensor of shape"),
        (Where(lambda x: x > 0), "boolean tensor of shape"),
        (Where(lambda x: True), "got True"),
        (object(), "within must be a region"),
        (Shell, "within must be a region"),
    ],
)
def test_refuses_to_sample(region: Any, words: str) -> None:
    mixture = mixture_of([1.0], [[0.0, 0.0]])
    with pytest.raises(InvalidArgumentError, match=words):
        mixture.sample(5, within=region)


def test_refuses_a_mixture_that_is_not_finite() -> None:
    mixture = mixture_of([1.0], [[0.0, NAN]])
    for region in (Shell(), Ball([0.0, 0.0], 1.0), Box(0.0, 1.0), HalfSpace([1.0, 0.0], 0.0)):
        with pytest.raises(InvalidArgumentError, match="must be finite"):
            mixture.sample(5, within=region)


def test_contains() -> None:
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, -1.0]])
    assert Ball([0, 0], 5.0).contains(x).tolist() == [True, True, True]
    assert Ball([3, 4], 4.9).contains(x).tolist() == [False, True, False]
    assert Box(0, [3.0, INF]).contains(x).tolist() == [True, True, False]
    assert HalfSpace([1.0, 1.0], 0.0).contains(x).tolist() == [True, True, True]
    assert HalfSpace([1.0, 1.0], 1.0).contains(x[None]).tolist() == [[False, True, False]]
    assert Where(lambda rows: rows[:, 0] > 0).contains(x[None]).tolist() == [[False, True, True]]
    for region in (Ball([0, 0, 0], 1.0), Box([0, 0, 0], 1), HalfSpace([1, 0, 0], 1.0)):
        with pytest.raises(InvalidArgumentError, match="3 features in the last axis"):
            region.contains(x)


def test_regions_are_values() -> None:
    one, same = Ball(torch.tensor([0.5, 1.0]), 2.0), Ball(np.array([0.5, 1.0]), 2.0)
    assert one == same
    assert hash(one) == hash(same)
    assert one != Ball([0.5, 1.5], 2.0)
    for region in (one, Box(-INF, [1.0, 2.0]), HalfSpace((1, 0), 3), Shell(1, 2), Confidence()):
        assert pickle.loads(pickle.dumps(region)) == region
        assert copy.deepcopy(region) == region


def test_confidence_has_as_many_degrees_of_freedom_as_features() -> None:
    # Quantiles of the radius from tables of the chi-square distribution.
    for d, p, radius in [
        (1, 0.95, 1.95996),
        (2, 0.5, 1.17741),
        (2, 0.99, 3.03485),
        (5, 0.9, 3.03914),
    ]:
        assert Confidence(0, p).radii(d) == pytest.approx((0.0, radius), abs=1e-5)
    assert Confidence(0.95, 1.0).radii(2) == pytest.approx((2.44775, INF), abs=1e-5)
    # 1 - p is exact, so a quantile far out keeps its digits: P(r > t) = exp(-t^2 / 2) for two.
    p = 1 - 2.0**-52
    assert Confidence(p, 1).radii(2)[0] == pytest.approx((104 * math.log(2)) ** 0.5, rel=1e-14)


# -- envelopes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    "region",
    [
        Ball([0.5, 0.5], 1.0),
        Ball([40.0, 30.0], 1.0),
        Ball([40.0, 0.0], 39.5),
        Box([0.0, -INF], [1.0, 2.0]),
        Box(0.3, 0.3 + 1e-3),
        HalfSpace([1.0, -2.0], 60.0),
    ],
    ids=str,
)
def test_envelopes_lie_above_the_component(
    region: Any, dense: bool, double: None, generator: torch.Generator
) -> None:
    factor = torch.tensor([[1.0, 0.0], [0.6, 0.8]]) if dense else torch.tensor([1.0, 0.5])
    component = GaussianComponent(torch.tensor([0.1, -0.2]), factor)
    (envelope,) = region.envelopes([component])
    x, log_accept = envelope.draw(2000, generator)
    inside = region.contains(x)
    assert int(inside.sum()) > 20
    # The terms of the acceptance are some thousands at 50 deviations, and round to eps of that.
    assert float(log_accept[inside].max()) <= 1e-11


# -- geometry -----------------------------------------------------------------------------------

WINDOW = torch.tensor([[-2.0, 3.0], [-1.0, 2.5]])
CONVEX = [
    Ball([1.0, -0.5], 1.5),
    Box([-1.0, -INF], [INF, 1.0]),
    Box(0.0, INF),
    HalfSpace([1.0, 2.0], 1.0),
    HalfSpace([0.0, -1e-320], 0.0),
]


@pytest.mark.parametrize("region", CONVEX, ids=str)
def test_an_outline_encloses_the_region(region: Any, generator: torch.Generator) -> None:
    corners = region.outline(WINDOW)
    ends = corners.roll(-1, 0) - corners
    low, width = WINDOW[:, 0], WINDOW[:, 1] - WINDOW[:, 0]
    x = low + width * torch.rand(2000, 2, generator=generator).to(low)
    gap = x[:, None] - corners
    left_of = (ends[:, 0] * gap[..., 1] - ends[:, 1] * gap[..., 0] >= 0).all(-1)
    # The polygon leaves a circle by 1e-4 of its radius: a row of 2,000 in a strip so thin.
    assert int((left_of != region.contains(x)).sum()) <= 2


@pytest.mark.parametrize(
    ("region", "ends"),
    [
        (Ball([1.0], 2.0), [-1.0, 3.0]),
        (Box(-1.0, INF), [-1.0, 7.0]),
        (HalfSpace([-2.0], 1.0), [-9.0, -0.5]),
    ],
)
def test_an_outline_on_the_line_is_an_interval(region: Any, ends: list[float]) -> None:
    corners = region.outline(torch.tensor([[-9.0, 7.0]]))
    assert [corners.min(), corners.max()] == ends
    assert len(HalfSpace([1.0], 8.0).outline(torch.tensor([[-9.0, 7.0]]))) == 0


@pytest.mark.parametrize("dims", [(0,), (2, 0), (1, 2, 0)], ids=str)
@pytest.mark.parametrize(
    "region",
    [
        Ball([1.0, -0.5, 0.3], 1.5),
        Box([-1.0, -INF, 0.0], [INF, 1.0, 0.5]),
        HalfSpace([1.0, 2.0, 0.0], 1.0),
        HalfSpace([0.0, 0.0, -1.0], 0.0),
    ],
    ids=str,
)
def test_a_shadow_holds_the_rows_and_no_more(
    region: Any, dims: tuple[int, ...], double: None, generator: torch.Generator
) -> None:
    shadow = region.project(dims, 3)
    x = 2 * torch.randn(4000, 3, generator=generator)
    assert bool(shadow.contains(x[region.contains(x)][:, list(dims)]).all())
    low, high = region.bounds(3)
    assert bool(((x >= low) & (x <= high))[region.contains(x)].all())
    # A row of the shadow is one of the region for some values of the others.
    seen = x[shadow.contains(x[:, list(dims)])][:50]
    rest = [i for i in range(3) if i not in dims]
    others = 20 * torch.randn(20_000, 3, generator=generator)
    others[:10_000] = torch.tensor([1.0, -0.5, 0.3]) + 0.02 * others[:10_000]
    if rest:
        for row in seen:
            filled = others.clone()
            filled[:, list(dims)] = row[list(dims)]
            assert bool(region.contains(filled).any())


class Ring(EuclideanRegion):
    """A region that a user writes: only `contains`."""

    def contains(self, x: torch.Tensor) -> torch.Tensor:
        return (x.norm(dim=-1) - 2).abs() < 0.5


class Rim(MahalanobisRegion):
    def radii(self, num_features: int) -> tuple[float, float]:
        return 0.5 * num_features, math.inf


def test_a_region_of_the_user(generator: torch.Generator) -> None:
    mixture = mixture_of([0.5, 0.5], [[0.0, 0.0], [2.0, 0.0]])
    assert Ring().contains(mixture.sample(200, within=Ring(), generator=generator)).all()
    x, z = mixture.sample(200, within=Rim(), return_component=True, generator=generator)
    assert ((x - mixture.means[z]).norm(dim=-1) > 1).all()
    # The hundredth part of exp(-r^2 / 2) beyond 1 lies beyond the root of 1 + 2 log 100.
    assert Rim().reach(2) == pytest.approx(math.sqrt(1 + 2 * math.log(100)))
    y = torch.randn(50, 2, generator=generator)
    assert torch.equal(Ring().project((1, 0), 2).contains(y), Ring().contains(y[:, [1, 0]]))
    assert Ring().outline(WINDOW) is None
    with pytest.raises(InvalidArgumentError, match="shadow of Ring in 1 of 2 features"):
        Ring().project((0,), 2)


# -- errors of rejection sampling ---------------------------------------------------------------


def test_where_gives_up_and_says_how_probable_the_region_can_be() -> None:
    mixture = mixture_of([1.0], [[0.0, 0.0]])
    never = Where(lambda x: torch.zeros(len(x), dtype=torch.bool), max_draws=100_000)
    with pytest.raises(
        RegionError, match=r"^0 of (\d+) proposals.*10\^-\d\.\d+ with 95 %"
    ) as found:
        mixture.sample(5, within=never)
    assert isinstance(found.value, GMMError)
    text = str(found.value)
    tried, power = int(text.split()[2]), float(text.split("10^")[1].split()[0])
    assert tried > 100_000
    # The rule of three, with its 2.9957.
    assert 10**power == pytest.approx(2.9957 / tried, rel=0.02)


def test_where_gives_up_with_some_rows_in_hand() -> None:
    mixture = mixture_of([1.0], [[0.0]])
    rare = Where(lambda x: x[:, 0] > 3.0, max_draws=20_000)
    with pytest.raises(RegionError, match=r"^[1-9]\d* of \d+ proposals"):
        mixture.sample(1000, within=rare)


def test_out_of_reach() -> None:
    mixture = mixture_of([1.0], [[0.0, 0.0]])
    with pytest.raises(RegionError, match="no component reaches"):
        mixture.sample(3, within=HalfSpace([1.0, 0.0], 1e200))
    # Weight zero: the only component near the ball is never drawn, the other is far away.
    lost = mixture_of([0.0, 1.0], [[0.0, 0.0], [30.0, 0.0]])
    x, z = lost.sample(50, within=Ball([0.0, 0.0], 1.0), return_component=True)
    assert (z == 1).all()
    assert (x[:, 0] > 0).all()


def test_a_region_between_two_numbers_of_float32(double: None) -> None:
    mixture = mixture_of([1.0], [[0.0, 0.0]])
    gap = Box([1 + 1e-9, 0.0], [1 + 2e-9, 1.0])
    assert gap.contains(mixture.sample(100, within=gap)).all()
    mixture = mixture_of([1.0], [[0.0, 0.0]])
    single = type(mixture)(
        mixture.mixture_logits.float(), mixture.means.float(), mixture.scale.float()
    )
    with pytest.raises(RegionError, match="float32 rows"):
        single.sample(100, within=gap)


def test_a_hopeless_box_is_an_error_and_no_hang(
    double: None, monkeypatch: pytest.MonkeyPatch, generator: torch.Generator
) -> None:
    # As when the search for a tilt fails: free proposals, and a box of probability e^-33.
    monkeypatch.setattr(
        box_envelopes, "minimax_tilt", lambda a, low, *rest: (torch.zeros_like(low), 0.0)
    )
    factor = torch.linalg.cholesky(0.5 * torch.eye(10) + 0.5)
    mixture = mixture_of([1.0], [[0.0] * 10], factor)
    with pytest.raises(RegionError, match=r"^0 of .*minimax tilting"):
        mixture.sample(1000, within=Box(5.0, INF), generator=generator)
    # The free proposals are exact all the same.
    assert (mixture.sample(1000, within=Box(0.0, INF), generator=generator) >= 0).all()
