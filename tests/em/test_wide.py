"""Fits of full covariances with more features than rows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.covariances import as_covariance
from gmm_lightning.em import covariance_target, spanned_rows
from gmm_lightning.em.left_out import LeftOutRows
from gmm_lightning.em.spanned_rows import SpannedRows


def wide_rows(n: int, d: int, k: int, generator: Generator) -> Tensor:
    """Clusters in turn, of rank 20 with noise."""
    like = {"dtype": torch.float64, "generator": generator}
    x = torch.randn(n, 20, **like) @ torch.randn(20, d, **like) + 0.05 * torch.randn(n, d, **like)
    return x + 20 * torch.randn(k, d, **like)[torch.arange(n) % k]


def test_a_wide_fit_is_the_maximum_under_its_bound(generator: Generator) -> None:
    x = wide_rows(40, 100, 1, generator)
    layer = GMMLayer(100, 1, dtype=torch.float64)
    result = fit_em(layer, x, generator=generator)
    gap = x - x.mean(0)
    covariance = gap.T @ gap / len(x)
    bound = 1e-8 * torch.maximum(layer.local_scale.square(), covariance.diagonal())
    unit = bound.sqrt()
    values, vectors = torch.linalg.eigh(covariance / unit / unit.unsqueeze(-1))
    expected = (vectors * values.clamp(min=1.0)) @ vectors.T
    found = layer.covariance_matrix[0].detach() / unit / unit.unsqueeze(-1)
    # Entries of 1e8 have errors of D eps 1e8, and a bound is a step of 1e-5 lower at most.
    assert torch.allclose(found, expected, rtol=0, atol=1e-5 + 1e8 * 100 * 2.2e-16)
    assert result.events[0].smallest_eigenvalue == pytest.approx(0.0, abs=1e-14)


def test_several_wide_components_come_to_an_end(generator: Generator) -> None:
    """Rounding lowered the bound by 3e-7 in each M-step, and the objective rose by 5e-5."""
    x = wide_rows(120, 150, 3, generator)
    layer = GMMLayer(150, 3, dtype=torch.float64)
    result = fit_em(layer, x, max_iter=40, generator=generator)
    assert result.converged
    assert result.num_iterations < 40
    # Of 150 eigenvalues at the floor, each is known to eps 1e8.
    assert (torch.tensor(result.history).diff() > -150 * 2.2e-8).all()


@pytest.mark.parametrize("family", ["full", "tied"])
@pytest.mark.parametrize("k", [1, 3])
def test_left_out_rows_in_their_span(
    family: str, k: int, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = wide_rows(60, 140, k, generator)
    x[:, 5] = 2.0
    least = torch.full((140,), 1e-4, dtype=torch.float64)
    weight, scores, found = torch.ones(60, dtype=torch.float64), [], []

    def keep(made: Callable[..., LeftOutRows]) -> Callable[..., LeftOutRows]:
        return lambda *arguments: scores.append(made(*arguments)) or scores[-1]

    for made in (LeftOutRows, spanned_rows.left_out_rows):
        monkeypatch.setattr(covariance_target, "left_out_rows", keep(made))
        found.append(
            covariance_target.covariance_target(x, weight, k, as_covariance(family), least)
        )
    whole, spanned = scores
    assert isinstance(spanned, SpannedRows)
    assert torch.equal(found[0].target, found[1].target)
    assert torch.equal(found[0].strength, found[1].strength)
    for strength, share in ((0.1, 1.0), (1.0, 0.05), (100.0, 1.0), (100.0, 0.05)):
        one = whole.score(strength, share, whole.target(share))
        other = spanned.score(strength, share, spanned.target(share))
        # Covariances have condition numbers up to 1e4 D / (strength share).
        assert torch.allclose(one, other, rtol=1e-9)
    # Outside of the span nothing is left without the diagonal.
    assert not torch.isfinite(spanned.score(1.0, 0.0, spanned.target(0.0))).any()
