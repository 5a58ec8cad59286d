"""Labels of rows in memory, and the evidence that reads them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gmm_lightning._validation import require_number
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.evidence import Evidence, Labels, labels_of
from gmm_lightning.layers import GMMLayer
from gmm_lightning.rows import (
    Batch,
    RowSource,
    as_labels,
    as_rows,
    as_tensor,
    as_weights,
    is_batches,
    weigh_unlabelled,
)


def with_labels(
    layer: GMMLayer, x: Any, sample_weight: Any, labels: Any, unlabeled_weight: float = 1.0
) -> tuple[Batch, nn.Module]:
    """A batch of rows in memory with their labels, and the evidence that reads them.

    It is that of the layer; for a layer without evidence it is `Labels` with as many components
    for each class, in their order.

    Args:
        layer: the mixture, which is left as it is.
        x: rows `(*S, *B, D)`.
        sample_weight: of the rows, or None.
        labels: classes `(*S)`, -1 or NaN where they are not known, or soft ones `(*S, C)`.
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
    factor = require_number("unlabeled_weight", unlabeled_weight, least=0)
    given = as_tensor(x)
    rows = as_rows(given, layer.num_features, layer.batch_shape)
    weight = as_weights(sample_weight, given, layer.batch_shape)
    own = as_labels(labels, tuple(given.shape[: -1 - len(layer.batch_shape)]))
    batch, evidence = Batch(rows, weight, own), layer.evidence
    if evidence is None:
        evidence = _equal_shares(own, layer.num_components)
        evidence.check([batch])
    elif labels_of(evidence) is None:
        raise InvalidArgumentError(
            "the layer has other evidence, which reads no labels: make it with evidence="
            "[..., gmm_lightning.evidence.Labels(class_of_component)]"
        )
    batch = weigh_unlabelled(batch, factor)
    # A table names its columns in messages.
    return (batch._replace(x=x) if given.dim() == rows.dim() else batch), evidence


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
