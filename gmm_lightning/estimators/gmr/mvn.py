"""Single Gaussian."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from gmm_lightning.distributions import (
    MixtureOfGaussians,
    ellipses,
    from_sigma_points,
    sigma_points,
    squared_mahalanobis,
)
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.estimators.gmr._density import Density
from gmm_lightning.estimators.gmr._translate import (
    Converted,
    Floats,
    floats_or_none,
    mixture_of,
    require_given,
    rows_of,
    tensor_of,
    training_rows,
)
from gmm_lightning.estimators.gmr.ellipses import plot_error_ellipse
from gmm_lightning.estimators.gmr.functions import (
    condition,
    integers_of,
    invert_indices,
    regression_coefficients,
)

__all__ = [
    "MVN",
    "condition",
    "invert_indices",
    "plot_error_ellipse",
    "regression_coefficients",
]


class MVN(Density):
    """A multivariate normal distribution, in gmr's terms.

    Mean and covariance can be read and assigned at any time. A singular covariance has samples,
    moments and conditionals; its density is an error (gmr adds `1e-3 I` silently).

    Args:
        mean: `(n_features,)`.
        covariance: `(n_features, n_features)`.
        verbose: stored, without effect.
        random_state: int, `RandomState`, or None for numpy's global source.

    Raises:
        InvalidArgumentError: when used: parameters that are missing or do not fit.

    Example:
        >>> mvn = MVN(mean=[0.0, 0.0], covariance=[[1.0, 0.0], [0.0, 4.0]])
        >>> mvn.condition([0], [1.0]).covariance
        array([[4.]])
    """

    mean: Converted = Converted(floats_or_none)
    covariance: Converted = Converted(floats_or_none)

    def __init__(
        self,
        mean: ArrayLike | None = None,
        covariance: ArrayLike | None = None,
        verbose: int = 0,
        random_state: Any = None,
    ) -> None:
        self.mean = mean
        self.covariance = covariance
        self.verbose = verbose
        self.random_state = random_state

    def from_samples(
        self,
        X: ArrayLike,
        bessels_correction: bool = True,  # noqa: FBT001, FBT002 (gmr's signature)
    ) -> Self:
        """Mean and covariance of rows; with Bessel's correction the latter is unbiased.

        Raises:
            InvalidDataError: unusable rows, or a single one with the correction.
        """
        x = training_rows(X)
        if len(x) == 1 and bessels_correction:
            raise InvalidDataError("an unbiased covariance needs at least 2 rows, got 1")
        self.mean = x.mean(axis=0)
        self.covariance = np.atleast_2d(np.cov(x, rowvar=False, bias=not bessels_correction))
        return self

    # -- density ----------------------------------------------------------------------------

    def to_norm_factor_and_exponents(self, X: ArrayLike) -> tuple[float, Floats]:
        """Factor C and exponents of `p(x_n) = C exp(e_n)` (gmr: C is cut off, cached and stale)."""
        mixture = self._mixture()
        x = rows_of(X, mixture.num_features)
        peak = mixture.log_prob(mixture.means[0])
        return float(peak.exp()), -0.5 * squared_mahalanobis(mixture, x)[:, 0].numpy()

    def squared_mahalanobis_distance(self, x: ArrayLike) -> Any:
        """Squared Mahalanobis distance: a float for one row, an array for several."""
        mixture = self._mixture()
        values = squared_mahalanobis(mixture, rows_of(x, mixture.num_features))[:, 0].numpy()
        return values if np.ndim(x) == 2 else float(values[0])

    # -- features ---------------------------------------------------------------------------

    def marginalize(self, indices: ArrayLike) -> MVN:
        """The marginal distribution of some features, in the order of `indices`."""
        self._mixture(definite=False)
        index = integers_of(indices, len(self.mean))
        return MVN(
            self.mean[index], self.covariance[np.ix_(index, index)], self.verbose, self.random_state
        )

    def condition(self, indices: ArrayLike, x: ArrayLike) -> MVN:
        """The conditional distribution of the others, given x `(n_features_in,)` at `indices`."""
        means, covariance = self.predict(indices, np.atleast_2d(np.asarray(x)))
        if len(means) != 1:
            raise InvalidArgumentError(f"expected one row of known features, got {len(means)}")
        return MVN(means[0], covariance, self.verbose, self.random_state)

    def predict(self, indices: ArrayLike, X: ArrayLike) -> tuple[Floats, Floats]:
        """Means `(n_samples, n_features_out)` of the other features, and their covariance."""
        require_given(mean=self.mean, covariance=self.covariance)
        rest = invert_indices(len(self.mean), indices)
        return condition(self.mean, self.covariance, rest, indices, X)

    # -- shape ------------------------------------------------------------------------------

    def to_ellipse(self, factor: float = 1.0) -> tuple[float, float, float]:
        """Angle in radians and both semi-axes, the longer one first, at `factor` deviations.

        Raises:
            InvalidArgumentError: a factor that is not positive, or another number of features.
        """
        found = ellipses(self._mixture(definite=False), factor)[0]
        width, height = found.semi_axes.tolist()
        return found.angle, width, height

    def sigma_points(self, alpha: float = 1e-3, kappa: float = 0.0) -> Floats:
        """Points with this mean and covariance, `(2 n_features + 1, n_features)`.

        The first is the mean; the others lie along the columns of the symmetric root.
        """
        self._mixture(definite=False)
        d = len(self.mean)
        standard = mixture_of([1.0], np.zeros((1, d)), np.eye(d)[None])
        values, vectors = np.linalg.eigh(self.covariance)
        root = vectors * np.sqrt(values.clip(min=0.0)) @ vectors.T
        return self.mean + sigma_points(standard, alpha, kappa)[0].numpy() @ root

    def estimate_from_sigma_points(
        self,
        transformed_sigma_points: ArrayLike,
        alpha: float = 1e-3,
        beta: float = 2.0,
        kappa: float = 0.0,
        random_state: Any = None,
    ) -> MVN:
        """The Gaussian with the moments of sigma points mapped by a function.

        A function into more dimensions gives a singular covariance.

        Args:
            transformed_sigma_points: `(2 n_features + 1, n_features_out)`.
            alpha: as for `sigma_points`.
            beta: 2 for a normal distribution.
            kappa: as for `sigma_points`.
            random_state: of the new object; None: this one's.

        Raises:
            InvalidArgumentError: another number of points.

        References:
            S. J. Julier, J. K. Uhlmann (2004), Unscented filtering and nonlinear estimation,
            Proceedings of the IEEE 92.
        """
        require_given(mean=self.mean, covariance=self.covariance)
        points = tensor_of(transformed_sigma_points)
        expected = 2 * len(self.mean) + 1
        if points.dim() != 2 or len(points) != expected:
            raise InvalidArgumentError(
                f"expected {expected} points, as sigma_points gives them, got an array of shape "
                f"{tuple(points.shape)}"
            )
        logits = points.new_zeros(1)
        image = from_sigma_points(points[None], logits, alpha=alpha, beta=beta, kappa=kappa)
        source = self.random_state if random_state is None else random_state
        covariance = image.component_covariances[0].numpy()
        return MVN(image.means[0].numpy(), covariance, self.verbose, source)

    def _mixture(self, *, definite: bool = True) -> MixtureOfGaussians:
        require_given(mean=self.mean, covariance=self.covariance)
        return mixture_of([1.0], self.mean[None], self.covariance[None], definite=definite)
