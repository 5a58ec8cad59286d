"""Agreement of components with labels, from counts of their pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmm_lightning._validation import require_choice, require_integer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.metrics._sums import SumMetric, as_numbers, raise_for_rows
from gmm_lightning.metrics.responsibilities import as_responsibilities


class LabelAgreement(SumMetric):
    """Agreement of the most probable components with labels: 1 if both are the same partition.

    From the total weights `n_ck` of rows of class c in component k, for any numbering of k:

    - `adjusted_rand_score`: the share of pairs of rows that are together in both or in neither,
      less its expectation for independent partitions, as part of the largest such difference.
    - `normalized_mutual_info_score`: `2 I(c, k) / (H(c) + H(k))`.

    Args:
        num_classes: C; labels are `0 .. C - 1`.
        num_components: K.
        score: one of the two.
        options: of `torchmetrics.Metric`.

    Raises:
        InvalidArgumentError: fewer than one class or component, or an unknown score.

    References:
        L. Hubert, P. Arabie (1985), Comparing partitions, Journal of Classification 2.
        N. X. Vinh, J. Epps, J. Bailey (2010), Information theoretic measures for clusterings
        comparison, JMLR 11.

    Example:
        >>> from gmm_lightning.metrics import LabelAgreement
        >>> metric = LabelAgreement(num_classes=2, num_components=2)
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([1, 0]))
        >>> metric.compute().item()
        1.0
    """

    is_differentiable = False
    higher_is_better = True
    pair_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        num_components: int,
        score: str = "adjusted_rand_score",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.num_classes = require_integer("num_classes", num_classes, least=1)
        self.num_components = require_integer("num_components", num_components, least=1)
        self.score = require_choice("score", score, _SCORES)
        self.add_sum("pair_weights", self.num_classes, self.num_components)

    def update(
        self, responsibilities: Tensor, labels: Tensor, weight: Tensor | None = None
    ) -> None:
        """Add rows.

        Args:
            responsibilities: `(*S, K)`.
            labels: classes `(*S,)`.
            weight: of each row, broadcasts to `(*S,)`.

        Raises:
            InvalidArgumentError: weights or labels that do not fit, or another number of
                components.
            InvalidDataError: responsibilities that do not sum to 1, or unknown labels, by row
                number.
        """
        resp, weight = as_responsibilities(responsibilities, weight)
        labels = as_numbers(labels, "labels")
        if labels.shape != weight.shape or resp.shape[-1] != self.num_components:
            raise InvalidArgumentError(
                f"expected responsibilities (*S, {self.num_components}) and labels (*S,), got "
                f"shapes {tuple(resp.shape)} and {tuple(labels.shape)}"
            )
        known = (labels >= 0) & (labels < self.num_classes) & (labels == labels.trunc())
        raise_for_rows(~known & (weight > 0), f"labels are not classes 0 .. {self.num_classes - 1}")
        # The label of a row without weight may be anything, and is ignored.
        pairs = torch.where(known, labels, 0.0).long(), resp.argmax(-1)
        self.pair_weights = self.pair_weights.index_put(pairs, weight, accumulate=True)

    def compute(self) -> Tensor:
        """The score; NaN before any row."""
        return label_agreement(self.pair_weights, self.score)


def label_agreement(pair_weights: Tensor, score: str = "adjusted_rand_score") -> Tensor:
    """A score of :class:`LabelAgreement` from the weights of the pairs `(C, K)`; NaN if all are 0.

    Example:
        >>> from gmm_lightning.metrics import label_agreement
        >>> label_agreement(torch.tensor([[0, 5], [7, 0]]), "normalized_mutual_info_score").item()
        1.0
    """
    weights = as_numbers(pair_weights, "pair_weights")
    value = _SCORES[require_choice("score", score, _SCORES)](weights)
    return torch.where(weights.sum() > 0, value, torch.nan)


def _adjusted_rand(weights: Tensor) -> Tensor:
    sums = (weights, weights.sum(1), weights.sum(0), weights.sum())
    together, rows, columns, every = ((n * (n - 1) / 2).sum() for n in sums)
    expected = torch.where(every != 0, rows * columns / every, 0.0)
    most = (rows + columns) / 2
    return torch.where(most == expected, 1.0, (together - expected) / (most - expected))


def _normalized_mutual_info(weights: Tensor) -> Tensor:
    joint = weights / weights.sum()
    both, rows, columns = (torch.special.entr(p).sum() for p in (joint, joint.sum(1), joint.sum(0)))
    mean = (rows + columns) / 2
    return torch.where(mean == 0, 1.0, (rows + columns - both).clamp(min=0) / mean)


_SCORES = {
    "adjusted_rand_score": _adjusted_rand,
    "normalized_mutual_info_score": _normalized_mutual_info,
}
