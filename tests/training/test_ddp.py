"""Two processes equal one: real gloo processes, started once for all checks."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from support import two_process_fits
from support.lightning_runs import ROOT, script

from gmm_lightning.training import GMMModule

# Sums over two shards round in another order than over one, by about 1e-14; a pass of EM or of Adam
# carries that on, up to tenfold, and there are four at most.
TOLERANCE = 1e-9


# All of it takes about 15 s of computing, half of it imports; where many other things run that is
# several times as long, and no failure. The group waits longer still (see
# `lightning_runs.trainer`), so a process that only ends by its time-out does not end here at all.
LIMIT = 600


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CompletedProcess[str]]:
    """The folder that both processes wrote to, and how they ended."""
    out = tmp_path_factory.mktemp("ddp")
    program, extra = two_process_fits.__file__, (ROOT / "tests",)
    return out, script(program, str(out), cwd=out, timeout=LIMIT, extra=extra)


@pytest.fixture(scope="module")
def folder(ended: tuple[Path, CompletedProcess[str]]) -> Path:
    """Results of both processes: rank0.pt, rank1.pt."""
    out, done = ended
    assert (out / "rank0.pt").exists(), done.stderr
    assert (out / "rank1.pt").exists(), done.stderr
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, two_process_fits.Result]:
    """The same in one process."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng():
        results = two_process_fits.run(tmp_path_factory.mktemp("alone"))
    torch.set_default_dtype(before)
    return results


@pytest.mark.parametrize("name", two_process_fits.CHECKS)
def test_two_processes_equal_one(
    name: str, folder: Path, alone: dict[str, two_process_fits.Result]
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


def test_a_bad_row_of_one_process_ends_both(
    folder: Path, ended: tuple[Path, CompletedProcess[str]]
) -> None:
    # That they ended at all says that none waited for the time-out of the group.
    _, done = ended
    assert done.returncode != 0
    # Which of the two hears first is theirs to settle; the one with the row names it.
    told = "".join(path.read_text() for path in folder.glob("failing*.txt")) + done.stderr
    assert "x1 (1); the first in row 45" in told
    assert "accepted" not in told
