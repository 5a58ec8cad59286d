"""Files that are complete or not there."""

from __future__ import annotations

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


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    (tmp_path / "a.txt.partial").write_text("half")
    with atomic_write(path) as partial:
        partial.write_text("whole")
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
