"""Two processes equal one: real gloo processes, started once for all checks."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
import two_processes
from trainers import ROOT, script

from gmm_lightning.training import GMMModule

# Sums over two shards round in another order than over one; a few passes of EM or of Adam carry
# that on. The contract says 1e-9.
TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of both processes: rank0.pt, rank1.pt."""
    out = tmp_path_factory.mktemp("ddp")
    done = script(
        two_processes.__file__,
        str(out),
        cwd=out,
        timeout=120,
        extra=(ROOT / "tests",),
    )
    assert (out / "rank0.pt").exists(), done.stderr
    assert (out / "rank1.pt").exists(), done.stderr
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, two_processes.Result]:
    """The same in one process."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng():
        results = two_processes.run(tmp_path_factory.mktemp("alone"))
    torch.set_default_dtype(before)
    return results


@pytest.mark.parametrize("name", two_processes.CHECKS)
def test_two_processes_equal_one(
    name: str, folder: Path, alone: dict[str, two_processes.Result]
) -> None:
    first = torch.load(folder / "rank0.pt", weights_only=True)[name]
    second = torch.load(folder / "rank1.pt", weights_only=True)[name]
    expected = alone[name]
    assert first.keys() == second.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(first[key], value, rtol=TOLERANCE, atol=TOLERANCE, msg=key)
        # Each process computes the M-step from the same sums: bit for bit.
        assert torch.equal(first[key], second[key]), key
    assert all(bool(torch.isfinite(value).all()) for value in expected.values())


@pytest.mark.parametrize("fit", ["em", "sgd"])
def test_a_checkpoint_of_two_processes_is_read_by_one(folder: Path, fit: str) -> None:
    module = GMMModule.load_from_checkpoint(folder / fit / "last.ckpt")
    stored = torch.load(folder / "rank0.pt", weights_only=True)[f"{fit} resumed"]
    for key, value in module.state_dict().items():
        assert torch.equal(value, stored[key]), key


def test_a_sampler_that_pads_is_refused(folder: Path) -> None:
    message = (folder / "padded.txt").read_text()
    assert "repeats rows" in message
    assert "ArrayDataModule" in message


def test_a_bad_row_of_one_process_ends_both(tmp_path: Path) -> None:
    started = time.monotonic()
    done = script(
        two_processes.__file__,
        *(str(tmp_path), "failing"),
        cwd=tmp_path,
        timeout=60,
        extra=(ROOT / "tests",),
    )
    assert done.returncode != 0
    # Far below the time-out of the group: it does not wait for it.
    assert time.monotonic() - started < 25
    # Which of the two hears first is theirs to settle; the one with the row names it.
    told = "".join(path.read_text() for path in tmp_path.glob("failing*.txt")) + done.stderr
    assert "x1 (1); the first in row 45" in told
    assert "accepted" not in told
