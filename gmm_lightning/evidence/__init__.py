"""Evidence: what else is known of a row. One kind each; a new module here is a new kind."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from gmm_lightning._plugins import Registry
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.evidence._several import EvidenceSum
from gmm_lightning.evidence.base import Evidence
from gmm_lightning.evidence.labels import UNKNOWN, Labels

registry: Registry[Evidence] = Registry(__name__, Evidence, "evidence")

EvidenceSpec = nn.Module | Sequence[nn.Module] | None


def bind_evidence(spec: EvidenceSpec, num_components: int) -> nn.Module | None:
    """A copy of evidence, or of a list of them as one.

    Raises:
        InvalidArgumentError: no module, or evidence of another number of components.
    """
    if spec is None:
        return None
    several: list[Any] = list(spec) if isinstance(spec, list | tuple) else [spec]
    if not several or not all(isinstance(one, nn.Module) for one in several):
        raise InvalidArgumentError(
            "evidence must be a module or a list of them, such as gmm_lightning.evidence.Labels"
        )
    own = [part for one in copy.deepcopy(several) for part in evidence_parts(one) or [one]]
    if len(own) > 1 and not all(isinstance(one, Evidence) for one in own):
        raise InvalidArgumentError(
            "several kinds of evidence must be of gmm_lightning.evidence.Evidence; add up modules "
            "of your own in one"
        )
    for one in own:
        if isinstance(one, Evidence) and one.num_components != num_components:
            raise InvalidArgumentError(
                f"the evidence is of {one.num_components} components, the layer has "
                f"num_components={num_components}"
            )
    return own[0] if len(own) == 1 else EvidenceSum(own)


def evidence_parts(evidence: nn.Module | None) -> list[Evidence]:
    """The kinds of evidence that a layer has, without modules of a user's own."""
    if isinstance(evidence, EvidenceSum):
        return evidence.parts
    return [evidence] if isinstance(evidence, Evidence) else []


def labels_of(evidence: nn.Module | None) -> Labels | None:
    """The labels among the evidence of a layer, or None."""
    return next((one for one in evidence_parts(evidence) if isinstance(one, Labels)), None)


__all__ = [
    "UNKNOWN",
    "Evidence",
    "EvidenceSpec",
    "EvidenceSum",
    "Labels",
    "bind_evidence",
    "evidence_parts",
    "labels_of",
    "registry",
]
