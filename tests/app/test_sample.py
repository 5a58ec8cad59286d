"""`gmm-sample`: draws in the user's units, and pictures of them."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from support.csv_run import COLUMNS, Plain, Rows
from support.lightning_runs import fitted

from gmm_lightning.app import drawing
from gmm_lightning.app.sample import sample

Asked = Callable[..., DictConfig]
Failing = Callable[..., Any]


def drawn(path: Path) -> tuple[Rows, Rows]:
    """Components and rows of a file."""
    with path.open() as file:
        head, *rows = list(csv.reader(file))
    assert head == ["component", *COLUMNS]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
    return table[:, 0], table[:, 1:]


def assert_moments(x: Rows, mean: Rows, covariance: Rows, sigmas: float = 5.0) -> None:
    """Mean and covariance within so many standard errors, in units of each column."""
    n, unit = len(x), np.sqrt(np.diagonal(covariance))
    z = (x - mean) / unit
    np.testing.assert_allclose(z.mean(0), 0, atol=sigmas / math.sqrt(n))
    products = z[:, :, None] * z[:, None, :]
    error = products.std(0) / math.sqrt(n)
    difference = products.mean(0) - covariance / np.outer(unit, unit)
    assert (np.abs(difference) <= sigmas * error).all(), (difference, error)


def moments(plain: Plain) -> tuple[Rows, Rows]:
    mean = plain.weights @ plain.means
    centred = plain.means - mean
    second = plain.covariances + centred[:, :, None] * centred[:, None, :]
    return mean, np.einsum("k,kij->ij", plain.weights, second)


def test_draws_have_the_moments_of_the_mixture(trained: Path, asked: Asked, tmp_path: Path) -> None:
    sample(asked("sample", f"run={trained}", "n=20000", f"output={tmp_path}/s.csv"))
    z, x = drawn(tmp_path / "s.csv")
    plain = Plain.read(trained)
    assert_moments(x, *moments(plain))
    for k, weight in enumerate(plain.weights):
        share = (z == k).mean()
        assert share == pytest.approx(weight, abs=5 * math.sqrt(weight * (1 - weight) / 20000))
        # The component that is named is the one that it was drawn from.
        assert_moments(x[z == k], plain.means[k], plain.covariances[k])


def test_one_component(trained: Path, asked: Asked, tmp_path: Path) -> None:
    plain = Plain.read(trained)
    for k in range(3):
        path = tmp_path / f"{k}.csv"
        sample(asked("sample", f"run={trained}", "n=5000", f"component={k}", f"output={path}"))
        z, x = drawn(path)
        assert (z == k).all()
        assert_moments(x, plain.means[k], plain.covariances[k])


@pytest.mark.parametrize("temperature", [0.25, 4.0])
def test_temperature_scales_the_spread(
    trained: Path, asked: Asked, tmp_path: Path, temperature: float
) -> None:
    plain, path = Plain.read(trained), tmp_path / "s.csv"
    given = (f"run={trained}", "n=5000", "component=1", f"output={path}")
    sample(asked("sample", *given, f"temperature={temperature}"))
    # The temperature multiplies covariances, as documented of MixtureOfGaussians.sample.
    assert_moments(drawn(path)[1], plain.means[1], temperature * plain.covariances[1])


def test_the_seed_decides(
    trained: Path, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several blocks, the last of them short.
    monkeypatch.setattr(drawing, "_BLOCK", 64)
    texts = []
    for i, seed in enumerate((3, 3, 4)):
        torch.manual_seed(i)
        path = tmp_path / f"{i}.csv"
        sample(asked("sample", f"run={trained}", "n=150", f"seed={seed}", f"output={path}"))
        texts.append(path.read_text())
    assert texts[0] == texts[1] != texts[2]
    _, x = drawn(tmp_path / "0.csv")
    # Blocks follow one another: no row comes twice.
    assert len(np.unique(x, axis=0)) == len(x) == 150


@pytest.mark.parametrize("suffix", ["csv", "npz"])
def test_no_rows_are_an_empty_table(
    trained: Path, asked: Asked, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"none.{suffix}"
    sample(asked("sample", f"run={trained}", "n=0", f"output={path}"))
    if suffix == "csv":
        assert path.read_text() == "component,mass,width,temp\n"
        return
    with np.load(path) as arrays:
        assert {name: arrays[name].shape for name in arrays} == {
            name: (0,) for name in ("component", *COLUMNS)
        }


def test_an_npz_holds_the_same(trained: Path, asked: Asked, tmp_path: Path) -> None:
    for suffix in ("csv", "npz"):
        sample(asked("sample", f"run={trained}", "n=50", f"output={tmp_path}/s.{suffix}"))
    z, x = drawn(tmp_path / "s.csv")
    with np.load(tmp_path / "s.npz") as arrays:
        assert arrays["component"].dtype.kind == "i"
        np.testing.assert_array_equal(arrays["component"], z)
        np.testing.assert_array_equal(np.column_stack([arrays[c] for c in COLUMNS]), x)


def width(path: Path) -> int:
    """The width that a .png file states."""
    head = path.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    return int.from_bytes(head[16:20], "big")


@pytest.mark.parametrize("features", [1, 2, 5])
@pytest.mark.parametrize("n", [0, 1, 300])
def test_pictures_of_any_width(asked: Asked, tmp_path: Path, features: int, n: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, features, generator=generator) * 10.0 ** torch.arange(features)
    _, run = fitted(x, max_epochs=1, data={"standardize": True})
    run.save_checkpoint(tmp_path / "a.ckpt")
    picture = tmp_path / "new" / "a.png"
    sample(asked("sample", f"run={tmp_path}/a.ckpt", f"n={n}", f"picture={picture}"))
    assert width(picture) > 300


def test_a_picture_shows_the_rows(trained: Path, asked: Asked, tmp_path: Path) -> None:
    for n in (5, 500):
        sample(asked("sample", f"run={trained}", f"n={n}", f"picture={tmp_path}/{n}.svg"))
    few, many = ((tmp_path / f"{n}.svg").read_text() for n in (5, 500))
    # Each row is a mark of its own.
    assert many.count("<use ") - few.count("<use ") >= 400


def test_outputs_are_never_overwritten_unasked(
    trained: Path, asked: Asked, failing: Failing, tmp_path: Path
) -> None:
    for key, name in (("output", "s.csv"), ("picture", "s.png")):
        path = tmp_path / name
        path.write_text("mine")
        failure = failing(f"run={trained}", f"{key}={name}", name="sample")
        assert f"{name} exists; choose another name" in failure.message
        failure = failing(f"run={trained}", f"{key}={name}", "overwrite=nope", name="sample")
        assert "overwrite must be true or false" in failure.message
        assert path.read_text() == "mine"
        sample(asked("sample", f"run={trained}", "n=5", f"{key}={path}", "overwrite=true"))
        assert path.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("output=null", "say where to: output=new.csv, or picture=new.png"),
        ("output=a.xlsx", "a.xlsx: expected a name that ends in .csv"),
        ("picture=a.xyz", "a.xyz: expected a name that ends in .png, .pdf or .svg"),
        ("n=-1", "n must be an integer >= 0, got -1"),
        ("n=abc", "n must be an integer >= 0, got 'abc'"),
        ("n=2.5", "n must be an integer >= 0, got 2.5"),
        ("n=true", "n must be an integer >= 0, got True"),
        ("component=3", "component must be in [0, 3), got 3"),
        ("component=-1", "component must be an integer >= 0, got -1"),
        ("component=abc", "component must be an integer >= 0, got 'abc'"),
        ("temperature=0", "temperature must be a finite number > 0, got 0"),
        ("temperature=-1", "temperature must be a finite number > 0, got -1"),
        ("temperature=abc", "temperature must be a finite number > 0, got 'abc'"),
        ("seed=abc", "seed must be an integer >= 0, got 'abc'"),
        ("seed=-1", "seed must be an integer >= 0, got -1"),
        ("seed=1.5", "seed must be an integer >= 0, got 1.5"),
    ],
)
def test_mistakes(
    refused: Callable[..., str], trained: Path, tmp_path: Path, words: str, said: str
) -> None:
    given = {"output": "s.csv"} | dict([words.split("=")])
    arguments = [f"{key}={value}" for key, value in given.items()]
    assert said in refused("sample", f"run={trained}", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_is_one_sentence(failing: Failing, trained: Path, tmp_path: Path) -> None:
    failure = failing(f"run={trained}", "output=s.csv", "component=3", name="sample")
    assert failure.code == 1
    assert failure.message == "gmm-sample: component must be in [0, 3), got 3"
    assert list(tmp_path.iterdir()) == []
