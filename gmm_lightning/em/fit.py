"""A whole fit: starts, EM from each of them, and the best."""

from __future__ import annotations

from typing import Any

from torch import Generator

from gmm_lightning.em.acceleration import Accelerator, as_accelerator
from gmm_lightning.em.annealing import Annealing, as_annealing
from gmm_lightning.em.ascent import Ascent
from gmm_lightning.em.climb import Rules, climb, require_a_run
from gmm_lightning.em.collapse import Collapse
from gmm_lightning.em.passes import Passes
from gmm_lightning.em.reseed import CANDIDATES, Reseeder
from gmm_lightning.em.result import EMResult, Run, summary
from gmm_lightning.em.source import Source
from gmm_lightning.em.start import as_initializer, initialize, resolve_from
from gmm_lightning.em.starts import copies, unpack
from gmm_lightning.errors import CollapseError, InvalidArgumentError
from gmm_lightning.initializers import Given
from gmm_lightning.layers import GMMLayer

POLICIES = ("floor", "reseed", "raise")


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
    prune: bool = True,
    acceleration: str | Accelerator | None = None,
    annealing: Annealing | float | None = None,
    hard: bool = False,
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
        num_restarts: starts, of which the one with the best objective is kept. They run side by
            side, through the same matrix products.
        prune: give up the worse half of the starts after every 5 M-steps, until one is left;
            False: follow each to its end.
        acceleration: `squarem` or `anderson`: leap along the path of EM. A leap that lowers the
            objective is taken back.
        annealing: begin with flat responsibilities: an `Annealing`, or its first inverse
            temperature.
        hard: classification EM: every row belongs to its most probable component alone. What
            rises, and is reported, is `mean max_k log p(x, k)`, with the log-prior.
        collapse: what to do with a component that loses its volume or its rows: `floor` repairs
            it in place, `reseed` moves it to rows that are explained poorly, `raise` gives up
            that start (and raises when no start is left). Each case is an event of the result.
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
    check_options(max_iter, tol, num_restarts, collapse)
    as_accelerator(acceleration)
    if num_restarts > 1 and (initializer is None or isinstance(as_initializer(initializer), Given)):
        raise InvalidArgumentError(
            f"num_restarts={num_restarts} needs an initializer that draws at random: every start "
            "from given parameters or assignments is the same"
        )
    source = Source(layer, x, sample_weight)
    if initializer is not None or not all(prior.resolved for prior in layer.all_priors):
        resolve_from(layer, source)
    passes = Passes(source, chunk_size)
    rules = Rules(max_iter, tol, collapse == "raise", prune, hard, as_annealing(annealing))
    bar = progress_bar(max_iter, num_restarts) if progress else None
    # Without a floor one singular start would end them all: each on its own, then.
    singly = collapse == "raise" or layer.covariance.relative_floor == 0
    runs: list[Run] = []
    failure: CollapseError | None = None
    for together in [1] * num_restarts if singly else [num_restarts]:
        try:
            starts, first = begin(layer, source, initializer, together, generator)
            reseed = reseeder(source, generator) if collapse == "reseed" else None
            if reseed is not None:
                first = reseed(starts, first)
            runs += climb(passes, starts, first, rules, Ascent(acceleration), reseed, bar)
        except CollapseError as error:
            failure = error
    if bar is not None:
        bar.close()
    if failure is not None and not runs:
        raise failure
    require_a_run(runs)
    result, parameters = summary([run for run in runs if run.failed is None])
    unpack(layer, parameters)
    return result


def begin(
    layer: GMMLayer, source: Source, initializer: Any, number: int, generator: Generator | None
) -> tuple[GMMLayer, list[Collapse]]:
    """So many starts, as a layer `(S, *B)`, and what the first M-step had to repair."""
    starts = copies(layer, number)
    if initializer is None:
        return starts, []
    return starts, initialize(starts, source, initializer, generator)


def reseeder(source: Source, generator: Generator | None) -> Reseeder:
    """What mends components, with some rows to choose from."""
    rows, weight = source.sample(CANDIDATES, generator)
    return Reseeder(rows, generator, weight)


def check_options(max_iter: int, tol: float, num_restarts: int, collapse: str) -> None:
    """Refuse options out of range, before any data are read."""
    if max_iter < 0:
        raise InvalidArgumentError(f"max_iter must be >= 0, got {max_iter}")
    if not tol >= 0:
        raise InvalidArgumentError(f"tol must be >= 0, got {tol}")
    if num_restarts < 1:
        raise InvalidArgumentError(f"num_restarts must be >= 1, got {num_restarts}")
    if collapse not in POLICIES:
        raise InvalidArgumentError(
            f"unknown collapse policy {collapse!r}; known are: {', '.join(POLICIES)}"
        )


def progress_bar(max_iter: int, num_restarts: int) -> Any:
    """A bar of M-steps on stderr."""
    from tqdm.auto import tqdm

    return tqdm(total=max_iter, desc="EM" if num_restarts == 1 else f"EM, {num_restarts} starts")
