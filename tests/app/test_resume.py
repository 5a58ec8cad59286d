"""`resume=`: the run goes on in its own folder, as if it had never stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from support.covering import covering
from support.lightning_runs import command, same, the_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gmm_lightning.app.preflight import resume_overrides
from gmm_lightning.app.train import train
from gmm_lightning.training import GMMModule

RUN = (
    "data=faithful",
    "cov=full",
    "priors=[dirichlet,niw]",
    "fit.tol=0",
    "callbacks.progress=null",
)
LIMIT = {"em": "fit.max_iter", "sgd": "fit.max_iter", "em_then_sgd": "fit.sgd.max_iter"}


def final(folder: Path) -> dict[str, torch.Tensor]:
    return GMMModule.load_from_checkpoint(folder / "checkpoints" / "last.ckpt").state_dict()


def steps(folder: Path, tag: str = "train/objective") -> list[int]:
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    # Writers of one process are numbered, and files are read in the order of their names.
    return sorted(event.step for event in events.Scalars(tag))


def report(folder: Path) -> dict[str, object]:
    """What must be equal: everything but the time it took."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return {k: v for k, v in metrics.items() if k not in ("seconds", "rows_per_second")}


@pytest.mark.slow
def test_the_script_continues_where_it_was(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    whole = command(*RUN, "seed=3", "fit.max_iter=6", cwd=one)
    assert whole.returncode == 0, whole.stderr
    part = command(*RUN, "seed=3", "fit.max_iter=2", cwd=two)
    assert part.returncode == 0, part.stderr
    folder = the_run(two)
    assert steps(folder) == [0, 1]
    files = {path.name for path in (folder / "tensorboard").iterdir()}
    # From another folder, by a relative path; nothing but the limit is typed again, and the next
    # resume will find it stored.
    rest = command(f"resume=../two/{folder.relative_to(two)}", "fit.max_iter=6", cwd=one)
    assert rest.returncode == 0, rest.stderr
    assert same(final(the_run(one)), final(folder))
    assert report(the_run(one)) == report(folder)
    assert steps(folder) == [0, 1, 2, 3, 4, 5]
    assert {path.name for path in (folder / "tensorboard").iterdir()} > files
    log = (folder / "train.log").read_text()
    assert log.count("checkpoint, metrics and picture") == 2
    assert the_run(two) == folder
    stored = OmegaConf.load(folder / ".hydra" / "config.yaml")
    assert (stored.seed, stored.fit.max_iter) == (3, 6)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("fit", "passes"), covering(LIMIT, (1, 3), strength=1))
def test_a_resumed_run_is_the_uninterrupted_one(
    composed: Callable[..., DictConfig], tmp_path: Path, fit: str, passes: int
) -> None:
    def run(name: str, passes: int, *more: str) -> Path:
        folder = tmp_path / name
        few = (*RUN, f"fit={fit}", "fit.max_iter=3", f"{LIMIT[fit]}={passes}", *more)
        config = composed(*few)
        config.paths.output_dir = str(folder)
        train(config)
        return folder

    whole = run("whole", 5)
    run("part", passes)
    rest = run("part", 5, f"resume={tmp_path}/part/checkpoints/last.ckpt")
    assert same(final(whole), final(rest))
    assert report(whole) == report(rest)
    assert steps(rest) == steps(whole)
    assert steps(rest, "weights/0") == steps(whole, "weights/0")


# -- which overrides a resumed run has --------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    folder = tmp_path / "a run, with 'odd'\nname=1 \\ $x {y} é\\"
    (folder / ".hydra").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"")
    overrides = ["cov=diag", "fit.tol=0.1", "hydra.verbose=true", "+hydra.x=1", "resume=old"]
    OmegaConf.save(OmegaConf.create(overrides), folder / ".hydra" / "overrides.yaml")
    return folder


def test_what_is_typed_wins_over_what_is_stored(stored: Path) -> None:
    words = resume_overrides(stored, [f"resume={stored}", "fit.tol=0.2", "fit.max_iter=3"])
    assert words[:3] == ["cov=diag", "fit.tol=0.2", "fit.max_iter=3"]
    assert [word.split("=")[0] for word in words[3:]] == ["resume", "hydra.run.dir"]


def test_odd_names_survive(stored: Path, composed: Callable[..., DictConfig]) -> None:
    words = resume_overrides(stored, [f"resume={stored}"])
    config = composed(*[word for word in words if not word.startswith("hydra")])
    assert Path(config.resume) == stored / "checkpoints" / "last.ckpt"


def test_a_quoted_path_is_read(
    stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gmm_lightning.app.preflight import check_command_line

    plain = stored.rename(tmp_path / "plain run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "resume='plain run'"])
    assert check_command_line("train") == plain


def test_a_checkpoint_names_its_run_too(stored: Path) -> None:
    file = stored / "checkpoints" / "last.ckpt"
    assert resume_overrides(file, [f"resume={file}"]) == resume_overrides(
        stored, [f"resume={stored}"]
    )
