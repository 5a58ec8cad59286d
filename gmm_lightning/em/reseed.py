"""A second life for components that collapsed: at rows that the mixture explains poorly."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.em.collapse import Collapse
from gmm_lightning.em.starts import parameters
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import accumulator_dtype

# Rows among which a new place is sought, the share of them that counts as poorly explained, and
# how often one component may start anew before it is left at the floor.
CANDIDATES, POOR, TIMES = 4096, 0.1, 3


class Reseeder:
    """Moves collapsed components of starts `(S, *B)` to poorly explained rows.

    A moved component has the covariance of the whole mixture divided by `K^(2/D)` and the
    average weight. The objective may fall when it moves; EM goes on from there.

    Args:
        rows: some rows of the data, `(n, *B, D)`, with or without the axis of the starts.
        generator: draws the rows.
        weight: of these rows, `(n, *B)`: at one of weight 0 nothing starts; None: all alike.
    """

    def __init__(
        self, rows: Tensor, generator: Generator | None, weight: Tensor | None = None
    ) -> None:
        self.rows, self.weight, self.generator = rows, weight, generator
        self._times: Counter[tuple[float, ...]] = Counter()

    @torch.no_grad()
    def __call__(self, starts: GMMLayer, events: list[Collapse]) -> list[Collapse]:
        """Mend the components of the events in place; the events, with what was done."""
        k, d = starts.num_components, starts.num_features
        rows = self.rows
        if rows.dim() < len(starts.batch_shape) + 2:
            rows = rows.unsqueeze(1)
        counted = torch.ones(len(rows), *starts.batch_shape, device=rows.device)
        if self.weight is not None:
            apart = self.weight.dim() < counted.dim()
            counted = counted * (self.weight.unsqueeze(1) if apart else self.weight).to(counted)
        tied, said, moved = starts.covariance.tied, [], []
        for event in events:
            # A shared covariance at the floor is no component's fault, and a mixture of which
            # no row is among the candidates has no place to go.
            shared = tied and event.action == "floored"
            nowhere = not bool(counted[(slice(None), *event.component[:-1])].any())
            self._times[event.component] += 1
            if shared or nowhere or k == 1 or self._times[event.component] > TIMES:
                said.append(event)
                continue
            moved.append(event.component)
            said.append(replace(event, action="reseeded"))
        if not moved:
            return said
        log_prob = starts.log_prob(rows.to(starts.means))
        spread = None if tied else self.spread(starts)
        weights, means, scale = starts.weights.clone(), starts.means.clone(), starts.scale.clone()
        rows = rows.expand(len(rows), *starts.batch_shape, d)
        for *at, component in moved:
            places = counted[(slice(None), *at)].nonzero().squeeze(-1)
            own = log_prob[(places, *at)]
            poor = own.argsort()[: max(1, int(POOR * len(own)))]
            pick = places[poor[self._draw(len(poor))]]
            where = (*at, component)
            means[where] = rows[(int(pick), *at)].to(means)
            weights[where] = weights[tuple(at)].sum() / k
            if spread is not None:
                scale[where] = spread[(*at, 0)]
        starts.write(weights, means, scale)
        return said

    def spread(self, starts: GMMLayer) -> Tensor:
        """The scale of the whole mixture's covariance times `K^(-2/D)`, `(S, *B, 1, ...)`."""
        family, d = starts.covariance, starts.num_features
        # In float64: beside rows far away, what float32 keeps of a covariance may be singular.
        wide = accumulator_dtype(starts.means.device)
        logits, means, raw = (p.detach().to(wide) for p in parameters(starts))
        mixture = MixtureOfGaussians(logits, means, family.scale(raw), family)
        whole = family.project(mixture.covariance_matrix / starts.num_components ** (2 / d))
        dof = torch.ones(*starts.batch_shape, 1).to(whole)
        return family.estimate(whole.unsqueeze(len(starts.batch_shape)), dof).to(starts.means)

    def chosen(self, index: Tensor) -> None:
        """Go on with some of the starts."""
        now = {before: number for number, before in enumerate(index.tolist())}
        self._times = Counter(
            {(now[at], *rest): n for (at, *rest), n in self._times.items() if at in now}
        )

    def state_dict(self) -> dict[str, Any]:
        """How often each component was moved, and the state of the draws."""
        times = [[list(key), count] for key, count in self._times.items()]
        drawn = None if self.generator is None else self.generator.get_state()
        return {"times": times, "generator": drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._times = Counter({tuple(key): count for key, count in state["times"]})
        if self.generator is not None and state["generator"] is not None:
            self.generator.set_state(state["generator"])

    def _draw(self, count: int) -> int:
        device = self.generator.device if self.generator is not None else None
        return int(torch.randint(count, (), generator=self.generator, device=device))
