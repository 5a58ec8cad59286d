"""The repairs of a fit as columns of numbers: events are made of them where someone reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Size, Tensor

from gmm_lightning.em.collapse import Collapsed, CollapseEvent

# In a batch of more mixtures, events are counted instead of listed.
MAX_LISTED = 100
_NUM_EXAMPLES = 3


@dataclass(frozen=True)
class CollapseCount:
    """How often something was done to the components of a batch of many mixtures.

    Attributes:
        action: as of a `CollapseEvent`.
        num_components: components to which it was done, each counted once.
        num_mixtures: mixtures that have one of them.
        examples: the first events.
        iteration: M-steps done before the first one.
    """

    action: str
    num_components: int
    num_mixtures: int
    examples: tuple[CollapseEvent, ...]
    iteration: int = 0

    @property
    def is_reseed(self) -> bool:
        """Whether the components were moved instead of repaired in place."""
        return self.examples[0].is_reseed

    def __str__(self) -> str:
        many = f"{self.num_components:,} components of {self.num_mixtures:,} mixtures"
        return f"{many} were {self.action}, the first: {self.examples[0]}"


class _Repairs(NamedTuple):
    """Repairs of one action in one M-step: columns of equal length, by run."""

    action: str
    iteration: int
    regularized: bool
    run: Tensor
    component: Tensor
    rows: Tensor
    smallest: Tensor

    def select(self, index: Tensor) -> Self:
        """Some of them."""
        return self._replace(**{name: getattr(self, name)[index] for name in self._fields[3:]})


class EventLog:
    """What was repaired in the runs of a fit, each repair once while it lasts.

    Args:
        num_runs: M.
        regularized: whether a prior or `reg_covar` keeps covariances regular.
    """

    def __init__(self, num_runs: int, *, regularized: bool = False) -> None:
        self._num_runs, self._regularized = num_runs, regularized
        self._repairs: list[_Repairs] = []
        self._latest: dict[str, Tensor] = {}

    def add(self, collapsed: Collapsed | None, runs: Tensor, iteration: int) -> None:
        """Add the repairs of an M-step of some of the runs that the last one did not need.

        Args:
            collapsed: repairs of the mixtures at `runs`; None: there were none.
            runs: indices, `(M')`.
            iteration: M-steps done before.
        """
        latest: dict[str, Tensor] = {}
        for action, where, counts, smallest in [] if collapsed is None else collapsed.by_action():
            m, component = where.cpu().nonzero(as_tuple=True)
            found = torch.zeros(self._num_runs, counts.shape[-1], dtype=torch.bool)
            found[runs[m], component] = True
            known = self._latest.get(action)
            if known is not None and known.shape == found.shape:
                fresh = ~known[runs[m], component]
                m, component = m[fresh], component[fresh]
            if len(m):
                how = action, iteration, self._regularized
                numbers = counts.cpu()[m, component], smallest.cpu()[m, component]
                self._repairs.append(_Repairs(*how, runs[m], component, *numbers))
            latest[action] = latest[action] | found if action in latest else found
        self._latest = latest

    def events(self, runs: Tensor, batch_shape: Size) -> list[CollapseEvent | CollapseCount]:
        """The events of some runs, one for each mixture of a batch, in the order of time.

        Of more than `MAX_LISTED` mixtures they are counted by action.
        """
        place = torch.full((self._num_runs,), -1)
        place[runs] = torch.arange(len(runs))
        mine = [some.select(place[some.run] >= 0) for some in self._repairs]
        mine = [some for some in mine if len(some.run)]
        if len(runs) > MAX_LISTED:
            actions = dict.fromkeys(some.action for some in mine)
            return [
                _count([some for some in mine if some.action == action], place, batch_shape)
                for action in actions
            ]
        found = [
            (event.iteration, position, event)
            for some in mine
            for position, event in _listed(some, place, batch_shape)
        ]
        return [event for *_, event in sorted(found, key=lambda each: each[:2])]


def _listed(repairs: _Repairs, place: Tensor, batch_shape: Size) -> list[tuple[int, CollapseEvent]]:
    """Events with the positions of their mixtures in the batch."""
    position = place[repairs.run]
    cells = np.stack(np.unravel_index(position.numpy(), tuple(batch_shape) or (1,)), -1)
    columns = zip(
        position.tolist(),
        cells[:, : len(batch_shape)].tolist(),
        *(values.tolist() for values in repairs[4:]),
        strict=True,
    )
    return [
        (at, CollapseEvent((*cell, component), count, smallest, *repairs[:3]))
        for at, cell, component, count, smallest in columns
    ]


def _count(repairs: list[_Repairs], place: Tensor, batch_shape: Size) -> CollapseCount:
    """The count of repairs of one action."""
    first = repairs[0].select(torch.arange(min(_NUM_EXAMPLES, len(repairs[0].run))))
    examples = tuple(event for _, event in _listed(first, place, batch_shape))
    pairs = torch.cat([torch.stack([some.run, some.component], -1) for some in repairs])
    pairs = pairs.unique(dim=0)
    number = len(pairs[:, 0].unique())
    return CollapseCount(repairs[0].action, len(pairs), number, examples, repairs[0].iteration)
