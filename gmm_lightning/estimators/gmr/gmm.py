"""Mixture of Gaussians, and regression with it."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_choice, require_integer, require_number
from gmm_lightning.distributions import MixtureOfGaussians, regress, require_positive_density
from gmm_lightning.distributions import condition as condition_mixture
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.gmr._density import Density
from gmm_lightning.estimators.gmr._translate import (
    Converted,
    Floats,
    floats_or_none,
    mixture_of,
    require_given,
    rows_of,
    training_rows,
)
from gmm_lightning.estimators.gmr.ellipses import plot_error_ellipses
from gmm_lightning.estimators.gmr.fitting import fit, shrink_covariances
from gmm_lightning.estimators.gmr.functions import integers_of, require_known
from gmm_lightning.estimators.gmr.initialization import (
    covariance_initialization,
    initial_parameters,
    kmeansplusplus_initialization,
)
from gmm_lightning.estimators.gmr.mvn import MVN

__all__ = [
    "GMM",
    "covariance_initialization",
    "kmeansplusplus_initialization",
    "plot_error_ellipses",
]

_INITS = ("random", "kmeans++")


class GMM(Density):
    """A Gaussian mixture model, in gmr's terms.

    Parameters can be read and assigned at any time. Arrays of the caller are copied.

    Args:
        n_components: number of Gaussians.
        priors: weights of the components, `(n_components,)`.
        means: `(n_components, n_features)`.
        covariances: `(n_components, n_features, n_features)`.
        verbose: above 0, fits print when they converge, and their collapse events.
        random_state: int, `RandomState`, or None for numpy's global source.

    Raises:
        InvalidArgumentError: when used: parameters that are missing or do not fit.

    References:
        A. Fabisch (2021), gmr: Gaussian Mixture Regression, Journal of Open Source Software 6.

    Example:
        >>> gmm = GMM(1, priors=[1.0], means=[[0.0, 0.0]], covariances=[[[1.0, 0.5], [0.5, 1.0]]])
        >>> gmm.predict([0], [[2.0], [4.0]])
        array([[1.],
               [2.]])
    """

    priors: Converted = Converted(floats_or_none)
    means: Converted = Converted(floats_or_none)
    covariances: Converted = Converted(floats_or_none)

    def __init__(
        self,
        n_components: int,
        priors: ArrayLike | None = None,
        means: ArrayLike | None = None,
        covariances: ArrayLike | None = None,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.priors = priors
        self.means = means
        self.covariances = covariances
        self.verbose = verbose
        self.random_state = random_state

    def from_samples(
        self,
        X: ArrayLike,
        R_diff: float = 1e-4,
        n_iter: int = 100,
        init_params: str = "random",
        oracle_approximating_shrinkage: bool = False,  # noqa: FBT001, FBT002 (gmr's signature)
    ) -> Self:
        """Fit by EM from the present parameters, or from initial ones where they are missing.

        Args:
            X: rows `(n_samples, n_features)`.
            R_diff: stop when the responsibilities change by less than this (Frobenius norm).
            n_iter: M-steps at most.
            init_params: `random` rows as means, all different, and unit covariances; or
                `kmeans++`, and covariances by `covariance_initialization`.
            oracle_approximating_shrinkage: shrink the covariances in each M-step.

        Raises:
            InvalidArgumentError: an unknown `init_params`, `R_diff` or `n_iter` out of range, or
                parameters that do not fit.
            InvalidDataError: unusable rows, or fewer rows than components.
        """
        require_choice("init_params", init_params, _INITS)
        require_integer("n_components", self.n_components, least=1)
        require_integer("n_iter", n_iter, least=0)
        require_number("R_diff", R_diff, least=0)
        x = training_rows(X)
        start = initial_parameters(
            x,
            self.n_components,
            (self.priors, self.means, self.covariances),
            self.random_state,
            kmeans=init_params == _INITS[1],
        )
        mixture_of(*start)
        if len(start[1]) != self.n_components:
            raise InvalidArgumentError(
                f"expected {self.n_components} components, got {len(start[1])} means"
            )
        self.priors, self.means, self.covariances = fit(
            x,
            start,
            R_diff=R_diff,
            n_iter=n_iter,
            shrink=oracle_approximating_shrinkage,
            verbose=self.verbose,
        )
        return self

    def apply_oracle_approximating_shrinkage(self, n_samples_eff: ArrayLike) -> None:
        """Shrink the covariances towards spherical ones: `(1 - rho) S + rho tr(S)/D I`.

        rho is that of the paper (gmr leaves out its terms in 2/D). Covariances that are singular
        or have small negative eigenvalues become definite.

        Args:
            n_samples_eff: number of rows that each was estimated from, or `(n_components,)`.

        Raises:
            InvalidArgumentError: numbers of rows that are not positive, or not one per component.

        References:
            Y. Chen, A. Wiesel, Y. C. Eldar, A. O. Hero (2010), Shrinkage algorithms for MMSE
            covariance estimation, IEEE Transactions on Signal Processing 58.
        """
        self._require_given()
        self.covariances = shrink_covariances(self.means, self.covariances, n_samples_eff)

    def to_responsibilities(self, X: ArrayLike) -> Floats:
        """Responsibilities `p(k | x)`, `(n_samples, n_components)`.

        Raises:
            InvalidDataError: a row without density under any component.
        """
        mixture = self._mixture()
        x = rows_of(X, mixture.num_features)
        log_joint = mixture.log_joint(x)
        require_positive_density(log_joint, x)
        return log_joint.softmax(-1).numpy()

    # -- regression -------------------------------------------------------------------------

    def condition(self, indices: ArrayLike, x: ArrayLike) -> GMM:
        """The mixture of the other features, given x `(n_features_in,)` at `indices`."""
        mixture, index = self._with_known(indices)
        values = rows_of(x, len(index))
        if len(values) != 1:
            raise InvalidArgumentError(f"expected one row of known features, got {len(values)}")
        conditional = condition_mixture(mixture, index, values[0])
        return GMM(
            self.n_components,
            conditional.weights.numpy(),
            conditional.means.numpy(),
            conditional.component_covariances.numpy(),
            self.verbose,
            self.random_state,
        )

    def predict(self, indices: ArrayLike, X: ArrayLike) -> Floats:
        """Gaussian mixture regression: `E[y | x]` given rows X of the features `indices`."""
        mixture, index = self._with_known(indices)
        return regress(mixture, index, rows_of(X, len(index)), covariance=False)[0].numpy()

    def _with_known(self, indices: ArrayLike) -> tuple[MixtureOfGaussians, list[int]]:
        mixture = self._mixture(definite=False)
        index = integers_of(indices, mixture.num_features)
        d = mixture.num_features
        if not 0 < len(index) < d:
            raise InvalidArgumentError(
                f"expected between 1 and {d - 1} of {d} features, got {describe(index.tolist())}"
            )
        require_known(self.covariances[:, index[:, np.newaxis], index])
        return mixture, index.tolist()

    def to_ellipses(self, factor: float = 1.0) -> list[tuple[Floats, tuple[float, float, float]]]:
        """Mean and `(angle, semi-axis, semi-axis)` of each component: see `MVN.to_ellipse`."""
        self._require_given()
        components = [self.extract_mvn(k) for k in range(self.n_components)]
        return [(mvn.mean, mvn.to_ellipse(factor)) for mvn in components]

    def to_mvn(self) -> MVN:
        """The single Gaussian with the mixture's mean and covariance."""
        mixture = self._mixture(definite=False)
        mean, covariance = mixture.mean.numpy(), mixture.covariance_matrix.numpy()
        return MVN(mean, covariance, self.verbose, self.random_state)

    def extract_mvn(self, component_idx: int) -> MVN:
        """One component as a Gaussian.

        Raises:
            InvalidArgumentError: an index outside `[0, n_components)`.
        """
        self._require_given()
        if require_integer("component_idx", component_idx, least=0) >= self.n_components:
            raise InvalidArgumentError(
                f"component_idx must be in [0, {self.n_components}), got {component_idx}"
            )
        mean, covariance = self.means[component_idx], self.covariances[component_idx]
        return MVN(mean, covariance, self.verbose, self.random_state)

    def _require_given(self) -> None:
        require_given(priors=self.priors, means=self.means, covariances=self.covariances)

    def _mixture(self, *, definite: bool = True) -> MixtureOfGaussians:
        self._require_given()
        if len(self.means) != self.n_components:
            raise InvalidArgumentError(
                f"expected {self.n_components} components, got {len(self.means)} means"
            )
        return mixture_of(self.priors, self.means, self.covariances, definite=definite)
