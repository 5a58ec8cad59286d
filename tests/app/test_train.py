"""`train` in this process: every option once, and what a run leaves behind."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from sklearn.metrics import adjusted_rand_score
from support.random_layers import cases
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gmm_lightning.app.show import show
from gmm_lightning.app.train import train
from gmm_lightning.bayes import PosteriorDraws
from gmm_lightning.errors import GMMError
from gmm_lightning.training import ArrayDataModule, GMMModule

Compose = Callable[..., DictConfig]

QUIET = ("logger=none", "callbacks.progress=null")
ONE_PASS = ("data=faithful", "debug=one_pass", *QUIET)


undrawn = pytest.mark.usefixtures("undrawn")


def finite(metrics: dict[str, Any]) -> bool:
    keys = ("objective", "log_likelihood", "bic", "aic", "icl", "val_log_likelihood")
    return all(math.isfinite(metrics[key]) for key in keys)


def options(group: str, *skipped: str) -> list[str]:
    """Every option of a group but some."""
    from gmm_lightning.app.configs import config_dir

    return sorted({p.stem for p in Path(config_dir(), group).glob("*.yaml")} - {*skipped})


SINGLE = [
    *(("init", o) for o in options("init", "given", "run")),
    *(("projections", o) for o in options("projections")),
    *(("fit", o) for o in options("fit")),
    *(("data", o) for o in options("data", "file", "stream")),
    *(("logger", o) for o in options("logger", "mlflow", "wandb")),
    *(("callbacks", o) for o in options("callbacks")),
    *(("model", o) for o in options("model")),
    *(("paths", o) for o in options("paths")),
    # Two processes and other machines have tests of their own.
    *(("trainer", o) for o in options("trainer", "ddp", "gpu", "multinode")),
]


@undrawn
@pytest.mark.parametrize(("group", "option"), SINGLE)
def test_every_option_trains(
    composed: Compose,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    group: str,
    option: str,
) -> None:
    # `fit=em_then_sgd` has a second fit, with a length of its own.
    short = ["fit.sgd.max_iter=1"] if option == "em_then_sgd" else []
    if option in ("gibbs", "nuts"):
        few = ("num_draws=100", "warmup=60", "num_chains=2")
        drawn = [*(f"fit.{one}" for one in few), "model.layer.num_components=1"]
        metrics = train(composed(*ONE_PASS, f"{group}={option}", *drawn))
        assert PosteriorDraws.load(tmp_path / "posterior.npz").num_draws == 100
        show(OmegaConf.create({"run": str(tmp_path), "columns": None}))
        assert "90 % of 200 draws" in capsys.readouterr().out
        assert metrics["rhat"] < 1.05
    else:
        metrics = train(composed(*ONE_PASS, f"{group}={option}", *short))
    assert finite(metrics)
    assert metrics["iterations"] == 1 + len(short)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


@undrawn
@pytest.mark.parametrize("option", options("optimizer", "none"))
def test_every_optimizer_trains(composed: Compose, option: str) -> None:
    assert finite(train(composed(*ONE_PASS, "fit=sgd", f"optimizer={option}")))


@undrawn
@pytest.mark.parametrize("option", options("scheduler"))
def test_every_scheduler_trains(composed: Compose, option: str) -> None:
    assert finite(train(composed(*ONE_PASS, "fit=sgd", f"scheduler={option}")))


@undrawn
def test_what_a_plateau_watches_can_be_said(composed: Compose) -> None:
    words = ("fit=sgd", "scheduler=plateau", "model.monitor=train/log_likelihood")
    assert finite(train(composed(*ONE_PASS, *words)))
    with pytest.raises(MisconfigurationException, match="train/nope which is not available"):
        train(composed(*ONE_PASS, *words[:2], "model.monitor=train/nope"))


@undrawn
def test_given_assignments_train(composed: Compose) -> None:
    given = ",".join(str(i % 2) for i in range(245))
    initializer = f"callbacks.initialize.initializer.assignments=[{given}]"
    assert finite(train(composed(*ONE_PASS, "init=given", initializer)))


# Every other pair always, so every family and every prior; the others are slow.
BY_EM = [
    pytest.param(*case, marks=pytest.mark.slow if number % 2 else ())
    for number, case in enumerate(cases())
]


@undrawn
@pytest.mark.parametrize(("family", "prior"), BY_EM)
def test_every_family_trains_with_every_prior_by_em(
    composed: Compose, tmp_path: Path, family: str, prior: str
) -> None:
    chosen = f"[{prior.replace('+', ',')}]" if "+" in prior else prior
    metrics = train(composed(*ONE_PASS, f"cov={family}", f"priors={chosen}"))
    assert finite(metrics)
    module = GMMModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert module.layer.covariance.name == family
    names = [] if prior == "none" else sorted(prior.split("+"))
    assert sorted(p.name for p in module.layer.all_priors) == names


@undrawn
@pytest.mark.parametrize(("family", "prior"), cases("gradient")[::9])
def test_families_train_with_priors_by_gradient(composed: Compose, family: str, prior: str) -> None:
    chosen = f"[{prior.replace('+', ',')}]" if "+" in prior else prior
    assert finite(train(composed(*ONE_PASS, "fit=sgd", f"cov={family}", f"priors={chosen}")))


@undrawn
def test_tied_full_is_another_name_for_tied(composed: Compose) -> None:
    first = train(composed(*ONE_PASS, "cov=tied"))
    second = train(composed(*ONE_PASS, "cov=tied_full"))
    assert first["objective"] == second["objective"]


@pytest.mark.parametrize("option", options("experiment"))
def test_every_experiment_runs(composed: Compose, option: str) -> None:
    config = composed(f"experiment={option}", "fit.max_iter=2", "fit.num_restarts=1", *QUIET)
    if "sgd" in config.fit:
        config.fit.sgd.max_iter = 1
    metrics = train(config)
    assert finite(metrics)
    assert metrics["iterations"] == (3 if "sgd" in config.fit else 2)


# -- what a run leaves behind -----------------------------------------------------------------


@pytest.mark.parametrize("fit", ["em", "sgd"])
def test_a_run_leaves_what_it_promises(composed: Compose, tmp_path: Path, fit: str) -> None:
    few = ("fit.max_iter=4", "callbacks.progress=null")
    returned = train(composed("data=penguins", "priors=niw", f"fit={fit}", *few))
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {"checkpoints", "metrics.json", "mixture.png", "tensorboard"}
    assert not list(tmp_path.rglob("*.partial"))
    assert (tmp_path / "mixture.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == returned
    # Numbers, from the checkpoint alone, in the user's units.
    module = GMMModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    data = ArrayDataModule.builtin("penguins", val_fraction=0.1, standardize=True)
    x, n = data.train.x.double(), data.num_train_rows
    with torch.no_grad():
        mixture = module.distribution()
        total = float(mixture.log_prob(x).sum())
        posterior = mixture.log_responsibilities(x)
        entropy = float(-(posterior.exp() * posterior).sum())
        prior = float(module.layer.log_prior())
        assert data.val.x is not None
        val = float(mixture.log_prob(data.val.x.double()).mean())
    free = 2 + 3 * 4 + 3 * 10
    bic = -2 * total + free * math.log(n)
    # Densities in the user's units and in standard ones round differently: 300 rows of about
    # 1e-13 each.
    close: dict[str, Any] = {"rel": 1e-11}
    assert metrics["num_free_parameters"] == free
    assert (metrics["num_rows"], metrics["num_features"], metrics["num_components"]) == (n, 4, 3)
    assert metrics["log_likelihood"] == pytest.approx(total / n, **close)
    assert metrics["objective"] == pytest.approx((total + prior) / n, **close)
    assert metrics["bic"] == pytest.approx(bic, **close)
    assert metrics["aic"] == pytest.approx(-2 * total + 2 * free, **close)
    assert metrics["icl"] == pytest.approx(bic + 2 * entropy, **close)
    assert metrics["val_log_likelihood"] == pytest.approx(val, **close)
    assert metrics["iterations"] == 4
    assert metrics["converged"] is False
    assert metrics["seconds"] > 0
    assert metrics["repaired"] == []
    assert data.train.labels is not None
    expected = adjusted_rand_score(data.train.labels, module.predict(x))
    assert metrics["adjusted_rand_score"] == pytest.approx(expected, **close)
    # Events.
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"train/log_likelihood", "val/log_likelihood", "train/objective", "weights/2"} <= set(
        events.Tags()["scalars"]
    )
    assert events.Tags()["images"] == ["mixture"]


@undrawn
def test_a_fit_that_converges_says_so(composed: Compose) -> None:
    metrics = train(composed("data=faithful", *QUIET))
    assert metrics["converged"] is True
    assert 2 < metrics["iterations"] < 200


@undrawn
def test_the_logged_likelihood_is_that_of_the_report(composed: Compose, tmp_path: Path) -> None:
    few = ("fit.max_iter=3", "logger=csv", "callbacks.progress=null")
    metrics = train(composed("data=faithful", *few))
    with (tmp_path / "csv" / "version_0" / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    last = {key: float(value) for row in table for key, value in row.items() if value}
    # Validation comes after the last M-step, so it is of the final parameters.
    assert last["val/log_likelihood"] == pytest.approx(metrics["val_log_likelihood"], rel=1e-12)
    # The report, and settings of the command and of the layer.
    assert last["final/bic"] == metrics["bic"]
    settings = (tmp_path / "csv" / "version_0" / "hparams.yaml").read_text()
    assert "seed: 0" in settings
    assert "num_train_rows: 245" in settings


@undrawn
def test_standardising_changes_nothing_but_rounding(composed: Compose) -> None:
    # Full covariances and the data-scaled start are equivariant.
    few = (
        "data=faithful",
        "priors=niw",
        "fit.max_iter=5",
        "logger=none",
        "callbacks.progress=null",
    )
    first = train(composed(*few))
    second = train(composed(*few, "data.standardize=false"))
    for key in ("log_likelihood", "val_log_likelihood", "bic"):
        assert first[key] == pytest.approx(second[key], rel=1e-9), key


@undrawn
def test_the_seed_decides(composed: Compose) -> None:
    few = (*ONE_PASS, "init=random")
    first, again = train(composed(*few)), train(composed(*few))
    other = train(composed(*few, "seed=1"))
    assert first["log_likelihood"] == again["log_likelihood"] != other["log_likelihood"]


@undrawn
def test_precision_is_double_unless_told(composed: Compose, tmp_path: Path) -> None:
    for precision, dtype in (("64-true", torch.float64), ("32-true", torch.float32)):
        train(composed(*ONE_PASS, f"trainer.precision={precision}"))
        module = GMMModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
        assert module.layer.means.dtype == dtype


def test_a_dry_run_writes_nothing(composed: Compose, tmp_path: Path) -> None:
    assert train(composed("data=faithful", "debug=fast")) == {}
    assert not list(tmp_path.rglob("*"))


def test_an_error_is_typed(composed: Compose) -> None:
    with pytest.raises(GMMError, match=r"fit\.tol must be a finite number >= 0, got -1"):
        train(composed(*ONE_PASS, "fit.tol=-1"))


@undrawn
def test_em_then_gradient_goes_on_counting(composed: Compose, tmp_path: Path) -> None:
    few = ("fit.max_iter=3", "fit.sgd.max_iter=2", "callbacks.progress=null")
    metrics = train(composed("data=faithful", "fit=em_then_sgd", *few))
    assert metrics["iterations"] == 5
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("train/objective")] == [0, 1, 2, 3, 4]
