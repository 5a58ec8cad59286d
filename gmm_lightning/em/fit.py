"""The loop: E-step and M-step until the objective stands still."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning.em.collapse import Collapse
from gmm_lightning.em.kernels import centred_statistics, posterior
from gmm_lightning.em.result import EMResult, Run, plain, summary
from gmm_lightning.em.source import Source
from gmm_lightning.em.start import as_initializer, initialize, resolve_from
from gmm_lightning.em.steps import m_step
from gmm_lightning.errors import CollapseError, InvalidArgumentError, InvalidDataError
from gmm_lightning.initializers import Given
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import SufficientStatistics

POLICIES = ("floor", "raise")


def fit_em(
    layer: GMMLayer,
    x: Any,
    *,
    initializer: Any = "kmeans",
    sample_weight: Any = None,
    max_iter: int = 100,
    tol: float = 1e-3,
    chunk_size: int | None = None,
    num_restarts: int = 1,
    acceleration: None = None,
    collapse: str = "floor",
    generator: Generator | None = None,
    progress: bool = False,
) -> EMResult:
    """Fit a layer by EM, in place, to the mode of `layer.objective`.

    Args:
        layer: the mixture; its priors take open values from the data.
        x: rows `(*S, *B, D)` as a tensor or array, or a re-iterable of batches of rows.
        initializer: a name, an instance, labels `(N,)`, responsibilities `(N, K)`, or None to
            start from the layer's parameters.
        sample_weight: not negative, broadcasts to `(*S, *B)`.
        max_iter: M-steps at most.
        tol: stop when the objective gains less than this, in nats per row.
        chunk_size: rows at a time; None: what stays in cache.
        num_restarts: starts, of which the one with the best objective is kept.
        acceleration: only None is available in this version.
        collapse: what to do with a component that loses its volume: `floor` repairs and reports
            it, `raise` gives up that start (and raises when no start is left).
        generator: source of randomness; None: torch's global one.
        progress: show a bar with the log-likelihood.

    Returns:
        The result; the layer holds the parameters.

    Raises:
        InvalidArgumentError: an option out of range.
        InvalidDataError: rows of the wrong shape, not finite (by number), or too few.
        TypeError: an iterator that can be read only once.
        CollapseError: under `collapse="raise"`.

    References:
        A. P. Dempster, N. M. Laird, D. B. Rubin (1977), Maximum likelihood from incomplete data
        via the EM algorithm, JRSS B 39.

    Example:
        >>> x = torch.cat([torch.randn(50, 2) - 4, torch.randn(50, 2) + 4])
        >>> layer = GMMLayer(num_features=2, num_components=2)
        >>> result = fit_em(layer, x)
        >>> result.converged, layer.means.shape
        (True, torch.Size([2, 2]))
    """
    check_options(max_iter, tol, num_restarts, acceleration, collapse)
    if num_restarts > 1 and (initializer is None or isinstance(as_initializer(initializer), Given)):
        raise InvalidArgumentError(
            f"num_restarts={num_restarts} needs an initializer that draws at random: every start "
            "from given parameters or assignments is the same"
        )
    source = Source(layer, x, sample_weight, chunk_size)
    if initializer is not None or not all(prior.resolved for prior in layer.all_priors):
        resolve_from(layer, source)
    best: list[Tensor] | None = None
    runs: list[Run] = []
    failed: CollapseError | None = None
    bar = progress_bar(max_iter, num_restarts) if progress else None
    for _ in range(num_restarts):
        try:
            first = (
                initialize(layer, source, initializer, generator) if initializer is not None else []
            )
            run = climb(layer, source, max_iter, tol, collapse, first, bar)
        except CollapseError as error:
            failed = error
            continue
        better = (
            None
            if not runs
            else run.history[-1] > torch.stack([r.history[-1] for r in runs]).amax(0)
        )
        best = kept(layer, best, better)
        runs.append(run)
    if bar is not None:
        bar.close()
    if best is None:
        assert failed is not None
        raise failed
    restore(layer, best)
    return summary(runs)


def check_options(
    max_iter: int, tol: float, num_restarts: int, acceleration: object, collapse: str
) -> None:
    """Refuse options out of range, before any data are read."""
    if max_iter < 0:
        raise InvalidArgumentError(f"max_iter must be >= 0, got {max_iter}")
    if not tol >= 0:
        raise InvalidArgumentError(f"tol must be >= 0, got {tol}")
    if num_restarts < 1:
        raise InvalidArgumentError(f"num_restarts must be >= 1, got {num_restarts}")
    if acceleration is not None:
        raise InvalidArgumentError(f"acceleration must be None, got {acceleration!r}")
    if collapse not in POLICIES:
        raise InvalidArgumentError(
            f"unknown collapse policy {collapse!r}; known are: {', '.join(POLICIES)}"
        )


def climb(
    layer: GMMLayer,
    source: Source,
    max_iter: int,
    tol: float,
    collapse: str,
    events: list[Collapse],
    bar: Any,
) -> Run:
    """EM from the layer's parameters until the gain is below `tol`, or `max_iter` M-steps."""
    events, latest, history = list(events), list(events), []
    if bar is not None:
        bar.reset()
    while True:
        if collapse == "raise" and latest:
            raise CollapseError(f"{latest[0]}; collapse='floor' repairs it and goes on")
        stats = pass_over(layer, source)
        history.append(objective_of(layer, stats))
        if not bool(torch.isfinite(history[-1]).all()):
            raise InvalidDataError(
                f"the objective is {plain(history[-1])}: the values of the rows are too large or "
                f"too small for {layer.means.dtype}; standardise them or use float64"
            )
        done = len(history) > 1 and bool((history[-1] - history[-2] < tol).all())
        if bar is not None:
            mean = (stats.log_likelihood / stats.total_weight).mean()
            bar.set_postfix(log_likelihood=f"{float(mean):.6f}", refresh=False)
        if done or len(history) > max_iter:
            return Run(done, history, stats.log_likelihood / stats.total_weight, events)
        found = [replace(event, iteration=len(history)) for event in m_step(layer, stats)]
        events += fresh(found, latest)
        latest = found
        if bar is not None:
            bar.update()


def fresh(found: list[Collapse], latest: list[Collapse]) -> list[Collapse]:
    """The events that the iteration before did not report already."""
    known = {(event.component, event.action) for event in latest}
    return [event for event in found if (event.component, event.action) not in known]


@torch.no_grad()
def pass_over(layer: GMMLayer, source: Source) -> SufficientStatistics:
    """One E-step over everything."""
    shift = layer.means.detach().clone()
    return centred_statistics(layer.covariance, shift, posterior(layer, source.chunks()))


@torch.no_grad()
def objective_of(layer: GMMLayer, stats: SufficientStatistics) -> Tensor:
    """The penalised objective at the parameters that the statistics were taken under."""
    total = stats.log_likelihood + layer.log_prior().to(stats.log_likelihood)
    return total / stats.total_weight


def kept(layer: GMMLayer, best: list[Tensor] | None, better: Tensor | None) -> list[Tensor]:
    """The best parameters so far, mixture by mixture of a batch."""
    own = [layer.mixture_logits, layer.means, layer.raw_scale]
    if best is None or better is None:
        return [parameter.detach().clone() for parameter in own]
    return [
        torch.where(better[(..., *[None] * (new.dim() - better.dim()))].to(new.device), new, old)
        for new, old in zip((p.detach() for p in own), best, strict=True)
    ]


@torch.no_grad()
def restore(layer: GMMLayer, best: list[Tensor]) -> None:
    """Write kept parameters back, in place."""
    for parameter, value in zip(
        (layer.mixture_logits, layer.means, layer.raw_scale), best, strict=True
    ):
        parameter.copy_(value)


def progress_bar(max_iter: int, num_restarts: int) -> Any:
    """A bar of M-steps on stderr."""
    from tqdm.auto import tqdm

    return tqdm(total=max_iter, desc="EM" if num_restarts == 1 else f"EM, {num_restarts} starts")
