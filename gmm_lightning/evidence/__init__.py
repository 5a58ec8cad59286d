"""Evidence: what else is known of a row. One kind each; a new module here is a new kind."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gmm_lightning._plugins import Registry
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.evidence.base import Evidence
from gmm_lightning.evidence.labels import UNKNOWN, Labels
from gmm_lightning.rows import Batch

registry: Registry[Evidence] = Registry(__name__, Evidence, "evidence")

EvidenceSpec = nn.Module | Iterable[nn.Module] | None


class EvidenceSum(Evidence):
    """Several kinds of evidence, independent of each other given the component.

    Args:
        parts: the kinds.
    """

    def __init__(self, parts: Iterable[Evidence]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.num_components = self._kinds[0].num_components

    @property
    def _kinds(self) -> list[Evidence]:
        return [part for part in self.parts if isinstance(part, Evidence)]

    def forward(self, batch: Batch) -> Tensor:
        """The sum of their log densities."""
        return torch.stack([torch.as_tensor(part(batch)) for part in self._kinds]).sum(0)

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
        """The arguments of all parts."""
        return {"parts": [{"name": part.name, **part.config()} for part in self._kinds]}


def bind_evidence(spec: EvidenceSpec, num_components: int) -> nn.Module | None:
    """A copy of evidence, or of a list of them as one.

    Raises:
        InvalidArgumentError: no module, or evidence of another number of components.
    """
    if spec is None:
        return None
    several = [spec] if isinstance(spec, nn.Module) else list(spec)
    if not several or not all(isinstance(one, nn.Module) for one in several):
        raise InvalidArgumentError(
            "evidence must be a module or a list of them, such as gmm_lightning.evidence.Labels"
        )
    own = [copy.deepcopy(one) for one in several]
    for one in own:
        if isinstance(one, Evidence) and one.num_components != num_components:
            raise InvalidArgumentError(
                f"the evidence is of {one.num_components} components, the layer has "
                f"num_components={num_components}"
            )
    return own[0] if len(own) == 1 else EvidenceSum(own)  # pyright: ignore[reportArgumentType]


def labels_of(evidence: nn.Module | None) -> Labels | None:
    """The labels among the evidence of a layer, or None."""
    parts = evidence.parts if isinstance(evidence, EvidenceSum) else [evidence]
    return next((part for part in parts if isinstance(part, Labels)), None)


__all__ = [
    "UNKNOWN",
    "Evidence",
    "EvidenceSpec",
    "EvidenceSum",
    "Labels",
    "bind_evidence",
    "labels_of",
    "registry",
]
