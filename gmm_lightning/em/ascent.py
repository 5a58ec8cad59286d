"""From one pass to the next: is the new place higher, and where to go from it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.em.acceleration import Accelerator, as_accelerator
from gmm_lightning.em.collapse import Collapse
from gmm_lightning.em.starts import packed, packed_units, unpack
from gmm_lightning.em.steps import m_step
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import SufficientStatistics

# M-steps without a leap after leaps that failed, at most.
LONGEST_PAUSE = 32


@torch.no_grad()
def objective_of(layer: GMMLayer, stats: SufficientStatistics) -> Tensor:
    """The penalised objective at the parameters that the statistics were taken under."""
    total = stats.log_likelihood + layer.log_prior().to(stats.log_likelihood)
    return total / stats.total_weight


class Ascent:
    """M-steps, and leaps beyond them that are taken back when they do not pay.

    Each pass is first judged, then moved from. After a leap, a pass whose objective is below
    that of the last accepted one restores the place of the M-step before it: the objective of
    accepted passes never falls.

    Args:
        acceleration: `squarem`, `anderson`, an `Accelerator`, or None.

    Attributes:
        plain: whether the last accepted pass came from an M-step alone: only such a pass can
            tell that EM has converged.
    """

    def __init__(self, acceleration: str | Accelerator | None = None) -> None:
        self.accelerator = as_accelerator(acceleration)
        self.plain = True
        self._accepted: Tensor | None = None
        self._fallback: Tensor | None = None
        self._steady = self._mixed = False
        self._rest, self._pause = 0, 1

    def judge(
        self, layer: GMMLayer, stats: SufficientStatistics, tol: float = 0.0
    ) -> Tensor | None:
        """The objective `(*B)` of the pass, or None: the leap was taken back, pass once more."""
        objective = objective_of(layer, stats)
        accepted = None if self._accepted is None else self._accepted.to(objective)
        if self._fallback is not None and accepted is not None:
            fallen = ~(objective >= accepted)
            if bool(fallen.any()):
                leap = packed(layer)
                unpack(layer, torch.where(fallen.unsqueeze(-1), self._fallback.to(leap), leap))
                self._fallback, self._mixed = None, not bool(fallen.all())
                # Leaps that fail cost a pass each: wait longer before the next.
                self._pause = min(2 * self._pause, LONGEST_PAUSE)
                self._rest = self._pause
                return None
            self._pause = max(1, self._pause // 2)
        # Of several mixtures some may have stayed where they leapt.
        self.plain, self._mixed = self._fallback is None and not self._mixed, False
        # A leap that gains little says nothing of convergence: the next step is an M-step alone.
        self._steady = accepted is not None and bool((objective - accepted < tol).any())
        self._accepted, self._fallback = objective, None
        return objective

    def move(
        self, layer: GMMLayer, stats: SufficientStatistics, *, leaps: bool = True
    ) -> list[Collapse]:
        """The M-step, and a leap where one is due.

        Args:
            layer: written in place.
            stats: of the accepted pass.
            leaps: False while the next pass is of another objective than the last.
        """
        if self.accelerator is None or not leaps:
            return m_step(layer, stats)
        before, unit = packed(layer), packed_units(layer)
        events = m_step(layer, stats)
        after = packed(layer)
        leap = self.accelerator.advance(before, after, unit)
        if events:
            # At the floor the M-step is the maximum of another problem.
            self.accelerator.restart()
        elif self._rest > 0:
            self._rest -= 1
        elif leap is not None and not (self._steady and not self.plain):
            leap = torch.where(torch.isfinite(leap).all(-1, keepdim=True), leap, after)
            unpack(layer, leap)
            self._fallback = after
        return events

    def chosen(self, index: Tensor) -> None:
        """Go on with some of the starts."""
        if self._accepted is not None:
            self._accepted = self._accepted[index]
        if self._fallback is not None:
            self._fallback = self._fallback[index]
        if self.accelerator is not None:
            self.accelerator.chosen(index)

    def state_dict(self) -> dict[str, Any]:
        """What the next pass needs, as tensors and primitives."""
        state: dict[str, Any] = {"plain": self.plain, "steady": self._steady, "mixed": self._mixed}
        state |= {"rest": self._rest, "pause": self._pause}
        for name in ("accepted", "fallback"):
            value = getattr(self, f"_{name}")
            state[name] = None if value is None else value.clone()
        if self.accelerator is not None:
            state["accelerator"] = self.accelerator.state_dict()
            state["kind"] = type(self.accelerator).__name__
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.plain, self._steady = state["plain"], state["steady"]
        self._mixed = state["mixed"]
        self._rest, self._pause = state["rest"], state["pause"]
        self._accepted, self._fallback = state["accepted"], state["fallback"]
        # What another kind of leaps kept says nothing here.
        if self.accelerator is not None and state.get("kind") == type(self.accelerator).__name__:
            self.accelerator.load_state_dict(state["accelerator"])


def numbered(events: list[Collapse], iteration: int) -> list[Collapse]:
    """Events that say when they happened."""
    return [replace(event, iteration=iteration) for event in events]
