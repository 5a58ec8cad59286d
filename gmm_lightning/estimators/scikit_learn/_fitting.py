"""A fit by scikit-learn's rules: its starts, its lower bound, its messages."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.em import EMResult, Gain, VBResult, fit_em, fit_vb
from gmm_lightning.errors import CollapseError
from gmm_lightning.estimators.scikit_learn._parameters import family_of, fitted_layer
from gmm_lightning.estimators.scikit_learn._rows import generator_of, new_layer
from gmm_lightning.estimators.scikit_learn._start import (
    covariances_of,
    means_of,
    precisions_of,
    weights_of,
)
from gmm_lightning.layers import GMMLayer

INITIALIZERS = {
    "kmeans": "kmeans",
    "k-means++": "kmeans_plus_plus",
    "random": "random",
    "random_from_data": "random_from_data",
}


class Fitter:
    """Fits an estimator's layer, and writes what scikit-learn records of a fit.

    Args:
        estimator: a `GaussianMixture`, with checked options.
        x: the rows.
        labels: their classes, or None.
        sample_weight: their weights, or None.
    """

    def __init__(self, estimator: Any, x: Tensor, labels: Any, sample_weight: Any) -> None:
        self._estimator, self._x = estimator, x
        self._options = {"sample_weight": sample_weight}
        if labels is not None:
            self._options["labels"] = labels
        if estimator.missing is not None:
            self._options["missing"] = estimator.missing
        self._family = family_of(estimator.covariance_type, estimator.reg_covar)
        self._given = self._given_parameters()

    def fit(self) -> None:
        """Fit from every start, and keep the one with the highest lower bound.

        Raises:
            ValueError: a start has a singular covariance.
        """
        estimator = self._estimator
        goes_on = estimator.warm_start and hasattr(estimator, "layer_")
        before = estimator.lower_bound_ if goes_on else None
        best: tuple[float, GMMLayer, EMResult | VBResult] | None = None
        generator = generator_of(estimator.random_state, self._x.device)
        for number in range(1 if goes_on else estimator.n_init):
            layer = self._fitted_layer() if goes_on else self._new_layer()
            log = _Log(number, estimator.verbose, estimator.verbose_interval)
            try:
                if not goes_on:
                    self._start(layer, generator)
            except CollapseError as error:
                raise ValueError(
                    "Fitting the mixture model failed because some components have ill-defined "
                    "empirical covariance (for instance caused by singleton or collapsed samples). "
                    "Try to decrease the number of components, increase reg_covar, or scale the "
                    "input data."
                ) from error
            result = self._run(layer, before)
            bound = _lower_bounds(result)[-1] if estimator.max_iter else -math.inf
            log.show(result, bound)
            if best is None or bound > best[0]:
                best = bound, layer, result
        assert best is not None
        estimator.lower_bound_, estimator.layer_, estimator.result_ = best
        estimator.lower_bounds_ = _lower_bounds(best[2]) if estimator.max_iter else []
        estimator.n_iter_ = best[2].num_iterations
        estimator.converged_ = best[2].converged and estimator.max_iter > 0

    def _run(self, layer: GMMLayer, before: float | None) -> EMResult | VBResult:
        """EM from the layer's parameters, as far as scikit-learn goes."""
        estimator = self._estimator
        if estimator.inference == "vb" and estimator.max_iter:
            return fit_vb(
                layer,
                self._x,
                initializer=None,
                max_iter=estimator.max_iter,
                tol=estimator.tol,
                stopping=Gain(before),
                progress=estimator.verbose > 0,
                **self._options,
            )
        return fit_em(
            layer,
            self._x,
            initializer=None,
            max_iter=estimator.max_iter,
            tol=estimator.tol,
            stopping=Gain(before),
            acceleration=estimator.acceleration,
            prune=False,
            evaluate_last=False,
            progress=estimator.verbose > 0,
            **self._options,
        )

    def _new_layer(self) -> GMMLayer:
        """A layer for the rows."""
        sizes = self._x.shape[1], int(self._estimator.n_components)
        return self._layer_like(self._x, *sizes)

    def _fitted_layer(self) -> GMMLayer:
        """A layer with the present options and the parameters of the last fit."""
        last = fitted_layer(self._estimator)
        if last.covariance.name != self._family.name:
            raise ValueError(
                f"warm_start goes on from a fit with covariance_type={last.covariance.name!r}, and "
                f"covariance_type is now {self._family.name!r}: fit without warm_start"
            )
        layer = self._layer_like(last.means, last.num_features, last.num_components)
        layer.take_parameters(last)
        self._bound_loss(layer)
        return layer

    def _layer_like(self, tensor: Tensor, *sizes: int) -> GMMLayer:
        options = {"device": tensor.device, "dtype": tensor.dtype}
        return new_layer(*sizes, self._family, self._estimator.priors, **options)

    def _bound_loss(self, layer: GMMLayer) -> None:
        """Give a layer without `reg_covar` the smallest variances that lose nothing."""
        if not self._family.reg_covar:
            layer.covariance = replace(self._family, relative_floor=Covariance.relative_floor)

    def _start(self, layer: GMMLayer, generator: Generator) -> None:
        """Set the parameters by the initialization, then those that the user gave."""
        if any(value is None for value in self._given.values()):
            name = INITIALIZERS[self._estimator.init_params]
            fit_em(
                layer,
                self._x,
                initializer=name,
                max_iter=0,
                generator=generator,
                **self._options,
            )
        layer.set_parameters(**self._given)
        # A singular start is refused, as scikit-learn does; later nothing needs to be lost.
        self._bound_loss(layer)

    def _given_parameters(self) -> dict[str, Tensor | None]:
        """Parameters to start from that the user gave, as arguments of `set_parameters`."""
        estimator, (_, d) = self._estimator, self._x.shape
        k, name = int(estimator.n_components), estimator.covariance_type
        given: dict[str, Tensor | None] = dict.fromkeys(("weights", "means", "covariance_matrix"))
        if estimator.weights_init is not None:
            given["weights"] = self._as_tensor(weights_of(estimator.weights_init, k))
        if estimator.means_init is not None:
            given["means"] = self._as_tensor(means_of(estimator.means_init, k, d))
        if estimator.precisions_init is not None:
            checked = precisions_of(estimator.precisions_init, name, self._family, k, d)
            dense = covariances_of(self._as_tensor(checked), self._family, d)
            given["covariance_matrix"] = dense.expand(k, d, d)
        return given

    def _as_tensor(self, values: Any) -> Tensor:
        return torch.from_numpy(values).to(self._x)


class _Log:
    """scikit-learn's lines about one start.

    Args:
        number: of the start.
        verbose: 0: nothing, 1: steps, 2: steps and times.
        interval: steps between two lines.
    """

    def __init__(self, number: int, verbose: int, interval: int) -> None:
        self._verbose, self._interval, self._since = verbose, interval, time.perf_counter()
        if verbose:
            print(f"Initialization {number}")

    def show(self, result: EMResult | VBResult, bound: float) -> None:
        """Print the steps, and how the start ended."""
        if not self._verbose:
            return
        bounds, before = _lower_bounds(result), -math.inf
        for step, value in enumerate(bounds, 1):
            if step % self._interval == 0:
                change = f"\t ll change {value - before:.5f}" if self._verbose > 1 else ""
                print(f"  Iteration {step}{change}")
            before = value
        said = "converged" if result.converged else "did not converge"
        lapse = f" time lapse {time.perf_counter() - self._since:.5f}s\t lower bound {bound:.5f}."
        print(f"Initialization {said}.{lapse if self._verbose > 1 else ''}")


def _lower_bounds(result: EMResult | VBResult) -> list[float]:
    """The objective before each step, as scikit-learn records it."""
    steps = slice(max(1, result.num_iterations))
    return [float(value) for value in result.history[steps]]
