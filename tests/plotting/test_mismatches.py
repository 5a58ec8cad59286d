"""Additions to mixture plots: predictions, mismatches, starts, masses and chosen features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba_array
from matplotlib.patches import Ellipse
from scipy.stats import chi2

from gmm_lightning.distributions import MixtureOfGaussians, marginal
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting import confidence_ellipse_std_devs, palette, plot_mixture


def far_apart() -> MixtureOfGaussians:
    """Unit components at 0, 10 and 20 along the first feature."""
    means = torch.tensor([[0.0, 0.0], [10.0, 0.0], [20.0, 0.0]])
    return MixtureOfGaussians(torch.zeros(3), means, torch.eye(2).repeat(3, 1, 1))


def offsets(collection: Any) -> np.ndarray:
    return np.asarray(collection.get_offsets())


def marks(ax: Any) -> np.ndarray:
    """The crossed out rows: of all that is scattered only crosses have four corners."""
    (found,) = [c for c in ax.collections if c.get_paths() and len(c.get_paths()[0]) == 4]
    return offsets(found)


def test_predicted_labels_give_rows_the_colours_of_their_components() -> None:
    x = np.array([[19.0, 1.0], [0.5, 0.0], [11.0, 0.0], [21.0, 0.0]])
    ax = plot_mixture(far_apart(), x, labels="predicted")
    expected = dict(
        zip(map(tuple, x), to_rgba_array([palette(3)[k] for k in (2, 0, 1, 2)]), strict=True)
    )
    colors = ax.collections[0].get_facecolor()
    for row, color in zip(offsets(ax.collections[0]), np.asarray(colors), strict=True):
        np.testing.assert_allclose(color[:3], expected[tuple(row)][:3])
    assert ax.get_legend() is None


def test_mismatches_are_against_the_class_that_most_rows_of_a_component_have() -> None:
    x = np.array([[0.0, i] for i in range(3)] + [[10.0, i] for i in range(3)] + [[20.0, 0.0]])
    # Two components share class a, one has class b; the rows 2 and 5 lie in the wrong place.
    labels = list("aab" + "bba" + "a")
    ax = plot_mixture(far_apart(), x, labels=labels, mismatches=True)
    assert sorted(map(tuple, marks(ax))) == [(0.0, 2.0), (10.0, 2.0)]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "mismatch (2)"]


def test_mismatches_use_all_features_whatever_is_shown() -> None:
    x = np.array([[0.0, 0.5], [0.1, 0.0], [10.0, 0.0], [10.0, 0.2], [0.2, 0.0]])
    labels = [0, 0, 1, 1, 1]
    ax = plot_mixture(far_apart(), x, labels=labels, mismatches=True, dims=1)
    (crosses,) = [line for line in ax.lines if line.get_marker() == "x"]
    assert np.asarray(crosses.get_xdata()).tolist() == [0.0]
    assert np.asarray(crosses.get_ydata()).tolist() == [0.02]


def test_mismatches_need_labels() -> None:
    for labels in (None, "predicted"):
        with pytest.raises(InvalidArgumentError, match="against labels"):
            plot_mixture(far_apart(), torch.zeros(3, 2), labels=labels, mismatches=True)
    with pytest.raises(InvalidArgumentError, match="'predicted' for labels, got 'true'"):
        plot_mixture(far_apart(), torch.zeros(3, 2), labels="true")


def test_initial_means_are_joined_to_the_final_ones() -> None:
    starts = torch.tensor([[1.0, 5.0], [9.0, -5.0], [20.0, 5.0]])
    ax = plot_mixture(far_apart(), initial_means=starts)
    diamonds = [line for line in ax.lines if line.get_marker() == "D"]
    paths = [line for line in ax.lines if line.get_linestyle() == ":"]
    assert [line.get_color() for line in paths] == list(palette(3))
    means = far_apart().means.cpu().numpy()
    for k in range(3):
        start = starts[k].cpu().numpy()
        np.testing.assert_allclose(np.ravel(diamonds[k].get_data()), start)
        np.testing.assert_allclose(np.stack(paths[k].get_data(), 1), [start, means[k]])
    legend = ax.get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text() == "initial mean"
    # Another number of starts than components: nothing says which became which.
    assert not any(
        line.get_linestyle() == ":"
        for line in plot_mixture(far_apart(), initial_means=starts[:2]).lines
    )


def test_initial_means_of_another_width_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(N, 2\), got \(3, 1\)"):
        plot_mixture(far_apart(), initial_means=torch.zeros(3, 1))


def test_masses_become_radii_and_are_written_on_the_outlines() -> None:
    ax = plot_mixture(far_apart(), masses=(0.5, 0.9))
    widths = [p.get_width() for p in ax.patches if isinstance(p, Ellipse)][:2]
    np.testing.assert_allclose(widths, 2 * np.sqrt(chi2.ppf([0.9, 0.5], 2)), rtol=1e-12)
    texts = {text.get_text(): text for text in ax.texts}
    assert {"50%", "90%"} < set(texts)
    # On the outline of the first component, at its lowest point.
    assert texts["90%"].xy == pytest.approx((0.0, -np.sqrt(chi2.ppf(0.9, 2))))
    assert "1\N{GREEK SMALL LETTER SIGMA}" in [
        t.get_text() for t in plot_mixture(far_apart()).texts
    ]


@pytest.mark.parametrize("masses", [0.0, 1.0, [0.5, 90.0], [-0.1], [float("nan")]])
def test_masses_outside_of_zero_to_one_are_refused(masses: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="strictly between 0 and 1"):
        plot_mixture(far_apart(), masses=masses)


def test_chosen_features_show_the_marginal(make: Any) -> None:
    mixture = make(3, 4)
    ax = plot_mixture(mixture, dims=(3, 1), stds=2.0)
    part = marginal(mixture, [3, 1])
    np.testing.assert_allclose(offsets(ax.collections[-1]), part.means)
    for k, patch in enumerate(p for p in ax.patches if isinstance(p, Ellipse)):
        small, large = torch.linalg.eigvalsh(part.component_covariances[k])
        assert patch.get_width() == pytest.approx(4 * float(large) ** 0.5, rel=1e-10)
        assert patch.get_height() == pytest.approx(4 * float(small) ** 0.5, rel=1e-10)
    line = plot_mixture(mixture, dims=[2])
    grid = torch.as_tensor(np.asarray(line.lines[-1].get_xdata()), device="cpu")[:, None]
    # 1e-10: the same density from two formulas in float64.
    np.testing.assert_allclose(
        np.asarray(line.lines[-1].get_ydata()),
        marginal(mixture, [2]).log_prob(grid).exp(),
        rtol=1e-10,
    )


def test_bins_of_rounded_values_are_whole_steps_wide() -> None:
    x = np.repeat(np.arange(172, 232), 6)[:, None] / 10
    one = MixtureOfGaussians(torch.zeros(1), torch.full((1, 1), 20.0), torch.ones(1, 1, 1))
    patches: list[Any] = list(plot_mixture(one, x).patches)
    width = patches[0].get_width() / 0.1
    assert width == pytest.approx(round(width), abs=1e-9)
    heights = [bar.get_height() for bar in patches[:-1]]
    np.testing.assert_allclose(heights, heights[0], rtol=1e-9)
    assert sum(bar.get_width() * bar.get_height() for bar in patches) == pytest.approx(1.0)


def test_masses_to_deviations() -> None:
    found = confidence_ellipse_std_devs([0.3, 0.95, 0.999], df=5)
    np.testing.assert_allclose(found, np.sqrt(chi2.ppf([0.3, 0.95, 0.999], 5)), rtol=1e-12)
    assert confidence_ellipse_std_devs(0.95) == pytest.approx([2.447746830680816], rel=1e-12)
    for df in (0, 1.5, True):
        with pytest.raises(InvalidArgumentError, match="df must be an integer >= 1"):
            confidence_ellipse_std_devs(0.5, df=df)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="numbers in confidence levels"):
        confidence_ellipse_std_devs("many")  # type: ignore[arg-type]
