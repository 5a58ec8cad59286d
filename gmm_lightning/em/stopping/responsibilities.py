"""Stop when the responsibilities stay: gmr's rule."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.em.convergence import GainEstimate
from gmm_lightning.em.stopping.base import Change, StoppingRule


class ResponsibilityChange(StoppingRule):
    """Stop when an M-step changed the responsibilities `(N, K)` by less than `tol`.

    The change is the Euclidean norm over all rows and components, so the tolerance means less the
    more rows there are. The rule of gmr. It keeps the responsibilities of all rows, and computes
    them in a second pass over the rows.
    """

    name: ClassVar[str] = "responsibilities"
    watches_responsibilities: ClassVar[bool] = True

    def settled(self, gains: GainEstimate, tol: Tensor | float, change: Change = None) -> Tensor:
        """Where the change is less than the tolerance."""
        assert change is not None
        return change() < torch.as_tensor(tol)
