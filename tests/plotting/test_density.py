"""Density plots: the values under the contours are those of the mixture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.contour import QuadContourSet

from gmm_lightning.distributions import MixtureOfGaussians, marginal
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting import plot_density, plot_error_ellipses

WINDOW = ((-4.0, 4.0), (-3.0, 3.0))


def standard(num_features: int) -> MixtureOfGaussians:
    like: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    unit = torch.eye(num_features, **like)
    return MixtureOfGaussians(
        torch.zeros(1, **like), torch.zeros(1, num_features, **like), unit[None]
    )


def contours(ax: Any) -> QuadContourSet:
    return next(c for c in ax.collections if isinstance(c, QuadContourSet) and c.filled)


def lines(ax: Any) -> QuadContourSet:
    return next(c for c in ax.collections if isinstance(c, QuadContourSet) and not c.filled)


def test_levels_are_those_of_the_negative_log_density_and_square_in_distance() -> None:
    found = contours(plot_density(standard(2), limits=WINDOW, levels=4, resolution=81))
    low, high = np.log(2 * np.pi), np.log(2 * np.pi) + 12.5  # at the centre, and at (4, 3)
    np.testing.assert_allclose(found.levels, low + (high - low) * np.linspace(0, 1, 5) ** 2)


def test_contours_lie_where_the_density_has_their_value(make: Any) -> None:
    mixture = make(3, 2)
    levels = [4.0, 6.0, 9.0]
    found = lines(plot_density(mixture, levels=levels))
    assert found.levels.tolist() == levels
    torch_mixture = mixture.to_torch()
    for level, path in zip(levels, found.get_paths(), strict=True):
        vertices = torch.as_tensor(np.asarray(path.vertices), device="cpu")
        assert len(vertices) > 10
        value = -torch_mixture.log_prob(vertices)
        # Linear interpolation between 200 points along each axis; median, since corners are worse.
        assert float((value - level).abs().median()) < 0.02


def test_dark_is_dense_and_the_colour_bar_says_what_it_is() -> None:
    ax = plot_density(standard(2), limits=WINDOW, levels=5)
    found = contours(ax)
    light = np.asarray(found.get_facecolor())[:, :3].sum(axis=1)
    assert (np.diff(light) > 0).all()
    figure = ax.figure
    assert figure is not None
    (bar,) = [other for other in figure.axes if other is not ax]
    assert bar.get_ylabel() == "negative log density (nats)"
    assert len(plot_density(standard(2), colorbar=False).figure.axes) == 1  # type: ignore[union-attr]


def test_the_gradient_map_holds_the_norm_of_the_gradient(make: Any) -> None:
    # Of a standard normal the gradient is -x, and its norm the distance.
    found = contours(
        plot_density(standard(2), quantity="gradient_norm", limits=WINDOW, levels=5, resolution=81)
    )
    np.testing.assert_allclose(found.levels, np.linspace(0, 5, 6), atol=1e-12)
    ax = plot_density(make(2, 1), quantity="gradient_norm")
    (curve,) = ax.lines
    x = torch.as_tensor(np.asarray(curve.get_xdata())[:, None], device="cpu").requires_grad_()
    (slope,) = torch.autograd.grad(make(2, 1).to_torch().log_prob(x).sum(), x)
    np.testing.assert_allclose(np.asarray(curve.get_ydata()), slope[:, 0].abs(), rtol=1e-8)
    assert ax.get_ylabel() == "|d log p / dx|"


def test_arrows_point_to_the_mode_and_are_of_one_length() -> None:
    ax = plot_density(standard(2), quantity="gradient_norm", limits=((-2, 2), (-2, 2)))
    arrows: Any = next(c for c in ax.collections if hasattr(c, "U"))
    steps = np.stack([arrows.U, arrows.V], axis=1)
    np.testing.assert_allclose(np.linalg.norm(steps, axis=1), 1.0)
    at = np.asarray(arrows.XY)
    np.testing.assert_allclose((steps * at).sum(1), -np.linalg.norm(at, axis=1))


def test_one_feature_has_curves_and_a_histogram_of_area_one(make: Any) -> None:
    mixture = make(3, 4)
    x = mixture.sample(500, generator=torch.Generator().manual_seed(0))
    ax = plot_density(mixture, x, dims=2, limits=[(-9.0, 9.0)])
    assert ax.get_xlim() == (-9.0, 9.0)
    assert sum(b.get_width() * b.get_height() for b in ax.patches) == pytest.approx(1.0)  # type: ignore[attr-defined]
    grid, total = (np.asarray(part) for part in ax.lines[-1].get_data())
    area = float(np.sum(np.diff(grid) * (total[1:] + total[:-1]) / 2))
    assert area == pytest.approx(1.0, abs=2e-3)  # 3.5 deviations hold 0.9995
    expected = marginal(mixture, [2]).to_torch().log_prob(torch.as_tensor(grid[:, None])).exp()
    np.testing.assert_allclose(total, expected, rtol=1e-10)


def test_the_window_holds_the_rows_and_three_deviations() -> None:
    x = torch.tensor([[50.0, 0.0]])
    ax = plot_density(standard(2), x, resolution=10)
    (low, high), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert -5.0 < low < -3.0  # a margin of 3 % of 53
    assert 50.0 < high < 52.0
    assert -3.5 < bottom < -3.0 < 3.0 < top < 3.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantity": "score"}, "unknown quantity 'score'; known are: density, gradient_norm"),
        ({"levels": [1.0]}, "at least two increasing"),
        ({"levels": [2.0, 1.0]}, "at least two increasing"),
        ({"levels": 0}, "levels must be an integer >= 1"),
        ({"levels": "many"}, "at least two increasing"),
        ({"limits": (0.0, 1.0)}, r"limits \(\(low, high\), \(low, high\)\)"),
        ({"limits": ((0.0, 0.0), (0.0, 1.0))}, "low < high"),
        ({"resolution": 1}, "resolution must be an integer >= 2"),
        ({"resolution": 10.5}, "resolution must be an integer"),
    ],
)
def test_refuses_what_does_not_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        plot_density(standard(2), **arguments)


def test_error_ellipses_are_nested_and_have_the_given_opacity(make: Any) -> None:
    mixture = make(2, 3)
    ax = plot_error_ellipses(mixture, dims=(0, 2), colors=["red"], alpha=0.1)
    patches: list[Any] = list(ax.patches)
    assert len(patches) == 2 * 8
    covariances = marginal(mixture, [0, 2]).component_covariances
    for k in range(2):
        own = patches[8 * k : 8 * k + 8]
        large = float(torch.linalg.eigvalsh(covariances[k])[1]) ** 0.5
        np.testing.assert_allclose(
            [p.get_width() / 2 / large for p in own], np.arange(8, 0, -1) / 4, rtol=1e-10
        )
        assert {p.get_facecolor() for p in own} == {(1.0, 0.0, 0.0, 0.1)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, r"alpha must be a finite number > 0 and <= 1"),
        ({"colors": ["no such colour"]}, "colours"),
        ({"colors": []}, "one or more colours"),
        ({"stds": -1.0}, "positive numbers in stds"),
        ({"masses": 95}, "strictly between 0 and 1"),
        ({"dims": [0]}, "expected 2 features in dims, got 1"),
    ],
)
def test_error_ellipses_refuse_what_does_not_fit(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        plot_error_ellipses(standard(2), **arguments)


def test_error_ellipses_of_one_feature_are_refused_without_useless_advice() -> None:
    with pytest.raises(InvalidArgumentError, match="got 1; there is no second one"):
        plot_error_ellipses(standard(1))


@pytest.mark.parametrize("limit", [1e308, 1e200])
def test_limits_beyond_all_density_are_refused(limit: float) -> None:
    for quantity in ("density", "gradient_norm"):
        with pytest.raises(InvalidArgumentError, match="limits"):
            plot_density(standard(2), limits=((-limit, limit),) * 2, quantity=quantity)
    with pytest.raises(InvalidArgumentError, match="limits"):
        plot_density(standard(1), limits=((-1e308, 1e308),))


def test_the_colour_bar_has_round_ticks_or_the_levels_that_were_given() -> None:
    ax = plot_density(standard(2), limits=WINDOW)
    assert ax.figure is not None
    ax.figure.canvas.draw()
    low, high = ax.figure.axes[1].get_ylim()
    ticks = np.array([t for t in ax.figure.axes[1].get_yticks() if low <= t <= high])
    assert len(ticks) >= 3
    np.testing.assert_array_equal(ticks, ticks.round(1))
    given = plot_density(standard(2), limits=WINDOW, levels=[2.0, 3.3, 7.1])
    assert given.figure is not None
    given.figure.canvas.draw()
    assert given.figure.axes[1].get_yticks().tolist() == [2.0, 3.3, 7.1]
