"""How a command fails: one sentence, exit code 1, nothing left behind. How it helps."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lightning_runs import HANG, ROOT, command, script, trainer
from support.random_layers import FAMILIES

from gmm_lightning import GMMLayer
from gmm_lightning.app.preflight import _spell_out
from gmm_lightning.datasets import names
from gmm_lightning.training import (
    ArrayDataModule,
    EMCallback,
    EpochCheckpoint,
    GMMModule,
    InitializeCallback,
)

Failing = Callable[..., Any]

MISTAKES = {
    # options and keys
    "cov=nope": r"unknown option cov=nope; known are: diag, full, spherical, tied",
    "init=nope": r"unknown option init=nope; known are: given, kmeans",
    "data=nope": rf"unknown option data=nope; known are: {names()[0]}",
    "priors=[niw,nope]": r"unknown option priors=nope; known are: bayes, bayes_raw, conjugate",
    "fit=nope": r"unknown option fit=nope; known are: cem, em",
    "trainer=nope": r"unknown option trainer=nope; known are: cpu, ddp",
    "experiment=nope": r"unknown option experiment=nope; known are: faithful",
    "nope=1": r"unknown key 'nope' in the configuration; known are: seed, resume",
    "missing=em": r"unknown key 'missing'; did you mean fit.missing or data.missing\?",
    "fit.max_itre=3": r"unknown key 'max_itre' in fit; known are: supervised, .*max_iter, tol",
    "model.layer.num_component=3": r"unknown key 'num_component' in model.layer; known are: num_f",
    "fit=sgd model.optimizer.rl=1": r"unknown key 'rl' in model.optimizer; known are: .*lr",
    "cov=nope nope=1": r"unknown option cov=nope; known are",
    "fit.nope=1 model.nope=2": r"unknown key '(fit.)?nope'",
    "cov=[": r"cannot read 'cov=\['",
    "cov": r"'cov'",
    "=3": r"must be a string",
    # values
    "model.layer.num_components=0": r"num_components must be .*>= 1.*got 0",
    "model.layer.num_components=abc": r"num_components must be .*got 'abc'",
    "model.layer.num_components=1000": r"245 rows to fit, .* num_components=1000 needs",
    "model.layer.num_features=5": r"num_features=5, but the rows have 2 features",
    "model.layer.num_features=9999999999999": r"num_features=9999999999999, but the rows have 2",
    "model.layer.num_components=1000000000": r"245 rows to fit, .* num_components=1000000000 needs",
    "data.seed=[]": r"seed must be an integer >= 0, got \[\]",
    "callbacks.initialize.seed=a": r"seed must be an integer >= 0, got 'a'",
    "fit.annealing=[]": r"annealing must be a finite number, got \[\]",
    "overwrite=1": r"overwrite must be true or false, got 1",
    "model.layer.covariance.reg_covar=-1": r"reg_covar .* >= 0, got -1",
    "priors=[niw,inverse_wishart]": r"are both on the covariances",
    "priors=niw priors.niw.df=-9": r"df .* -\(num_features \+ 1\) = -3, got -9",
    "priors=niw model.layer.priors.niw.loc=[1,2,3]": r"loc of the prior .*\(3,\)",
    "fit.tol=-1": r"fit.tol must be a finite number >= 0, got -1",
    "trainer.devices=100000": r"asks for as many processes .* expected \d+ at most",
    "data.val_fraction=2": r"val_fraction must be .*got 2",
    "data.batch_size=0": r"batch_size must be an integer >= 1, got 0",
    "data.name=nope": r"'nope'; known are: faithful, letter",
    "init=given": r"'given' needs assignments",
    "callbacks.checkpoint.every_n_passes=0": r"every_n_passes.* got 0",
    "fit=sgd model.optimizer.lr=-1": r"optimizer cannot be made: .*learning rate.*-1",
    "logger=csv logger._target_=lightning.pytorch.loggers.MLFlowLogger": (
        r"this logger cannot be made: .*'(name|version)'; .*logger=mlflow"
    ),
    # hardware
    "trainer.accelerator=gpu trainer.devices=8": r"gpu.*trainer.accelerator=cpu",
    "trainer.accelerator=nope": r"nope",
    "trainer.devices=0": r"devices|0",
    "trainer.precision=bf16-true": r"trainer.precision to be one of 32-true.*got bf16-true",
    "trainer.precision=nope": r"nope",
    # folders
    "hydra.run.dir=/dev/null/runs": r"cannot write the output folder /dev/null/runs: ",
    "resume=nowhere": r"nothing to resume: no checkpoint at nowhere",
    "resume=/dev/null": r"nothing to resume: no checkpoint at /dev/null",
}

if find_spec("mlflow") is None:
    MISTAKES["logger=mlflow"] = r"Requirement 'mlflow.*' not met.*pip install"


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    failing: Failing, tmp_path: Path, line: str
) -> None:
    failure = failing("data=faithful", "callbacks.progress=null", *line.split())
    assert failure.code == 1
    assert_matches(failure.message, MISTAKES[line])
    assert empty(tmp_path)


def empty(folder: Path) -> bool:
    """Nothing left but, at most, an empty `outputs`."""
    return {path.name for path in folder.rglob("*")} <= {"outputs"}


def assert_matches(message: str, pattern: str) -> None:
    with pytest.raises(ValueError, match=pattern):
        raise ValueError(message)


def test_known_options_are_all_named(failing: Failing) -> None:
    message = failing("cov=nope").message
    assert all(family in message for family in FAMILIES)


def test_a_folder_below_a_file(failing: Failing, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    message = failing(f"hydra.run.dir={tmp_path}/file/run").message
    assert f"cannot write the output folder {tmp_path}/file/run" in message
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# -- resume -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    checkpoint = EpochCheckpoint(folder / "checkpoints")
    run = trainer(InitializeCallback(), EMCallback(), checkpoint, max_epochs=2)
    data = ArrayDataModule.builtin("faithful", standardize=True)
    run.fit(GMMModule(GMMLayer(2, 2)), datamodule=data)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text("- data=faithful\n- fit.max_iter=2\n")
    return folder


@pytest.fixture
def stored(finished: Path, tmp_path: Path) -> Path:
    """The same run, to be damaged or continued."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "foreign", "code"])
def test_a_checkpoint_that_is_not_ours(
    failing: Failing, stored: Path, tmp_path: Path, kind: str
) -> None:
    path, mark = stored / "checkpoints" / "last.ckpt", tmp_path / "ran"
    good = path.read_bytes()
    if kind == "foreign":
        torch.save({"state_dict": {}}, path)
    elif kind == "code":
        torch.save({"gmm_lightning": {}, "x": Bomb(mark)}, path)
    else:
        path.write_bytes({"truncated": good[:-100], "empty": b"", "text": b"hello\n"}[kind])
    before = contents(stored)
    failure = failing(f"resume={stored}")
    assert failure.code == 1
    assert "last.ckpt" in failure.message
    assert not mark.exists()
    assert contents(stored).items() >= before.items()


def test_a_run_without_its_overrides(failing: Failing, stored: Path) -> None:
    (stored / ".hydra" / "overrides.yaml").unlink()
    assert "is not the folder of a run" in failing(f"resume={stored}").message


@pytest.mark.parametrize(
    "text", ["a: [", "data: faithful\n", "!!python/object/apply:os.system [ls]", "3", "- [1]\n"]
)
def test_overrides_that_are_no_list(failing: Failing, stored: Path, text: str) -> None:
    (stored / ".hydra" / "overrides.yaml").write_text(text)
    assert failing(f"resume={stored}").code == 1


def test_another_model_does_not_fit(failing: Failing, stored: Path) -> None:
    message = failing(f"resume={stored}", "model.layer.num_components=3").message
    assert "does not fit this model" in message


def test_fewer_passes_than_are_done(failing: Failing, stored: Path) -> None:
    message = failing(f"resume={stored}", "fit.max_iter=1").message
    assert "this fit ends after 1: give a larger fit.max_iter" in message


# -- the script itself ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cov=nope", "gmm-train: unknown option cov=nope; known are: diag"),
        # Found in a constructor, with everything loaded.
        pytest.param(
            "data=faithful model.layer.num_components=0",
            "gmm-train: num_components must be",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_script_fails_in_one_line(tmp_path: Path, line: str, said: str) -> None:
    done = command(*line.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(said)
    assert empty(tmp_path)


@pytest.mark.slow
def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    arguments = [sys.executable, str(ROOT / "scripts" / "train.py")]
    arguments += ["data=faithful", "debug=one_pass", "logger=none"]
    both = [
        subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in both:
        try:
            _, err = process.communicate(timeout=HANG)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == 0, err.decode()
    runs = sorted(path.parent for path in tmp_path.glob("outputs/*/*/metrics.json"))
    assert len(runs) == 2
    for run in runs:
        present = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()}
        assert {
            ".hydra/config.yaml",
            ".hydra/overrides.yaml",
            "train.log",
            "mixture.png",
        } <= present
        assert "log-likelihood" in (run / "train.log").read_text()
        assert "cov" not in (run / ".hydra" / "overrides.yaml").read_text()


def test_help_names_the_groups_and_loads_nothing_heavy(tmp_path: Path) -> None:
    """Python and Hydra alone take a second; with torch and Lightning it would be five."""
    code = (
        "import sys; sys.argv = ['train.py', '--help']\n"
        "from gmm_lightning.app.command import train\n"
        "try: train()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'lightning', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "print('heavy', sorted(heavy))"
    )
    done = script("-c", code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "heavy []", done.stderr
    for group in ("cov:", "priors:", "init:", "fit:", "data:", "trainer:", "experiment:"):
        assert group in done.stdout
    assert "gmm-train cov=diag priors=niw trainer.devices=2" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("cov.relative_floor=1e-9", "model.layer.covariance.relative_floor=1e-9"),
        ("priors.niw.df=5", "model.layer.priors.niw.df=5"),
        ("+init.num_starts=2", "+callbacks.initialize.initializer.num_starts=2"),
        ("optimizer.lr=0.1", "model.optimizer.lr=0.1"),
        ("fit.tol=0", "fit.tol=0"),
        ("cov=full", "cov=full"),
        ("data.path=cov.csv", "data.path=cov.csv"),
    ],
)
def test_a_group_stands_for_the_path_that_it_fills(typed: str, meant: str) -> None:
    assert _spell_out(typed) == meant
