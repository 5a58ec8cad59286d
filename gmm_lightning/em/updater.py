"""Monotone EM with extrapolated steps: one that lowers the objective is undone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmm_lightning.em.acceleration import Accelerator, as_accelerator
from gmm_lightning.em.convergence import GainEstimate
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters

# Most M-steps without an extrapolation, after extrapolations that failed.
_MAX_BACKOFF = 32
# M-steps before the first extrapolation: EM is fast at first, and its path not yet a line.
_FIRST_STEPS = 10


class MonotoneUpdater:
    """Decides, mixture by mixture, whether an extrapolated step is taken and kept.

    After an E-step `rejected` says where the objective fell below the last accepted one;
    `restore` gives these mixtures the parameters of the M-step before the extrapolation, `accept`
    keeps the others, and `extrapolate` follows the next M-step: so the objective of accepted
    E-steps falls no more than that of plain EM.

    Args:
        acceleration: `squarem`, `anderson`, an `Accelerator`, or None.
        num_mixtures: M.
    """

    def __init__(
        self, acceleration: str | Accelerator | None = None, num_mixtures: int = 1
    ) -> None:
        self._accelerator = as_accelerator(acceleration)
        self._fallback: Tensor | None = None
        self._state: dict[str, Tensor] = {}
        self.resize(num_mixtures)

    def resize(self, num_mixtures: int) -> None:
        """Reset for another number of mixtures; nothing changes for the same number."""
        if self._state and len(self._state["accepted"]) == num_mixtures:
            return
        self.gains = GainEstimate(num_mixtures)
        nothing = torch.zeros(num_mixtures, dtype=torch.bool)
        self._state = {
            "accepted": torch.full((num_mixtures,), -torch.inf, dtype=torch.float64),
            "extrapolated": nothing,  # The present parameters are an extrapolation.
            "from_m_step": ~nothing,  # The last accepted ones were not.
            "small_gain": nothing,  # The last accepted step gained less than the tolerance.
            "cooldown": nothing.long()
            + _FIRST_STEPS,  # M-steps to wait before the next extrapolation.
            "backoff": nothing.long() + 1,  # How long to wait after the next failure.
        }

    @property
    def from_m_step(self) -> Tensor:
        """Whether the last accepted parameters came from an M-step alone, `(M,)`."""
        return self._state["from_m_step"]

    def rejected(self, objective: Tensor) -> Tensor:
        """Mixtures whose extrapolated parameters lowered the objective, `(M,)`."""
        state = self._state
        if self._fallback is None:
            return torch.zeros_like(state["extrapolated"])
        return state["extrapolated"] & ~(objective.cpu() >= state["accepted"])

    def restore(self, parameters: MixtureParameters, rejected: Tensor) -> MixtureParameters:
        """Parameters with the rejected mixtures at the M-step before their extrapolation."""
        assert self._fallback is not None
        rows, state = parameters.to_vector(), self._state
        where = rejected.to(rows.device).unsqueeze(-1)
        state["extrapolated"] = state["extrapolated"] & ~rejected
        # A failed extrapolation costs an E-step: wait longer before the next one.
        longer = (2 * state["backoff"]).clamp(max=_MAX_BACKOFF)
        state["backoff"] = torch.where(rejected, longer, state["backoff"])
        state["cooldown"] = torch.where(rejected, state["backoff"], state["cooldown"])
        return parameters.from_vector(torch.where(where, self._fallback.to(rows), rows))

    def accept(self, objective: Tensor, tol: float = 0.0, comparable: Tensor | None = None) -> None:
        """Accept the parameters of the last E-step.

        Args:
            objective: of each mixture, `(M,)`.
            tol: gains below it call for plain steps, which show whether EM has converged.
            comparable: whether the objective before was of the same path: no component was moved,
                and no temperature changed; None: all are.
        """
        state, objective = self._state, objective.cpu()
        gain = objective - state["accepted"]
        if self._accelerator is not None:
            shorter = (state["backoff"] // 2).clamp(min=1)
            state["backoff"] = torch.where(state["extrapolated"], shorter, state["backoff"])
            state["from_m_step"] = ~state["extrapolated"]
            state["small_gain"] = gain < tol
            state["extrapolated"] = torch.zeros_like(state["extrapolated"])
        plain = state["from_m_step"] if comparable is None else state["from_m_step"] & comparable
        self.gains.update(objective, plain)
        state["accepted"] = objective

    def extrapolate(
        self,
        model: MixtureModel,
        before: MixtureParameters,
        after: MixtureParameters,
        disturbed: Tensor | None,
    ) -> MixtureParameters:
        """The parameters after an M-step, or beyond them where an extrapolation is due.

        Args:
            model: of the mixtures.
            before: parameters of the accepted E-step.
            after: those of the M-step that followed.
            disturbed: mixtures in which a component was repaired, `(M,)`, or None: at the floor
                the M-step is the maximum of another problem.
        """
        if self._accelerator is None:
            return after
        state = self._state
        if self._fallback is None and bool((state["cooldown"] > 1).all()):
            # The first steps are plain: their path is not needed.
            state["cooldown"] = state["cooldown"] - 1
            return after
        rows = after.to_vector()
        found = self._accelerator.propose(before.to_vector(), rows, model.entry_scales(before))
        quiet = torch.ones_like(state["small_gain"])
        if disturbed is not None:
            quiet = ~disturbed.cpu()
            self._accelerator.restart(disturbed)
        waiting = state["cooldown"] > 0
        state["cooldown"] = torch.where(quiet & waiting, state["cooldown"] - 1, state["cooldown"])
        if found is None:
            return after
        proposal, valid = found
        if model.projections:
            proposal = model.constrain(after.from_vector(proposal)).to_vector()
        # The gain of an extrapolation does not show convergence: M-steps alone follow.
        uncertain = state["small_gain"] & torch.isnan(self.gains.rate)
        take = quiet & ~waiting & valid.cpu() & ~uncertain
        take &= torch.isfinite(proposal).all(-1).cpu()
        state["extrapolated"], self._fallback = take, rows
        return after.from_vector(torch.where(take.to(rows.device).unsqueeze(-1), proposal, rows))

    def select(self, index: Tensor) -> None:
        """Keep the mixtures at `index` only."""
        self._state = {name: value[index.cpu()] for name, value in self._state.items()}
        self.gains.select(index)
        if self._fallback is not None:
            self._fallback = self._fallback[index]
        if self._accelerator is not None:
            self._accelerator.select(index)

    def state_dict(self) -> dict[str, Any]:
        """The state that the next step needs, as tensors and primitives."""
        state: dict[str, Any] = {name: value.clone() for name, value in self._state.items()}
        state["gains"] = self.gains.state_dict()
        state["fallback"] = None if self._fallback is None else self._fallback.clone()
        if self._accelerator is not None:
            state["accelerator"] = self._accelerator.state_dict()
            state["kind"] = self._accelerator.name
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self._state = {name: state[name] for name in self._state}
        self.gains.load_state_dict(state["gains"])
        self._fallback = state["fallback"]
        # The steps kept by another kind of acceleration are of no use here.
        if self._accelerator is not None and state.get("kind") == self._accelerator.name:
            self._accelerator.load_state_dict(state["accelerator"])
