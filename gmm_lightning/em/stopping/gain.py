"""Stop when a step gains little: scikit-learn's rule."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.em.stopping.base import OneMoreStep


class Gain(OneMoreStep):
    """Stop when an M-step changed the objective by less than `tol`, after one more M-step.

    The rule of scikit-learn, which looks at the gain of one M-step when it has done the next. A
    slow fit stops far from its end: the gains that are still to come may be a hundred times `tol`.

    Args:
        objective: of the M-step before the first one, for a fit that goes on; None: not known.
    """

    name: ClassVar[str] = "gain"

    def __init__(self, objective: float | None = None) -> None:
        self.objective = objective

    def is_small(self, gain: Tensor, objective: Tensor, tol: Tensor | float) -> Tensor:
        """Which gains are less than the tolerance."""
        if self.objective is not None:
            gain = torch.where(torch.isnan(gain), objective - self.objective, gain)
        return gain.abs() < tol
