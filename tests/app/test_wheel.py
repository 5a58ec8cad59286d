"""A wheel, installed in a folder of its own, has everything that the commands need."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.csv_run import named, things, write_csv
from support.lightning_runs import AMBIENT, HANG, ROOT

COMMANDS = ("train", "evaluate", "predict", "sample", "show")


def python(*arguments: str, cwd: Path, site: Path | None = None) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in AMBIENT}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    if site is not None:
        environment["PYTHONPATH"] = str(site)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder: Path, suffixes: tuple[str, ...]) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.suffix in suffixes}


@pytest.mark.slow
def test_a_wheel_has_it_all(tmp_path: Path) -> None:
    # pip copies nothing: what hatchling leaves in the checkout would be in `dist`, `-w` says where.
    wheel = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    python(*wheel, str(ROOT), "-w", str(tmp_path / "dist"), cwd=tmp_path)
    (built,) = (tmp_path / "dist").glob("gmm_lightning-*.whl")
    with zipfile.ZipFile(built) as archive:
        names = set(archive.namelist())
        (points,) = (n for n in names if n.endswith("entry_points.txt"))
        scripts = archive.read(points).decode()
    assert "gmm_lightning/py.typed" in names
    configs = files(ROOT / "configs", (".yaml",))
    assert configs
    assert {n for n in names if n.endswith(".yaml")} == {
        f"gmm_lightning/configs/{name}" for name in configs
    }
    data = [p for p in (ROOT / "gmm_lightning/datasets/files").iterdir() if p.is_file()]
    assert len(data) > 5
    assert {str(p.relative_to(ROOT)) for p in data} <= names
    sources = {f"gmm_lightning/{n}" for n in files(ROOT / "gmm_lightning", (".py",))}
    assert {n for n in names if n.endswith(".py")} == sources
    assert not [n for n in names if n.startswith(("tests", "outputs", "scripts", "examples"))]
    assert all(f"gmm-{c} = gmm_lightning.app.command:{c}" in scripts for c in COMMANDS)

    site, away = tmp_path / "site", tmp_path / "away"
    away.mkdir()
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site))
    python(*install, str(built), cwd=tmp_path)
    where = python("-c", "import gmm_lightning; print(gmm_lightning.__file__)", cwd=away, site=site)
    assert Path(where.strip()) == site / "gmm_lightning" / "__init__.py"
    for name in COMMANDS:
        code = f"from gmm_lightning.app.command import {name}; {name}()"
        text = python("-c", code, "--help", cwd=away, site=site)
        assert f"gmm-{name} " in text
        assert "Examples" in text
        assert list(away.iterdir()) == []

    x, kind = things(60, seed=4)
    write_csv(away / "my.csv", named(x) | {"kind": kind})
    words = {
        "train": "data=file data.path=my.csv data.label=kind cov=diag fit.max_iter=2 "
        "hydra.run.dir=run callbacks.progress=null",
        "show": "run=run",
        "evaluate": "run=run output=scores.json",
        "predict": "run=run input=my.csv output=labels.csv",
        "sample": "run=run n=10 output=drawn.csv picture=drawn.png",
    }
    for name, line in words.items():
        # The commands as pip installs them.
        code = f"from gmm_lightning.app.command import {name}; {name}()"
        python("-c", code, *line.split(), cwd=away, site=site)
    assert len((away / "labels.csv").read_text().splitlines()) == 61
    assert len((away / "drawn.csv").read_text().splitlines()) == 11
    assert {p.name for p in away.iterdir()} == {
        "my.csv",
        "run",
        "scores.json",
        "labels.csv",
        "drawn.csv",
        "drawn.png",
    }
    # Two processes start the installed package again.
    python(
        str(site / "bin" / "gmm-train"),
        "data=faithful",
        "debug=one_pass",
        "trainer.devices=2",
        "hydra.run.dir=two",
        "callbacks.progress=null",
        cwd=away,
        site=site,
    )
    assert (away / "two" / "metrics.json").is_file()
