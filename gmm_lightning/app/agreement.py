"""How well components and labels agree, from counts of their pairs alone."""

from __future__ import annotations

import torch
from torch import Tensor


class LabelAgreement:
    """Counts of (label, component) pairs, added block by block.

    Args:
        num_components: K.

    Example:
        >>> pairs = LabelAgreement(2)
        >>> pairs.add(torch.tensor([7, 7, 3]), torch.tensor([0, 0, 1]), None)
        >>> pairs.scores()["adjusted_rand_score"]
        1.0
    """

    def __init__(self, num_components: int) -> None:
        self.num_components = num_components
        self.counts: dict[int, Tensor] = {}

    def add(self, labels: Tensor, components: Tensor, weight: Tensor | None) -> None:
        """Rows with their labels and components, `(n,)` each; a weight counts as so many rows."""
        values, code = labels.long().unique(return_inverse=True)
        table = torch.zeros(len(values), self.num_components, dtype=torch.float64)
        ones = torch.ones(len(code), dtype=torch.float64) if weight is None else weight.double()
        table.index_put_((code, components), ones, accumulate=True)
        for value, row in zip(values.tolist(), table, strict=True):
            self.counts[value] = self.counts[value] + row if value in self.counts else row

    def scores(self) -> dict[str, float]:
        """Two scores for which 1 is the same partition.

        References:
            L. Hubert, P. Arabie (1985), Comparing partitions, Journal of Classification 2.
            N. X. Vinh, J. Epps, J. Bailey (2010), Information theoretic measures for clusterings
            comparison, JMLR 11.
        """
        table = torch.stack(list(self.counts.values()))
        return {
            "adjusted_rand_score": adjusted_rand(table),
            "normalized_mutual_info_score": normalized_mutual_information(table),
        }


def adjusted_rand(table: Tensor) -> float:
    """The adjusted Rand index of a table of counts; 0 on average for independent partitions."""
    together, rows, columns, every = (
        float((n * (n - 1) / 2).sum()) for n in (table, table.sum(1), table.sum(0), table.sum())
    )
    expected = rows * columns / every if every else 0.0
    most = (rows + columns) / 2
    return 1.0 if most == expected else (together - expected) / (most - expected)


def normalized_mutual_information(table: Tensor) -> float:
    """Mutual information over the mean of the two entropies."""
    joint = table / table.sum()
    whole, rows, columns = (
        float(torch.special.entr(p).sum()) for p in (joint, joint.sum(1), joint.sum(0))
    )
    mean = (rows + columns) / 2
    return 1.0 if mean == 0 else max(rows + columns - whole, 0.0) / mean
