"""Read the frames of a video from an array in a file, or from a folder of images."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from matplotlib.image import imread
from numpy.typing import NDArray

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class VideoError(ValueError):
    """Frames that cannot be read or used: one sentence that says what was expected."""


def read_frames(path: str | Path) -> NDArray[np.uint8]:
    """All frames as `(T, H, W, C)`, values 0 to 255, with C = 3 (colour) or C = 1 (grey).

    Args:
        path: an `.npz` or `.npy` file with an array `(T, H, W)` or `(T, H, W, 3)` of integers from
            0 to 255, or floats from 0 to 255 or from 0 to 1; or a folder of images, which are
            sorted by name.

    Raises:
        VideoError: no such file or folder, a file that is not readable, fewer than two frames,
            frames of different sizes, or values out of range.
    """
    path = Path(path)
    if path.is_dir():
        frames = read_folder(path)
    elif not path.exists():
        raise VideoError(f"{path}: no such file or folder; expected the frames of a video")
    elif path.suffix.lower() in (".npz", ".npy"):
        frames = to_uint8(read_array(path), path)
    else:
        raise VideoError(
            f"{path}: expected an .npz or .npy file with an array (T, H, W) or (T, H, W, 3), or a "
            "folder of images; convert a video file to one of them first"
        )
    if len(frames) < 2:
        raise VideoError(f"{path}: expected at least 2 frames, got {len(frames)}")
    return frames


def read_array(path: Path) -> NDArray[np.generic]:
    """The array `(T, H, W, C)` of a file; of an archive the array `frames`, or the only one."""
    try:
        # np.load reads arrays of an archive when they are asked for: all errors occur in here.
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.lib.npyio.NpzFile):
                content = content[array_name(content.files, path)]
    except VideoError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise VideoError(f"{path} cannot be read: {error}") from error
    frames = content[..., None] if content.ndim == 3 else content
    if frames.ndim != 4 or frames.shape[-1] not in (1, 3) or 0 in frames.shape[1:]:
        raise VideoError(
            f"{path}: expected an array of shape (T, H, W) or (T, H, W, 3), got {frames.shape}"
        )
    return frames


def array_name(names: list[str], path: Path) -> str:
    """The name of the array with the frames among those of an archive."""
    if "frames" in names:
        return "frames"
    if len(names) != 1:
        raise VideoError(
            f"{path}: expected one array, or one called 'frames', got: {', '.join(names) or 'none'}"
        )
    return names[0]


def to_uint8(values: NDArray[np.generic], path: Path) -> NDArray[np.uint8]:
    """Values as 0 to 255; floats and booleans that are all at most 1 are multiplied by 255."""
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    if values.dtype.kind not in "fiub":
        raise VideoError(f"{path}: expected numbers, got an array of dtype {values.dtype}")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    # Also true for NaN.
    if not (low >= 0 and high <= 255):
        raise VideoError(
            f"{path}: expected values from 0 to 255, or from 0 to 1, and no NaN; got "
            f"{low:g} to {high:g}"
        )
    scale = 255 if values.dtype.kind in "fb" and high <= 1 else 1
    return np.rint(values.astype(np.float32) * scale).astype(np.uint8)


def read_folder(folder: Path) -> NDArray[np.uint8]:
    """The images of a folder, sorted by name, `(T, H, W, C)`."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise VideoError(
            f"{folder}: no images in it; expected files that end in {', '.join(sorted(SUFFIXES))}"
        )
    frames: list[NDArray[np.uint8]] = []
    for file in files:
        frame = read_image(file)
        if frames and frame.shape != frames[0].shape:
            first, this = (" x ".join(map(str, shape)) for shape in (frames[0].shape, frame.shape))
            raise VideoError(
                f"expected frames of one size (height x width x channels): {files[0].name} is "
                f"{first}, {file.name} is {this}"
            )
        frames.append(frame)
    return np.stack(frames)


def read_image(file: Path) -> NDArray[np.uint8]:
    """One image `(H, W, C)` without its alpha channel."""
    try:
        image = np.asarray(imread(file))
    except (OSError, ValueError, SyntaxError) as error:
        raise VideoError(f"{file} cannot be read as an image: {error}") from error
    if image.ndim == 2:
        image = image[..., None]
    # Grey or colour, with or without a last channel for alpha.
    image = image[..., : 3 if image.shape[-1] >= 3 else 1]
    if image.dtype.kind == "f":
        return np.rint(255 * image).astype(np.uint8)
    return to_uint8(image, file)
