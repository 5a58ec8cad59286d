"""Policies for components that collapse: keep them at the floor, move them, or give up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning._validation import require_choice
from gmm_lightning.em.collapse import Collapsed
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.policy import Candidates, CollapsePolicy, Repair
from gmm_lightning.em.reseed import Reseed


@dataclass(frozen=True)
class Floor(CollapsePolicy):
    """Leave a collapsed component at the floor, where the M-step holds it."""

    name: ClassVar[str] = "floor"

    def handle(
        self,
        model: MixtureModel,
        parameters: MixtureParameters,
        collapsed: Collapsed,
        num_reseeds: Tensor,
        candidates: Candidates | None,
    ) -> Repair:
        """See `CollapsePolicy.handle`."""
        nothing = torch.zeros_like(collapsed.emptied)
        return Repair(parameters, nothing, nothing.any(-1))


@dataclass(frozen=True)
class Raise(CollapsePolicy):
    """Give up a mixture in which a component collapses."""

    name: ClassVar[str] = "raise"

    def handle(
        self,
        model: MixtureModel,
        parameters: MixtureParameters,
        collapsed: Collapsed,
        num_reseeds: Tensor,
        candidates: Candidates | None,
    ) -> Repair:
        """See `CollapsePolicy.handle`."""
        return Repair(parameters, torch.zeros_like(collapsed.emptied), collapsed.mixtures)


_POLICIES: dict[str, type[CollapsePolicy]] = {cls.name: cls for cls in (Floor, Reseed, Raise)}


def as_policy(spec: str | CollapsePolicy) -> CollapsePolicy:
    """A policy from its name, or the instance itself.

    Raises:
        InvalidArgumentError: an unknown name.
    """
    if isinstance(spec, CollapsePolicy):
        return spec
    return _POLICIES[require_choice("collapse policy", spec, _POLICIES)]()
