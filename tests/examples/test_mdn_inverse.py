"""Mixture density networks beat the Gaussian head where there are several answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.example_runs import Finished, means

import mdn_inverse
from gmm_lightning import GMMLayer, fit_em
from mdn_inverse import DensityNetwork, TrainingOptions, inverse_problem, old_faithful, train


def test_three_answers_need_a_mixture(finished: Callable[[str], Finished]) -> None:
    report = finished("mdn_inverse").report
    nll = means(report, "NLL")
    assert nll["inverse problem, mixture of 3"] < nll["inverse problem, one Gaussian"] - 0.1
    # The marginal density of the waits has 4.03 nats.
    assert max(nll["Old Faithful, one Gaussian"], nll["Old Faithful, mixture of 2"]) < 3.5
    assert [path.stem for path in report.figures] == ["mdn_inverse", "mdn_calibration"]


def test_several_inputs_have_no_figure_of_the_density(tmp_path: Path) -> None:
    options = ["--tasks", "diabetes", "--max-epochs", "2", "--num-folds", "2", "--num-seeds", "1"]
    before = torch.get_rng_state()
    report = mdn_inverse.main([*options, "--output", str(tmp_path)])
    # Initial weights are drawn with a seed: the global random state stays as it was.
    assert torch.equal(torch.get_rng_state(), before)
    assert [path.stem for path in report.figures] == ["mdn_calibration"]
    assert list(means(report, "NLL")) == ["diabetes, one Gaussian", "diabetes, mixture of 2"]


def test_the_network_starts_at_the_marginal() -> None:
    task = old_faithful(100, torch.Generator())
    network = DensityNetwork(task, 2, 8, torch.Generator().manual_seed(0))
    layer = GMMLayer(1, 2, priors="niw")
    fit_em(layer, task.y, num_restarts=3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # float32 through a head in other units.
        expected = pytest.approx(-float(layer(task.y).mean()), abs=1e-4)
        assert float(network.loss(task)) == expected


def test_training_keeps_the_best_epoch(generator: torch.Generator) -> None:
    task = inverse_problem(100, generator)
    options = TrainingOptions(10, 10, 0.3, 8, 0.05, 0.0, 16)
    networks = [train(task, 2, options._replace(max_epochs=n), 7) for n in (1, 10)]
    # The same validation rows and the same first epoch: more epochs cannot end above it.
    valid = torch.randperm(100, generator=torch.Generator().manual_seed(7))[:30]
    with torch.no_grad():
        first, best = (float(network.loss(task.select(valid))) for network in networks)
    assert best <= first


def test_the_inverse_problem_has_uniform_noise(generator: torch.Generator) -> None:
    task = inverse_problem(1000, generator)
    noise = task.x - task.y - 0.3 * torch.sin(2 * torch.pi * task.y)
    assert noise.abs().max() <= 0.1 + 1e-6
    # The variance of a uniform density of width 0.2; four standard errors.
    assert noise.var().item() == pytest.approx(0.2**2 / 12, rel=0.12)


@pytest.mark.slow
def test_the_mixture_wins_where_there_is_more_than_one_answer(tmp_path: Path) -> None:
    report = mdn_inverse.main(["--output", str(tmp_path)])
    nll = list(means(report, "NLL").values())
    inverse, geyser, progress = (nll[i] - nll[i + 1] for i in (0, 2, 4))
    assert inverse > 0.3
    assert progress > 0.02
    # Given its last eruption, a wait is nearly Gaussian: the two heads are equal.
    assert abs(geyser) < 0.02
