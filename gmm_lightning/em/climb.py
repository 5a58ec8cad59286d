"""The loop: several starts side by side, each until its objective stands still."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.em.annealing import Annealing, posterior_at
from gmm_lightning.em.ascent import Ascent
from gmm_lightning.em.collapse import Collapse, fresh, refusal
from gmm_lightning.em.passes import Passes
from gmm_lightning.em.pruning import hopeless
from gmm_lightning.em.reseed import Reseeder
from gmm_lightning.em.result import Run, plain
from gmm_lightning.em.starts import chosen, packed
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import SufficientStatistics


@dataclass(frozen=True)
class Rules:
    """When a climb stops and what it does on its way: the options of `fit_em`."""

    max_iter: int
    tol: float
    raises: bool = False
    prune: bool = True
    hard: bool = False
    annealing: Annealing | None = None


@dataclass
class Track:
    """What is known of one start while it is followed."""

    history: list[Tensor] = field(default_factory=list)
    events: list[Collapse] = field(default_factory=list)
    latest: list[Collapse] = field(default_factory=list)
    passes: int = 0
    run: Run | None = None


def climb(
    passes: Passes,
    starts: GMMLayer,
    first: list[Collapse],
    rules: Rules,
    ascent: Ascent,
    reseed: Reseeder | None = None,
    bar: Any = None,
) -> list[Run]:
    """EM from every start of a layer `(S, *B)`, in the same matrix products.

    Args:
        passes: E-steps over the rows.
        starts: the starts, written in place.
        first: what the initial M-step had to repair.
        rules: when to stop, and how responsibilities are taken.
        ascent: judges each pass and moves on from it.
        reseed: mends components that collapsed; None: they stay at the floor.
        bar: shows progress; None: nothing is shown.
    """
    number = starts.batch_shape[0]
    tracks = [Track() for _ in range(number)]
    active = torch.arange(number)
    take_up(tracks, active, first, 0)
    iteration = 0
    while True:
        # The last look is at the objective itself, however far annealing came.
        annealing = None if iteration >= rules.max_iter else rules.annealing
        stats = passes(starts, posterior_at(iteration, annealing, hard=rules.hard))
        followed = [tracks[r] for r in active.tolist()]
        for track in followed:
            track.passes += 1
        objective = ascent.judge(starts, stats, rules.tol)
        if objective is None:
            continue
        require_finite(objective, starts, passes)
        leaving = torch.zeros(len(active), dtype=torch.bool)
        # The first pass of plain EM is of another quantity than the one before it.
        annealed = rules.annealing is None or rules.annealing.finished(iteration - 1)
        for a, track in enumerate(followed):
            track.history.append(objective[a])
            settled = annealed and ascent.plain and stands_still(track, rules.tol)
            failed = rules.raises and bool(track.latest)
            if settled or failed or iteration >= rules.max_iter:
                failure = track.latest[0] if failed else None
                track.run = finished(track, starts, stats, a, converged=settled, failed=failure)
                leaving[a] = True
        if rules.prune and annealed:
            lost = hopeless(objective, iteration) & ~leaving
            for a in lost.nonzero().squeeze(-1).tolist():
                followed[a].run = finished(followed[a], starts, stats, a)
            leaving |= lost
        show(bar, objective, stats, len(active) - int(leaving.sum()))
        if bool(leaving.all()):
            return [track.run for track in tracks if track.run is not None]
        if bool(leaving.any()):
            index = (~leaving).nonzero().squeeze(-1)
            active, starts, stats = active[index], chosen(starts, index), stats.chosen(index)
            ascent.chosen(index)
            passes.chosen(index)
            if reseed is not None:
                reseed.chosen(index)
        events = ascent.move(starts, stats, leaps=annealed)
        iteration += 1
        if reseed is not None and events:
            events = reseed(starts, events)
        take_up(tracks, active, events, iteration)
        if bar is not None:
            bar.update()


def take_up(tracks: list[Track], active: Tensor, events: list[Collapse], iteration: int) -> None:
    """File events under their start, once for as long as a component stays as it is."""
    for a, r in enumerate(active.tolist()):
        track = tracks[r]
        found = [
            replace(event, component=event.component[1:], iteration=iteration)
            for event in events
            if event.component[0] == a
        ]
        track.events += fresh(found, track.latest)
        track.latest = found


def stands_still(track: Track, tol: float) -> bool:
    """Whether the last gain was below `tol` for every mixture, and nothing was moved by hand."""
    if len(track.history) < 2 or any(event.action == "reseeded" for event in track.latest):
        return False
    return bool((track.history[-1] - track.history[-2] < tol).all())


def finished(
    track: Track,
    starts: GMMLayer,
    stats: SufficientStatistics,
    a: int,
    *,
    converged: bool = False,
    failed: Collapse | None = None,
) -> Run:
    """A start as it is left, with its parameters."""
    return Run(
        converged=converged,
        history=track.history,
        log_likelihood=(stats.log_likelihood / stats.total_weight)[a],
        events=track.events,
        passes=track.passes,
        parameters=packed(starts)[a],
        failed=failed,
    )


def require_finite(objective: Tensor, layer: GMMLayer, passes: Passes) -> None:
    """Refuse an objective that says nothing.

    Raises:
        InvalidDataError: the values of the rows overflow, or a stream has turned bad.
    """
    if not bool(torch.isfinite(objective).all()):
        passes.source.check()
        raise InvalidDataError(
            f"the objective is {plain(objective.squeeze(0))}: the values of the rows are too large "
            f"or too small for {layer.means.dtype}; standardise them or use float64"
        )


def show(bar: Any, objective: Tensor, stats: SufficientStatistics, followed: int) -> None:
    """The best log-likelihood so far, in the bar."""
    if bar is not None:
        mean = stats.log_likelihood / stats.total_weight
        best = mean.reshape(len(mean), -1).mean(-1).max()
        several = {"starts": followed} if followed > 1 else {}
        bar.set_postfix(log_likelihood=f"{float(best):.6f}", **several, refresh=False)


def require_a_run(runs: list[Run]) -> None:
    """Refuse a fit of which no start is left.

    Raises:
        CollapseError: under the policy `raise`.
    """
    failures = [run.failed for run in runs if run.failed is not None]
    if len(failures) == len(runs):
        raise refusal(failures[0])
