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
        num_passes: times that the best start read the rows: leaps that were taken back and the
            last look at the final parameters included.
        objective: `mean log p(x) + log_prior / N` at the final parameters, nats per row.
        log_likelihood: `mean log p(x)` at the final parameters, nats per row (of classification
            EM: `mean max_k log p(x, k)`).
        history: the objective before the first M-step and after each one (while it anneals: the
            free energy).
        events: components that had to be repaired.
        num_restarts: starts tried.
        restart_objectives: the last objective of every start, in the order they were drawn.
    """

    converged: bool
    num_iterations: int
    num_passes: int
    objective: Value
    log_likelihood: Value
    history: list[Value]
    events: list[Collapse]
    num_restarts: int
    restart_objectives: list[Value]


@dataclass(frozen=True)
class Run:
    """One start, followed to its end.

    Attributes:
        parameters: where it ended, `(*B, V)` as `starts.packed` gives them.
        failed: what ended it under the policy `raise`, or None.
    """

    converged: bool
    history: list[Tensor]
    log_likelihood: Tensor
    events: list[Collapse]
    passes: int
    parameters: Tensor
    failed: Collapse | None


def summary(runs: list[Run]) -> tuple[EMResult, Tensor]:
    """The result over all starts and the best parameters, mixture by mixture of a batch."""
    finals = torch.stack([run.history[-1] for run in runs])
    top = finals.argmax(0)
    chosen = runs[int(top.reshape(-1)[0])]
    likelihoods = torch.stack([run.log_likelihood for run in runs])
    parameters = torch.stack([run.parameters for run in runs])
    result = EMResult(
        converged=chosen.converged,
        num_iterations=len(chosen.history) - 1,
        num_passes=chosen.passes,
        objective=plain(finals.gather(0, top.unsqueeze(0))[0]),
        log_likelihood=plain(likelihoods.gather(0, top.unsqueeze(0))[0]),
        history=[plain(value) for value in chosen.history],
        events=chosen.events,
        num_restarts=len(runs),
        restart_objectives=[plain(value) for value in finals],
    )
    best = top[None, ..., None].expand(1, *parameters.shape[1:]).to(parameters.device)
    return result, parameters.gather(0, best)[0]


def plain(value: Tensor) -> Value:
    """A float for one mixture, a tensor for a batch."""
    return value.item() if value.dim() == 0 else value
