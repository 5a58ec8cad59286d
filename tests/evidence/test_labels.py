"""What labels say of rows: known, unknown, soft, doubtful ones, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gmm_lightning import GMMLayer, e_step
from gmm_lightning.errors import GMMError, InvalidArgumentError, InvalidDataError
from gmm_lightning.evidence import EvidenceSum, Labels, labels_of
from gmm_lightning.rows import Batch

pytestmark = pytest.mark.usefixtures("double")

# Two components of class 0, one of class 1, two of class 2, not in order.
CLASSES = [0, 2, 1, 0, 2]


def terms(evidence: Labels, labels: Any) -> Tensor:
    labels = torch.as_tensor(labels)
    return evidence(Batch(torch.zeros(len(labels), 2), labels=labels))


@pytest.mark.parametrize("confidence", [1.0, 0.7])
def test_a_label_is_right_with_its_confidence(confidence: float) -> None:
    found = terms(Labels(CLASSES, confidence), [0, 1, 2, -1])
    for row, label in enumerate([0, 1, 2]):
        for component, own in enumerate(CLASSES):
            expected = confidence if own == label else (1 - confidence) / 2
            assert found[row, component].exp().item() == pytest.approx(expected, abs=1e-15)
    assert found[3].tolist() == [0.0] * 5


@pytest.mark.parametrize("confidence", [1.0, 0.7])
def test_a_soft_label_is_the_average_of_what_its_classes_say(confidence: float) -> None:
    """Summed over which class was seen, by a loop."""
    evidence, seen = Labels(CLASSES, confidence), torch.tensor([0.4, 0.1, 0.2])
    found = terms(evidence, torch.stack([seen, 5 * seen]))
    for component, own in enumerate(CLASSES):
        expected = sum(
            float(share / seen.max()) * (confidence if own == c else (1 - confidence) / 2)
            for c, share in enumerate(seen)
        )
        # The factor of a row has no effect.
        assert found[:, component].exp().tolist() == pytest.approx([expected] * 2, rel=1e-14)
    # A 1 among zeros is a label.
    assert torch.equal(terms(evidence, torch.eye(3)), terms(evidence, [0, 1, 2]))


@pytest.mark.parametrize("row", [[0.0] * 3, [math.nan] * 3, [1 / 3] * 3, [4.0] * 3])
def test_soft_labels_that_are_equal_say_nothing(row: list[float]) -> None:
    for confidence in (1.0, 0.7):
        evidence = Labels(CLASSES, confidence)
        batch = Batch(torch.zeros(1, 2), labels=torch.tensor([row]))
        assert evidence(batch).tolist() == [[0.0] * 5]
        assert evidence.log_noise(batch).tolist() == [0.0]
        assert evidence.most_likely(torch.tensor([row])).tolist() == [-1]


def test_labels_may_be_of_any_kind_of_number() -> None:
    evidence, expected = Labels(CLASSES), terms(Labels(CLASSES), [0, -1, 2])
    for labels in (torch.tensor([0.0, math.nan, 2.0]), torch.tensor([0, -1, 2], dtype=torch.int8)):
        assert torch.equal(terms(evidence, labels), expected)
        assert evidence.most_likely(labels).tolist() == [0, -1, 2]


def test_a_labelled_row_is_no_noise() -> None:
    labels = torch.tensor([0, -1])
    batch = Batch(torch.zeros(2, 2), labels=labels)
    assert Labels(CLASSES).log_noise(batch).tolist() == [-math.inf, 0.0]
    found = Labels(CLASSES, 0.8).log_noise(batch)
    assert found.exp().tolist() == pytest.approx([0.1, 1.0], rel=1e-14)
    # Of one class alone, too.
    assert Labels([0, 0]).log_noise(batch).tolist() == [-math.inf, 0.0]
    soft = Batch(torch.zeros(1, 2), labels=torch.tensor([[0.8, 0.2, 0.4]]))
    assert Labels(CLASSES).log_noise(soft).exp().tolist() == pytest.approx([0.25], rel=1e-14)


def test_the_terms_of_a_batch_of_mixtures_are_shared(generator: torch.Generator) -> None:
    labels = torch.tensor([0, 1, -1, 2])
    evidence, x = Labels(CLASSES, 0.9), torch.randn(4, 2, 3, 2, generator=generator)
    found = evidence(Batch(x, labels=labels))
    assert found.shape == (4, 1, 1, 5)
    assert torch.equal(found[:, 0, 0], terms(evidence, labels))
    layer = GMMLayer(2, 5, evidence=evidence, batch_shape=(2, 3))
    joint = layer.log_joint(Batch(x, labels=labels))
    assert torch.equal(joint, layer.log_joint(x) + found)


def test_kinds_of_evidence_add_up() -> None:
    """Labels of two independent annotators are one annotator and another."""
    parts = [Labels(CLASSES, 0.8), Labels([0, 0, 1, 1, 1], 0.6)]
    layer = GMMLayer(2, 5, evidence=parts)
    assert isinstance(layer.evidence, EvidenceSum)
    batch = Batch(torch.zeros(2, 2), labels=torch.tensor([1, 0]))
    assert torch.equal(layer.evidence(batch), parts[0](batch) + parts[1](batch))
    noise = parts[0].log_noise(batch) + parts[1].log_noise(batch)
    assert torch.equal(layer.evidence.log_noise(batch), noise)
    assert labels_of(layer.evidence) is layer.evidence.parts[0]
    twin = GMMLayer.from_config(layer.to_config())
    assert twin.evidence is not None
    assert torch.equal(twin.evidence(batch), layer.evidence(batch))


def test_components_of_classes_in_all_spellings() -> None:
    expected = [0, 1, 1, 2]
    for spelling in ([1, 2, 1], (1, 2, 1), {0: 1, 2: 1, 1: 2}):
        assert Labels.of_classes(3, spelling).class_of_component == expected
    assert Labels.of_classes(2, 2).class_of_component == [0, 0, 1, 1]


def test_reordered_components_take_their_classes_along(generator: torch.Generator) -> None:
    layer = GMMLayer(2, 5, evidence=Labels(CLASSES, 0.9))
    batch = Batch(torch.randn(6, 2, generator=generator), labels=torch.arange(6) % 3)
    joint, order = layer.log_joint(batch), torch.tensor([3, 1, 4, 0, 2])
    layer.reorder_components(order)
    assert torch.equal(layer.log_joint(batch), joint[:, order])
    twin = labels_of(GMMLayer.from_config(layer.to_config()).evidence)
    assert twin is not None
    assert twin.class_of_component == [CLASSES[k] for k in order]
    pair = GMMLayer(2, 2, evidence=Labels([0, 1]), batch_shape=(2,))
    before = pair.means.clone()
    with pytest.raises(InvalidArgumentError, match="the same classes by component"):
        pair.reorder_components(torch.tensor([[0, 1], [1, 0]]))
    assert torch.equal(pair.means, before)


def test_classes_are_sums_of_components(generator: torch.Generator) -> None:
    layer = GMMLayer(2, 5, evidence=Labels(CLASSES), noise="uniform")
    assert layer.noise is not None
    x = 2 * torch.randn(20, 2, generator=generator)
    layer.noise.get_buffer("low").fill_(-9.0)
    layer.noise.get_buffer("high").fill_(9.0)
    x[0] = 8.9
    found, shares = layer.class_probabilities(x), layer.responsibilities(x)
    for c in range(3):
        own = sum(shares[:, k] for k, of in enumerate(CLASSES) if of == c)
        assert torch.allclose(found[:, c], torch.as_tensor(own), rtol=1e-13)
    assert torch.allclose(found.sum(-1), 1 - layer.noise_probability(x), rtol=1e-13)
    noisy = layer.noise_probability(x) > found.amax(-1)
    assert noisy[0]
    assert torch.equal(layer.predict_class(x), torch.where(noisy, -1, found.argmax(-1)))
    # A prediction does not read the labels of its rows.
    batch = Batch(x, labels=torch.zeros(20, dtype=torch.long))
    assert torch.equal(layer.class_probabilities(batch), found)


# -- mistakes -----------------------------------------------------------------------------------

WRONG_ARGUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"class_of_component": []}, r"every class from 0 on, got \[\]"),
    ({"class_of_component": [0, 2]}, r"got \[0, 2\] without 1"),
    ({"class_of_component": 3}, "must be a list, got 3"),
    ({"class_of_component": "ab"}, "must be an integer >= 0, got 'a'"),
    ({"class_of_component": [0, -1]}, "must be an integer >= 0, got -1"),
    ({"class_of_component": [0, 0.5]}, "must be an integer >= 0"),
    ({"class_of_component": [0, 1], "confidence": 0.0}, "finite number > 0 and <= 1"),
    ({"class_of_component": [0, 1], "confidence": 1.1}, "finite number > 0 and <= 1"),
    ({"class_of_component": [0, 1], "confidence": 0.5}, "says nothing of 2 classes"),
    ({"class_of_component": [0, 1], "confidence": "high"}, "finite number"),
]


@pytest.mark.parametrize(("arguments", "words"), WRONG_ARGUMENTS)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words) as caught:
        Labels(**arguments)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("per_class", [0, [1], [1, 2, 3], {0: 1}, {1: 1, 2: 1}, "12", [1, 0], 1.5])
def test_wrong_numbers_of_components_are_refused(per_class: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="components_per_class must be"):
        Labels.of_classes(2, per_class)


@pytest.mark.parametrize("spec", ["labels", 3, [], [None], [Labels([0, 1]), 1]])
def test_other_things_are_no_evidence(spec: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="evidence must be a module or a list of them"):
        GMMLayer(2, 2, evidence=spec)


def test_evidence_of_another_size_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="the evidence is of 5 components, the layer"):
        GMMLayer(2, 3, evidence=Labels(CLASSES))


NAN = math.nan
WRONG_LABELS: list[tuple[Any, str]] = [
    ([0, 3, 1, 0], r"classes from 0 to 2, or -1 where not known; they are not in row\(s\) 1$"),
    ([0, -2, 5, 0], r"row\(s\) 1, 2$"),
    ([0.0, 0.5, 1.0, NAN], r"row\(s\) 1$"),
    ([0.0, math.inf, 1.0, NAN], r"row\(s\) 1$"),
    ([0, 1, 2], r"shape \(4,\) or \(4, 3\), as there are rows, got \(3,\)"),
    ([[0.5, 0.5]] * 4, "soft labels must be 3 numbers for each row, one for each class, got 2"),
    ([[1.0, 0.0, 0.0]] * 3 + [[1.0, -0.5, 0.0]], r"finite and >= 0, or all NaN .* row\(s\) 3$"),
    ([[1.0, 0.0, 0.0]] * 3 + [[1.0, NAN, 0.0]], r"row\(s\) 3$"),
    ([[1.0, math.inf, 0.0]] * 4, r"row\(s\) 0, 1, 2, 3$"),
    ([[[0]]] * 4, r"got \(4, 1, 1\)"),
]


@pytest.mark.parametrize(("labels", "words"), WRONG_LABELS)
def test_wrong_labels_are_refused_in_a_step(labels: Any, words: str) -> None:
    layer = GMMLayer(2, 5, evidence=Labels(CLASSES))
    with pytest.raises(InvalidDataError, match=words) as caught:
        e_step(layer, Batch(torch.zeros(4, 2), labels=torch.tensor(labels)))
    assert len(str(caught.value).splitlines()) == 1


def test_a_layer_without_classes_predicts_none() -> None:
    for predict in (GMMLayer(2, 3).predict_class, GMMLayer(2, 3).class_probabilities):
        with pytest.raises(GMMError, match="the layer knows no classes"):
            predict(torch.zeros(1, 2))
