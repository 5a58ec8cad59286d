"""Agreement with labels: the scores of scikit-learn, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch

from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.metrics import LabelAgreement, label_agreement

SCORES = ("adjusted_rand_score", "normalized_mutual_info_score")
SOURCE = np.random.default_rng(0)
PARTITIONS = {
    "independent": (SOURCE.integers(4, size=200), SOURCE.integers(5, size=200)),
    "equal": (np.repeat([0, 1, 2], 50), np.repeat([1, 0, 3], 50)),
    "one class, one component": (np.zeros(9, int), np.zeros(9, int)),
    "one class": (np.zeros(9, int), np.arange(9) % 5),
    "a row each": (np.arange(5), np.arange(5)),
    "one row": (np.array([3]), np.array([1])),
}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("name", PARTITIONS)
def test_scores_are_those_of_scikit_learn(name: str, score: str) -> None:
    labels, components = PARTITIONS[name]
    metric = LabelAgreement(5, 5, score)
    for part in np.array_split(np.arange(len(labels)), min(3, len(labels))):
        metric.update(torch.eye(5)[components[part]], torch.from_numpy(labels[part]))
    expected = getattr(sklearn.metrics, score)(labels, components)
    # Sums of at most 200 terms of order 1.
    assert metric.compute().item() == pytest.approx(expected, abs=1e-12)
    counts = sklearn.metrics.cluster.contingency_matrix(labels, components)
    found = label_agreement(torch.from_numpy(counts), score)
    assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_no_rows_have_no_score(score: str) -> None:
    metric = LabelAgreement(2, 3, score)
    metric.update(torch.empty(0, 3), torch.empty(0))
    assert metric.compute().isnan()
    assert label_agreement(torch.zeros(0, 3), score).isnan()


def test_the_label_of_a_row_without_weight_does_not_count() -> None:
    metric = LabelAgreement(2, 2)
    labels, weight = torch.tensor([0, 1, -1, 7]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    metric.update(torch.eye(2).repeat(2, 1), labels, weight)
    assert metric.pair_weights.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        ([0, 2], InvalidDataError, r"labels are not classes 0 .. 1 in rows 1"),
        ([-1, 0], InvalidDataError, "in rows 0"),
        ([0.5, 1.0], InvalidDataError, "in rows 0"),
        ([float("nan"), 1.0], InvalidDataError, "in rows 0"),
        ([0, 1, 1], InvalidArgumentError, r"\(\*S, 3\) and labels \(\*S,\), got .* and \(3,\)"),
    ],
)
def test_refuses_labels(labels: list[Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        LabelAgreement(2, 3).update(torch.eye(3)[:2], torch.tensor(labels))
    with pytest.raises(InvalidArgumentError, match="labels as a tensor of real numbers, got list"):
        LabelAgreement(2, 3).update(torch.eye(3)[:2], labels)  # type: ignore[arg-type]
