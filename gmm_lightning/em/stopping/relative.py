"""Stop when a step gains little beside the size of the objective: tgmm's rule."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gmm_lightning.em.stopping.base import OneMoreStep


class Relative(OneMoreStep):
    """Stop when an M-step changed the objective by less than `tol |objective|`.

    As under `gain`, one more M-step follows. The rule of tgmm: it depends on the units of the
    data, since the objective does.
    """

    name: ClassVar[str] = "relative"

    def is_small(self, gain: Tensor, objective: Tensor, tol: Tensor | float) -> Tensor:
        """Which gains are a smaller share than `tol` of the objective before them."""
        return gain.abs() < tol * (objective - gain).abs()
