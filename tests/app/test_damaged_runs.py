"""Runs with a checkpoint that was damaged, and outputs that would destroy an input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from support.covering import covering
from support.csv_run import named, things, write_csv

from gmm_lightning.app.predict import predict
from gmm_lightning.app.sample import sample
from gmm_lightning.app.show import show
from gmm_lightning.app.train import train
from gmm_lightning.errors import CheckpointError

Asked = Callable[..., DictConfig]
Refused = Callable[..., str]
COMMANDS = {
    "show": (),
    "evaluate": (),
    "predict": ("input=in.csv", "output=out.csv"),
    "sample": ("n=3", "output=out.csv"),
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Rows to predict, in the folder of the test."""
    return write_csv(tmp_path / "in.csv", named(things(20, seed=3)[0]))


def change(run: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change the contents of a run's checkpoint."""
    path = run / "checkpoints" / "last.ckpt"
    contents = torch.load(path, weights_only=True)
    edit(contents)
    torch.save(contents, path)


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "nan": (lambda c: c["state_dict"]["layer.means"].fill_(torch.nan), "layer.means must be fin"),
    "units": (
        lambda c: c["state_dict"]["standardize.scale"].neg_(),
        "scale must be finite and > 0",
    ),
    "columns": (lambda c: c["gmm_lightning"]["data"].update(columns=5), "of its data as text"),
    "few": (lambda c: c["gmm_lightning"]["data"].update(columns=["a"]), "1 columns of 3 features"),
    "size": (lambda c: c["gmm_lightning"]["layer"].update(num_components=10**9), "bytes that the"),
}


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(("name", "damage"), covering(COMMANDS, DAMAGE, strength=1))
def test_a_damaged_run_is_refused_by_every_command(
    refused: Refused, copied: Path, tmp_path: Path, name: str, damage: str
) -> None:
    edit, said = DAMAGE[damage]
    change(copied, edit)
    message = refused(name, f"run={copied}", *COMMANDS[name])
    assert said in message
    assert "last.ckpt" in message or "description of the GMMLayer" in message
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_changed_bit_is_noticed_by_every_command(
    refused: Refused, copied: Path, name: str
) -> None:
    path = copied / "checkpoints" / "last.ckpt"
    means = torch.load(path, weights_only=True)["state_dict"]["layer.means"]
    content = bytearray(path.read_bytes())
    content[content.index(means.numpy().tobytes()) + 2] ^= 1
    path.write_bytes(content)
    message = refused(name, f"run={copied}", *COMMANDS[name])
    assert "last.ckpt is truncated, damaged or not a torch file (Bad CRC-32" in message


def test_names_do_not_reach_the_terminal_as_they_are(
    copied: Path, asked: Asked, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["mass\x1b[2J", "width\u202e", "temp\n"]
    change(
        copied, lambda c: c["gmm_lightning"]["data"].update(columns=names, name="\x1b]0;mine\x07")
    )
    show(asked("show", f"run={copied}"))
    lines = capsys.readouterr().out.split("\n")
    assert all(map(str.isprintable, lines))
    assert r"mass\x1b[2J" in "".join(lines)
    assert refused("show", f"run={copied}", "columns=other").isprintable()
    assert refused("predict", f"run={copied}", "input=in.csv", "output=out.csv").isprintable()


STATES: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "callback": ("em", lambda c: c["callbacks"].update(EMCallback=7), "cannot be gone on from"),
    "history": (
        "em",
        lambda c: c["callbacks"]["EMCallback"].update(history=3),
        "callbacks or loops",
    ),
    "loops": ("em", lambda c: c["loops"].update(fit_loop="x"), "cannot be gone on from"),
    "optimizer": ("sgd", lambda c: c.update(optimizer_states=[{}]), "cannot be gone on from"),
    "moments": (
        "sgd",
        lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=torch.zeros(7)),
        "cannot be gone on from",
    ),
    "epoch": ("em", lambda c: c.update(epoch="two"), "epoch must be an integer >= 0, got 'two'"),
    "phase": ("em", lambda c: c["gmm_lightning"].update(phase=4), "is of fit 5 of a run, and this"),
}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", STATES)
def test_a_run_does_not_go_on_from_a_hostile_state(
    composed: Callable[..., DictConfig], tmp_path: Path, name: str
) -> None:
    kind, edit, said = STATES[name]
    words = ("data=faithful", f"fit={kind}", "fit.tol=0", "callbacks.progress=null")
    train(composed(*words, "fit.max_iter=1"))
    change(tmp_path, edit)
    path = tmp_path / "checkpoints" / "last.ckpt"
    with pytest.raises(CheckpointError, match=said) as caught:
        train(composed(*words, "fit.max_iter=2", f"resume={path}"))
    assert str(caught.value).isprintable()


# -- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["same", "dots", "absolute", "link", "hard link", "behind"])
def test_what_is_read_is_not_written_over(
    trained: Path, refused: Refused, table: Path, tmp_path: Path, spelling: str
) -> None:
    before = table.read_bytes()
    given, output = "in.csv", "out.csv"
    match spelling:
        case "same":
            output = "in.csv"
        case "dots":
            (tmp_path / "below").mkdir()
            output = "below/../in.csv"
        case "absolute":
            output = str(table)
        case "link":
            (tmp_path / "out.csv").symlink_to(table)
        case "hard link":
            (tmp_path / "out.csv").hardlink_to(table)
        case _:
            (tmp_path / "link.csv").symlink_to(table)
            given, output = "link.csv", "in.csv"
    words = (f"run={trained}", f"input={given}", f"output={output}")
    said = refused("predict", *words, "overwrite=true")
    assert said == f"output={output} is the file that is read, {given}; choose another name"
    assert table.read_bytes() == before


@pytest.mark.parametrize("name", ["metrics.json", "density.json", "checkpoints/last.ckpt"])
def test_a_run_is_not_written_over_by_its_evaluation(
    copied: Path, refused: Refused, name: str
) -> None:
    before = (copied / name).read_bytes()
    said = refused("evaluate", f"run={copied}", f"output={copied}/{name}", "overwrite=true")
    assert "is the file that is read" in said
    assert (copied / name).read_bytes() == before


def test_a_copy_of_what_is_read_is_written_over(
    trained: Path, asked: Asked, table: Path, tmp_path: Path
) -> None:
    (tmp_path / "out.csv").write_bytes(table.read_bytes())
    words = (f"run={trained}", f"input={table}", f"output={tmp_path}/out.csv")
    predict(asked("predict", *words, "overwrite=true"))
    assert (tmp_path / "out.csv").read_text().startswith("component,")


def test_planted_links_are_not_followed(trained: Path, asked: Asked, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("out.csv", "out.png", "out.png.partial"):
        (tmp_path / name).symlink_to(victim)
    words = (f"output={tmp_path}/out.csv", f"picture={tmp_path}/out.png", "overwrite=true")
    sample(asked("sample", f"run={trained}", "n=5", *words))
    assert victim.read_text() == "mine"
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1).shape == (5, 4)
