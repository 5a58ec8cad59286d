"""Small real data sets in the package.

They are read through :mod:`importlib.resources`, so a wheel or a zipped package serves them as
well as a checkout. Sources and licences are listed in `files/LICENSES.md`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmm_lightning._validation import require_choice


@dataclass(frozen=True, eq=False)
class Dataset:
    """A table of measurements and its description.

    Args:
        name: for :func:`load`.
        x: the measurements `(N, D)` in the dtype of the source: float64 for tables, uint8 for
            small integers. Convert with `torch.as_tensor(dataset.x, dtype=torch.float64)`.
        columns: one name per column of x.
        labels: the class of each row, `(N,)` with values `0 .. len(classes) - 1`, or None.
        classes: the name of each class, or None.
        num_train: the first rows that are customarily trained on; N where there is no such split.
        description: what was measured.
        source: who published it.
        licence: the terms of redistribution.

    Example:
        >>> from gmm_lightning.datasets import load
        >>> penguins = load("penguins")
        >>> penguins.classes
        ('Adelie', 'Chinstrap', 'Gentoo')
        >>> penguins.x[penguins.labels == 2].mean(axis=0).round(1).tolist()
        [47.6, 15.0, 217.2, 5092.4]
    """

    name: str
    x: NDArray[Any] = field(repr=False)
    columns: tuple[str, ...]
    labels: NDArray[np.int64] | None = field(repr=False)
    classes: tuple[str, ...] | None
    num_train: int
    description: str
    source: str
    licence: str


def names() -> tuple[str, ...]:
    """The names that :func:`load` accepts, in alphabetical order.

    Example:
        >>> from gmm_lightning.datasets import names
        >>> names()
        ('faithful', 'letter', 'penguins', 'satellite', 'thyroid_gland')
    """
    return tuple(sorted(_CATALOGUE))


def load(name: str) -> Dataset:
    """A built-in data set, read anew: its arrays belong to the caller.

    Raises:
        InvalidArgumentError: an unknown name; the message lists the known ones.

    Example:
        >>> from gmm_lightning.datasets import load
        >>> faithful = load("faithful")
        >>> faithful.x.shape, faithful.columns
        ((272, 2), ('eruptions', 'waiting'))
    """
    entry = _CATALOGUE[require_choice("built-in data set", name, names())]
    content = files("gmm_lightning.datasets").joinpath("files", entry.file).read_bytes()
    read = _read_npz if entry.file.endswith(".npz") else _read_csv
    x, labels, classes = read(content, entry)
    return Dataset(
        name=name,
        x=x,
        columns=entry.columns,
        labels=labels,
        classes=classes,
        num_train=entry.num_train or len(x),
        description=entry.description,
        source=entry.source,
        licence=entry.licence,
    )


@dataclass(frozen=True)
class _Entry:
    """Metadata that the file does not hold; `label_column` is the text column of classes."""

    file: str
    columns: tuple[str, ...]
    description: str
    source: str
    licence: str
    label_column: str | None = None
    classes: tuple[str, ...] | None = None
    num_train: int | None = None


_Content = tuple[NDArray[Any], NDArray[np.int64] | None, tuple[str, ...] | None]


def _read_csv(content: bytes, entry: _Entry) -> _Content:
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8"))))
    x = np.array([[float(row[column]) for column in entry.columns] for row in rows])
    if entry.label_column is None:
        return x, None, None
    found, codes = np.unique([row[entry.label_column] for row in rows], return_inverse=True)
    return x, codes.astype(np.int64), tuple(found.tolist())


def _read_npz(content: bytes, entry: _Entry) -> _Content:
    # Pickled objects could run code on loading, and plain arrays are all that these files hold.
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        x, labels = arrays["X"], arrays["y"].astype(np.int64)
        classes = entry.classes or tuple(arrays["classes"].tolist())
    return x, labels, classes


_CATALOGUE: Mapping[str, _Entry] = MappingProxyType(
    {
        "faithful": _Entry(
            file="faithful.csv",
            columns=("eruptions", "waiting"),
            description="Old Faithful geyser: length of an eruption and the wait for the next one, "
            "both in minutes.",
            source="R datasets; Azzalini and Bowman 1990",
            licence="measurements, freely redistributed",
        ),
        "penguins": _Entry(
            file="penguins.csv",
            columns=("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"),
            description="Palmer penguins: four body measurements of three species, complete rows.",
            source="palmerpenguins; Horst, Hill and Gorman 2020",
            licence="CC0",
            label_column="species",
        ),
        "thyroid_gland": _Entry(
            file="thyroid_gland.csv",
            columns=("RT3U", "T4", "T3", "TSH", "DTSH"),
            description="Thyroid gland (new-thyroid): five laboratory values and the diagnosis.",
            source="UCI Machine Learning Repository",
            licence="CC BY 4.0",
            label_column="Diagnosis",
        ),
        "satellite": _Entry(
            file="satellite.npz",
            columns=tuple(f"feature_{i}" for i in range(36)),
            description="Statlog Landsat: four spectral bands of each pixel of a 3 x 3 "
            "neighbourhood, and the ground cover of the central pixel.",
            source="UCI Machine Learning Repository, by R mlbench",
            licence="CC BY 4.0",
            num_train=4435,
        ),
        "letter": _Entry(
            file="letter.npz",
            columns=(
                *("x-box", "y-box", "width", "high", "onpix", "x-bar", "y-bar", "x2bar"),
                *("y2bar", "xybar", "x2ybr", "xy2br", "x-ege", "xegvy", "y-ege", "yegvx"),
            ),
            description="Letter recognition: sixteen statistics, scaled to 0 .. 15, of the image "
            "of a printed capital letter.",
            source="UCI Machine Learning Repository, by R mlbench",
            licence="CC BY 4.0",
            classes=tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
            num_train=16000,
        ),
    }
)
