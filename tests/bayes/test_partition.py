"""Similarities and partitions, and draws in ArviZ."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gmm_lightning.bayes import (
    PosteriorDraws,
    loo,
    partition,
    row_log_prob,
    save_netcdf,
    similarity,
    to_inference_data,
    waic,
)
from gmm_lightning.errors import InvalidArgumentError

pytestmark = pytest.mark.usefixtures("double")


def made() -> tuple[PosteriorDraws, torch.Tensor, torch.Tensor]:
    """Draws in any order, rows, and their clusters."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [7.0, 0.0], [0.0, 7.0]])
    means = centres + 0.1 * torch.randn(2, 30, 3, 2, generator=generator)
    eye = torch.eye(2).expand(2, 30, 3, 2, 2)
    draws = PosteriorDraws(torch.full((2, 30, 3), 1 / 3), means, eye, torch.zeros(2, 30))
    draws = draws.reorder(torch.rand(2, 30, 3, generator=generator).argsort(-1))
    labels = torch.arange(3).repeat_interleave(12)
    return draws, centres[labels] + torch.randn(36, 2, generator=generator), labels


@pytest.mark.parametrize("criterion", ["least_squares", "variation_of_information"])
def test_the_clusters_are_found_whatever_the_labels(criterion: str) -> None:
    draws, x, labels = made()
    shared = similarity(draws, x)
    torch.testing.assert_close(shared, shared.mT)
    same = labels.unsqueeze(0) == labels.unsqueeze(1)
    assert shared[same].min() > 0.9
    assert shared[~same].max() < 0.1
    assert torch.equal(partition(draws, x, criterion), labels)


def test_similarities_are_means_over_draws() -> None:
    draws, x, _ = made()
    shares = draws.mixture().responsibilities(x[:5, None, None])
    expected = torch.einsum("ncsk,mcsk->nm", shares, shares) / 60
    torch.testing.assert_close(similarity(draws, x[:5]), expected.fill_diagonal_(1.0))
    with pytest.raises(InvalidArgumentError, match="20,000"):
        similarity(draws, torch.zeros(20_001, 2))
    with pytest.raises(InvalidArgumentError, match="criterion"):
        partition(draws, x, "other")


def test_arviz_reads_the_draws(tmp_path: Path) -> None:
    arviz = pytest.importorskip("arviz")
    draws, x, _ = made()
    data = to_inference_data(draws, x, ["a", "b"])
    np.testing.assert_array_equal(data.posterior["means"].values, draws.means.numpy())
    assert list(data.posterior["feature"].values) == ["a", "b"]
    values = row_log_prob(draws, x)
    # WAIC by its definition.
    mean = values.flatten(0, 1).logsumexp(0) - np.log(60)
    expected = float((mean - values.flatten(0, 1).var(0, correction=0)).sum())
    assert float(waic(draws, x).elpd_waic) == pytest.approx(expected, rel=1e-6)
    with warnings.catch_warnings():
        # Sixty draws are too few to say how heavy the tails of the weights are.
        warnings.simplefilter("ignore", UserWarning)
        assert float(loo(draws, x).elpd_loo) == pytest.approx(expected, abs=0.5)
    save_netcdf(draws, tmp_path / "draws.nc")
    again = arviz.from_netcdf(tmp_path / "draws.nc")
    np.testing.assert_array_equal(again.posterior["weights"].values, draws.weights.numpy())
