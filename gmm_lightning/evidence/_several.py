"""Several kinds of evidence as one."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Any

from torch import Tensor, nn

from gmm_lightning.evidence.base import Evidence
from gmm_lightning.rows import Batch


class EvidenceSum(Evidence):
    """Several kinds of evidence, independent of each other given the component.

    Args:
        parts: the kinds, of the same number of components.

    Example:
        >>> from gmm_lightning.evidence import Labels
        >>> both = EvidenceSum([Labels([0, 1]), Labels([0, 0])])
        >>> both(Batch(torch.zeros(1, 3), labels=torch.tensor([0])))
        tensor([[0., -inf]])
    """

    def __init__(self, parts: Sequence[Evidence]) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(parts)
        self.num_components = parts[0].num_components

    @property
    def parts(self) -> list[Evidence]:
        """The kinds, in order."""
        return [part for part in self.kinds if isinstance(part, Evidence)]

    def forward(self, batch: Batch) -> Tensor:
        """The sum of their log densities."""
        return reduce(operator.add, (part(batch) for part in self.parts))

    def log_noise(self, batch: Batch) -> Tensor:
        """The sum of their log densities."""
        return reduce(operator.add, (part.log_noise(batch) for part in self.parts))

    def check(self, batches: Iterable[Batch]) -> None:
        """Refuse what any of them refuses."""
        for part in self.parts:
            part.check(batches)

    def check_rows(self, batch: Batch, first_row: int = 0) -> None:
        """Refuse what any of them refuses."""
        for part in self.parts:
            part.check_rows(batch, first_row)

    def reorder(self, order: Tensor) -> None:
        """Let all of them follow the components."""
        for part in self.parts:
            part.reorder(order)

    def for_evaluation(self, batch: Batch) -> Batch:
        """The rows with what counts for all of them."""
        for part in self.parts:
            batch = part.for_evaluation(batch)
        return batch

    def config(self) -> dict[str, Any]:
        """Nothing: a layer stores the parts."""
        return {}
