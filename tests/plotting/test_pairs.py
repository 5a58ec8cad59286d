"""Pairs of features: every panel shows its own marginal in a shared window."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from gmm_lightning.distributions import marginal
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting import plot_pairs


def rows(n: int, d: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d))


def test_panels_hold_the_marginals_of_their_features(make: Any) -> None:
    mixture, x = make(2, 4), rows(60, 4)
    axes = plot_pairs(mixture, x, dims=(3, 0, 2), columns=list("abcd"), masses=0.5)
    assert axes.shape == (3, 3)
    for i, row in enumerate((3, 0, 2)):
        for j, col in enumerate((3, 0, 2)[: i + 1]):
            ax = axes[i, j]
            if i == j:
                grid, total = ax.lines[-1].get_data()
                density = marginal(mixture, [row]).to_torch()
                expected = density.log_prob(torch.as_tensor(grid[:, None])).exp()
                np.testing.assert_allclose(total, expected, rtol=1e-10)
                area = sum(bar.get_width() * bar.get_height() for bar in ax.patches)
                assert area == pytest.approx(1.0)
                continue
            np.testing.assert_allclose(ax.collections[0].get_offsets(), x[:, [col, row]])
            part = marginal(mixture, [col, row])
            np.testing.assert_allclose(ax.collections[1].get_offsets(), part.means)
            patches = [p for p in ax.patches if isinstance(p, Ellipse)]
            radius = np.sqrt(2 * np.log(2))  # holds half of the mass in the plane
            for k, patch in enumerate(patches):
                large = float(torch.linalg.eigvalsh(part.component_covariances[k])[1])
                assert patch.get_width() == pytest.approx(2 * radius * large**0.5, rel=1e-10)
            assert (ax.get_xlabel(), ax.get_ylabel()) == ("abcd"[col], "abcd"[row])


def test_windows_are_shared_and_names_stand_at_the_edge(make: Any) -> None:
    axes = plot_pairs(make(2, 3), rows(20, 3))
    for j in range(3):
        assert len({axes[i, j].get_xlim() for i in range(j, 3)}) == 1
        for i in range(j + 1, 3):
            assert axes[i, j].get_ylim() == axes[i, i].get_xlim()
            assert axes[i, j].xaxis.label.get_visible() == (i == 2)
            assert axes[i, j].yaxis.label.get_visible() == (j == 0)
    above = [axes[i, j].axison for i in range(3) for j in range(i + 1, 3)]
    assert above == [False] * 3


def test_one_feature_is_one_panel(make: Any) -> None:
    axes = plot_pairs(make(2, 1), rows(20, 1), labels=np.arange(20) % 2)
    assert axes.shape == (1, 1)
    assert axes[0, 0].get_legend() is not None
    ax = Figure().add_subplot()
    assert plot_pairs(make(2, 1), axes=np.array(ax)).item() is ax


def test_labels_have_one_legend_where_there_is_room(make: Any) -> None:
    labels = np.array(["x", "y"])[np.arange(20) % 2]
    axes = plot_pairs(make(2, 3), rows(20, 3), labels=labels)
    legends = [ax.get_legend() for ax in axes.flat]
    assert sum(legend is not None for legend in legends) == 1
    assert [text.get_text() for text in axes[0, 1].get_legend().get_texts()] == ["x", "y"]


def test_refuses_axes_and_labels_that_do_not_fit(make: Any) -> None:
    wrong = Figure().subplots(2, 2)
    with pytest.raises(InvalidArgumentError, match=r"axes of shape \(3, 3\).*got shape \(2, 2\)"):
        plot_pairs(make(2, 3), axes=wrong)
    with pytest.raises(InvalidArgumentError, match="expected an array of axes"):
        plot_pairs(make(2, 2), axes=np.zeros((2, 2)))
    with pytest.raises(InvalidArgumentError, match="each of the 4 rows of x, got 3"):
        plot_pairs(make(2, 2), rows(4, 2), labels=[0, 1, 0])
    with pytest.raises(InvalidArgumentError, match="positive numbers in stds"):
        plot_pairs(make(2, 2), stds=(0.0,))
