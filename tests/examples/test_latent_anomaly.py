"""Rows of a kind that training never saw: what must hold of a short run, and of a whole one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from support.example_runs import Finished, means

import latent_anomaly
from latent_anomaly import (
    BEFORE,
    ERROR,
    JOINT,
    METHODS,
    RAW,
    RAW_SMOOTH,
    Autoencoder,
    as_tensors,
    auroc,
    split_rows,
)

FIGURES = ["latent_anomaly_digits.png", "latent_anomaly.png"]


def test_a_short_run(finished: Callable[[str], Finished]) -> None:
    report = finished("latent_anomaly").report
    header, *rows = report.tables[0]
    assert list(header) == ["AUROC", "digits", "breast_cancer"]
    assert [row[0] for row in rows] == list(METHODS)
    for name in ("digits", "breast_cancer"):
        areas = means(report, name)
        # The energy includes the error, and is better from the first fit by EM.
        assert min(areas[JOINT], areas[BEFORE]) > areas[ERROR]
        assert areas[JOINT] > 0.95
    assert [path.name for path in report.figures] == FIGURES


def test_the_start_is_the_best_linear_autoencoder() -> None:
    x, classes = as_tensors(load_breast_cancer)
    split = split_rows(x, classes == 0, 0)
    unit = split.train.std(0).mean()
    model = Autoencoder(split.train, 3, 8, 2, beta=1.0, learning_rate=1e-3)
    reference = PCA(3).fit((split.train / unit).double().numpy())
    test = (split.test / unit).double().numpy()
    rebuilt = reference.inverse_transform(reference.transform(test))
    _, error = (part.detach().double() for part in model.encode(split.test))
    # float32 against float64, in errors between 1e-2 and 1e4.
    expected = torch.as_tensor(((test - rebuilt) ** 2).sum(-1))
    torch.testing.assert_close(error, expected, rtol=1e-2, atol=1e-3)
    # The variance in each other direction, over N instead of N - 1.
    rows = len(split.train)
    residual = reference.noise_variance_ * (rows - 1) / rows
    assert float(model.noise) ** 2 == pytest.approx(residual, rel=1e-3)
    # Scores are in [0, 1] and in the order of the errors.
    _, score = model.scores(split.test)
    assert auroc(score, split.unusual) == pytest.approx(
        roc_auc_score(split.unusual, error.numpy()), abs=1e-6
    )


def test_training_sees_no_unusual_row() -> None:
    x, classes = as_tensors(load_digits)
    split = split_rows(x, classes == 3, 1)
    usual, unusual = x[classes != 3], x[classes == 3]
    assert len(split.train) + int((split.unusual == 0).sum()) == len(usual)
    assert torch.equal(split.test[split.unusual == 1], unusual)
    all_usual = torch.cat([split.train, split.test[split.unusual == 0]])
    assert torch.equal(all_usual.sum(0), usual.sum(0))


@pytest.mark.slow
def test_it_beats_its_baselines(tmp_path: Path) -> None:
    report = latent_anomaly.main(["--output", str(tmp_path)])
    for name, lead in (("digits", 0.03), ("breast_cancer", 0.01)):
        areas = means(report, name)
        assert areas[JOINT] > areas[RAW] + lead
        assert areas[JOINT] > areas[ERROR] + lead
        # A floor of the covariances that is set by hand does as well.
        assert areas[JOINT] > areas[RAW_SMOOTH] - 0.01
