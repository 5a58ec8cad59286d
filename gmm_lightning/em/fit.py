"""A whole fit: EM from one or several starts, of which the best is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Generator

from gmm_lightning._validation import as_generator, require_bool, require_integer
from gmm_lightning.em.acceleration import Accelerator
from gmm_lightning.em.degenerate import regular_objectives
from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.frozen_start import order_centres
from gmm_lightning.em.initialization import (
    as_initializer,
    initialize,
    is_resolved,
    layer_source,
    resolve_from,
)
from gmm_lightning.em.known_rows import known_rows
from gmm_lightning.em.labelled_rows import check_evidence, with_labels
from gmm_lightning.em.loop import run_em
from gmm_lightning.em.maximization import MStepResult
from gmm_lightning.em.model import MixtureModel, require_values, with_closed_forms
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.policies import as_policy
from gmm_lightning.em.policy import Candidates, CollapsePolicy
from gmm_lightning.em.progress import EMProgress
from gmm_lightning.em.responsibilities import Annealing, ResponsibilitySchedule
from gmm_lightning.em.result import EMResult, summarize
from gmm_lightning.em.state import EMOptions
from gmm_lightning.em.stopping import StoppingRule
from gmm_lightning.em.stopping import registry as stopping_rules
from gmm_lightning.em.updater import MonotoneUpdater
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.initializers import Given
from gmm_lightning.layers import GMMLayer
from gmm_lightning.priors import require_closed_forms
from gmm_lightning.rows import with_errors


def fit_em(
    layer: GMMLayer,
    x: Any,
    *,
    initializer: Any = "mixed",
    sample_weight: Any = None,
    labels: Any = None,
    unlabeled_weight: float = 1.0,
    error_covariance: Any = None,
    missing: str | None = None,
    max_iter: int = 500,
    tol: float = 1e-5,
    stopping: str | StoppingRule = "aitken",
    chunk_size: int | None = None,
    num_restarts: int = 1,
    prune: bool = True,
    acceleration: str | Accelerator | None = "squarem",
    annealing: Annealing | float | None = None,
    hard: bool = False,
    collapse: str | CollapsePolicy = "floor",
    record: bool = False,
    evaluate_last: bool = True,
    conjugate_only: bool = False,
    generator: Generator | int | None = None,
    progress: bool = False,
) -> EMResult:
    """Fit a layer by EM, in place, to the mode of `layer.objective`.

    Args:
        layer: the mixture; priors without values take them from the data.
        x: rows `(*S, *B, D)`: a tensor, an array, lists, or a pandas, polars or Arrow table; a
            `Batch` of rows with weights or extra values; or a re-iterable of these.
        initializer: a name, an instance, a list of them for the starts in turn, labels `(N,)`,
            responsibilities `(N, K)`, or None to start from the layer's parameters. A label of -1
            is a row of the layer's noise.
        sample_weight: not negative, broadcasts to `(*S, *B)`.
        labels: classes of the rows, `(N,)`, -1 where they are not known, or soft ones `(N, C)`:
            see `gmm_lightning.evidence.Labels`, which the layer gets unless it has one.
        unlabeled_weight: factor of the weights of rows without a label.
        error_covariance: of the errors of the rows, variances `(N, D)` or matrices `(N, D, D)`:
            the mixture is that of the rows without their errors (extreme deconvolution).
        missing: None refuses NaN; `em` takes the expected moments of missing entries, given the
            observed ones. A row of which everything is missing counts in the weights alone.
        max_iter: M-steps at most.
        tol: of the stopping rule, in nats per row. Each mixture of a batch stops separately.
        stopping: `aitken`: the objective is estimated to gain no more than `tol` until the end
            (see `GainEstimate`); `gain`: an M-step changed it by less than `tol`, as in
            scikit-learn; `relative`: by less than `tol |objective|`; `responsibilities`: these
            changed by less than `tol`, in the norm over all rows; or a `StoppingRule`.
        chunk_size: rows at a time; None: as many as stay in cache.
        num_restarts: starts, of which the one with the best objective is kept. They run side by
            side, through the same matrix products.
        prune: give up starts that will not reach the best one, or that go where another one goes;
            False: follow each to its end.
        acceleration: `squarem` or `anderson`: extrapolate along the path of EM, after its first
            ten steps. A step that lowers the objective is undone. None: plain EM.
        annealing: begin with flat responsibilities: an `Annealing`, or its first inverse
            temperature.
        hard: classification EM: every row belongs to its most probable component alone. The
            objective is `mean max_k log p(x, k)`, with the log-prior.
        collapse: what to do with a component that loses its volume or its rows: `floor` repairs
            it in place, `reseed` moves it to rows that are explained poorly, `raise` gives up
            that start (and raises when no start is left); or a `CollapsePolicy`. Each case is an
            event of the result.
        record: keep the parameters of every E-step in `result.trajectory`.
        evaluate_last: False leaves out the E-step after the last M-step where the rule knows that
            it is the last one (`gain`, `relative`, and at `max_iter`): the result's objectives end
            before it, and the fit takes one pass less.
        conjugate_only: leave out the priors that have no closed form, for the start of a gradient
            fit, which takes them all; else they are refused.
        generator: source of randomness, or a seed; None: torch's global one.
        progress: show a bar with the log-likelihood.

    Returns:
        The result; the layer holds the parameters.

    Raises:
        InvalidArgumentError: an option out of range, or options that contradict each other.
        InvalidDataError: rows of the wrong shape, not numbers, not finite (by number, and by
            column of a table) or too few, an iterator that can be read only once, errors that are
            no covariances, or a feature that is never observed.
        CollapseError: under `collapse="raise"`.

    References:
        A. P. Dempster, N. M. Laird, D. B. Rubin (1977), Maximum likelihood from incomplete data
        via the EM algorithm, JRSS B 39.
        Z. Ghahramani, M. I. Jordan (1994), Supervised learning from incomplete data via an EM
        approach, NIPS 6.
        J. Bovy, D. W. Hogg, S. T. Roweis (2011), Extreme deconvolution, Annals of Applied
        Statistics 5.

    Example:
        >>> x = torch.cat([torch.randn(50, 2) - 4, torch.randn(50, 2) + 4])
        >>> layer = GMMLayer(num_features=2, num_components=2)
        >>> result = fit_em(layer, x)
        >>> result.converged, layer.means.shape
        (True, torch.Size([2, 2]))
    """
    require_values(layer)
    require_integer("num_restarts", num_restarts, least=1)
    generator = as_generator(generator, layer.means.device)
    if not require_bool("conjugate_only", conjugate_only):
        require_closed_forms(layer.all_priors)
    policy = as_policy(collapse)
    schedule = ResponsibilitySchedule.create(hard=hard, annealing=annealing)
    rule = stopping_rules.create(stopping)
    options = EMOptions(max_iter, tol, prune, schedule, policy, stopping=rule)
    options = replace(
        options,
        record=require_bool("record", record),
        evaluate_last=require_bool("evaluate_last", evaluate_last),
    )
    # The path of classification EM has no limit to extrapolate to: it ends after a few steps.
    updater = MonotoneUpdater(None if hard else acceleration)
    if num_restarts > 1 and (initializer is None or isinstance(as_initializer(initializer), Given)):
        raise InvalidArgumentError(
            f"num_restarts={num_restarts} needs an initializer that draws at random: every start "
            "from given parameters or assignments is the same"
        )
    evidence = layer.evidence
    if labels is not None:
        batch, evidence = with_labels(layer, x, sample_weight, labels, unlabeled_weight)
        x, sample_weight = with_errors(batch, error_covariance), None
        error_covariance = None
    source = layer_source(
        layer, x, sample_weight, missing=missing, error_covariance=error_covariance
    )
    layer.evidence = evidence
    check_evidence(layer, source)
    known = known_rows(layer, source)
    if initializer is not None or not is_resolved(layer):
        resolve_from(layer, source, known)
        if initializer is None:
            order_centres(layer)
    model = MixtureModel.from_layer(layer, num_restarts).with_mean_weight(source)
    start = MStepResult.unchanged(MixtureParameters.from_layer(layer, num_restarts))
    if initializer is not None:
        start = initialize(model, start.parameters, known, initializer, generator)
    model = with_closed_forms(model)
    e_step = EStep(source, model, chunk_size)
    if policy.num_candidates:
        candidates = Candidates(known.sample(policy.num_candidates, generator), generator)
        options = replace(options, candidates=candidates)
    with EMProgress(max_iter, num_restarts, enabled=progress) as bar:
        state = run_em(e_step, model, start, options, updater, bar.update)
    scores = regular_objectives(e_step, model, state)
    result, parameters = summarize(state, layer.batch_shape, scores, layer.constant_features)
    parameters.write_to(layer)
    return result
