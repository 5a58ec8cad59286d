"""What a fit did, from one start or from many."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning.em.collapse import Collapse

Value = float | Tensor


@dataclass(frozen=True)
class EMResult:
    """What a fit did. Numbers are floats, or tensors `(*B)` for a batch of mixtures.

    Attributes:
        converged: whether the last gain of the objective was below `tol` (for every mixture).
        num_iterations: M-steps of the best start.
        objective: `mean log p(x) + log_prior / N` at the final parameters, nats per row.
        log_likelihood: `mean log p(x)` at the final parameters, nats per row.
        history: the objective before the first M-step and after each one.
        events: components that had to be repaired.
        num_restarts: starts tried.
        restart_objectives: final objective of every start.
    """

    converged: bool
    num_iterations: int
    objective: Value
    log_likelihood: Value
    history: list[Value]
    events: list[Collapse]
    num_restarts: int
    restart_objectives: list[Value]


@dataclass(frozen=True)
class Run:
    """One start, followed to its end."""

    converged: bool
    history: list[Tensor]
    log_likelihood: Tensor
    events: list[Collapse]


def summary(runs: list[Run]) -> EMResult:
    """The result over all starts: numbers of the best one, mixture by mixture of a batch."""
    finals = torch.stack([run.history[-1] for run in runs])
    top = finals.argmax(0)
    chosen = runs[int(top.reshape(-1)[0])]
    likelihoods = torch.stack([run.log_likelihood for run in runs])
    return EMResult(
        converged=chosen.converged,
        num_iterations=len(chosen.history) - 1,
        objective=plain(finals.gather(0, top.unsqueeze(0))[0]),
        log_likelihood=plain(likelihoods.gather(0, top.unsqueeze(0))[0]),
        history=[plain(value) for value in chosen.history],
        events=chosen.events,
        num_restarts=len(runs),
        restart_objectives=[plain(value) for value in finals],
    )


def plain(value: Tensor) -> Value:
    """A float for one mixture, a tensor for a batch."""
    return value.item() if value.dim() == 0 else value
