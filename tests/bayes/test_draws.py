"""Draws: alignment, diagnostics against ArviZ, answers and files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gmm_lightning.bayes import (
    PosteriorDraws,
    align,
    effective_size,
    rhat,
    summary,
    worst,
)
from gmm_lightning.errors import CheckpointError, InvalidArgumentError

pytestmark = pytest.mark.usefixtures("double")

GENERATOR = torch.Generator().manual_seed(0)


def made(chains: int = 3, number: int = 40, d: int = 2) -> PosteriorDraws:
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 6.0]])[:, :d]
    means = centres + 0.3 * torch.randn(chains, number, 3, d, generator=generator)
    weights = (5 * torch.tensor([0.2, 0.3, 0.5]).log()).softmax(-1).expand(chains, number, 3)
    factor = torch.eye(d) + 0.1 * torch.randn(chains, number, 3, d, d, generator=generator).tril()
    log_likelihood = torch.randn(chains, number, generator=generator)
    return PosteriorDraws(weights, means, factor @ factor.mT, log_likelihood)


def test_alignment_undoes_any_exchange() -> None:
    draws = made()
    order = torch.rand(3, 40, 3, generator=torch.Generator().manual_seed(1)).argsort(-1)
    aligned = align(draws.reorder(order))
    assert aligned.disagreeing == 0.0
    whole = align(draws).draws
    # Up to one order for all.
    place = aligned.draws.means.mean((0, 1)).sum(-1).argsort()
    other = whole.means.mean((0, 1)).sum(-1).argsort()
    assert torch.equal(aligned.draws.means[:, :, place], whole.means[:, :, other])


def test_components_that_are_alike_disagree() -> None:
    draws = made()
    means = draws.means.clone()
    means[:, :, 1] = means[:, :, 0] + 0.01
    alike = PosteriorDraws(draws.weights, means, draws.covariance_matrix, draws.log_likelihood)
    assert align(alike).disagreeing > 0.5


def test_diagnostics_are_those_of_arviz() -> None:
    arviz = pytest.importorskip("arviz")
    generator = np.random.default_rng(0)
    for shift, correlation in ((0.0, 0.0), (0.5, 0.9), (0.0, -0.5)):
        noise = generator.normal(size=(4, 500))
        values = np.zeros((4, 500))
        for t in range(1, 500):
            values[:, t] = correlation * values[:, t - 1] + noise[:, t]
        values += shift * np.arange(4)[:, None]
        assert rhat(values) == pytest.approx(float(arviz.rhat(values)), rel=1e-6)
        # Variants of truncating the sums differ a little.
        for tail, method in ((False, "bulk"), (True, "tail")):
            expected = float(arviz.ess(values, method=method))
            assert effective_size(values, tail=tail) == pytest.approx(expected, rel=0.05)


def test_effective_sizes_of_known_chains() -> None:
    generator = np.random.default_rng(0)
    independent = generator.normal(size=(4, 2000))
    assert 7000 < effective_size(independent) < 9000
    values, rho = np.zeros((4, 2000)), 0.8
    for t in range(1, 2000):
        values[:, t] = rho * values[:, t - 1] + independent[:, t]
    # (1 - rho) / (1 + rho) of them.
    assert effective_size(values) == pytest.approx(8000 / 9, rel=0.2)
    assert rhat(values) < 1.02
    with pytest.raises(InvalidArgumentError, match="at least 4"):
        rhat(values[:, :3])


def test_chains_that_differ_are_reported() -> None:
    draws = made()
    apart = PosteriorDraws(
        draws.weights,
        draws.means,
        draws.covariance_matrix,
        draws.log_likelihood + 9 * torch.arange(3)[:, None],
    )
    with pytest.warns(UserWarning, match="have not mixed"):
        assert worst(apart)["rhat"] > 1.5
    named = {one.name: one for one in summary(draws, ["a", "b"])}
    assert {"log likelihood", "weight, 1 of sorted", "mean[0, a]", "sd[2, b]"} <= set(named)
    one = named["mean[1, a]"]
    assert one.low < one.mean < one.high
    assert one.mean == pytest.approx(float(draws.means[:, :, 1, 0].mean()))


def test_answers_average_over_draws() -> None:
    draws = made()
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(2))
    density = draws.mixture().log_prob(x[:, None, None]).exp().flatten(1)
    torch.testing.assert_close(draws.mean_log_prob(x), density.mean(-1).log())
    _, band = draws.log_density_quantiles(x, torch.tensor([0.1, 0.9]))
    torch.testing.assert_close(band, density.quantile(torch.tensor([0.1, 0.9]), -1))
    shares = draws.responsibilities(x)
    torch.testing.assert_close(shares.sum(-1), torch.ones(9))
    rows = draws.sample(500, torch.Generator().manual_seed(0))
    assert rows.shape == (500, 2)
    moved = draws.transformed(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 3.0]))
    expected = draws.mean_log_prob(x) - float(np.log(6.0))
    torch.testing.assert_close(
        moved.mean_log_prob(torch.tensor([1.0, 2.0]) + torch.tensor([2.0, 3.0]) * x), expected
    )


def test_files_hold_the_draws_and_run_no_code(tmp_path: Path) -> None:
    draws = made()
    draws.save(tmp_path / "draws.npz")
    again = PosteriorDraws.load(tmp_path / "draws.npz")
    assert torch.equal(again.means, draws.means)
    assert again.diverging is None
    for name, content in (("text.npz", b"no archive"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match="no draws"):
            PosteriorDraws.load(tmp_path / name)
    np.savez(tmp_path / "other.npz", weights=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CheckpointError, match="no draws"):
        PosteriorDraws.load(tmp_path / "other.npz")
    with pytest.raises(InvalidArgumentError, match="must be"):
        PosteriorDraws(
            draws.weights[:, :5], draws.means, draws.covariance_matrix, draws.log_likelihood
        )
