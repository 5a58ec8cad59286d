"""Labels of rows in tgmm's terms: any integers, and -1 where a label is not known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.tgmm.settings import Settings
from gmm_lightning.evidence import UNKNOWN, Labels
from gmm_lightning.rows import as_dense


@dataclass(frozen=True)
class Classes:
    """The classes of labelled rows.

    Attributes:
        values: the label of each class, in order, `(C,)`.
        of_component: class of each component, `(K,)`; those of a class follow each other.
        codes: class of each row, `(N,)`; -1: not known.
    """

    values: Tensor
    of_component: Tensor
    codes: Tensor

    @classmethod
    def of_labels(cls, settings: Settings, labels: Any, num_rows: int, device: Any) -> Classes:
        """Classes of labels `(N,)`, with the components that a mixture gives to them.

        Raises:
            InvalidArgumentError: not an integer for each row, no known one, or another number of
                components than the mixture has.
        """
        labels = as_dense(labels, device, "labels").to(device)
        whole = labels.to(torch.int64)
        if labels.shape != (num_rows,) or not bool((whole == labels).all()):
            raise InvalidArgumentError(
                f"labels must be one integer for each of {num_rows} rows, -1 where it is not "
                f"known, got {describe(labels)}"
            )
        found = whole[whole != UNKNOWN].unique()
        if not len(found):
            raise InvalidArgumentError("every label is -1: leave labels out, or label some rows")
        values, sizes = _sizes_of(settings.components_per_class, found.tolist())
        if sum(sizes) != settings.n_components:
            raise InvalidArgumentError(
                f"components_per_class makes {sum(sizes)} components for the classes {values}, "
                f"and n_components is {settings.n_components}"
            )
        classes = torch.tensor(values, device=device)
        of_component = torch.arange(len(values), device=device).repeat_interleave(
            torch.tensor(sizes, device=device)
        )
        codes = torch.searchsorted(classes, whole.clamp(min=values[0]))
        return cls(classes, of_component, torch.where(whole == UNKNOWN, UNKNOWN, codes))

    def evidence(self, settings: Settings) -> Labels:
        """What the labels say of the components, by the confidence of a mixture."""
        return Labels(self.of_component.tolist(), settings.label_confidence)

    def weights(self, settings: Settings, weight: Tensor | None, like: Tensor) -> Tensor | None:
        """Weights of the rows `(N,)`, times `unlabeled_weight` where a label is not known."""
        share = require_number("unlabeled_weight", settings.unlabeled_weight, least=0)
        if share == 1:
            return weight
        ones = torch.ones(len(self.codes), dtype=like.dtype, device=like.device)
        own = ones.where(self.codes != UNKNOWN, share)
        return own if weight is None else own * weight.to(own)


def _sizes_of(components_per_class: Any, found: list[int]) -> tuple[list[int], list[int]]:
    """Labels of the classes, in order, and their numbers of components."""
    if not isinstance(components_per_class, dict):
        size = require_integer("components_per_class", components_per_class, least=1)
        return found, [size] * len(found)
    absent = [label for label in found if label not in components_per_class]
    if absent:
        raise InvalidArgumentError(
            f"components_per_class has no entry for the labels {describe(absent)}"
        )
    values = sorted(components_per_class)
    name = "components_per_class"
    return values, [require_integer(name, components_per_class[v], least=1) for v in values]
