"""The interface of collapse policies, and what they take and return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Generator, Tensor

from gmm_lightning.em.collapse import Collapsed
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.rows import Batch


class Candidates(NamedTuple):
    """Rows to which a component may be moved, and the source of randomness."""

    rows: Batch
    generator: Generator | None


class Repair(NamedTuple):
    """The result of a policy.

    Attributes:
        parameters: of the M mixtures.
        reseeded: components that were moved, `(M, K)`.
        failed: mixtures to give up, `(M,)`.
    """

    parameters: MixtureParameters
    reseeded: Tensor
    failed: Tensor


@dataclass(frozen=True)
class CollapsePolicy(ABC):
    """Base class: how to treat components that an M-step had to repair.

    Attributes:
        num_candidates: number of rows of the data that the policy needs.
    """

    name: ClassVar[str]

    @property
    def num_candidates(self) -> int:
        """Number of rows of the data that the policy needs."""
        return 0

    @abstractmethod
    def handle(
        self,
        model: MixtureModel,
        parameters: MixtureParameters,
        collapsed: Collapsed,
        num_reseeds: Tensor,
        candidates: Candidates | None,
    ) -> Repair:
        """Treat the components that collapsed in the last M-step.

        Args:
            model: of the M mixtures.
            parameters: after the M-step, which held the components at the floor.
            collapsed: what the M-step found.
            num_reseeds: how often each component was moved before, `(M, K)`.
            candidates: rows of the data; None where `num_candidates` is 0.
        """
