"""Components that collapse under a callback: treated by a policy, alike in all processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from torch import Tensor

from gmm_lightning._validation import require_integer
from gmm_lightning.em import (
    Candidates,
    Collapsed,
    CollapseEvent,
    CollapsePolicy,
    MixtureModel,
    MixtureParameters,
    Repair,
    as_policy,
    collapse_error,
    new_events,
)
from gmm_lightning.rows import Batch

_log = logging.getLogger(__name__)


class CollapseHandler:
    """Applies a policy to the repairs of each M-step, and stores and logs the events.

    Args:
        policy: `floor`, `reseed`, `raise` or a `CollapsePolicy`, as in `fit_em`.
        seed: of the rows at which components are reseeded.
        report_once: report a repair at the floor only the first time, because small batches need
            it repeatedly. Otherwise a repair is reported unless the last M-step needed it too.

    Attributes:
        events: components that had to be repaired.
        reseeded: components that the last step moved, `(M, K)`, or None.
    """

    def __init__(
        self, policy: str | CollapsePolicy = "floor", seed: int = 0, *, report_once: bool = False
    ) -> None:
        self.policy, self._report_once = as_policy(policy), report_once
        self.events: list[CollapseEvent] = []
        self.reseeded: Tensor | None = None
        self._latest: list[CollapseEvent] = []
        # One number per component from the first repair on.
        self._num_reseeds = torch.tensor(0)
        self._generator = torch.Generator().manual_seed(require_integer("seed", seed, least=0))

    @property
    def has_moved(self) -> bool:
        """Whether the last step moved a component."""
        return self.reseeded is not None and bool(self.reseeded.any())

    def handle(
        self,
        trainer: L.Trainer,
        model: MixtureModel,
        parameters: MixtureParameters,
        collapsed: Collapsed | None,
        iteration: int,
        candidates: Callable[[int], Batch] | None = None,
    ) -> MixtureParameters:
        """The parameters after the policy, which may move components to rows among `candidates`.

        Raises:
            CollapseError: the policy gives a mixture up.
        """
        found: list[CollapseEvent] = []
        self.reseeded = None
        if collapsed is not None:
            self._num_reseeds = self._num_reseeds.to(collapsed.emptied.device)
            state = (model, parameters, collapsed, self._num_reseeds)
            if candidates is None or not self.policy.num_candidates:
                repair = self.policy.handle(*state, None)
            else:
                # The first process decides, from its own rows.
                nothing = torch.zeros_like(collapsed.emptied)
                repair = Repair(parameters, nothing, nothing.any(-1))
                rows = candidates(self.policy.num_candidates)
                if rows.num_rows and trainer.is_global_zero:
                    repair = self.policy.handle(*state, Candidates(rows, self._generator))
                repair = trainer.strategy.broadcast(repair)
            parameters, self.reseeded = repair.parameters, repair.reseeded
            self._num_reseeds = self._num_reseeds + repair.reseeded
            collapsed = collapsed._replace(reseeded=repair.reseeded)
            found = [event for _, event in collapsed.events(model, iteration)]
            if bool(repair.failed.any()):
                raise collapse_error(found[0])
        known = self._latest
        if self._report_once:
            known = [event for event in self.events if not event.is_reseed]
        events, self._latest = new_events(found, known), found
        self.events += events
        if trainer.is_global_zero:
            for event in events:
                _log.warning("%s", event)
        return parameters

    def state_dict(self) -> dict[str, Any]:
        """The events and the counts of moves, as tensors and primitives."""
        return {
            "events": [asdict(event) for event in self.events],
            "latest": [asdict(event) for event in self._latest],
            "num_reseeds": self._num_reseeds,
            "reseeded": self.reseeded,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self.events = [CollapseEvent(**event) for event in state["events"]]
        self._latest = [CollapseEvent(**event) for event in state["latest"]]
        self._num_reseeds, self.reseeded = state["num_reseeds"], state["reseeded"]
        self._generator.set_state(state["generator"])
