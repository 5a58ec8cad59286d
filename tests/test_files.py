"""Files that are complete or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gmm_lightning._files import atomic_write


@pytest.mark.parametrize("unique", [False, True])
def test_a_file_appears_when_the_block_ends(tmp_path: Path, unique: bool) -> None:
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic_write(path, unique=unique) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]
    assert path.read_text() == "whole"


def fail(path: Path, error: type[BaseException], beside: str | None = None) -> None:
    """Write half of a file, and another one in its folder."""
    with atomic_write(path) as partial:
        partial.write_text("half")
        if beside:
            path.with_name(beside).write_text("somebody else's")
        raise error


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    old, new = tmp_path / "a.txt", tmp_path / "new" / "folder" / "a.txt"
    old.write_text("old")
    for path in (old, new):
        with pytest.raises(error):
            fail(path, error)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert old.read_text() == "old"


def test_a_folder_that_others_use_stays(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with pytest.raises(ZeroDivisionError):
        fail(path, ZeroDivisionError, beside="b.txt")
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("unique", [False, True])
def test_a_planted_link_is_not_followed(tmp_path: Path, unique: bool) -> None:
    victim, owner = tmp_path / "victim", f".{os.getpid()}" if unique else ""
    victim.write_text("mine")
    for name in ("a.txt", f"a.txt{owner}.partial"):
        (tmp_path / name).symlink_to(victim)
    with atomic_write(tmp_path / "a.txt", unique=unique) as partial:
        partial.write_text("whole")
    assert victim.read_text() == "mine"
    assert not (tmp_path / "a.txt").is_symlink()
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "victim"]


def test_a_link_without_an_end_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.txt.partial").symlink_to(tmp_path / "elsewhere" / "victim")
    with atomic_write(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_hard_link_keeps_its_content(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a.txt.partial").hardlink_to(victim)
    with atomic_write(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with atomic_write(tmp_path / "a.txt") as partial:
            partial.write_text("whole")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o666 & ~mask


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    (tmp_path / "a.txt.partial").write_text("half")
    with atomic_write(path) as partial:
        partial.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
