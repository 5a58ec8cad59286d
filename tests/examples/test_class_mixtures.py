"""Mixtures as classifiers: the numbers of the table against simple references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from support.example_runs import Finished, means

import class_mixtures
from class_mixtures import (
    Data,
    Model,
    calibration_error,
    choose,
    evaluate,
    fit,
    fit_sklearn,
    open_set_auc,
    read,
)
from gmm_lightning import GMMLayer, MixtureClassifier
from reporting import Reporter

GAUSSIAN, SKLEARN = "one Gaussian per class", "scikit-learn"


@pytest.fixture(scope="module")
def satellite() -> Data:
    """A quarter of the satellite's pixels."""
    data = read("satellite")
    return data._replace(
        x=data.x[::4], y=data.y[::4], test_x=data.test_x[::4], test_y=data.test_y[::4]
    )


def check(report: Reporter, table: int = 0) -> None:
    """What holds for each data set."""
    accuracy = means(report, "accuracy", table)
    assert accuracy["mixtures"] > accuracy[GAUSSIAN] + 0.02
    # Loss and calibration error, each before and after calibration.
    for before, after in ((2, 3), (4, 5)):
        fitted, calibrated = means(report, before, table), means(report, after, table)
        assert all(calibrated[name] <= fitted[name] for name in fitted)
    auc = means(report, "open set", table)
    assert auc["mixtures"] > auc[GAUSSIAN]


def test_mixtures_beat_one_gaussian_per_class(finished: Callable[[str], Finished]) -> None:
    report = finished("class_mixtures").report
    check(report)
    accuracy = means(report, "accuracy")
    # The same model from other starts.
    assert accuracy["mixtures"] == pytest.approx(accuracy[SKLEARN], abs=0.03)
    assert [path.name for path in report.figures] == ["satellite.png"]


def test_mixtures_of_scikit_learn_become_one_batch(satellite: Data) -> None:
    classifier, _ = fit_sklearn(satellite, Model("tied", 3, temperature=2.0), 5)
    expected = []
    for c in range(len(satellite.classes)):
        rows = satellite.x[satellite.y == c].numpy()
        mixture = GaussianMixture(3, covariance_type="tied", random_state=5).fit(rows)
        log_prior = np.log(len(rows) / len(satellite.x))
        expected.append(log_prior + mixture.score_samples(satellite.test_x))
    with torch.no_grad():
        log_joint = classifier.log_joint(satellite.test_x)
    np.testing.assert_allclose(log_joint, np.stack(expected, -1), rtol=1e-8)
    assert classifier.temperature == 2.0


def test_one_gaussian_is_the_closed_form(satellite: Data, generator: torch.Generator) -> None:
    classifier, _ = fit(satellite, Model("full", 1), generator)
    for c in range(len(satellite.classes)):
        rows = satellite.x[satellite.y == c]
        covariance = classifier.layer.covariance_matrix[c, 0]
        torch.testing.assert_close(classifier.layer.means[c, 0], rows.mean(0))
        torch.testing.assert_close(covariance, rows.T.cov(correction=0), rtol=1e-6, atol=1e-8)


def test_the_model_with_the_lowest_loss_is_chosen(satellite: Data) -> None:
    generators = [torch.Generator().manual_seed(3) for _ in range(3)]
    losses = [
        choose(satellite, {"diag": (k,)}, None, generators[i]).loss for i, k in enumerate((1, 4))
    ]
    best = choose(satellite, {"diag": (1, 4)}, None, generators[2])
    assert best.num_components == (1, 4)[int(np.argmin(losses))]
    assert str(best).startswith(f"diag, K = {best.num_components} (T = ")


def test_the_score_of_a_class_left_out(generator: torch.Generator) -> None:
    log_joint = torch.randn(200, 3, generator=generator)
    y = torch.randint(3, (200,), generator=generator)
    surprise = -log_joint[:, [0, 2]].logsumexp(-1)
    expected = roc_auc_score(y == 1, surprise)
    # torchmetrics counts in float32.
    assert open_set_auc(log_joint, y, 1) == pytest.approx(expected, abs=1e-6)


def test_the_calibration_error_of_a_table() -> None:
    # Confidence 0.8 and half of the rows right; confidence 0.6 and all right.
    posterior = torch.tensor([[0.8, 0.2]] * 2 + [[0.4, 0.6]] * 2)
    found = calibration_error(posterior, torch.tensor([0, 1, 1, 1]))
    assert found == pytest.approx(0.5 * 0.3 + 0.5 * 0.4)


def test_scores_of_a_classifier_with_equal_classes(satellite: Data) -> None:
    layer = GMMLayer(36, 1, batch_shape=(6,), dtype=torch.float64)
    layer.set_parameters(means=torch.zeros(6, 1, 36, dtype=torch.float64))
    accuracy, nll, calibrated, error, *_ = evaluate(MixtureClassifier(layer), satellite)
    share = float((satellite.test_y == 0).double().mean())
    assert accuracy == pytest.approx(share)
    assert nll == calibrated == pytest.approx(np.log(6))
    # torchmetrics counts in float32.
    assert error == pytest.approx(abs(share - 1 / 6), abs=1e-6)


@pytest.mark.slow
def test_it_beats_its_baselines(tmp_path: Path) -> None:
    report = class_mixtures.main(["--output", str(tmp_path)])
    for table in range(2):
        check(report, table)
        accuracy = means(report, "accuracy", table)
        # The same model from other starts: within what these change.
        assert accuracy["mixtures"] == pytest.approx(accuracy[SKLEARN], abs=0.02)
    assert means(report, "accuracy")["mixtures, niw"] > 0.96
