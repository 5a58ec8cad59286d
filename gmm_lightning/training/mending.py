"""Components that collapse while a callback trains: mended by a policy, alike in all processes."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from gmm_lightning.em import Collapse
from gmm_lightning.em.collapse import fresh, refusal
from gmm_lightning.em.fit import POLICIES
from gmm_lightning.em.reseed import CANDIDATES, Reseeder
from gmm_lightning.em.starts import packed, unpack
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer

log = logging.getLogger(__name__)


class Mender:
    """Treats what an M-step had to repair by a policy, and keeps and logs it.

    Args:
        policy: `floor`, `reseed` or `raise`, as in `fit_em`.
        seed: of the rows at which components are reseeded.
        once: report a repair in place only the first time, however often it is asked for.

    Attributes:
        events: what was repaired; of a component that stays as it is only the first time.
        moved: whether the last step moved a component.

    Raises:
        InvalidArgumentError: an unknown policy.
    """

    def __init__(self, policy: str, seed: int, *, once: bool = False) -> None:
        if policy not in POLICIES:
            raise InvalidArgumentError(
                f"unknown collapse policy {policy!r}; known are: {', '.join(POLICIES)}"
            )
        self.policy, self.once = policy, once
        self.events: list[Collapse] = []
        self._latest: list[Collapse] = []
        self._reseeder = Reseeder(torch.zeros(0), torch.Generator().manual_seed(seed))

    @property
    def moved(self) -> bool:
        """See the class."""
        return any(event.action == "reseeded" for event in self._latest)

    def __call__(
        self,
        trainer: L.Trainer,
        layer: GMMLayer,
        found: list[Collapse],
        rows: Tensor,
        weight: Tensor | None,
        units: nn.Module,
    ) -> list[Collapse]:
        """The events of a step, with what was done.

        Args:
            trainer: of all processes.
            layer: written in place.
            found: what the M-step repaired.
            rows: of this process, among which a component may start anew.
            weight: of these rows; None: all alike.
            units: takes rows to the units of the layer.

        Raises:
            CollapseError: the policy is to raise.
        """
        if found and self.policy == "raise":
            raise refusal(found[0])
        if found and self.policy == "reseed":
            found = self._reseeded(trainer, layer, found, rows, weight, units)
        if self.once:
            self._latest = [event for event in self.events if event.action != "reseeded"]
        events, self._latest = fresh(found, self._latest), found
        self.events += events
        if trainer.is_global_zero:
            for event in events:
                log.warning("%s", event)
        return found

    def _reseeded(
        self,
        trainer: L.Trainer,
        layer: GMMLayer,
        found: list[Collapse],
        rows: Tensor,
        weight: Tensor | None,
        units: nn.Module,
    ) -> list[Collapse]:
        """Move components to poorly explained rows of the first process."""
        if len(rows) and trainer.is_global_zero:
            step = -(-len(rows) // CANDIDATES)
            self._reseeder.rows = units(rows[::step])
            self._reseeder.weight = None if weight is None else weight[::step].to(rows.device)
            found = self._reseeder(layer, found)
        parameters, found = trainer.strategy.broadcast((packed(layer), found))
        unpack(layer, parameters.to(layer.means.device))
        return found

    def state_dict(self) -> dict[str, Any]:
        """What was repaired, as primitives."""
        return {
            "events": [asdict(event) for event in self.events],
            "latest": [asdict(event) for event in self._latest],
            "reseeder": self._reseeder.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.events = [Collapse(**event) for event in state["events"]]
        self._latest = [Collapse(**event) for event in state["latest"]]
        self._reseeder.load_state_dict(state["reseeder"])
