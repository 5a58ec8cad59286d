"""Several kinds of evidence as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.evidence.base import Evidence
from gmm_lightning.rows import Batch


class EvidenceSum(Evidence):
    """Several kinds of evidence, independent of each other given the component.

    Args:
        parts: the kinds, or their names and arguments as `config` returns them.

    Raises:
        InvalidArgumentError: a part that is no evidence, or parts of different numbers of
            components.

    Example:
        >>> from gmm_lightning.evidence import Labels
        >>> both = EvidenceSum([Labels([0, 1]), Labels([0, 0])])
        >>> both(Batch(torch.zeros(1, 3), labels=torch.tensor([0])))
        tensor([[0., -inf]])
    """

    name: ClassVar[str] = "sum"

    def __init__(self, parts: Iterable[nn.Module | Mapping[str, Any]]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(_as_evidence(part) for part in parts)
        sizes = {part.num_components for part in self._kinds}
        if len(sizes) != 1:
            raise InvalidArgumentError(
                f"evidence of one layer must be of one number of components, got {sorted(sizes)}"
            )
        self.num_components = sizes.pop()

    @property
    def _kinds(self) -> list[Evidence]:
        return [part for part in self.parts if isinstance(part, Evidence)]

    def forward(self, batch: Batch) -> Tensor:
        """The sum of their log densities."""
        first, *others = self._kinds
        total = first(batch)
        for part in others:
            total = total + part(batch)
        return total

    def log_noise(self, batch: Batch) -> Tensor:
        """The sum of their log densities."""
        return torch.stack([part.log_noise(batch) for part in self._kinds]).sum(0)

    def check(self, batches: Iterable[Batch]) -> None:
        """Refuse what any of them refuses."""
        for part in self._kinds:
            part.check(batches)

    def for_evaluation(self, batch: Batch) -> Batch:
        """The rows with what counts for all of them."""
        for part in self._kinds:
            batch = part.for_evaluation(batch)
        return batch

    def config(self) -> dict[str, Any]:
        """Names and arguments of all parts."""
        return {"parts": [{"name": part.name, **part.config()} for part in self._kinds]}


def _as_evidence(part: Any) -> Evidence:
    if isinstance(part, Mapping):
        arguments = dict(part)
        known = import_module("gmm_lightning.evidence").registry
        return known.get(arguments.pop("name"))(**arguments)
    if not isinstance(part, Evidence):
        raise InvalidArgumentError(
            f"a sum of evidence is of gmm_lightning.evidence.Evidence, got {type(part).__name__}"
        )
    return part
