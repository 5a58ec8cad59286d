"""Stop when a step gains little beside the size of the objective: tgmm's rule."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gmm_lightning.em.convergence import GainEstimate
from gmm_lightning.em.stopping.base import Change, StoppingRule


class Relative(StoppingRule):
    """Stop when an M-step changed the objective by less than `tol |objective|`.

    As under `gain`, one more M-step follows. The rule of tgmm: it depends on the units of the
    data, since the objective does.
    """

    name: ClassVar[str] = "relative"

    def settled(self, gains: GainEstimate, tol: Tensor | float, change: Change = None) -> Tensor:
        """Where the gain of the M-step before the last one is a smaller share of the objective."""
        before = gains.objective - gains.gain - gains.previous_gain
        return gains.previous_gain.abs() < tol * before.abs()
