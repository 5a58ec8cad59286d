"""A fit of scikit-learn's `BayesianGaussianMixture`: its priors, starts and attributes."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import check_array
from torch import Generator, Tensor

from gmm_lightning.covariances import conjugate_form, from_compact, to_compact
from gmm_lightning.em import (
    ComponentsPosterior,
    DirichletPosterior,
    EStep,
    MixtureModel,
    MixtureParameters,
    MixturePosterior,
    StickBreakingPosterior,
    known_rows,
    start_statistics,
)
from gmm_lightning.estimators.scikit_learn._fitting import INITIALIZERS
from gmm_lightning.estimators.scikit_learn._parameters import family_of, parameters_of
from gmm_lightning.estimators.scikit_learn._rows import generator_of, new_layer, weights_of_rows
from gmm_lightning.estimators.scikit_learn._variational import (
    AllSticks,
    SharedRows,
    WishartRules,
    lower_bound,
)
from gmm_lightning.linalg import unsqueeze_like
from gmm_lightning.rows import as_source
from gmm_lightning.statistics import SufficientStatistics


class _Start(NamedTuple):
    """The end of one start."""

    posterior: MixturePosterior
    bounds: list[float]
    converged: bool


class PosteriorFitter:
    """Fits the posterior of an estimator, and gives scikit-learn's attributes.

    Args:
        estimator: with checked options.
        x: the rows.
        sample_weight: their weights, or None.
    """

    def __init__(self, estimator: Any, x: Tensor, sample_weight: Any) -> None:
        self._estimator, self._x = estimator, x
        weight = weights_of_rows(sample_weight, x)
        self._family = family_of(estimator.covariance_type, 0.0)
        self._layer = new_layer(
            x.shape[1], int(estimator.n_components), self._family, device=x.device, dtype=x.dtype
        )
        self._source = as_source(
            x,
            weight,
            num_features=x.shape[1],
            batch_shape=torch.Size(()),
            missing=estimator.missing,
        )
        self._layer.local_scale.fill_(1.0)
        self._model = MixtureModel.from_layer(self._layer)
        self._e_step = EStep(self._source, self._model, None)
        self._given: dict[str, Any] = {}
        self._prior = self._make_prior()

    def fit(self) -> dict[str, Any]:
        """Fit from every start; returns the attributes of the best one."""
        estimator = self._estimator
        goes_on = estimator.warm_start and hasattr(estimator, "posterior_")
        generator = generator_of(estimator.random_state, self._x.device)
        best: _Start | None = None
        for number in range(1 if goes_on else estimator.n_init):
            if estimator.verbose:
                print(f"Initialization {number}")
            begun = estimator.posterior_ if goes_on else self._start(generator)
            found = self._run(begun, estimator.lower_bound_ if goes_on else -math.inf)
            if best is None or (found.bounds and found.bounds[-1] > best.bounds[-1]):
                best = found
        assert best is not None
        estimator.lower_bounds_ = best.bounds
        estimator.lower_bound_ = best.bounds[-1] if best.bounds else -math.inf
        estimator.n_iter_, estimator.converged_ = len(best.bounds), best.converged
        return self._attributes(best.posterior)

    def _run(self, posterior: MixturePosterior, before: float) -> _Start:
        """Steps until one changes the lower bound by less than the tolerance."""
        estimator, bounds, since = self._estimator, list[float](), time.perf_counter()
        converged = False
        for step in range(1, estimator.max_iter + 1):
            expected = posterior.expected_parameters(self._x.dtype)
            stats = self._e_step(self._model, expected.parameters)
            after = self._updated(stats)
            if estimator.convention == "exact":
                bound = float(posterior.bound(self._prior, stats, expected.log_total))
            else:
                bound = lower_bound(self._model, expected.parameters, stats, after)
            posterior, change = after, bound - before
            before = bound
            bounds.append(bound)
            if estimator.verbose and step % estimator.verbose_interval == 0:
                more = f"\t ll change {change:.5f}" if estimator.verbose > 1 else ""
                print(f"  Iteration {step}{more}")
            if abs(change) < estimator.tol:
                converged = True
                break
        if estimator.verbose:
            said = "converged" if converged else "did not converge"
            lapse = f" time lapse {time.perf_counter() - since:.5f}s\t lower bound {before:.5f}."
            print(f"Initialization {said}.{lapse if estimator.verbose > 1 else ''}")
        return _Start(posterior, bounds, converged)

    def _start(self, generator: Generator) -> MixturePosterior:
        present = MixtureParameters.from_layer(self._layer)
        name = INITIALIZERS[self._estimator.init_params]
        known = known_rows(self._layer, self._source)
        stats, _ = start_statistics(self._model, present, known, name, generator)
        return self._updated(stats)

    def _updated(self, stats: SufficientStatistics) -> MixturePosterior:
        """The posterior after rows, each with a variance of `reg_covar` about itself."""
        found = self._prior.updated(stats)
        if not self._estimator.reg_covar:
            return found
        components, d = found.components, self._x.shape[1]
        identity = self._family.project(torch.eye(d).to(components.scale_matrix))
        rows = components.df - self._prior.components.df
        added = components.scale_matrix + self._estimator.reg_covar * (
            unsqueeze_like(rows, components.scale_matrix) * identity
        )
        return MixturePosterior(found.weights, _with_scale_matrix(components, added))

    # -- priors -----------------------------------------------------------------------------

    def _make_prior(self) -> MixturePosterior:
        estimator, (_, d) = self._estimator, self._x.shape
        k, wide = int(estimator.n_components), {"dtype": torch.float64, "device": self._x.device}
        concentration = _or(estimator.weight_concentration_prior, 1.0 / k)
        precision = _or(estimator.mean_precision_prior, 1.0)
        df = _or(estimator.degrees_of_freedom_prior, float(d))
        if df <= d - 1.0:
            raise ValueError(
                "The parameter 'degrees_of_freedom_prior' should be greater than "
                f"{d - 1}, but got {df:.3f}."
            )
        mean, covariance = self._mean_prior(), self._covariance_prior()
        self._given = {
            "weight_concentration_prior_": concentration,
            "mean_precision_prior_": precision,
            "mean_prior_": mean,
            "degrees_of_freedom_prior_": df,
            "covariance_prior_": to_compact(covariance.expand(k, d, d), self._family)[0]
            if not self._family.tied
            else to_compact(covariance.expand(k, d, d), self._family),
        }
        exact, family = estimator.convention == "exact", self._family
        groups = family.groups(k)
        form = conjugate_form(family, d) if exact else WishartRules(family, d)
        kind = SharedRows if family.tied and not exact else ComponentsPosterior
        components = kind(
            family=family,
            form=form,
            loc=mean.to(**wide).expand(1, k, d),
            mean_precision=torch.full((1, k), float(precision), **wide),
            df=torch.full((1, groups), float(df), **wide),
            scale_matrix=family.project(covariance.to(**wide).expand(1, groups, d, d)),
        )
        if estimator.weight_concentration_prior_type == "dirichlet_distribution":
            return MixturePosterior(
                DirichletPosterior(torch.full((1, k), float(concentration), **wide)), components
            )
        sticks, number = (StickBreakingPosterior, k) if exact else (AllSticks, k + 1)
        whole = torch.full((1,), float(concentration), **wide)
        return MixturePosterior(sticks.of_concentration(whole, number), components)

    def _mean_prior(self) -> Tensor:
        given, (_, d) = self._estimator.mean_prior, self._x.shape
        if given is None:
            return self._x.nanmean(0)
        array = check_array(given, dtype=[np.float64, np.float32], ensure_2d=False)  # pyright: ignore[reportArgumentType]
        _require_shape(array, (d,), "means")
        return torch.from_numpy(np.asarray(array)).to(self._x)

    def _covariance_prior(self) -> Tensor:
        """The prior's scale matrix as a dense one, `(D, D)`."""
        given, (_, d), family = self._estimator.covariance_prior, self._x.shape, self._family
        if given is None:
            rows = self._x.double()
            rows = rows[~torch.isnan(rows).any(-1)]
            dense = rows.T.cov().reshape(d, d)
        else:
            name = self._estimator.covariance_type
            example = to_compact(torch.eye(d).expand(2, d, d), family)
            shape = tuple(example.shape) if family.tied else tuple(example.shape[1:])
            if not shape:
                array = np.asarray(float(given))
            else:
                array = check_array(given, dtype=[np.float64, np.float32], ensure_2d=False)  # pyright: ignore[reportArgumentType]
                _require_shape(array, shape, f"{name} covariance_prior")
            values = torch.from_numpy(np.asarray(array, dtype=np.float64))
            _require_positive(values, name, dense=not family.axis_aligned)
            whole = values if family.tied else values.expand(1, *values.shape)
            dense = from_compact(whole, family, d)[0]
        if family.axis_aligned:
            form = family.project(dense.reshape(1, 1, d, d))
            return family.variances(form, d)[0, 0].diag_embed().to(self._x)
        return dense.to(self._x.device)

    # -- attributes -------------------------------------------------------------------------

    def _attributes(self, posterior: MixturePosterior) -> dict[str, Any]:
        """scikit-learn's attributes, in the dtype of the rows."""
        estimator, dtype = self._estimator, self._x.dtype
        posterior.mean_parameters(dtype).write_to(self._layer)
        expected = posterior.expected_parameters(dtype)
        answering = new_layer(
            self._x.shape[1],
            int(estimator.n_components),
            self._family,
            device=self._x.device,
            dtype=dtype,
        )
        expected.parameters.write_to(answering)
        alpha, components = posterior.weights.parameters[0].to(dtype), posterior.components
        df = components.df[0].to(dtype)
        sticks = isinstance(posterior.weights, StickBreakingPosterior)
        return {
            **self._given,
            **parameters_of(self._layer),
            "layer_": self._layer,
            "posterior_": posterior,
            "_expected_layer": answering,
            "_log_total": float(expected.log_total),
            "weight_concentration_": alpha.unbind(-1) if sticks else alpha,
            "mean_precision_": components.mean_precision[0].to(dtype),
            "degrees_of_freedom_": df[0] if self._family.tied else df,
        }


def _or(given: Any, default: float) -> float:
    return default if given is None else float(given)


def _with_scale_matrix(components: ComponentsPosterior, value: Tensor) -> ComponentsPosterior:
    return replace(components, scale_matrix=value)


def _require_shape(array: Any, shape: tuple[int, ...], name: str) -> None:
    if array.shape != shape:
        raise ValueError(
            f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}"
        )


def _require_positive(values: Tensor, name: str, *, dense: bool) -> None:
    if not dense:
        if not bool((values > 0).all()):
            raise ValueError(f"'{name} precision' should be positive")
        return
    symmetric = bool(torch.isclose(values, values.mT).all())
    if not (symmetric and bool((torch.linalg.eigvalsh(values) > 0).all())):
        raise ValueError(f"'{name} precision' should be symmetric, positive-definite")
