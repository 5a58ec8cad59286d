"""Variational Bayes: a posterior distribution of the parameters in place of one value."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning._validation import as_generator, require_integer
from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.initialization import (
    as_initializer,
    layer_source,
    resolve_from,
    start_statistics,
)
from gmm_lightning.em.known_rows import known_rows
from gmm_lightning.em.labelled_rows import check_evidence, with_labels
from gmm_lightning.em.model import MixtureModel, require_values
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.progress import PassProgress
from gmm_lightning.em.responsibilities import Annealing, ResponsibilitySchedule
from gmm_lightning.em.stopping import StoppingRule
from gmm_lightning.em.stopping import registry as stopping_rules
from gmm_lightning.em.variational.loop import VBOptions, VBState, run_vb
from gmm_lightning.em.variational.moves import with_moves
from gmm_lightning.em.variational.posterior import MixturePosterior
from gmm_lightning.em.variational.prior import conjugate_prior, with_default_prior
from gmm_lightning.em.variational.result import Value, VBResult
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.initializers import Given
from gmm_lightning.layers import GMMLayer
from gmm_lightning.rows import with_errors


def fit_vb(
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
    annealing: Annealing | float | None = None,
    num_moves: int = 0,
    label_permutations: bool = False,
    generator: Generator | int | None = None,
    progress: bool = False,
) -> VBResult:
    """Fit a posterior distribution by variational Bayes; the layer gets its expected parameters.

    The posterior is a product of a distribution of the weights and one of each component, which
    the rows update in closed form. Each pass is an E-step of EM with expected log densities, and
    the bound of the log evidence never falls. Components that no rows need fall back to their
    prior. The factors are independent, so the posterior is narrower than the exact one.

    Args:
        layer: the mixture. Its priors are `niw`, or `normal` with `inverse_wishart`, and a
            Dirichlet prior on the weights; one without any on the components gets `niw` with the
            values of Fraley and Raftery. They have to be proper.
        x: rows, as for `fit_em`.
        initializer: as for `fit_em`; None: start from the layer's parameters.
        sample_weight: not negative, broadcasts to `(*S, *B)`.
        labels: classes of the rows, as for `fit_em`.
        unlabeled_weight: factor of the weights of rows without a label.
        error_covariance: of the errors of the rows, as for `fit_em`.
        missing: None refuses NaN; `em` takes expectations over missing entries.
        max_iter: updates of the posterior at most.
        tol: of the stopping rule, in nats per row of the bound.
        stopping: as for `fit_em`.
        chunk_size: rows at a time; None: as many as stay in cache.
        num_restarts: starts that run side by side, of which the one with the best bound is kept.
        annealing: begin with flat responsibilities: an `Annealing`, or its first inverse
            temperature.
        num_moves: tries, after the fit, to put the component of fewest rows into a half of another
            one, each followed to its end and kept where the bound is higher.
        label_permutations: add `log K!` to the bound, for the labellings of the components.
        generator: source of randomness, or a seed; None: torch's global one.
        progress: show a bar with the bound.

    Returns:
        The result with the posterior; the layer holds expected weights and means, and the inverses
        of expected precisions.

    Raises:
        InvalidArgumentError: an option out of range, or priors without a closed form.
        InvalidDataError: as `fit_em`.

    References:
        H. Attias (2000), A variational Bayesian framework for graphical models, NIPS 12.
        C. M. Bishop (2006), Pattern Recognition and Machine Learning, section 10.2.

    Example:
        >>> x = torch.cat([torch.randn(50, 2) - 4, torch.randn(50, 2) + 4])
        >>> layer = GMMLayer(num_features=2, num_components=4, priors="dirichlet")
        >>> result = fit_vb(layer, x, generator=0)
        >>> result.converged, result.posterior.components.loc.shape
        (True, torch.Size([1, 4, 2]))
    """
    require_values(layer)
    require_integer("num_restarts", num_restarts, least=1)
    require_integer("num_moves", num_moves, least=0)
    schedule = ResponsibilitySchedule.create(hard=False, annealing=annealing)
    options = VBOptions(max_iter, tol, schedule, stopping_rules.create(stopping))
    generator = as_generator(generator, layer.means.device)
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
    with_default_prior(layer)
    layer.evidence = evidence
    check_evidence(layer, source)
    known = known_rows(layer, source)
    resolve_from(layer, source, known)
    model = MixtureModel.from_layer(layer, num_restarts)
    prior = conjugate_prior(model, layer.num_components)
    e_step = EStep(source, model, chunk_size)
    present = MixtureParameters.from_layer(layer, num_restarts)
    if initializer is None:
        start = e_step(model, present)
    else:
        start, _ = start_statistics(model, present, known, initializer, generator)
    with PassProgress("VB", max_iter, num_restarts, enabled=progress) as bar:
        state = run_vb(e_step, model, prior, start, options, bar.update)
        if num_moves:
            options = replace(options, schedule=ResponsibilitySchedule())
            state = with_moves(
                e_step, model, prior, state, options, num_moves, generator, bar.update
            )
    extra = math.lgamma(layer.num_components + 1) if label_permutations else 0.0
    return _finish(layer, state, prior, extra)


def _finish(
    layer: GMMLayer, state: VBState, prior: MixturePosterior, label_permutations: float
) -> VBResult:
    """The result of the best start of each mixture; the layer gets its parameters."""
    size = layer.batch_shape.numel()
    added = label_permutations / state.weight
    history = torch.stack(state.history) + added
    bounds = history[-1].view(-1, size)
    best = bounds.argmax(0) * size + torch.arange(size)
    where = best.to(layer.means.device)
    posterior = state.posterior.select(where)
    posterior.mean_parameters(layer.means.dtype).write_to(layer)

    def value(each: Tensor) -> Value:
        return each.reshape(layer.batch_shape) if layer.batch_shape else each.item()

    steps = int(state.steps[best].max())
    return VBResult(
        converged=bool(state.converged[best].all()),
        num_iterations=steps,
        bound=value(history[-1][best]),
        history=[value(each[best]) for each in history],
        posterior=posterior,
        prior=prior.select(where),
        restart_bounds=[value(each) for each in bounds],
    )
