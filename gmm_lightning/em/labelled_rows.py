"""Labels of rows in memory, and the evidence that reads them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.evidence import Evidence, Labels, labels_of
from gmm_lightning.layers import GMMLayer
from gmm_lightning.rows import Batch, RowSource, as_tensor, as_weights, is_batches


def with_labels(
    layer: GMMLayer, x: Any, sample_weight: Any, labels: Any, unlabeled_weight: float = 1.0
) -> Batch:
    """A batch of rows in memory with their labels, for the evidence of a layer.

    A layer without labels among its evidence gets `Labels` with as many components for each class,
    in their order.

    Args:
        layer: gets the evidence.
        x: rows `(N, *B, D)`.
        sample_weight: of the rows, or None.
        labels: classes `(N,)`, -1 or NaN where they are not known, or soft ones `(N, C)`.
        unlabeled_weight: factor of the weights of rows without a label.

    Raises:
        InvalidArgumentError: batches of rows, labels beside other evidence, or classes among which
            the components cannot be divided.
        InvalidDataError: labels of the wrong length.
    """
    if isinstance(x, Batch) or is_batches(x):
        raise InvalidArgumentError(
            "labels go with rows in memory; batches carry their own: "
            "gmm_lightning.rows.Batch(x, labels=labels)"
        )
    rows, labels = as_tensor(x), as_tensor(labels, "labels")
    if labels.dim() not in (1, 2) or labels.shape[:1] != rows.shape[:1]:
        raise InvalidDataError(
            f"labels must be of shape ({len(rows)},) or ({len(rows)}, C), as there are rows, got "
            f"{tuple(labels.shape)}"
        )
    weight = as_weights(sample_weight, rows, layer.batch_shape)
    evidence = labels_of(layer.evidence)
    if evidence is None:
        if layer.evidence is not None:
            raise InvalidArgumentError(
                "the layer has other evidence, which reads no labels: make it with evidence="
                "[..., gmm_lightning.evidence.Labels(class_of_component)]"
            )
        evidence = layer.evidence = _equal_shares(labels, layer.num_components)
    batch = Batch(rows, weight, labels)
    unlabeled_weight = require_number("unlabeled_weight", unlabeled_weight, least=0)
    return batch if unlabeled_weight == 1 else weigh_unlabeled(evidence, batch, unlabeled_weight)


def weigh_unlabeled(evidence: Labels, batch: Batch, factor: float) -> Batch:
    """Rows in which those without a label weigh less by a factor."""
    assert batch.labels is not None
    share = torch.where(evidence.is_known(batch.labels), 1.0, factor).double()
    share = share.reshape(-1, *[1] * (batch.x.dim() - 2)).to(batch.x.device)
    if batch.weight is not None:
        return batch._replace(weight=batch.weight * share)
    return batch._replace(weight=share.expand(batch.x.shape[:-1]))


def check_evidence(layer: GMMLayer, source: RowSource) -> None:
    """Refuse rows whose evidence the layer cannot read.

    Raises:
        InvalidDataError: the message says which rows.
    """
    if isinstance(layer.evidence, Evidence):
        layer.evidence.check(source)


def _equal_shares(labels: Tensor, num_components: int) -> Labels:
    """Evidence with the same number of components for each class."""
    hard = labels.dim() == 1
    top = labels.nan_to_num(nan=-1.0).max() if hard else labels.shape[1] - 1
    number = int(top) + 1
    if number < 1:
        raise InvalidDataError("no row has a label: leave labels out, or label some rows")
    if num_components % number:
        raise InvalidArgumentError(
            f"{num_components} components cannot be divided equally among {number} classes: say "
            "which are whose by layer.evidence = gmm_lightning.evidence.Labels(class_of_component)"
        )
    return Labels.of_classes(number, num_components // number)
