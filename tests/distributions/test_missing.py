"""Rows with missing entries, against formulas with blocks of the covariance, one row at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from support.random_layers import BATCHES, FAMILIES, random_layer

from gmm_lightning import MixtureOfGaussians, _chunking
from gmm_lightning.covariances import Covariance, PrecisionCholesky
from gmm_lightning.distributions import condition, impute, log_prob_observed

over_families = pytest.mark.parametrize("family", FAMILIES)
D = 5


def mixture_of(
    family: str | Covariance, generator: torch.Generator, batch: tuple[int, ...] = ()
) -> MixtureOfGaussians:
    return random_layer(family, generator=generator, num_features=D, batch=batch).distribution()


def rows_of_all_patterns(generator: torch.Generator, copies: int = 3) -> torch.Tensor:
    """Every pattern of missing entries, no and all entries included, in a random order."""
    kept = torch.tensor(list(itertools.product([False, True], repeat=D))).repeat(copies, 1)
    x = 2 * torch.randn(len(kept), D, generator=generator)
    return torch.where(kept, x, torch.nan)[torch.randperm(len(kept), generator=generator)]


def by_hand(mixture: MixtureOfGaussians, row: np.ndarray) -> tuple[float, np.ndarray]:
    """Log density of the observed entries, and the row with the conditional mean."""
    weights = mixture.weights.detach().numpy()
    means = mixture.means.detach().numpy()
    covariances = mixture.component_covariances.detach().numpy()
    seen = ~np.isnan(row)
    if not seen.any():
        return 0.0, weights @ means
    density, centre = [], []
    for weight, mean, covariance in zip(weights, means, covariances, strict=True):
        known = covariance[np.ix_(seen, seen)]
        normal = multivariate_normal(mean[seen], known)
        density.append(math.log(weight) + normal.logpdf(row[seen]))
        slope = covariance[np.ix_(~seen, seen)] @ np.linalg.inv(known)
        centre.append(mean[~seen] + slope @ (row[seen] - mean[seen]))
    total = np.logaddexp.reduce(density)
    filled = row.copy()
    filled[~seen] = np.exp(np.array(density) - total) @ np.array(centre)
    return float(total), filled


@over_families
def test_density_and_mean_of_every_pattern(
    family: str | Covariance, generator: torch.Generator
) -> None:
    mixture, x = mixture_of(family, generator), rows_of_all_patterns(generator)
    density, filled = log_prob_observed(mixture, x).detach(), impute(mixture, x).detach()
    for row, found, whole in zip(x, density, filled, strict=True):
        expected, mean = by_hand(mixture, row.numpy())
        # Two factorisations of one covariance, whose condition number is in the thousands.
        assert float(found) == pytest.approx(expected, rel=1e-10, abs=1e-10)
        np.testing.assert_allclose(whole, mean, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch", [batch for batch in BATCHES if batch])
@pytest.mark.parametrize("family", ["full", "tied_diag", PrecisionCholesky()])
def test_a_batch_is_each_of_its_mixtures(
    family: str | Covariance, batch: tuple[int, ...], generator: torch.Generator
) -> None:
    mixture = mixture_of(family, generator, batch)
    x = rows_of_all_patterns(generator, 1)[:, *[None] * len(batch)].expand(-1, *batch, -1)
    # Another order of patterns in each mixture.
    x = x.flatten()[torch.randperm(x.numel(), generator=generator)].reshape(x.shape)
    found = log_prob_observed(mixture, x)
    for cell in itertools.product(*map(range, batch)):
        one = mixture.map_parameters(lambda p, cell=cell: p[cell])
        torch.testing.assert_close(
            found[:, *cell], log_prob_observed(one, x[:, *cell]), rtol=1e-11, atol=1e-11
        )


def test_blocks_of_any_size(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pattern of many rows and many of one row, in memory for one row and for all."""
    mixture, x = mixture_of("full", generator), rows_of_all_patterns(generator, 1)
    many = 2 * torch.randn(300, D, generator=generator)
    many[:, 2] = torch.nan
    x = torch.cat([x, many])[torch.randperm(len(x) + 300, generator=generator)]
    density, filled = log_prob_observed(mixture, x), impute(mixture, x)
    monkeypatch.setattr(_chunking, "MEMORY_BYTES", 1)
    monkeypatch.setattr(_chunking, "CACHE_BYTES", 1)
    torch.testing.assert_close(log_prob_observed(mixture, x), density, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(impute(mixture, x), filled, rtol=1e-12, atol=1e-12)


def test_more_features_than_one_number_has_bits(generator: torch.Generator) -> None:
    d = 70
    mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, d), torch.eye(d)[None])
    x = torch.randn(40, d, generator=generator)
    x[torch.rand(40, d, generator=generator) < 0.02] = torch.nan
    observed = ~torch.isnan(x)
    expected = -0.5 * (x.nan_to_num().square() + math.log(2 * math.pi) * observed).sum(-1)
    torch.testing.assert_close(log_prob_observed(mixture, x), expected)


def test_draws_have_the_conditional_moments(generator: torch.Generator) -> None:
    mixture, n = mixture_of("full", generator), 4000
    kept = torch.tensor([[1, 0, 1, 0, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    x = torch.where(kept, torch.randn(3, D, generator=generator), torch.nan)
    filled = impute(mixture, x.repeat(n, 1), "draw", generator).reshape(n, 3, D)
    for row, seen, draws in zip(x, kept, filled.unbind(1), strict=True):
        assert len(draws.unique(dim=0)) == n
        rest = mixture
        if seen.any():
            rest = condition(mixture, seen, row[seen])
        found = draws[:, ~seen]
        deviation = rest.variance.sqrt()
        # Five standard errors; those of covariances for a kurtosis of ten times a normal one.
        assert ((found.mean(0) - rest.mean).abs() < 5 * deviation / n**0.5).all()
        gap = (found.T.cov() - rest.covariance_matrix) / (deviation[:, None] * deviation)
        assert (gap.abs() < 5 * (30 / n) ** 0.5).all()


@pytest.mark.parametrize("family", ["full", "tied", "diag", "spherical", PrecisionCholesky()])
def test_gradients_flow_through_patterns(
    family: str | Covariance, generator: torch.Generator
) -> None:
    layer = random_layer(family, generator=generator, num_features=D)
    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    x = rows_of_all_patterns(generator, 1)[::4]

    def density(logits: torch.Tensor, means: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        mixture = MixtureOfGaussians(logits, means, layer.covariance.scale(raw), layer.covariance)
        return log_prob_observed(mixture, x)

    assert torch.autograd.gradcheck(density, tuple(parameters))
