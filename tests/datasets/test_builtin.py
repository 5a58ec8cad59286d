"""The built-in data sets: shapes, values that can be looked up, and how wrong names are refused."""

from __future__ import annotations

import dataclasses
from importlib.resources import files

import numpy as np
import pytest
import torch

from gmm_lightning.datasets import load, names
from gmm_lightning.errors import GMMError

SHAPES = {
    "faithful": (272, 2),
    "letter": (20000, 16),
    "penguins": (333, 4),
    "satellite": (6435, 36),
    "thyroid_gland": (215, 5),
}
CLASS_SIZES = {
    "penguins": {"Adelie": 146, "Chinstrap": 68, "Gentoo": 119},
    "thyroid_gland": {"Hyper": 35, "Hypo": 30, "Normal": 150},
    "satellite": {
        "cotton crop": 703,
        "damp grey soil": 626,
        "grey soil": 1358,
        "red soil": 1533,
        "vegetation stubble": 707,
        "very damp grey soil": 1508,
    },
}


def test_names_are_the_five_sets() -> None:
    assert names() == tuple(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_fields_fit_each_other(name: str) -> None:
    dataset = load(name)
    assert dataset.name == name
    assert dataset.x.shape == SHAPES[name]
    assert dataset.x.dtype == (np.uint8 if name in {"letter", "satellite"} else np.float64)
    assert np.isfinite(dataset.x).all()
    assert len(set(dataset.columns)) == dataset.x.shape[1]
    assert dataset.num_train == {"letter": 16000, "satellite": 4435}.get(name, len(dataset.x))
    assert dataset.description
    assert dataset.source
    assert dataset.licence
    assert torch.as_tensor(dataset.x, dtype=torch.float64).shape == SHAPES[name]


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "faithful"])
def test_labels_index_classes(name: str) -> None:
    dataset = load(name)
    assert dataset.labels is not None
    assert dataset.classes is not None
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.shape == (len(dataset.x),)
    assert np.array_equal(np.unique(dataset.labels), np.arange(len(dataset.classes)))


@pytest.mark.parametrize("name", CLASS_SIZES)
def test_class_sizes(name: str) -> None:
    dataset = load(name)
    assert dataset.labels is not None
    assert dataset.classes is not None
    sizes = dict(zip(dataset.classes, np.bincount(dataset.labels).tolist(), strict=True))
    assert sizes == CLASS_SIZES[name]


def test_faithful_values() -> None:
    faithful = load("faithful")
    assert faithful.labels is None
    assert faithful.classes is None
    assert faithful.x[0].tolist() == [3.6, 79.0]
    # The means of the golden table's one-component fit, equal up to the order of summation.
    np.testing.assert_allclose(faithful.x.mean(axis=0), [3.487783088235294, 70.8970588235294])


def test_first_rows_carry_the_right_class() -> None:
    letter, penguins, thyroid = load("letter"), load("penguins"), load("thyroid_gland")
    assert letter.x[0].tolist() == [2, 8, 3, 5, 1, 8, 13, 0, 6, 6, 10, 8, 0, 8, 0, 8]
    assert _class_of(letter, 0) == "T"
    assert penguins.x[0].tolist() == [39.1, 18.7, 181.0, 3750.0]
    assert _class_of(penguins, 0) == "Adelie"
    assert _class_of(penguins, -1) == "Chinstrap"
    assert thyroid.x[0].tolist() == [107.0, 10.1, 2.2, 0.9, 2.7]
    assert _class_of(thyroid, 0) == "Normal"
    assert _class_of(load("satellite"), 0) == "grey soil"


def test_each_call_gives_arrays_of_its_own() -> None:
    first = load("faithful")
    first.x[:] = 0.0
    assert load("faithful").x[0, 0] == 3.6


def test_a_data_set_is_frozen_and_prints_short() -> None:
    dataset = load("letter")
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset.name = "other"  # type: ignore[misc]
    assert "array" not in repr(dataset)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown .* 'irsi'; known are: faithful, letter") as info:
        load("irsi")
    assert isinstance(info.value, GMMError)


def test_every_file_has_its_licence_line() -> None:
    folder = files("gmm_lightning.datasets").joinpath("files")
    text = folder.joinpath("LICENSES.md").read_text(encoding="utf-8")
    stored = {entry.name for entry in folder.iterdir()} - {"LICENSES.md"}
    assert len(stored) == len(names())
    assert all(f"`{file}`" in text for file in stored)


def _class_of(dataset: object, row: int) -> str:
    return dataset.classes[dataset.labels[row]]  # type: ignore[attr-defined]
