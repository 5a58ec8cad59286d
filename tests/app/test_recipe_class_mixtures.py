"""Mixtures as classifiers: what stands in the table, by simple references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from trainers import ROOT

from gmm_lightning import GMMLayer, MixtureClassifier
from gmm_lightning.app.recipes.account import Account
from gmm_lightning.app.recipes.class_mixtures import (
    Choice,
    Data,
    calibration_error,
    choose,
    class_mixtures,
    fit,
    fit_sklearn,
    open_set,
    read,
    scores,
)
from gmm_lightning.errors import InvalidArgumentError

ONE, PEER = "one Gaussian per class", "scikit-learn"


@pytest.fixture
def ground() -> Data:
    """Some of the satellite's pixels."""
    data = read("satellite")
    return data._replace(
        x=data.x[::4], y=data.y[::4], test_x=data.test_x[::4], test_y=data.test_y[::4]
    )


def cells(account: Account, at: int, table: int = 0) -> dict[str, float]:
    """The means of one column."""
    return {str(row[0]): float(str(row[at]).split()[0]) for row in account.tables[table][1:]}


def check(account: Account, table: int = 0) -> None:
    """What holds for each data set."""
    accuracy = cells(account, 1, table)
    assert accuracy["mixtures"] > accuracy[ONE] + 0.02
    for before, after in ((2, 3), (4, 5)):
        fitted, calibrated = cells(account, before, table), cells(account, after, table)
        assert all(calibrated[name] <= fitted[name] for name in fitted)
    known = cells(account, 6, table)
    assert known["mixtures"] > known[ONE]


def test_mixtures_beat_one_gaussian_per_class(tmp_path: Path) -> None:
    account = Account(tmp_path)
    class_mixtures(account, data="satellite", choices={"diag": 16}, num_seeds=1)
    check(account)
    accuracy = cells(account, 1)
    # The same model from other starts.
    assert accuracy["mixtures"] == pytest.approx(accuracy[PEER], abs=0.03)
    assert [path.name for path in account.pictures] == ["satellite.png"]
    assert account.pictures[0].stat().st_size > 20_000


def test_scikit_learns_mixtures_as_a_batch(ground: Data) -> None:
    classifier, _ = fit_sklearn(ground, Choice("tied", 3, None, 2.0, 0.0), 5)
    expected = []
    for c in range(len(ground.classes)):
        rows = ground.x[ground.y == c].numpy()
        mixture = GaussianMixture(3, covariance_type="tied", random_state=5).fit(rows)
        expected.append(np.log(len(rows) / len(ground.x)) + mixture.score_samples(ground.test_x))
    with torch.no_grad():
        joint = classifier.log_joint(ground.test_x)
    np.testing.assert_allclose(joint, np.stack(expected, -1), rtol=1e-8)
    assert classifier.temperature == 2.0


def test_one_gaussian_is_the_closed_form(ground: Data, generator: torch.Generator) -> None:
    classifier, _ = fit(ground, Choice("full", 1, None, 1.0, 0.0), generator)
    for c in range(len(ground.classes)):
        rows = ground.x[ground.y == c]
        covariance = classifier.layer.covariance_matrix[c, 0]
        torch.testing.assert_close(classifier.layer.means[c, 0], rows.mean(0))
        torch.testing.assert_close(covariance, rows.T.cov(correction=0), rtol=1e-6, atol=1e-8)


def test_the_choice_is_of_the_lowest_loss(ground: Data) -> None:
    seeds = [torch.Generator().manual_seed(3) for _ in range(3)]
    losses = [choose(ground, {"diag": k}, None, 0.3, seeds[i]).loss for i, k in enumerate((1, 4))]
    both = choose(ground, {"diag": [1, 4]}, None, 0.3, seeds[2])
    assert both.num_components == (1, 4)[int(np.argmin(losses))]
    assert str(both).startswith(f"diag, K = {both.num_components} (T = ")


def test_the_score_of_a_class_left_out(generator: torch.Generator) -> None:
    joint = torch.randn(200, 3, generator=generator)
    y = torch.randint(3, (200,), generator=generator)
    surprise = -joint[:, [0, 2]].logsumexp(-1)
    assert float(open_set(joint, y, 1)) == pytest.approx(roc_auc_score(y == 1, surprise), abs=1e-6)


def test_the_calibration_error_of_a_table() -> None:
    # Sure at 0.8 and right in half of the rows; at 0.6 and right in all.
    posterior = torch.tensor([[0.8, 0.2]] * 2 + [[0.4, 0.6]] * 2)
    found = calibration_error(posterior, torch.tensor([0, 1, 1, 1]))
    assert found == pytest.approx(0.5 * 0.3 + 0.5 * 0.4)


def test_scores_of_a_classifier_that_knows_nothing(ground: Data) -> None:
    layer = GMMLayer(36, 1, batch_shape=(6,), dtype=torch.float64)
    same = torch.zeros(6, 1, 36, dtype=torch.float64)
    layer.set_parameters(means=same)
    accuracy, nll, calibrated, error, *_ = scores(MixtureClassifier(layer), ground)
    share = float((ground.test_y == 0).double().mean())
    assert accuracy == pytest.approx(share)
    assert nll == calibrated == pytest.approx(np.log(6))
    # torchmetrics counts in float32.
    assert error == pytest.approx(abs(share - 1 / 6), abs=1e-6)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"data": "faithful"}, "no classes or no test part"),
        ({"data": "penguins"}, "no classes or no test part"),
        ({"choices": {"round": 2}}, "round"),
        ({"choices": {"full": 0}}, "num_components"),
        ({"choices": {}}, "choices"),
    ],
    ids=str,
)
def test_mistakes_are_typed(option: dict[str, Any], said: str, tmp_path: Path) -> None:
    options = {"data": "satellite", "choices": {"diag": 2}} | option
    with pytest.raises(InvalidArgumentError, match=said):
        class_mixtures(Account(tmp_path), **options)


@pytest.mark.slow
def test_it_beats_its_baselines(tmp_path: Path) -> None:
    path = ROOT / "configs" / "recipe" / "class_mixtures.yaml"
    options: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(path))  # pyright: ignore
    del options["_target_"]
    account = Account(tmp_path)
    class_mixtures(account, **options)
    for table in range(2):
        check(account, table)
        accuracy = cells(account, 1, table)
        # The same model from other starts: within what these change.
        assert accuracy["mixtures"] == pytest.approx(accuracy[PEER], abs=0.02)
    letters = cells(account, 1)
    assert letters["mixtures, niw"] > 0.96
