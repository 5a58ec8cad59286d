"""Rows sorted by class, and groups of classes with similar numbers of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Size, Tensor
from torch.nn.utils.rnn import pad_sequence

from gmm_lightning.em.model import MixtureModel
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.layers import GMMLayer, MixtureClassifier
from gmm_lightning.rows import (
    ArrayRows,
    Batch,
    as_rows,
    as_tensor,
    as_weights,
    check_finite,
    column_names,
)


@dataclass(frozen=True)
class ClassRows:
    """Rows `(n_c, D)` and weights `(n_c,)` of each class, in the order of the classes."""

    rows: Sequence[Tensor]
    weights: Sequence[Tensor]
    num_skipped: int

    @classmethod
    def read(
        cls,
        classifier: MixtureClassifier,
        x: Any,
        y: Any,
        sample_weight: Any,
        *,
        skip_nonfinite: bool,
    ) -> ClassRows:
        """Rows and weights, checked and sorted by class.

        Raises:
            InvalidDataError: as for `fit_classifier`.
        """
        layer = classifier.layer
        names, x = column_names(x), as_tensor(x)
        rows = as_rows(x, layer.num_features, Size(()))
        weight = as_weights(sample_weight, x, Size(()))
        codes = classifier.encode(y).to(rows.device)
        if codes.shape != rows.shape[:1]:
            raise InvalidDataError(
                f"{len(rows)} rows need as many labels, got labels of shape {tuple(codes.shape)}"
            )
        weight = rows.new_ones(len(rows)) if weight is None else weight.to(rows.device)
        # Rows of weight 0 have no effect.
        kept, num_skipped = weight > 0, 0
        if skip_nonfinite:
            finite = torch.isfinite(rows).all(-1)
            kept, num_skipped = kept & finite, int((~finite).sum())
        else:
            check_finite(rows, columns=names)
        rows, codes, weight = rows[kept], codes[kept], weight[kept]
        counts = torch.bincount(codes, minlength=classifier.num_classes).tolist()
        for label, count in zip(classifier.classes, counts, strict=True):
            if count < layer.num_components:
                raise InvalidDataError(
                    f"class {label!r} has {count} rows, fewer than num_components="
                    f"{layer.num_components}; use fewer components, or leave the class out"
                )
        order = codes.argsort(stable=True)
        return cls(rows[order].split(counts), weight[order].split(counts), num_skipped)


class ClassGroup:
    """Classes of similar length, stacked: rows `(N, C, D)`, padded with rows of weight 0."""

    def __init__(self, layer: GMMLayer, rows: ClassRows, classes: list[int]) -> None:
        own = [rows.rows[c] for c in classes]
        self.classes = torch.tensor(classes, device=layer.means.device)
        self.lengths = torch.tensor([len(part) for part in own])
        weight = pad_sequence([rows.weights[c] for c in classes])
        self.source = ArrayRows(Batch(_pad_rows(own), weight))

    def model(self, layer: GMMLayer, num_restarts: int = 1) -> MixtureModel:
        """The mixtures of these classes as a batch `(C,)`."""
        model = MixtureModel.from_layer(layer).select(self.classes.repeat(num_restarts))
        own = torch.arange(len(self.classes)).to(self.classes).repeat(num_restarts)
        shape = Size([len(self.classes)])
        noise = None if layer.noise is None else layer.noise.select(self.classes)
        return replace(model, batch_shape=shape, batch_index=own, noise=noise)


def group_by_length(lengths: list[int]) -> list[list[int]]:
    """Indices of the classes in groups of similar length, in order within each.

    No class is more than twice as long as another of its group, which bounds the padding.
    """
    groups: list[list[int]] = []
    for c in sorted(range(len(lengths)), key=lambda c: -lengths[c]):
        # The first of a group is its longest.
        if groups and 2 * lengths[c] >= lengths[groups[-1][0]]:
            groups[-1].append(c)
        else:
            groups.append([c])
    return [sorted(group) for group in groups]


def _pad_rows(rows: list[Tensor]) -> Tensor:
    """Rows of several classes, stacked `(N, C, D)`; the short ones repeat their first row.

    A repeated row has a finite density, so weight 0 is enough to exclude it.
    """
    longest = max(map(len, rows))
    filled = [torch.cat([part, part[:1].expand(longest - len(part), -1)]) for part in rows]
    return torch.stack(filled, 1)
