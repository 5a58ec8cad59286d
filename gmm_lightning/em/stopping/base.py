"""The interface of rules that say when EM has converged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.em.convergence import GainEstimate

Change = Callable[[], Tensor] | None


class StoppingRule(ABC):
    """Base class of the rules: whether mixtures have converged, after each E-step.

    Attributes:
        watches_responsibilities: whether the rule asks for their change, which takes memory for
            all of them and a second pass over the rows.
        follows_leader: whether the best of several starts is followed further than the others.
    """

    name: ClassVar[str]
    watches_responsibilities: ClassVar[bool] = False
    follows_leader: ClassVar[bool] = False

    @abstractmethod
    def settled(self, gains: GainEstimate, tol: Tensor | float, change: Change = None) -> Tensor:
        """Which mixtures have converged, `(M,)`.

        Args:
            gains: of the objectives.
            tol: the tolerance, one or `(M,)`.
            change: computes the change of the responsibilities since the last E-step, the
                Euclidean norm over rows and components, `(M,)`; None where they are not kept.
        """

    def settles_next(self, gains: GainEstimate, tol: Tensor | float) -> Tensor:
        """Which mixtures will have converged after one more M-step, whatever it gains, `(M,)`."""
        return torch.zeros_like(gains.gain, dtype=torch.bool)


class OneMoreStep(StoppingRule):
    """Base class of the rules that judge the gain of an M-step when the next one is done."""

    @abstractmethod
    def is_small(self, gain: Tensor, objective: Tensor, tol: Tensor | float) -> Tensor:
        """Which gains `(M,)` are small, beside the objectives that they led to."""

    def settled(self, gains: GainEstimate, tol: Tensor | float, change: Change = None) -> Tensor:
        """Where the gain of the M-step before the last one is small."""
        return self.is_small(gains.previous_gain, gains.objective - gains.gain, tol)

    def settles_next(self, gains: GainEstimate, tol: Tensor | float) -> Tensor:
        """Where the gain of the last M-step is small."""
        return self.is_small(gains.gain, gains.objective, tol)
