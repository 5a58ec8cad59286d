"""The result of a variational fit."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gmm_lightning.em.variational.posterior import MixturePosterior

Value = float | Tensor


@dataclass(frozen=True)
class VBResult:
    """The result of a variational fit. Numbers are floats, or tensors `(*B)` for a batch.

    Attributes:
        converged: whether the stopping rule ended the fit (of every mixture).
        num_iterations: updates of the posterior, of the best start.
        bound: lower bound of the log evidence at the posterior, with all constants, nats per row.
        history: the bound at each E-step.
        posterior: distributions of the weights and the components, one for each mixture of the
            batch, along one leading axis.
        prior: of the same kind.
        restart_bounds: the last bound of each start, in the order they were drawn.
    """

    converged: bool
    num_iterations: int
    bound: Value
    history: list[Value]
    posterior: MixturePosterior
    prior: MixturePosterior
    restart_bounds: list[Value]
