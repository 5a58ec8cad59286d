"""Evidence: what else is known of a row. One kind each; a new module here is a new kind."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import nn

from gmm_lightning._plugins import Registry
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.evidence.base import Evidence
from gmm_lightning.evidence.labels import UNKNOWN, Labels
from gmm_lightning.evidence.several import EvidenceSum

registry: Registry[Evidence] = Registry(__name__, Evidence, "evidence")

EvidenceSpec = nn.Module | Iterable[nn.Module] | None


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
    return own[0] if len(own) == 1 else EvidenceSum(own)


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
