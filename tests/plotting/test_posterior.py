"""Pictures of draws: bands hold what they say, and what is no batch of draws is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from gmm_lightning import GMMLayer
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting import (
    plot_posterior,
    plot_prior_and_posterior,
    plot_prior_predictive,
    plot_weight_intervals,
)

pytestmark = pytest.mark.usefixtures("double")


def draws(number: int, d: int, k: int = 2) -> MixtureOfGaussians:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(number, k, d, generator=generator)
    return MixtureOfGaussians(torch.zeros(number, k), means, torch.eye(d).expand(number, k, d, d))


def test_the_band_holds_its_share_of_the_densities() -> None:
    mixtures = draws(150, 1, k=1)
    ax = plot_posterior(mixtures, probability=0.8)
    band = ax.collections[0].get_paths()[0].vertices
    mean = ax.lines[0]
    x = float(np.asarray(mean.get_xdata())[len(np.asarray(mean.get_xdata())) // 2])
    densities = norm.pdf(x, mixtures.means[:, 0, 0].numpy())
    at = np.asarray(band)[np.isclose(np.asarray(band)[:, 0], x)][:, 1]
    low, high = np.quantile(densities, [0.1, 0.9])
    np.testing.assert_allclose([at.min(), at.max()], [low, high])
    middle = np.asarray(mean.get_ydata())[len(np.asarray(mean.get_xdata())) // 2]
    np.testing.assert_allclose(middle, densities.mean())


@pytest.mark.parametrize("dims", [None, [1], ["b", "a"]])
def test_two_features_and_some_of_more(dims: object) -> None:
    x = torch.randn(40, 2, generator=torch.Generator().manual_seed(1))
    ax = plot_posterior(draws(30, 2), x, dims=dims, columns=["a", "b"], resolution=20)
    assert ax.get_xlabel() == ("a" if dims is None else "b")
    ax.figure.canvas.draw()
    low, high = ax.get_xlim()
    assert low < float(x[:, 1 if dims else 0].min()) < high


def test_intervals_of_weights() -> None:
    weights = torch.rand(400, 3, generator=torch.Generator().manual_seed(0))
    ax = plot_weight_intervals(weights, probability=0.5, names=["x", "y", "z"])
    segments = np.asarray(ax.collections[0].get_segments())
    quantiles = np.quantile(weights.numpy(), [0.25, 0.75], axis=0).T
    np.testing.assert_allclose(segments[:, :, 1], quantiles)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y", "z"]


def test_prior_beside_posterior() -> None:
    generator = torch.Generator().manual_seed(0)
    prior = 10 * torch.randn(500, generator=generator)
    ax = plot_prior_and_posterior(prior, torch.randn(500, generator=generator), name="mean")
    low, high = ax.get_xlim()
    assert -12 < low < -5
    assert 5 < high < 12


@pytest.mark.parametrize("d", [1, 2])
def test_a_prior_beside_the_data(d: int) -> None:
    x = torch.rand(30, d, generator=torch.Generator().manual_seed(1))
    wide = draws(50, d)
    ax = plot_prior_predictive(wide, x, generator=0)
    low, high = ax.get_xlim()
    width = float(x[:, 0].max() - x[:, 0].min())
    assert high - low == pytest.approx(5 * width)
    legend = ax.get_legend()
    assert legend is not None
    assert "outside" in legend.get_texts()[0].get_text()
    with pytest.raises(InvalidArgumentError, match="rows to compare"):
        plot_prior_predictive(wide, x[:0])


def test_what_is_no_batch_of_draws_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="plot_density"):
        plot_posterior(GMMLayer(2, 3).distribution())
    with pytest.raises(InvalidArgumentError, match="1 or 2 features"):
        plot_posterior(draws(3, 3))
    with pytest.raises(InvalidArgumentError, match=r"\(S, K\)"):
        plot_weight_intervals(torch.rand(3))
    with pytest.raises(InvalidArgumentError, match="expected 3 names"):
        plot_weight_intervals(torch.rand(5, 3), names=["a"])
    with pytest.raises(InvalidArgumentError, match="finite"):
        plot_prior_and_posterior(torch.tensor([torch.nan]), torch.zeros(2))
