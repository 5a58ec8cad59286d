"""Clips from files: every kind that is read, and every mistake in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imsave

from gmm_lightning.app.frames import read_frames
from gmm_lightning.errors import GMMError, InvalidArgumentError, InvalidDataError

CLIP = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["clip.npz", "clip.npy"])
@pytest.mark.parametrize(
    "change",
    [
        lambda clip: clip,
        lambda clip: clip.astype(np.int64),
        lambda clip: clip.astype(np.float32),
        lambda clip: clip / 255,
    ],
    ids=["bytes", "integers", "floats", "shares"],
)
def test_arrays_become_bytes(
    name: str, change: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / name
    if path.suffix == ".npz":
        np.savez_compressed(path, frames=change(CLIP), times=np.arange(4))
    else:
        np.save(path, change(CLIP))
    frames = read_frames(str(path))
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, CLIP)


def test_grey_frames_have_one_colour(tmp_path: Path) -> None:
    np.savez(tmp_path / "clip.npz", anything=CLIP[..., 0])
    np.testing.assert_array_equal(read_frames(str(tmp_path / "clip.npz")), CLIP[..., :1])
    np.savez(tmp_path / "mask.npz", CLIP[..., 0] > 128)
    assert set(read_frames(str(tmp_path / "mask.npz")).flat) == {0, 255}


def test_a_folder_is_read_by_name(tmp_path: Path) -> None:
    for number in (2, 0, 3, 1):
        imsave(tmp_path / f"frame{number}.png", CLIP[number])
    (tmp_path / "notes.txt").write_text("not a picture")
    # Without loss, transparency aside.
    np.testing.assert_array_equal(read_frames(str(tmp_path)), CLIP)


def test_pictures_of_the_usual_kinds_are_read(tmp_path: Path) -> None:
    flat = np.full((6, 5, 3), 100, np.uint8)
    for name in ("a.jpg", "b.JPEG", "c.tif", "d.bmp", "e.webp"):
        pytest.importorskip("PIL.Image").fromarray(flat).save(tmp_path / name)
    frames = read_frames(str(tmp_path))
    assert frames.shape == (5, 6, 5, 3)
    assert np.abs(frames.astype(int) - 100).max() <= 2


def empty_folder(path: Path) -> None:
    path.mkdir()


def two_sizes(path: Path) -> None:
    path.mkdir()
    imsave(path / "a.png", CLIP[0])
    imsave(path / "b.png", CLIP[0, :5])


def one_picture(path: Path) -> None:
    path.mkdir()
    imsave(path / "a.png", CLIP[0])


def broken_picture(path: Path) -> None:
    path.mkdir()
    imsave(path / "a.png", CLIP[0])
    (path / "b.png").write_bytes(b"no picture")


def cut_picture(path: Path) -> None:
    path.mkdir()
    imsave(path / "a.png", np.repeat(CLIP[0], 40, 0))
    (path / "b.png").write_bytes((path / "a.png").read_bytes()[:200])


def saved(**arrays: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]


MISTAKES: dict[str, tuple[str, Callable[[Path], object], type[GMMError], str]] = {
    "absent": ("clip.npz", lambda _: None, InvalidArgumentError, "no such file or folder"),
    "video": ("clip.mp4", lambda p: p.write_bytes(b"x"), InvalidArgumentError, "expected an .npz"),
    "empty folder": ("clip", empty_folder, InvalidDataError, "no pictures in it"),
    "two sizes": ("clip", two_sizes, InvalidDataError, "a.png is 6 x 5 x 3 .*b.png is 5 x 5 x 3"),
    "one picture": ("clip", one_picture, InvalidDataError, "1 frame"),
    "no picture": ("clip", broken_picture, InvalidDataError, "b.png cannot be read as a picture"),
    "cut picture": ("clip", cut_picture, InvalidDataError, "b.png cannot be read as a picture"),
    "no archive": ("clip.npz", lambda p: p.write_bytes(b"PK"), InvalidDataError, "cannot be read"),
    "empty file": ("clip.npy", lambda p: p.touch(), InvalidDataError, "cannot be read"),
    "objects": (
        "clip.npz",
        saved(frames=np.array([None, 1], dtype=object)),
        InvalidDataError,
        "cannot be read",
    ),
    "no array": ("clip.npz", saved(), InvalidDataError, "there are: none"),
    "which": ("clip.npz", saved(a=CLIP, b=CLIP), InvalidDataError, "there are: a, b"),
    "no frames": ("clip.npz", saved(frames=CLIP[:0]), InvalidDataError, "0 frame"),
    "one frame": ("clip.npz", saved(frames=CLIP[:1]), InvalidDataError, "1 frame"),
    "one image": ("clip.npz", saved(frames=CLIP[0, 0]), InvalidDataError, r"got \(5, 3\)"),
    "four colours": (
        "clip.npz",
        saved(frames=np.zeros((4, 6, 5, 4))),
        InvalidDataError,
        r"got \(4, 6, 5, 4\)",
    ),
    "no pixels": ("clip.npz", saved(frames=CLIP[:, :0]), InvalidDataError, r"got \(4, 0, 5, 3\)"),
    "words": ("clip.npz", saved(frames=CLIP.astype(str)), InvalidDataError, "expected numbers"),
    "negative": ("clip.npz", saved(frames=CLIP - 1.0), InvalidDataError, "go from -1 to"),
    "too large": ("clip.npz", saved(frames=CLIP * 257.0), InvalidDataError, "go from 0 to"),
    "missing": ("clip.npz", saved(frames=CLIP * np.nan), InvalidDataError, "none missing"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_typed(case: str, tmp_path: Path) -> None:
    name, make, error, said = MISTAKES[case]
    make(tmp_path / name)
    with pytest.raises(error, match=said):
        read_frames(str(tmp_path / name))
