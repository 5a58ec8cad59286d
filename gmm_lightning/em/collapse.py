"""Components that lose their rows or their volume, and the events that report them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.errors import CollapseError

FLOORED, EMPTIED, RESEEDED = "floored", "emptied", "reseeded"

_DESCRIPTIONS = {
    EMPTIED: (
        "it lost its rows and keeps weight 0 (fit.collapse=reseed moves it to rows that are "
        "explained poorly, fit.num_restarts=5 tries other starts; fewer distinct rows than "
        "components need fewer components)"
    ),
    RESEEDED: "it starts anew at a poorly explained row ({volume} before)",
    FLOORED: (
        "flat in some direction, so its covariance is held at the floor ({volume}; priors=niw "
        "keeps it away from there, cov.relative_floor= moves the floor)"
    ),
}
# With a prior none is flat: what holds one at the floor is rounding beside its own widest.
_TOO_WIDE = (
    "too wide in one direction beside another for rounding, so its covariance is held at the "
    "floor ({volume}; it may hold rows far from all others, or a column follows from others: leave "
    "these out)"
)


@dataclass(frozen=True)
class CollapseEvent:
    """A component that lost its rows or its volume, and what was done.

    Attributes:
        component: index of the component, after the batch indices if there are any; a tied
            covariance has index 0.
        count: rows it holds.
        smallest_eigenvalue: of its covariance, in units of the squared local scale of each
            feature; infinite for a component that only lost its rows.
        action: `floored` (its volume was raised to the floor), `emptied` (its weight is zero,
            its mean stays, and its variances are those of all rows) or `reseeded` (it was moved to
            rows that the mixture explained poorly).
        iteration: M-steps done before.
        regularized: whether a prior or `reg_covar` keeps covariances regular.
    """

    component: tuple[int, ...]
    count: float
    smallest_eigenvalue: float
    action: str
    iteration: int = 0
    regularized: bool = False

    @property
    def is_reseed(self) -> bool:
        """Whether the component was moved instead of repaired in place."""
        return self.action == RESEEDED

    def __str__(self) -> str:
        smallest = f"smallest relative eigenvalue {self.smallest_eigenvalue:.2g}"
        volume = f"{self.count:.3g} rows, {smallest}"
        which = f"component {', '.join(map(str, self.component))}, iteration {self.iteration}"
        too_wide = self.regularized and self.action == FLOORED
        said = _TOO_WIDE if too_wide else _DESCRIPTIONS[self.action]
        return f"{which}: {said.format(volume=volume)}"


@dataclass(frozen=True)
class ConstantFeature:
    """A feature with one value in all rows.

    Its density is 1 there, so that likelihoods and criteria are those without the feature.

    Attributes:
        feature: its index.
    """

    feature: int
    iteration: int = 0
    action: str = "constant"

    def __str__(self) -> str:
        return (
            f"feature {self.feature} is constant: it adds nothing to likelihoods and criteria, "
            "and may be left out"
        )


class Collapsed(NamedTuple):
    """The repairs of an M-step in M mixtures.

    Attributes:
        floored: covariances raised to the floor, `(M, G)`.
        emptied: components that lost their last rows, `(M, K)`.
        counts: rows of each component, `(M, K)`.
        smallest: smallest eigenvalue of each covariance in units of the squared local scale of
            each feature, `(M, G)`; infinite where it satisfies the floor.
        reseeded: components that a policy has moved since, `(M, K)`.
    """

    floored: Tensor
    emptied: Tensor
    counts: Tensor
    smallest: Tensor
    reseeded: Tensor

    @classmethod
    def with_weightless(
        cls,
        collapsed: Collapsed | None,
        parameters: MixtureParameters,
        counts: Tensor,
        held: Tensor,
    ) -> Collapsed | None:
        """The repairs of an M-step, with the components that had no weight before it.

        For a loop of M-steps whose start nobody reported (`training/em.py`). Those that are
        frozen, `held` `(M, K)`, need no weight.
        """
        emptied = weightless(parameters) & ~held
        if collapsed is not None:
            return collapsed._replace(emptied=collapsed.emptied | emptied)
        if not bool(emptied.any()):
            return None
        nothing = torch.zeros_like(emptied)
        return cls(nothing, emptied, counts, torch.full_like(counts, torch.inf), nothing)

    @property
    def mixtures(self) -> Tensor:
        """Mixtures in which something was repaired, `(M,)`."""
        return self.floored.any(-1) | self.emptied.any(-1)

    def select(self, index: Tensor) -> Collapsed:
        """The repairs of the mixtures at `index`."""
        return Collapsed(*(value[index] for value in self))

    def by_action(self) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        """Masks of what was done, with counts and smallest eigenvalues, all `(M, G)` or `(M, K)`.

        Covariances come first, then components without rows.
        """
        infinite = torch.full_like(self.counts, torch.inf)
        tied = self.floored.shape != self.emptied.shape
        pooled = self.counts.sum(-1, keepdim=True) if tied else self.counts
        # A shared covariance is never moved.
        moved = torch.zeros_like(self.floored) if tied else self.reseeded
        for where, counts, smallest, action, away in (
            (self.floored, pooled, self.smallest, FLOORED, moved),
            (self.emptied, self.counts, infinite, EMPTIED, self.reseeded),
        ):
            yield action, where & ~away, counts, smallest
            yield RESEEDED, where & away, counts, smallest

    def events(self, model: MixtureModel, iteration: int) -> Iterator[tuple[int, CollapseEvent]]:
        """Each repair with its mixture, in the order of `by_action`.

        Args:
            model: gives the position of each mixture in the batch.
            iteration: M-steps done before.
        """
        for action, where, counts, smallest in self.by_action():
            for m, k in where.nonzero().tolist():
                cell = np.unravel_index(int(model.batch_index[m]), model.batch_shape or (1,))
                component = (*map(int, cell[: len(model.batch_shape)]), k)
                numbers = float(counts[m, k]), float(smallest[m, k])
                how = action, iteration, model.regularizes_covariances
                yield m, CollapseEvent(component, *numbers, *how)


def weightless(parameters: MixtureParameters) -> Tensor:
    """Components that an M-step left without rows, `(M, K)`: their weight is numerically 0."""
    tiny = torch.finfo(parameters.means.dtype).tiny
    return parameters.mixture_logits.softmax(-1) <= 2 * tiny


def collapse_error(event: CollapseEvent) -> CollapseError:
    """The error of a fit that stops at an event."""
    return CollapseError(f"{event}; collapse='floor' repairs it and goes on")


def new_events(
    found: Iterable[CollapseEvent], known: Iterable[CollapseEvent]
) -> list[CollapseEvent]:
    """The events whose component and action were not reported before."""
    reported = {(event.component, event.action) for event in known}
    return [event for event in found if (event.component, event.action) not in reported]
