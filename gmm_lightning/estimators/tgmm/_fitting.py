"""Whole fits: starts by tgmm's names, then EM, once for each of `n_init` seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.distributions import impute
from gmm_lightning.em import Annealing, EMResult, e_step, fit_em
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.estimators.tgmm._constraints import require_values_of_frozen
from gmm_lightning.estimators.tgmm._forms import form_of
from gmm_lightning.estimators.tgmm._labels import Classes
from gmm_lightning.estimators.tgmm._starts import Draw, seeded, start_of, untrained_layer
from gmm_lightning.estimators.tgmm._translate import layer_of, noise_mask, row_weights
from gmm_lightning.estimators.tgmm.parameters import Parameters
from gmm_lightning.layers import GMMLayer
from gmm_lightning.rows import Batch
from gmm_lightning.statistics import SufficientStatistics

Start = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Run:
    """One of the fits of `n_init`.

    Attributes:
        layer: the fitted layer.
        result: what EM returned.
        start: weights, means, and covariances in tgmm's form before the first E-step.
        seed: of its randomness.
    """

    layer: GMMLayer
    result: EMResult
    start: Start
    seed: int | None

    @property
    def rank(self) -> tuple[bool, float]:
        """Better runs have a larger one; degenerate ones, of any likelihood, come last."""
        return not self.result.degenerate, float(self.result.objective)


@dataclass(frozen=True)
class Rows:
    """Rows of a fit.

    Attributes:
        batch: all of them, with NaN where entries are missing.
        filled: complete rows, those of positive weight that are not noise: for starts.
        mask: which rows are noise at the start, `(N,)` or None.
        classes: of the labels, or None.
        filled_codes: class of each of the filled rows, or None.
    """

    batch: Batch
    filled: Tensor
    mask: Tensor | None
    classes: Classes | None = None
    filled_codes: Tensor | None = None

    @classmethod
    def create(cls, model: Parameters, X: Any, sample_weight: Any, labels: Any) -> Rows:
        """Rows and weights as they come from the user.

        Raises:
            InvalidArgumentError: weights, marks of noise or labels that are not one for each row.
            InvalidDataError: rows of another width than `n_features`.
        """
        x = model.rows(X)
        if model.n_features not in (None, x.shape[-1]):
            raise InvalidDataError(
                f"X has {x.shape[-1]} features, and this mixture has n_features={model.n_features}"
            )
        weight = row_weights(sample_weight, len(x), x.device)
        mask, classes = noise_mask(model, len(x), x.device), None
        if labels is not None:
            classes = Classes.of_labels(model, labels, len(x), x.device)
            weight = classes.weights(model, weight, x)
        filled = x
        if model.missing == "em" and bool(torch.isnan(x).any()):
            # By one Gaussian.
            whole = untrained_layer(1, x, "full")
            fit_em(whole, x, missing="em", sample_weight=weight)
            filled = impute(whole.distribution(), x).detach()
        used = torch.ones(len(x), dtype=torch.bool, device=x.device)
        if mask is not None:
            used &= ~mask
        if weight is not None:
            used &= weight > 0
        codes = None if classes is None else classes.codes
        return cls(
            Batch(x, weight, codes),
            filled[used],
            mask,
            classes,
            None if codes is None else codes[used],
        )


@dataclass(frozen=True)
class Prepared:
    """A layer with its parameters at the start of one of the fits."""

    layer: GMMLayer
    start: Start
    seed: int | None
    generator: Draw


def prepared_layers(model: Parameters, rows: Rows, *, warm: bool) -> Iterator[Prepared]:
    """Layers for `n_init` fits; where it is warm, the first has the present parameters."""
    seed = model.random_state
    for i in range(model.n_init):
        own = None if seed is None else seed + i
        generator = seeded(own, model.device)
        layer = layer_of(model, rows.filled, rows.mask)
        if rows.classes is not None:
            layer.evidence = rows.classes.evidence(model)
        present = model.layer_ if warm and i == 0 else None
        start = _prepare(model, layer, rows, present, generator)
        yield Prepared(layer, start, own, generator)


def fit_runs(model: Parameters, rows: Rows, *, max_iter: int, tol: float, warm: bool) -> Run:
    """The best of `n_init` fits; where it is warm, the first one goes on from the present one."""
    runs = list[Run]()
    for one in prepared_layers(model, rows, warm=warm):
        result = _fit(model, one.layer, rows, one.generator, max_iter, tol)
        runs.append(Run(one.layer, result, one.start, one.seed))
    return max(runs, key=lambda run: run.rank)


def _prepare(
    model: Parameters, layer: GMMLayer, rows: Rows, present: GMMLayer | None, generator: Draw
) -> Start:
    """Give a layer its parameters at the start, and return them."""
    if present is not None:
        start = present.weights, present.means, present.covariance_matrix
    else:
        require_values_of_frozen(model)
        weights = model.init_weights if model.fixed_weights is None else model.fixed_weights
        specs = weights, model.init_means, model.init_covariances
        start = _start(layer.num_components, model.covariance_type, rows, specs, generator)
    layer.set_parameters(*(part.detach() for part in start))
    covariances = form_of(layer.distribution())
    return layer.weights.detach(), layer.means.detach().clone(), covariances


def _start(k: int, kind: str, rows: Rows, specs: tuple[Any, Any, Any], generator: Draw) -> Start:
    """Weights, means, dense covariances; those of a class are drawn from its own rows."""
    if rows.classes is None or not all(isinstance(spec, str) for spec in specs):
        return start_of(rows.filled, k, kind, specs, generator)
    parts, codes = list[Start](), rows.filled_codes
    for c, size in enumerate(torch.bincount(rows.classes.of_component).tolist()):
        own = rows.filled[codes == c]
        weights, means, covariances = start_of(own, size, kind, specs, generator)
        parts.append((len(own) * weights, means, covariances))
    weights, means, covariances = (torch.cat(part) for part in zip(*parts, strict=True))
    return weights / weights.sum(), means, covariances


def _fit(
    model: Parameters, layer: GMMLayer, rows: Rows, generator: Draw, max_iter: int, tol: float
) -> EMResult:
    hard, temperature = model.algorithm == "cem", model.temperature
    return fit_em(
        layer,
        rows.batch,
        initializer=None,
        missing=fit_missing(model),
        max_iter=max_iter,
        tol=tol,
        stopping=model.convergence,
        chunk_size=model.batch_size,
        acceleration=None,
        # The most probable component is the same at any temperature.
        annealing=None if hard or temperature is None else Annealing(*temperature),
        hard=hard,
        generator=generator,
        progress=model.verbose,
    )


def statistics_of(model: Parameters, layer: GMMLayer, rows: Rows) -> SufficientStatistics:
    """Statistics of the rows of a fit, from which `partial_fit` goes on."""
    return e_step(layer, rows.batch, missing=fit_missing(model))


def fit_missing(model: Parameters) -> str | None:
    """What a fit does about missing entries."""
    return "em" if model.missing == "em" else None
