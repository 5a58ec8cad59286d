"""Videos from files: every kind that is read, and every mistake in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imsave

from video_frames import VideoError, read_frames

VIDEO = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["video.npz", "video.npy"])
@pytest.mark.parametrize(
    "change",
    [
        lambda video: video,
        lambda video: video.astype(np.int64),
        lambda video: video.astype(np.float32),
        lambda video: video / 255,
    ],
    ids=["bytes", "integers", "floats", "shares"],
)
def test_arrays_become_bytes(
    name: str, change: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / name
    if path.suffix == ".npz":
        np.savez_compressed(path, frames=change(VIDEO), times=np.arange(4))
    else:
        np.save(path, change(VIDEO))
    frames = read_frames(str(path))
    assert frames.dtype == np.uint8
    np.testing.assert_array_equal(frames, VIDEO)


def test_grey_frames_have_one_colour(tmp_path: Path) -> None:
    np.savez(tmp_path / "video.npz", anything=VIDEO[..., 0])
    np.testing.assert_array_equal(read_frames(str(tmp_path / "video.npz")), VIDEO[..., :1])
    np.savez(tmp_path / "mask.npz", VIDEO[..., 0] > 128)
    assert set(read_frames(str(tmp_path / "mask.npz")).flat) == {0, 255}


def test_a_folder_is_read_by_name(tmp_path: Path) -> None:
    for number in (2, 0, 3, 1):
        imsave(tmp_path / f"frame{number}.png", VIDEO[number])
    (tmp_path / "notes.txt").write_text("not an image")
    # Without loss, transparency aside.
    np.testing.assert_array_equal(read_frames(str(tmp_path)), VIDEO)


def test_images_of_the_usual_kinds_are_read(tmp_path: Path) -> None:
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
    imsave(path / "a.png", VIDEO[0])
    imsave(path / "b.png", VIDEO[0, :5])


def one_image(path: Path) -> None:
    path.mkdir()
    imsave(path / "a.png", VIDEO[0])


def broken_image(path: Path) -> None:
    path.mkdir()
    imsave(path / "a.png", VIDEO[0])
    (path / "b.png").write_bytes(b"no image")


def cut_image(path: Path) -> None:
    path.mkdir()
    imsave(path / "a.png", np.repeat(VIDEO[0], 40, 0))
    (path / "b.png").write_bytes((path / "a.png").read_bytes()[:200])


def saved(**arrays: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]


MISTAKES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "absent": ("video.npz", lambda _: None, "no such file or folder"),
    "video": ("video.mp4", lambda p: p.write_bytes(b"x"), "expected an .npz"),
    "empty folder": ("video", empty_folder, "no images in it"),
    "two sizes": ("video", two_sizes, "a.png is 6 x 5 x 3, b.png is 5 x 5 x 3"),
    "one image of a folder": ("video", one_image, "expected at least 2 frames, got 1"),
    "no image": ("video", broken_image, "b.png cannot be read as an image"),
    "cut image": ("video", cut_image, "b.png cannot be read as an image"),
    "no archive": ("video.npz", lambda p: p.write_bytes(b"PK"), "cannot be read"),
    "empty file": ("video.npy", lambda p: p.touch(), "cannot be read"),
    "objects": (
        "video.npz",
        saved(frames=np.array([None, 1], dtype=object)),
        "cannot be read",
    ),
    "no array": ("video.npz", saved(), "got: none"),
    "which": ("video.npz", saved(a=VIDEO, b=VIDEO), "got: a, b"),
    "no frames": ("video.npz", saved(frames=VIDEO[:0]), "expected at least 2 frames, got 0"),
    "one frame": ("video.npz", saved(frames=VIDEO[:1]), "expected at least 2 frames, got 1"),
    "one image": ("video.npz", saved(frames=VIDEO[0, 0]), r"got \(5, 3\)"),
    "four colours": (
        "video.npz",
        saved(frames=np.zeros((4, 6, 5, 4))),
        r"got \(4, 6, 5, 4\)",
    ),
    "no pixels": ("video.npz", saved(frames=VIDEO[:, :0]), r"got \(4, 0, 5, 3\)"),
    "words": ("video.npz", saved(frames=VIDEO.astype(str)), "expected numbers"),
    "negative": ("video.npz", saved(frames=VIDEO - 1.0), "got -1 to"),
    "too large": ("video.npz", saved(frames=VIDEO * 257.0), "got 0 to"),
    "missing": ("video.npz", saved(frames=VIDEO * np.nan), "no NaN; got nan to nan"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_sentence(case: str, tmp_path: Path) -> None:
    name, make, said = MISTAKES[case]
    make(tmp_path / name)
    with pytest.raises(VideoError, match=said):
        read_frames(str(tmp_path / name))
