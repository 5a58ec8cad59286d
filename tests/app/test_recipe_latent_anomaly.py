"""Rows of a kind that training never saw: what must hold of a short run, and of a whole one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from trainers import ROOT

from gmm_lightning.app.recipes.account import Account
from gmm_lightning.app.recipes.latent_anomaly import (
    ERROR,
    METHODS,
    OURS,
    SMOOTH,
    START,
    THEIRS,
    Autoencoder,
    area,
    latent_anomaly,
    load_sets,
    split,
)
from gmm_lightning.errors import InvalidArgumentError

PICTURES = ["latent_anomaly_digits.png", "latent_anomaly.png"]


def column(account: Account, at: int) -> dict[str, float]:
    _, *rows = account.tables[0]
    return {str(row[0]): float(str(row[at]).split(" ± ")[0]) for row in rows}


def test_a_short_run(tmp_path: Path) -> None:
    account = Account(tmp_path)
    latent_anomaly(account, epochs=3, num_digits=2, num_seeds=1)
    header, *rows = account.tables[0]
    assert list(header) == ["AUROC", "digits", "breast_cancer"]
    assert [row[0] for row in rows] == list(METHODS)
    for at in (1, 2):
        areas = column(account, at)
        # The energy sees more than the error does, from the hand-over on.
        assert min(areas[OURS], areas[START]) > areas[ERROR]
        assert areas[OURS] > 0.95
    assert [path.name for path in account.pictures] == PICTURES


def test_the_start_is_the_best_linear_autoencoder() -> None:
    x, kinds = load_sets()["breast_cancer"]
    task = split(x, kinds == 0, 0.2, 0)
    unit = task.train.std(0).mean()
    model = Autoencoder(task.train, 3, 8, 2, beta=1.0, learning_rate=1e-3)
    reference = PCA(3).fit((task.train / unit).double().numpy())
    test = (task.test / unit).double().numpy()
    rebuilt = reference.inverse_transform(reference.transform(test))
    _, error = (part.detach().double() for part in model.describe(task.test))
    # float32 against float64, in errors between 1e-2 and 1e4.
    expected = torch.as_tensor(((test - rebuilt) ** 2).sum(-1))
    torch.testing.assert_close(error, expected, rtol=1e-2, atol=1e-3)
    # What is left in each other direction, over N instead of N - 1.
    rows = len(task.train)
    left = reference.noise_variance_ * (rows - 1) / rows
    assert float(model.noise) ** 2 == pytest.approx(left, rel=1e-3)
    # Squeezed into [0, 1], in the same order.
    _, score = model.scores(task.test)
    assert area(score, task.unusual) == pytest.approx(
        roc_auc_score(task.unusual, error.numpy()), abs=1e-6
    )


def test_training_sees_no_unusual_row() -> None:
    x, kinds = load_sets()["digits"]
    task = split(x, kinds == 3, 0.25, 1)
    usual, unusual = x[kinds != 3], x[kinds == 3]
    assert len(task.train) + int((task.unusual == 0).sum()) == len(usual)
    assert torch.equal(task.test[task.unusual == 1], unusual)
    every = torch.cat([task.train, task.test[task.unusual == 0]])
    assert torch.equal(every.sum(0), usual.sum(0))


def test_more_codes_than_features_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="30 features, so a code has at most 29, got 30"):
        latent_anomaly(Account(tmp_path), cancer_codes=30)


@pytest.mark.slow
def test_it_beats_its_baselines(tmp_path: Path) -> None:
    options: dict[str, Any] = OmegaConf.to_container(  # pyright: ignore
        OmegaConf.load(ROOT / "configs" / "recipe" / "latent_anomaly.yaml")
    )
    options.pop("_target_")
    account = Account(tmp_path)
    latent_anomaly(account, **options)
    for at, lead in ((1, 0.03), (2, 0.01)):
        areas = column(account, at)
        assert areas[OURS] > areas[THEIRS] + lead
        assert areas[OURS] > areas[ERROR] + lead
        # A floor that is chosen for scikit-learn by hand comes as far.
        assert areas[OURS] > areas[SMOOTH] - 0.01
