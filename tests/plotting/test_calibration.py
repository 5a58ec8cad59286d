"""Calibration plots: bars, curves and bands against numpy and scipy."""

from __future__ import annotations

import copy
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.metrics import PITHistogram
from gmm_lightning.plotting import plot_calibration

PIT = np.random.default_rng(0).uniform(size=500) ** 1.5
KINDS = ("histogram", "reliability")
every_kind = pytest.mark.parametrize("kind", KINDS)


def pixels(ax: Axes, *, layout: bool = True) -> np.ndarray:
    """Without a layout it is three times as fast, and as good to compare pictures by."""
    figure: Any = ax.get_figure(root=True)
    figure.set_dpi(30)
    if not layout:
        figure.set_layout_engine("none")
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def test_bars_are_the_histogram_and_the_band_that_of_scipy() -> None:
    ax = plot_calibration(PIT, num_bins=10, level=0.9)
    bars = [patch.get_height() for patch in ax.containers[0]]
    expected, _ = np.histogram(PIT, bins=10, range=(0, 1), density=True)
    np.testing.assert_allclose(bars, expected, rtol=1e-12)
    (band,) = [p for p in ax.patches if p.get_label() == "90 % band"]
    low, high = stats.binom.interval(0.9, 500, 0.1)
    assert band.get_y() == pytest.approx(low / 50)
    assert band.get_y() + band.get_height() == pytest.approx(high / 50)
    # Few rows in a bin: the band begins at 0, not below.
    (band,) = [p for p in plot_calibration(PIT[:8], level=1).patches if "band" in p.get_label()]
    assert band.get_y() == 0


def test_curve_is_the_empirical_distribution() -> None:
    ax = plot_calibration(PIT, kind="reliability", num_bins=5)
    edges = np.arange(6) / 5
    curve = ax.lines[0]
    np.testing.assert_allclose(curve.get_xdata(), edges, rtol=1e-12)
    np.testing.assert_allclose(
        np.asarray(curve.get_ydata()), (PIT[:, None] <= edges).mean(0), rtol=1e-12
    )
    low, high = stats.binom.interval(0.95, 500, 0.4)
    outline = ax.collections[0].get_paths()[0].vertices
    at = sorted(y for x, y in outline if x == pytest.approx(0.4))
    assert (at[0], at[-1]) == pytest.approx((low / 500, high / 500))


@every_kind
def test_counts_of_the_metric_give_the_same_pixels(kind: str) -> None:
    metric = PITHistogram(20)
    metric.update(torch.from_numpy(PIT)[:, None])
    wanted = pixels(plot_calibration(PIT, kind=kind), layout=False)
    counts = plot_calibration(counts=metric.compute(), kind=kind)
    assert np.array_equal(pixels(counts, layout=False), wanted)
    for same in (PIT.tolist(), torch.from_numpy(PIT).requires_grad_(), [*PIT, np.nan]):
        assert np.array_equal(pixels(plot_calibration(same, kind=kind), layout=False), wanted)


@every_kind
def test_a_figure_of_its_own_and_no_traces(kind: str) -> None:
    style, figures = copy.deepcopy(dict(mpl.rcParams)), plt.get_fignums()
    ax = plot_calibration(PIT, kind=kind, title="T")
    assert isinstance(ax.figure.canvas, FigureCanvasAgg)
    assert ax.get_title() == "T"
    assert (dict(mpl.rcParams), plt.get_fignums()) == (style, figures)
    own = Figure().add_subplot()
    assert plot_calibration(PIT, ax=own, kind=kind) is own


@every_kind
@pytest.mark.parametrize("values", [[], [np.nan], [0.5], [0.0, 1.0]])
def test_few_values_or_none(kind: str, values: list[float]) -> None:
    ax = plot_calibration(values, kind=kind)
    pixels(ax, layout=False)
    # A band and a legend only where there are values.
    assert (ax.get_legend() is not None) == bool(np.isfinite(values).any())
    of_counts = plot_calibration(counts=[0, 0, len(values)], kind=kind)
    assert (of_counts.get_legend() is not None) == (len(values) > 0)


@every_kind
def test_the_legend_covers_no_data(kind: str) -> None:
    """Bars of the worst forecasts of each kind stay below it."""
    for values in (PIT, np.r_[np.zeros(50), np.ones(50)], np.full(9, 0.5), np.full(9, 0.99)):
        ax = plot_calibration(values, kind=kind)
        pixels(ax)
        legend = ax.get_legend()
        assert legend is not None
        box = legend.get_window_extent().transformed(ax.transData.inverted())
        if kind == "histogram":
            assert box.y0 >= max(patch.get_height() for patch in ax.containers[0])
        else:
            curve = np.stack(ax.lines[0].get_data(), axis=1)
            assert box.count_contains(curve) == 0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, InvalidArgumentError, "either the values pit= or counts="),
        ({"pit": PIT, "counts": [1, 2]}, InvalidArgumentError, "either the values"),
        ({"pit": PIT, "kind": "bars"}, InvalidArgumentError, "'bars'; known are: histogram, relia"),
        ({"pit": PIT, "num_bins": 1}, InvalidArgumentError, "num_bins must be an integer >= 2"),
        ({"pit": PIT, "level": 95}, InvalidArgumentError, "level must be a finite number > 0 and"),
        ({"pit": [0.5, 1.5]}, InvalidDataError, r"in \[0, 1\], got some from 0.5 to 1.5"),
        ({"pit": ["a"]}, InvalidDataError, "must hold numbers"),
        ({"counts": [[1, 2]]}, InvalidArgumentError, r"shape \(num_bins,\) .*, got \(1, 2\)"),
        ({"counts": [1.0, -2.0]}, InvalidDataError, "finite and >= 0"),
    ],
)
def test_refuses(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        plot_calibration(**arguments)
