"""Labels from the command line: a run with them, its predictions, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.app.command import run as run_command
from gmm_lightning.app.runs import load_run
from gmm_lightning.evidence import labels_of

Typed = Callable[..., str]
KINDS = ("fir", "oak", "yew")
TRAIN = ("data=file", "data.path=trees.csv", "data.label=kind")
TRAIN += ("overwrite=true", "logger=none", "callbacks.progress=null")
CENTRES = torch.tensor([[0.0, 0.0], [5.0, 1.0], [1.0, 6.0]])


def trees(path: Path, *, known: int = 3, seed: int = 0, kinds: tuple[str, ...] = KINDS) -> Path:
    """A table of three kinds, of which every `known`-th row has none."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.arange(90) // 30
    x = CENTRES[which] + torch.randn(90, 2, generator=generator)
    lines = (
        f"{a!r},{b!r},{'' if i % known == 0 else kinds[which[i]]}"
        for i, (a, b) in enumerate(x.tolist())
    )
    path.write_text("height,girth,kind\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def typed(tmp_path: Path, saying: Typed) -> Typed:
    """Run a command in a folder with `trees.csv`; returns what it says."""
    trees(tmp_path / "trees.csv")

    def call(name: str, *words: str) -> str:
        return saying(name, *(TRAIN if name == "train" else ()), *words)

    return call


def metrics() -> dict[str, Any]:
    return json.loads(Path("run/metrics.json").read_text())


def read(name: str) -> Any:
    return np.genfromtxt(name, delimiter=",", names=True, dtype=None, encoding="utf-8")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("data", ["file", "stream"])
def test_a_run_with_labels_is_fit_em_with_them(typed: Typed, data: str) -> None:
    words = ("data.val_fraction=0",) if data == "file" else ("data=stream",)
    said = typed("train", *words, "fit.supervised=true", "data.standardize=false")
    assert "3 components, covariance full, priors none, 3 classes, EM" in said
    module = load_run("run").module
    table = np.genfromtxt("trees.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    x = torch.tensor(np.stack([table["height"], table["girth"]], 1), dtype=torch.float32)
    labels = torch.tensor([KINDS.index(kind) if kind else -1 for kind in table["kind"]])
    layer = GMMLayer(2, 3)
    fit_em(layer, x, labels=labels)
    # Two fits that end within their tol of 1e-5 nats per row, whose curvature is about 1.
    assert torch.allclose(module.layer.means.to(layer.means), layer.means, atol=2e-2)
    found = metrics()
    assert found["accuracy"] > 0.95
    assert found["accuracy"] == pytest.approx(
        float((module.predict_class(x)[labels >= 0] == labels[labels >= 0]).double().mean())
    )
    assert module.data["classes"] == list(KINDS)


@pytest.mark.usefixtures("undrawn")
def test_predictions_name_the_class(typed: Typed, tmp_path: Path) -> None:
    typed("train", "fit.supervised=true", "fit.components_per_class={fir: 1, oak: 1, yew: 2}")
    assert metrics()["num_components"] == 4
    typed("predict", "input=trees.csv", "output=found.csv")
    found, module = read("found.csv"), load_run("run").module
    x = torch.tensor(read("trees.csv")[["height", "girth"]].tolist(), dtype=torch.float32)
    expected = module.predict_class(x)
    assert [KINDS.index(kind) for kind in found["class"]] == expected.tolist()
    shares = np.stack([found[f"class_probability_{c}"] for c in range(3)], 1)
    assert np.allclose(shares, module.class_probabilities(x).detach(), atol=1e-5)
    typed("predict", "input=trees.csv", "output=less.npz", "responsibilities=false")
    with np.load("less.npz") as less:
        assert set(less.files) == {"component", "log_density", "outlier", "class"}
        assert less["class"].tolist() == found["class"].tolist()
    # Other rows, in which another kind stands for one of these, and the order is another one.
    trees(tmp_path / "new.csv", seed=1, kinds=("yew", "oak", "ash"))
    said = typed("evaluate", "data=file", "data.path=new.csv", "data.label=kind")
    # What is called yew here is not the yew of the run, and no ash is known.
    (share,) = re.findall(r"accuracy +([0-9.]+)% of the labelled rows", said)
    assert 25 < float(share) <= 33.4
    assert "fir" in typed("show")


@pytest.mark.usefixtures("undrawn")
def test_a_run_goes_on_with_its_classes(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    typed("train", "evidence=labels", "fit.max_iter=1", "evidence.confidence=0.9")
    typed("show")
    monkeypatch.setattr(sys, "argv", ["train.py", "resume=run", "fit.max_iter=100"])
    run_command("train")
    labels = labels_of(load_run("run").module.layer.evidence)
    assert labels is not None
    assert (labels.confidence, labels.class_of_component) == (0.9, [0, 1, 2])
    assert metrics()["iterations"] > 1


MISTAKES = [
    (("data.label=null", "fit.supervised=true"), "a fit with labels needs a column of them"),
    (
        ("fit.supervised=true", "model.layer.num_components=4"),
        "4 components cannot be divided equally among the 3 classes: give fit.components_per_class",
    ),
    (
        (
            "fit.supervised=true",
            "model.layer.num_components=3",
            "fit.components_per_class=2",
        ),
        "model.layer.num_components=3, and the classes have 6 components: leave it out",
    ),
    (
        ("fit.supervised=true", "fit.components_per_class={fir: 2}"),
        "one for each of the classes fir, oak, yew; got some for fir",
    ),
    (("fit.supervised=true", "fit.components_per_class=0"), "must be an integer >= 1, got 0"),
    (("fit.components_per_class=2",), "are of a fit with labels: fit.supervised=true"),
    (("fit.supervised=perhaps",), "fit.supervised must be true or false, got 'perhaps'"),
    (("evidence=labels", "evidence.confidence=0.3"), "a confidence of 0.3 says nothing of 3"),
    (("fit.supervised=true", "data.unlabeled_weight=-1"), "must be a finite number >= 0, got -1"),
    (("data.label=null", "data.unlabeled_weight=0.5"), "is for data of which some rows have labe"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES)
def test_mistakes_are_one_sentence(
    failing: Callable[..., Any], tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    trees(tmp_path / "trees.csv")
    assert said in failing("hydra.run.dir=run", *TRAIN, *words).message
