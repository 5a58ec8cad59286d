"""The frames of a clip, from an array in a file or from a folder of pictures."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmm_lightning.errors import InvalidArgumentError, InvalidDataError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def read_frames(path: str) -> NDArray[np.uint8]:
    """All frames of a clip, `(T, H, W, C)` with C = 3 colours or 1 grey, in 0 to 255.

    Args:
        path: an `.npz` or `.npy` file with an array `(T, H, W)` or `(T, H, W, 3)`, of numbers 0
            to 255 or, if none is larger, 0 to 1; or a folder of pictures, taken in the order of
            their names.

    Raises:
        InvalidArgumentError: nothing is there, or something else.
        InvalidDataError: a file that cannot be read, frames of different sizes, fewer than two
            of them, or values out of range.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/clip.npz", frames=np.zeros((5, 12, 16)))
        ...     read_frames(f"{folder}/clip.npz").shape
        (5, 12, 16, 1)
    """
    place = Path(path)
    if place.is_dir():
        frames = of_folder(place)
    elif not place.exists():
        raise InvalidArgumentError(f"{path}: no such file or folder; expected the frames of a clip")
    elif place.suffix.lower() in (".npz", ".npy"):
        frames = in_bytes(of_array(place), path)
    else:
        raise InvalidArgumentError(
            f"{path}: expected an .npz or .npy file with an array (T, H, W) or (T, H, W, 3), or a "
            "folder of pictures"
        )
    if len(frames) < 2:
        raise InvalidDataError(
            f"{path}: {len(frames)} frame(s); a background needs at least 2 to be told from what "
            "moves"
        )
    return frames


def of_array(path: Path) -> NDArray[np.generic]:
    """The array in a file, `(T, H, W, C)`; in an archive the one called `frames`, or the only."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                names = loaded.files
                if "frames" not in names and len(names) != 1:
                    raise InvalidDataError(
                        f"{path}: expected one array, or one called 'frames'; there are: "
                        f"{', '.join(names) or 'none'}"
                    )
                loaded = loaded["frames" if "frames" in names else names[0]]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InvalidDataError):
            raise
        raise InvalidDataError(f"{path} cannot be read: {error}") from error
    if loaded.ndim == 3:
        loaded = loaded[..., None]
    if loaded.ndim != 4 or loaded.shape[-1] not in (1, 3) or 0 in loaded.shape[1:]:
        raise InvalidDataError(
            f"{path}: expected frames of shape (T, H, W) or (T, H, W, 3), got {loaded.shape}"
        )
    return loaded


def in_bytes(values: NDArray[np.generic], path: str) -> NDArray[np.uint8]:
    """Numbers as 0 to 255; where none is above 1 they count as shares of white."""
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    if values.dtype.kind not in "fiub":
        raise InvalidDataError(f"{path}: expected numbers, got an array of dtype {values.dtype}")
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (low >= 0 and high <= 255):
        raise InvalidDataError(
            f"{path}: expected values from 0 to 255, or 0 to 1, and none missing; they go from "
            f"{low:g} to {high:g}"
        )
    unit = 255 if values.dtype.kind in "fb" and high <= 1 else 1
    return np.rint(values.astype(np.float32) * unit).astype(np.uint8)


def of_folder(folder: Path) -> NDArray[np.uint8]:
    """The pictures of a folder by name, `(T, H, W, C)`; those without colour in all are grey.

    Raises:
        InvalidDataError: none, one that cannot be read, or one of another size.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise InvalidDataError(
            f"{folder}: no pictures in it; expected files that end in {', '.join(sorted(SUFFIXES))}"
        )
    frames: list[NDArray[np.uint8]] = []
    for file in files:
        frame = read_picture(file)
        if frames and frame.shape != frames[0].shape:
            first, here = (" x ".join(map(str, each.shape)) for each in (frames[0], frame))
            raise InvalidDataError(
                f"all frames must be of one size: {files[0].name} is {first} (height, width, "
                f"colours), {file.name} is {here}"
            )
        frames.append(frame)
    return np.stack(frames)


def read_picture(file: Path) -> NDArray[np.uint8]:
    """One picture `(H, W, C)` without its transparency.

    Raises:
        InvalidDataError: it cannot be read.
    """
    from matplotlib.image import imread

    try:
        picture = np.asarray(imread(file))
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidDataError(f"{file} cannot be read as a picture: {error}") from error
    if picture.ndim == 2:
        picture = picture[..., None]
    # Grey or colours, with or without a last channel for transparency.
    picture = picture[..., : 3 if picture.shape[-1] >= 3 else 1]
    if picture.dtype.kind == "f":
        return np.rint(255 * picture).astype(np.uint8)
    return in_bytes(picture, str(file))
