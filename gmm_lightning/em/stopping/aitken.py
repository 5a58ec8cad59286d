"""Stop when nothing remains to be gained."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from gmm_lightning.em.convergence import GainEstimate
from gmm_lightning.em.stopping.base import Change, StoppingRule


class Aitken(StoppingRule):
    """Stop when the objective is estimated to gain no more than `tol` until the end.

    See `GainEstimate`.

    References:
        D. Böhning, E. Dietz, R. Schaub, P. Schlattmann, B. G. Lindsay (1994), The distribution of
        the likelihood ratio for mixtures of densities from the one-parameter exponential family,
        Annals of the Institute of Statistical Mathematics 46.
    """

    name: ClassVar[str] = "aitken"
    follows_leader: ClassVar[bool] = True

    def settled(self, gains: GainEstimate, tol: Tensor | float, change: Change = None) -> Tensor:
        """Where the estimate is no more than the tolerance."""
        return gains.remaining <= tol
