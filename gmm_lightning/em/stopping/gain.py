"""Stop when a step gains little: scikit-learn's rule."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gmm_lightning.em.convergence import GainEstimate
from gmm_lightning.em.stopping.base import Change, StoppingRule


class Gain(StoppingRule):
    """Stop when an M-step changed the objective by less than `tol`, after one more M-step.

    The rule of scikit-learn, which looks at the gain of one M-step when it has done the next. A
    slow fit stops far from its end: the gains that are still to come may be a hundred times `tol`.
    """

    name: ClassVar[str] = "gain"

    def settled(self, gains: GainEstimate, tol: Tensor | float, change: Change = None) -> Tensor:
        """Where the gain of the M-step before the last one is less than the tolerance."""
        return gains.previous_gain.abs() < tol
