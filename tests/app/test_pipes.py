"""Whoever reads what a command prints may leave: the command ends as if nothing had been."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.lightning_runs import AMBIENT, HANG, ROOT


def shell(line: str, cwd: Path) -> tuple[list[int], str]:
    """The exit codes of a line's commands, joined by pipes, and what is printed in the end."""
    environment = {k: v for k, v in os.environ.items() if k not in AMBIENT}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["GMM"] = f"{sys.executable} {ROOT}/scripts"
    environment["CODES"] = str(cwd / "codes.txt")
    done = subprocess.run(
        ["bash", "-c", f'{line}; echo "${{PIPESTATUS[@]}}" > "$CODES"'],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    codes = (cwd / "codes.txt").read_text().split()
    return [int(code) for code in codes], done.stdout + done.stderr


def test_a_reader_who_leaves_ends_nothing(tmp_path: Path) -> None:
    line = "$GMM/train.py --help | head -1"
    codes, said = shell(line, tmp_path)
    assert codes == [0, 0]
    assert said == "Fit a Gaussian mixture to data, by EM or by gradient descent.\n"


TRAIN = "$GMM/train.py data=faithful fit.max_iter=30 fit.tol=0 hydra.run.dir=run"


@pytest.mark.parametrize(
    "end",
    [
        "2>&1 | head -c 300",
        *(
            pytest.param(end, marks=pytest.mark.slow)
            for end in (
                "2>&1 | true",
                "trainer.devices=2 2>&1 | true",
                ">&-",
                "<&- >&- 2>&-",
                "> /dev/full 2>&1",
            )
        ),
    ],
)
def test_a_training_goes_on_to_its_end(tmp_path: Path, end: str) -> None:
    codes, said = shell(f"{TRAIN} {end}", tmp_path)
    assert set(codes) == {0}
    assert "Traceback" not in said
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.splitlines()[-1].endswith(f"checkpoint, metrics and picture: {tmp_path}/run")
    assert (tmp_path / "run" / "metrics.json").is_file()


READ = {
    "show.py": "",
    "evaluate.py": "",
    "predict.py": "input=rows.csv output=labels.csv",
    "sample.py": "output=new.csv",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_a_command_that_reads_ends_quietly(tmp_path: Path, trained: Path, name: str) -> None:
    (tmp_path / "rows.csv").write_bytes((trained.parents[1] / "things.csv").read_bytes())
    line = f"$GMM/{name} run={trained} {READ[name]}"
    for end in ("| head -c 1", "2>&1 | true", ">&-", ">&- 2>&-"):
        codes, said = shell(f"{line} {end}", tmp_path)
        assert set(codes) == {0}, end
        assert len(said) <= 1, said
        for made in tmp_path.glob("*s.csv"):
            assert made.stat().st_size > 100
        for made in ("labels.csv", "new.csv"):
            (tmp_path / made).unlink(missing_ok=True)
    # What is printed is what the command is for: a full disk is an error.
    codes, said = shell(f"{line} > /dev/full", tmp_path)
    assert codes == [1]
    assert said == f"gmm-{name.removesuffix('.py')}: [Errno 28] No space left on device\n"
