"""`gmm-show`: the components of a run as a person reads them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from support.covering import covering
from support.csv_run import COLUMNS, Plain

from gmm_lightning.app.show import _with_spread, _wrapped, show
from gmm_lightning.training import GMMModule

Asked = Callable[..., DictConfig]
Failing = Callable[..., Any]


@pytest.fixture
def shown(
    asked: Asked, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    def run(*overrides: str, width: int = 200) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        capsys.readouterr()
        show(asked("show", *overrides))
        return capsys.readouterr().out.splitlines()

    return run


def expected(run: Path) -> dict[int, list[str]]:
    """The cells of each component, from the checkpoint alone."""
    plain = Plain.read(run)
    spread = np.sqrt(np.diagonal(plain.covariances, axis1=-2, axis2=-1))
    return {
        k: [f"{plain.weights[k]:.4f}"]
        + [_with_spread(m, s) for m, s in zip(plain.means[k], spread[k], strict=True)]
        for k in range(len(plain.weights))
    }


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def test_the_table_is_in_the_units_of_the_file(
    trained: Path, shown: Callable[..., list[str]]
) -> None:
    lines = shown(f"run={trained}")
    assert lines[0] == "things: 3 components, 3 features, covariance full, priors niw"
    metrics = json.loads((trained / "metrics.json").read_text())
    assert lines[1] == (
        f"210 rows, log-likelihood {metrics['log_likelihood']:.6g} nats per row, "
        f"BIC {metrics['bic']:.6g}, not converged"
    )
    assert cells(lines[3]) == ["component", "weight", *COLUMNS]
    table = [cells(line) for line in lines[4:7]]
    want = expected(trained)
    heaviest = sorted(want, key=lambda k: -Plain.read(trained).weights[k])
    assert table == [[str(k), *want[k]] for k in heaviest]
    assert lines[-1] == "mean ± standard deviation, in the units of the data"
    # Columns stand under their names.
    assert len({len(line) for line in lines[3:7]}) == 1


@pytest.mark.parametrize("width", [60, 45, 10])
def test_a_narrow_terminal_gets_blocks(
    trained: Path, shown: Callable[..., list[str]], width: int
) -> None:
    lines = shown(f"run={trained}", width=width)
    heads = [cells(line) for line in lines if "component " in line and "weight" in line]
    assert [name for head in heads for name in head[2:]] == list(COLUMNS)
    assert all(head[:2] == ["component", "weight"] for head in heads)
    assert len(heads) == {60: 2, 45: 3, 10: 3}[width]
    rows = [line for line in lines if "±" in line and line.split()[0].isdigit()]
    assert len(rows) == 3 * len(heads)
    # A single column may be wider than the terminal, several are not.
    assert all(len(line) <= width for line in rows) or width == 10
    want = expected(trained)
    for k in range(3):
        own = [cells(line)[2:] for line in rows if cells(line)[0] == str(k)]
        assert [cell for line in own for cell in line] == want[k][1:]


def test_wrapping_keeps_every_cell() -> None:
    rows = [["k", *(f"c{i}" for i in range(30))], ["0", *(str(i) for i in range(30))]]
    for width in (5, 8, 31, 100, 1000):
        lines = _wrapped(rows, fixed=1, width=width)
        seen = [word for line in lines for word in line.split() if word.startswith("c")]
        assert seen == rows[0][1:]
        assert all(len(line) <= max(width, 8) for line in lines)


@pytest.mark.parametrize(
    ("given", "names"),
    [("[temp,mass]", ["temp", "mass"]), ("width", ["width"]), ("[width]", ["width"])],
)
def test_columns_are_chosen_by_name(
    trained: Path, shown: Callable[..., list[str]], given: str, names: list[str]
) -> None:
    lines = shown(f"run={trained}", f"columns={given}")
    assert cells(lines[3]) == ["component", "weight", *names]
    want = expected(trained)
    for line in lines[4:7]:
        k, weight, *rest = cells(line)
        row = want[int(k)]
        assert [weight, *rest] == [row[0], *(row[1 + COLUMNS.index(n)] for n in names)]


def test_a_run_without_a_report_is_shown(copied: Path, shown: Callable[..., list[str]]) -> None:
    (copied / "metrics.json").unlink()
    checkpoint = copied / "checkpoints" / "last.ckpt"
    first, second = shown(f"run={copied}"), shown(f"run={checkpoint}")
    assert first == second
    assert "BIC" not in " ".join(first)
    assert len(first) == 8


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("[mass,nope]", "the run has no column nope; it has mass, width, temp"),
        ("nope", "the run has no column nope; it has mass, width, temp"),
        ("[0]", "the run has no column 0; it has mass, width, temp"),
    ],
)
def test_an_unknown_column(failing: Failing, trained: Path, columns: str, said: str) -> None:
    failure = failing(f"run={trained}", f"columns={columns}", name="show")
    assert (failure.code, failure.message) == (1, f"gmm-show: {said}")


# -- run folders that cannot be read, by every command -----------------------------------------

COMMANDS = {
    "show": (),
    "evaluate": (),
    "predict": ("input=in.csv", "output=out.csv"),
    "sample": ("output=out.csv",),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_that_is_no_run(failing: Failing, tmp_path: Path, name: str) -> None:
    # What a folder of one's own may hold, under the names that a run uses too.
    mine = [tmp_path / "csv" / "mine.csv", tmp_path / "tensorboard" / "mine", tmp_path / "a.log"]
    mine += [tmp_path / ".hydra" / "mine.yaml", tmp_path / f"{name}.log"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    for given, said in (
        ("run=csv", "csv is not the folder of a run: there is no csv/checkpoints/last.ckpt"),
        ("run=nowhere", "there is no run at nowhere"),
        ("run=null", "say which run: run=outputs/<date>/<time>"),
        ("run=a.log", "a.log is not a checkpoint of plain tensors and numbers"),
    ):
        failure = failing(given, *COMMANDS[name], name=name)
        assert failure.code == 1
        assert failure.message.startswith(f"gmm-{name}: {said}")
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(mine)
    assert {path.read_text() for path in mine} == {"mine"}


@pytest.mark.parametrize(
    ("name", "text"), covering(COMMANDS, ['{"num_rows": 2', "", "[1, 2]", "\x00\x01"], strength=1)
)
def test_a_damaged_report(failing: Failing, copied: Path, name: str, text: str) -> None:
    (copied / "metrics.json").write_text(text)
    failure = failing(f"run={copied}", *COMMANDS[name], name=name)
    assert failure.message.startswith(f"gmm-{name}: {copied}/metrics.json is damaged: ")


@pytest.mark.parametrize("text", ['{"probability": [0.1', "3", '{"a": 1}', '{"probability": 1}'])
def test_a_damaged_density(failing: Failing, copied: Path, text: str) -> None:
    (copied / "density.json").write_text(text)
    failure = failing(f"run={copied}", *COMMANDS["predict"], name="predict")
    assert failure.message.startswith(f"gmm-predict: {copied}/density.json is damaged: ")
    (copied / "density.json").unlink()
    failure = failing(f"run={copied}", *COMMANDS["predict"], name="predict")
    assert "records no training density (density.json)" in failure.message


@pytest.mark.parametrize("name", COMMANDS)
def test_a_checkpoint_of_another_width(failing: Failing, copied: Path, name: str) -> None:
    # The description of one model with the parameters of another.
    path = copied / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["gmm_lightning"]["layer"]["num_features"] = 4
    torch.save(checkpoint, path)
    failure = failing(f"run={copied}", *COMMANDS[name], name=name)
    assert f"{path} does not fit this model: " in failure.message
    assert len(failure.message) < 2000


def test_the_readme_reads_a_checkpoint_with_plain_torch(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    found = re.findall(r"<!-- plain torch -->\n```python\n(.*?)```", readme, re.DOTALL)
    assert len(found) == 1
    assert "gmm_lightning" not in re.sub('"[^"]*"', "", found[0])
    checkpoint = trained / "checkpoints" / "last.ckpt"
    names: dict[str, Any] = {"checkpoint": str(checkpoint)}
    exec(compile(found[0], "README.md", "exec"), names)
    module = GMMModule.load_from_checkpoint(checkpoint)
    with torch.no_grad():
        mixture = module.distribution()
    # The same operations in the same precision: only their order may differ.
    torch.testing.assert_close(names["weights"], mixture.weights, rtol=1e-14, atol=0)
    torch.testing.assert_close(names["means"], mixture.means, rtol=1e-14, atol=0)
    # Thousands, thousandths, and below zero.
    assert (names["means"][:, 0] > 4000).all()
    assert (names["means"][:, 1].abs() < 0.01).all()
    assert (names["means"][:, 2] < 0).all()
    assert capsys.readouterr().out.startswith("tensor([")


def test_digits_follow_the_spread() -> None:
    assert _with_spread(1700000005.0012, 0.0998) == "1700000005.00 ± 0.10"
    assert _with_spread(998168.5, 8556.4) == "998168 ± 8556"
    assert _with_spread(3.14159, 0.0123) == "3.142 ± 0.012"
    assert _with_spread(-2.0, 12.5) == "-2 ± 12"
    assert _with_spread(3e-12, 1e-13) == "3e-12 ± 1e-13"
    assert _with_spread(7.0, 0.0) == "7 ± 0"
