"""Samples: what is drawn of a region holds exactly the rows that the region holds."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import PathPatch, Polygon
from scipy.stats import chi2

from gmm_lightning.distributions import (
    Ball,
    Box,
    Confidence,
    EuclideanRegion,
    HalfSpace,
    MixtureOfGaussians,
    Shell,
    Where,
)
from gmm_lightning.errors import InvalidArgumentError, RegionError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.plotting import palette, plot_samples


def shaded(ax: Any, points: np.ndarray) -> np.ndarray:
    """Whether the one filled patch covers the points."""
    (patch,) = [p for p in [*ax.patches, *ax.artists] if p.get_zorder() == 0.5 and p.get_fill()]
    path = patch.get_path().transformed(patch.get_transform())
    at = ax.transData.transform(points)
    # One polygon at a time, by the even-odd rule, so that holes are holes.
    return np.sum([part.contains_points(at) for part in polygons(path)], axis=0) % 2 == 1


def polygons(path: Any) -> list[Any]:
    if path.codes is None:
        return [path]
    starts = [*np.flatnonzero(path.codes == path.MOVETO), len(path.codes)]
    return [type(path)(path.vertices[a:b], path.codes[a:b]) for a, b in pairwise(starts)]


def window_points(ax: Any, n: int = 2000) -> np.ndarray:
    source = np.random.default_rng(0)
    return np.stack([source.uniform(*ax.get_xlim(), n), source.uniform(*ax.get_ylim(), n)], axis=1)


REGIONS = [
    Ball([1.0, -2.0], 1.5),
    Box([-1.0, -math.inf], [2.0, 1.0]),
    Box(0.0, math.inf),
    HalfSpace([1.0, 2.0], 1.0),
    HalfSpace([-1.0, 0.0], 2.0),
]


@pytest.mark.parametrize("region", REGIONS, ids=str)
def test_the_shade_is_the_region_and_the_samples_lie_in_it(make: Any, region: Any) -> None:
    ax = plot_samples(make(2, 2), 200, within=region)
    points = window_points(ax)
    inside = region.contains(torch.as_tensor(points, device="cpu")).numpy()
    assert 0 < inside.sum() < len(inside)
    # Away from the edge: matplotlib's circle is a polygon of Bezier curves.
    assert (shaded(ax, points) == inside).mean() > 0.998
    drawn = torch.as_tensor(np.asarray(ax.collections[0].get_offsets()), device="cpu")
    assert bool(region.contains(drawn).all())
    assert len(drawn) == 200


@pytest.mark.parametrize("region", [Shell(1.0, 2.0), Shell(0.0, 1.5), Confidence(0.2, 0.8)])
def test_shells_surround_their_component(make: Any, region: Any) -> None:
    mixture = make(1, 2)
    ax = plot_samples(mixture, 100, within=region)
    points = window_points(ax)
    white = torch.linalg.solve_triangular(
        mixture.scale_tril[0], (torch.as_tensor(points) - mixture.means[0]).T, upper=False
    )
    low, high = region.radii(2)
    radius = white.norm(dim=0).numpy()
    assert (shaded(ax, points) == ((radius > low) & (radius < high))).mean() > 0.998


def test_an_open_shell_is_shaded_to_99_percent_and_outlined_inside(make: Any) -> None:
    ax = plot_samples(make(1, 2), 100, within=Confidence(0.9, 1.0))
    rims = [p for p in ax.patches if isinstance(p, PathPatch)]
    assert [p.get_fill() for p in rims] == [True, False]
    points = window_points(ax, 20_000)
    mixture = make(1, 2)
    white = torch.linalg.solve_triangular(
        mixture.scale_tril[0], (torch.as_tensor(points) - mixture.means[0]).T, upper=False
    )
    squares = white.square().sum(0).numpy()[shaded(ax, points)]
    assert squares.min() == pytest.approx(chi2.ppf(0.9, 2), rel=0.01)
    assert squares.max() == pytest.approx(chi2.ppf(0.999, 2), rel=0.01)


def test_shells_have_the_colours_of_their_components(make: Any) -> None:
    ax = plot_samples(make(3, 2), 10, within=Shell(0.0, 1.0))
    filled = [p for p in ax.patches if isinstance(p, PathPatch) and p.get_fill()]
    assert [p.get_facecolor()[:3] for p in filled] == [to_rgb(color) for color in palette(3)]


def test_a_function_is_a_mask_of_its_own_features(make: Any) -> None:
    region = Where(lambda x: x[:, 0] > x[:, 1].square())
    for dims in (None, (1, 0)):
        ax = plot_samples(make(2, 2), 50, within=region, dims=dims)
        (image,) = ax.images
        left, right, bottom, top = image.get_extent()
        opaque = np.asarray(image.get_array())[..., 3] > 0
        mesh = np.stack(
            np.meshgrid(np.linspace(left, right, 400), np.linspace(bottom, top, 400)), -1
        )
        first, second = mesh[..., 0], mesh[..., 1]
        if dims == (1, 0):
            first, second = second, first
        assert np.array_equal(opaque, first > second**2)


class Ring(EuclideanRegion):
    """A region that a user writes: only `contains`."""

    def contains(self, x: torch.Tensor) -> torch.Tensor:
        return (x.norm(dim=-1) - 2).abs() < 1


def test_a_region_of_the_user_is_a_mask(make: Any) -> None:
    ax = plot_samples(make(2, 2), 50, within=Ring())
    (image,) = ax.images
    left, right, bottom, top = image.get_extent()
    x, y = np.meshgrid(np.linspace(left, right, 400), np.linspace(bottom, top, 400))
    opaque = np.asarray(image.get_array())[..., 3] > 0
    assert np.array_equal(opaque, abs(np.hypot(x, y) - 2) < 1)


@pytest.mark.parametrize(
    ("region", "inside"),
    [
        (Ring(), lambda x: abs(abs(x) - 2) < 1),
        (Ball([1.0], 2.0), lambda x: abs(x - 1) <= 2),
        (Box(-1.0, math.inf), lambda x: x >= -1),
        (HalfSpace([-2.0], 1.0), lambda x: x <= -0.5),
        (Where(lambda x: x[:, 0].sin() > 0), lambda x: np.sin(x) > 0),
        (Shell(0.5, 1.0), lambda x: (abs(x) >= 1.0) & (abs(x) <= 2.0)),
    ],
    ids=["user", "ball", "box", "half-space", "where", "shell"],
)
def test_on_the_line_regions_are_bands(region: Any, inside: Any) -> None:
    one = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 1), 2 * torch.ones(1, 1, 1))
    ax = plot_samples(one, 300, within=region)
    x = np.linspace(*ax.get_xlim(), 999)
    points = np.stack([x, np.full(999, np.mean(ax.get_ylim()))], axis=1)
    assert (shaded(ax, points) == inside(x)).mean() > 0.99
    bars: list[Any] = [p for p in ax.patches if p.get_zorder() == 1 and hasattr(p, "get_width")]
    assert sum(bar.get_width() * bar.get_height() for bar in bars) == pytest.approx(1.0)


def test_in_fewer_features_the_shadow_is_drawn(make: Any) -> None:
    mixture = make(2, 3)
    ball = Ball(mixture.means[0], 1.5)
    ax = plot_samples(mixture, 50, within=ball, dims=(2, 0))
    (disc,) = [p for p in ax.patches if isinstance(p, Polygon)]
    from_center = disc.get_xy() - mixture.means[0, [2, 0]].numpy()
    np.testing.assert_allclose(np.linalg.norm(from_center, axis=1), 1.5)
    # x0 + x1 >= 0 says nothing of x0 alone, so all of the window may hold samples.
    ax = plot_samples(mixture, 50, within=HalfSpace([1.0, 1.0, 0.0], 0.0), dims=(0, 2))
    assert shaded(ax, window_points(ax)).all()
    # From the side a shell has no hole.
    ax = plot_samples(mixture.component(0), 50, within=Shell(1.0, 2.0), dims=(0, 1))
    center = mixture.means[0, :2].numpy()[None]
    assert shaded(ax, center).all()
    with pytest.raises(InvalidArgumentError, match="shadow of Where in 2 of 3"):
        plot_samples(mixture, 50, within=Where(lambda x: x[:, 0] > 0), dims=(0, 1))


def test_samples_have_the_colours_of_their_components_and_repeat() -> None:
    means = torch.tensor([[0.0, 0.0], [50.0, 0.0]])
    mixture = MixtureOfGaussians(torch.zeros(2), means, torch.eye(2).repeat(2, 1, 1))
    one, two = plot_samples(mixture, 80), plot_samples(mixture, 80)
    np.testing.assert_array_equal(
        one.collections[0].get_offsets(), two.collections[0].get_offsets()
    )
    for ax in (one, plot_samples(mixture, np.asarray(one.collections[0].get_offsets()))):
        right = np.asarray(ax.collections[0].get_offsets())[:, 0] > 25
        colors = np.asarray(ax.collections[0].get_facecolor())[:, :3]
        expected = np.array([to_rgb(color) for color in palette(2)])[right.astype(int)]
        np.testing.assert_allclose(colors, expected)
    own = torch.Generator("cpu").manual_seed(5)
    other = plot_samples(mixture, 80, generator=own).collections[0].get_offsets()
    assert not np.array_equal(other, one.collections[0].get_offsets())


def test_the_window_holds_a_region_far_away() -> None:
    one = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
    ax = plot_samples(one, 20, within=Ball([30.0, 0.0], 2.0))
    low, high = ax.get_xlim()
    assert low < -3.0
    assert high > 32.0


def test_refuses_what_does_not_fit(make: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"within to be Shell, .*got 'ball'"):
        plot_samples(make(2, 2), within="ball")
    with pytest.raises(InvalidArgumentError, match="must have 2 entries, got 3"):
        plot_samples(make(2, 2), within=Ball([0.0, 0.0, 0.0], 1.0))
    with pytest.raises(
        InvalidArgumentError, match="number of samples must be an integer >= 0, got -1"
    ):
        plot_samples(make(2, 2), -1)
    with pytest.raises(InvalidArgumentError, match=r"got 3; pass dims=.*plot_pairs"):
        plot_samples(make(2, 3))
    with pytest.raises(RegionError):
        plot_samples(make(2, 2), 5, within=Where(lambda x: x[:, 0] > 1e9, max_draws=100))


def test_samples_have_the_colour_of_the_component_they_were_drawn_from() -> None:
    layer = GMMLayer.from_parameters(
        torch.ones(2), torch.zeros(2, 2), torch.stack([torch.eye(2), 2 * torch.eye(2)])
    )
    x, drawn = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 0, 1, 1, 0])
    x[4] = float("nan")
    points = plot_samples(layer, x, component=drawn).collections[0]
    # Points are drawn in an order of their own.
    rows = (np.asarray(points.get_offsets())[:, 0] / 2).astype(int)
    assert sorted(rows) == [0, 1, 2, 3, 5]
    expected = [to_rgb(palette(2)[drawn[row]]) for row in rows]
    np.testing.assert_allclose(np.asarray(points.get_facecolor())[:, :3], expected)
    for component in ([0, 1], [0, 1, 2, 0, 0, 0], [0.5] * 6):
        with pytest.raises(InvalidArgumentError, match=r"component|label"):
            plot_samples(layer, x, component=component)
