"""Regression plots against the closed form of a Gaussian and against quadrature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from scipy.stats import norm

from gmm_lightning.distributions import MixtureOfGaussians, marginal
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting import plot_regression


def band(ax: Any, which: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Abscissae, lower and upper ends of a band, the widest first."""
    found = [c for c in ax.collections if isinstance(c, PolyCollection)][which]
    vertices = found.get_paths()[0].vertices
    x = np.unique(vertices[:, 0])
    ends = [vertices[vertices[:, 0] == value, 1] for value in x]
    return x, np.array([e.min() for e in ends]), np.array([e.max() for e in ends])


def test_one_gaussian_has_a_straight_line_and_a_constant_band() -> None:
    covariance = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    mixture = MixtureOfGaussians(
        torch.zeros(1, dtype=torch.float64),
        torch.tensor([[1.0, 2.0]], dtype=torch.float64),
        torch.linalg.cholesky(covariance)[None],
    )
    ax = plot_regression(mixture, stds=(1.0, 3.0))
    x, y = (np.asarray(part) for part in ax.lines[0].get_data())
    np.testing.assert_allclose(y, 2.0 + (x - 1.0) / 4.0, rtol=1e-12)
    std = np.sqrt(3.0 - 1.0 / 4.0)
    for which, factor in ((0, 3.0), (1, 1.0)):
        at, low, high = band(ax, which)
        np.testing.assert_allclose(high - low, 2 * factor * std, rtol=1e-9)
        np.testing.assert_allclose((high + low) / 2, 2.0 + (at - 1.0) / 4.0, rtol=1e-9)
    legend = ax.get_legend()
    assert legend is not None
    sigma = "\N{GREEK SMALL LETTER SIGMA}"
    assert [text.get_text() for text in legend.get_texts()] == [
        "E[feature 1 | feature 0]",
        f"\N{PLUS-MINUS SIGN} 1{sigma}",
        f"\N{PLUS-MINUS SIGN} 3{sigma}",
    ]
    # Its entries are long: beside the axes it would take a third of the picture.
    ax.figure.canvas.draw()  # type: ignore[union-attr]
    assert ax.bbox.x0 < legend.get_window_extent().x0
    assert legend.get_window_extent().x1 < ax.bbox.x1


def test_the_band_of_a_mixture_has_the_moments_of_the_conditional_density(make: Any) -> None:
    mixture = make(3, 4)
    ax = plot_regression(mixture, dims=(2, 0), stds=1.0, resolution=15)
    x, low, high = band(ax, 0)
    joint = marginal(mixture, [2, 0]).to_torch()
    y = torch.linspace(-60.0, 60.0, 60_001, dtype=torch.float64, device="cpu")
    for i in (2, 7, 12):
        points = torch.stack([torch.full_like(y, float(x[i])), y], dim=-1)
        weight = joint.log_prob(points).softmax(0)
        mean = float((weight * y).sum())
        std = float((weight * (y - mean).square()).sum().sqrt())
        # The sum over a grid of step 0.002 is exact for a smooth density.
        assert (low[i] + high[i]) / 2 == pytest.approx(mean, abs=1e-8)
        assert (high[i] - low[i]) / 2 == pytest.approx(std, rel=1e-8)


def test_rows_are_shown_and_outlines_can_be_left_out(make: Any) -> None:
    x = np.random.default_rng(0).normal(size=(20, 2))
    ax = plot_regression(make(2, 2), x, columns=("in", "out"))
    np.testing.assert_allclose(ax.collections[0].get_offsets(), x)
    assert len(ax.patches) == 2
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("in", "out")
    assert not plot_regression(make(2, 2), ellipses=False).patches


def test_the_band_holds_what_it_says() -> None:
    """A check of the words: plus minus one deviation holds 68 percent of a Gaussian's rows."""
    mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
    x = mixture.sample(4000, generator=torch.Generator(mixture.means.device).manual_seed(0))
    assert isinstance(x, torch.Tensor)
    _, low, high = band(plot_regression(mixture, stds=1.0), 0)
    inside = ((x[:, 1] > float(low[0])) & (x[:, 1] < float(high[0]))).double().mean()
    assert float(inside) == pytest.approx(norm.cdf(1) - norm.cdf(-1), abs=0.02)  # 3 std errors


def test_refuses_what_does_not_fit(make: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a mixture of 2 features, got 1"):
        plot_regression(make(2, 1))
    with pytest.raises(InvalidArgumentError, match="positive numbers in stds"):
        plot_regression(make(2, 2), stds=(-1.0,))
    with pytest.raises(InvalidArgumentError, match="expected 2 features in dims, got 3"):
        plot_regression(make(2, 4), dims=(0, 1, 2))
