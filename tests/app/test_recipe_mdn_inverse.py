"""Mixture density networks beat the Gaussian head where there are several answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from trainers import ROOT

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.app.recipes.account import Account
from gmm_lightning.app.recipes.mdn_inverse import (
    DensityNetwork,
    Training,
    inverse_problem,
    make_tasks,
    mdn_inverse,
    train,
)
from gmm_lightning.errors import InvalidArgumentError

QUICK: dict[str, Any] = {"num_rows": 200, "max_epochs": 20, "num_folds": 2, "num_seeds": 1}


def cells(account: Account, name: str) -> dict[str, float]:
    """The means of one column of the table."""
    header, *rows = account.tables[0]
    at = list(header).index(name)
    return {str(row[0]): float(str(row[at]).split()[0]) for row in rows}


def test_three_answers_need_a_mixture(tmp_path: Path) -> None:
    account = Account(tmp_path)
    before = torch.get_rng_state()
    mdn_inverse(account, num_components={"inverse": 3, "faithful": 2}, **QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    nll = cells(account, "NLL")
    assert nll["inverse problem, mixture of 3"] < nll["inverse problem, one Gaussian"] - 0.1
    # A geyser that is predicted better than by the spread of its waits: 4.03 nats.
    assert max(nll["Old Faithful, one Gaussian"], nll["Old Faithful, mixture of 2"]) < 3.5
    assert [path.stem for path in account.pictures] == ["mdn_inverse", "mdn_calibration"]
    assert all(path.stat().st_size > 20_000 for path in account.pictures)


def test_several_inputs_have_no_picture_of_the_density(tmp_path: Path) -> None:
    account = Account(tmp_path)
    mdn_inverse(account, num_components={"diabetes": 2}, **QUICK | {"max_epochs": 2})
    assert [path.stem for path in account.pictures] == ["mdn_calibration"]
    again = Account(tmp_path)
    mdn_inverse(again, num_components={"diabetes": 2}, **QUICK | {"max_epochs": 2})
    assert again.tables == account.tables


def test_the_network_begins_at_the_marginal() -> None:
    task = make_tasks({"faithful": 2}, 100, torch.Generator())["Old Faithful"]
    net = DensityNetwork(task, 2, 8, torch.Generator().manual_seed(0))
    layer = GMMLayer(1, 2, priors="niw")
    fit_em(layer, task.y, num_restarts=3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # float32 through a head in other units.
        assert float(net.loss(task)) == pytest.approx(-float(layer(task.y).mean()), abs=1e-4)


def test_training_keeps_the_best_epoch(generator: torch.Generator) -> None:
    task = make_tasks({"inverse": 2}, 100, generator)["inverse problem"]
    how = Training(8, 0.05, 0.0, 16, 10, 10, 0.3)
    nets = [train(task, 2, how._replace(max_epochs=n), 7) for n in (1, 10)]
    # The same validation part, the same first epoch: more epochs cannot end above it.
    held = torch.randperm(100, generator=torch.Generator().manual_seed(7))[:30]
    with torch.no_grad():
        first, best = (float(net.loss(task.part(held))) for net in nets)
    assert best <= first


def test_the_inverse_problem_is_what_it_says(generator: torch.Generator) -> None:
    x, t, *_ = inverse_problem(1000, generator)
    noise = x - t - 0.3 * torch.sin(2 * torch.pi * t)
    assert noise.abs().max() <= 0.1 + 1e-6
    # The variance of a uniform law of width 0.2, and four deviations of its estimate.
    assert noise.var().item() == pytest.approx(0.2**2 / 12, rel=0.12)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"num_components": {"geyser": 2}}, "unknown task 'geyser'; known are: inverse,"),
        ({"num_components": {"inverse": 1}}, "num_components.inverse must be"),
        ({"num_folds": 1}, "num_folds must be"),
        ({"learning_rate": -1.0}, "learning_rate must be"),
    ],
    ids=str,
)
def test_mistakes_are_typed(option: dict[str, Any], said: str, tmp_path: Path) -> None:
    options: dict[str, Any] = QUICK | {"num_components": {"inverse": 2}} | option
    with pytest.raises(InvalidArgumentError, match=said):
        mdn_inverse(Account(tmp_path), **options)


@pytest.mark.slow
def test_the_mixture_wins_where_there_is_more_than_one_answer(tmp_path: Path) -> None:
    path = ROOT / "configs" / "recipe" / "mdn_inverse.yaml"
    options: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(path))  # pyright: ignore
    del options["_target_"]
    account = Account(tmp_path)
    mdn_inverse(account, **options)
    nll = list(cells(account, "NLL").values())
    inverse, geyser, progress = (nll[i] - nll[i + 1] for i in (0, 2, 4))
    assert inverse > 0.3
    assert progress > 0.02
    # Given its last eruption, a wait is nearly Gaussian: no more than a draw.
    assert abs(geyser) < 0.02
