"""What holds for every example: it runs, explains its options, and names bad ones in a sentence."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.example_runs import FOLDER, SCRIPTS, SMALL_RUNS, Finished, run_small
from support.lightning_runs import ROOT, script

PNG = b"\x89PNG"
MODULES = sorted(FOLDER.glob("*.py"))
NEED_SKLEARN = [
    name for name in SCRIPTS if "from sklearn" in (FOLDER / f"{name}.py").read_text("utf-8")
]


def test_every_script_has_a_small_run_and_is_listed() -> None:
    assert set(SMALL_RUNS) == set(SCRIPTS)
    for text in (FOLDER / "README.md", ROOT / "README.md"):
        missing = [name for name in SCRIPTS if f"`{name}`" not in text.read_text("utf-8")]
        assert not missing, f"{text} does not name {missing}"


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_prints_its_tables_and_writes_its_figures(
    name: str, finished: Callable[[str], Finished]
) -> None:
    printed, report = finished(name)
    assert report.tables
    for header, *rows in report.tables:
        assert rows
        assert all(len(row) == len(header) for row in rows)
        assert all(str(cell) in printed for cell in (*header, *(row[0] for row in rows)))
    assert report.figures
    for path in report.figures:
        assert path.parent == report.folder
        assert f"figure: {path}\n" in printed
        assert path.read_bytes()[:4] == PNG
        assert path.stat().st_size > 20_000


@pytest.mark.parametrize("name", ["imputation", "labelled", "mdn_inverse"])
def test_it_is_the_same_again(
    name: str, finished: Callable[[str], Finished], tmp_path: Path
) -> None:
    assert run_small(name, tmp_path).report.tables == finished(name).report.tables


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_explains_the_example_and_its_options(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(name)
    with pytest.raises(SystemExit) as caught:
        module.main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert module.__doc__ is not None
    assert module.__doc__.splitlines()[0] in printed
    assert f"outputs/examples/{name}" in printed
    # A few options are read; many are not.
    assert printed.count("\n  --") <= 8


def test_a_script_runs_from_the_shell(tmp_path: Path) -> None:
    path = str(FOLDER / "one_gaussian.py")
    done = script(path, "--output", "figures", "--seed", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "closed form" in done.stdout
    assert [file.name for file in tmp_path.rglob("*.png")] == ["one_gaussian.png"]


def test_a_script_fails_in_a_sentence(tmp_path: Path) -> None:
    done = script(str(FOLDER / "moons.py"), "--max-components", "many", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    sentence = "argument --max-components: expected an integer >= 1, got 'many'"
    assert done.stderr.splitlines()[-1] == f"moons.py: error: {sentence}"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("moons --max-components 0", "--max-components: expected an integer >= 1, got '0'"),
        ("moons --max-components 2.5", "--max-components: expected an integer >= 1, got '2.5'"),
        ("moons --num-rows 10", "--max-components must not exceed --num-rows"),
        ("moons --noise much", "--noise: expected a number > 0, got 'much'"),
        ("moons --noise 0", "--noise: expected a number > 0, got '0'"),
        ("moons --noise inf", "--noise: expected a number > 0, got 'inf'"),
        ("moons --noise nan", "--noise: expected a number > 0, got 'nan'"),
        ("moons --seed -1", "--seed: expected an integer in [0, 2147483648], got '-1'"),
        ("moons --seed 2147483649", "--seed: expected an integer in [0, 2147483648], got"),
        ("moons --most 3", "unrecognized arguments: --most 3"),
        ("imputation --missing-fraction 1.5", "expected a number between 0 and 1, got '1.5'"),
        ("imputation --missing-fraction 0", "expected a number between 0 and 1, got '0'"),
        ("imputation --missing-fraction 0.0001", "--missing-fraction leaves a column complete"),
        ("labelled --data faithful", "invalid choice: 'faithful'"),
        ("regression --num-folds 1", "expected an integer in [2, 272], got '1'"),
        ("digits --num-axes 65", "expected an integer in [1, 64], got '65'"),
        ("digits --num-draws 1025", "expected an integer in [1, 1024], got '1025'"),
        ("vade_digits --num-latents 64", "expected an integer in [1, 63], got '64'"),
        ("mdn_inverse --tasks geyser", "invalid choice: 'geyser'"),
        ("mdn_inverse --num-folds 1", "expected an integer in [2, 50], got '1'"),
        ("class_mixtures --data penguins", "invalid choice: 'penguins'"),
        ("segment_image --image cat.jpg", "invalid choice: 'cat.jpg'"),
        ("segment_image --color-noise 0", "expected a number > 0, got '0'"),
        ("background_subtraction --noise-std 0", "expected a number > 0, got '0'"),
        ("background_subtraction --num-frames 1", "expected an integer >= 2, got '1'"),
        ("background_subtraction --frames none.npz", "none.npz: no such file or folder"),
    ],
)
def test_bad_values_are_one_sentence(
    line: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *options = line.split()
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(name).main(options)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith(f"{name}.py: error: ")
    assert message in last
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_named_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "figures"
    with pytest.raises(SystemExit) as caught:
        importlib.import_module("one_gaussian").main(["--output", str(folder)])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"--output: expected a folder, got '{folder}': {tmp_path / 'file'} is a file" in err


@pytest.mark.parametrize("name", NEED_SKLEARN)
def test_without_scikit_learn_it_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sklearn

    assert sklearn
    for module in [m for m in sys.modules if m.split(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(FOLDER / f"{name}.py"))
    assert caught.value.code == f"{name}.py needs scikit-learn: pip install scikit-learn"


# -- what examples import ---------------------------------------------------------------------


def package_imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(module, name) of everything that is imported from the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not [a for a in node.names if a.name.startswith("gmm_lightning.")], (
                "write `from gmm_lightning.x import y`, so that y is seen"
            )
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gmm_lightning"):
            yield from ((node.module or "", alias.name) for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_examples_use_exported_names_alone(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    for module, name in package_imports(tree):
        assert module.count(".") <= 1, f"{module} is inside a package"
        exported = importlib.import_module(module).__all__
        assert name in exported, f"{module} does not export {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            # Named tuples copy themselves with `_replace`.
            assert ast.unparse(node) == "self._replace", f"line {node.lineno}: {ast.unparse(node)}"


def test_the_rule_of_imports_is_applied() -> None:
    names = [pair for path in MODULES for pair in package_imports(ast.parse(path.read_text()))]
    assert ("gmm_lightning", "GMMLayer") in names
