"""Gaussian mixture regression as a scikit-learn estimator."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from gmm_lightning.estimators.gmr._translate import Floats
from gmm_lightning.estimators.gmr.gmm import GMM

try:
    from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
    from sklearn.utils import check_array, check_X_y
    from sklearn.utils.validation import check_is_fitted
except ImportError:
    raise ImportError(
        "GaussianMixtureRegressor needs scikit-learn: pip install scikit-learn"
    ) from None


class GaussianMixtureRegressor(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Regressor `E[y | x]` under a mixture of inputs and outputs together.

    Arguments are those of `GMM`, with parameters to start from, and of `GMM.from_samples`.

    Attributes:
        gmm_: the mixture.
        indices_: positions of the inputs among its features.
        has_one_axis_: whether the outputs of the fit were `(n_samples,)`.
        n_features_in_: number of inputs.

    Example:
        >>> import numpy as np
        >>> x = np.linspace(0.0, 1.0, 50)[:, np.newaxis]
        >>> regressor = GaussianMixtureRegressor(2, random_state=0, init_params="kmeans++")
        >>> bool(regressor.fit(x, x**2).score(x, x**2) > 0.97)
        True
    """

    def __init__(
        self,
        n_components: int,
        priors: ArrayLike | None = None,
        means: ArrayLike | None = None,
        covariances: ArrayLike | None = None,
        verbose: int = 0,
        random_state: Any = None,
        R_diff: float = 1e-4,
        n_iter: int = 500,
        init_params: str = "random",
    ) -> None:
        self.n_components = n_components
        self.priors = priors
        self.means = means
        self.covariances = covariances
        self.verbose = verbose
        self.random_state = random_state
        self.R_diff = R_diff
        self.n_iter = n_iter
        self.init_params = init_params

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the mixture of inputs `(n_samples, n_features)` and outputs, one or several."""
        x, targets = check_X_y(X, y, estimator=self, dtype="float64", multi_output=True)
        self.n_features_in_ = x.shape[1]
        self.has_one_axis_ = targets.ndim == 1
        self.indices_ = np.arange(x.shape[1])
        self.gmm_ = GMM(
            self.n_components,
            self.priors,
            self.means,
            self.covariances,
            self.verbose,
            self.random_state,
        )
        self.gmm_.from_samples(
            np.column_stack([x, targets]), self.R_diff, self.n_iter, self.init_params
        )
        return self

    def predict(self, X: ArrayLike) -> Floats:
        """Outputs `(n_samples, n_outputs)`, or `(n_samples,)` after a fit to such ones.

        gmr returns two axes for these too.
        """
        check_is_fitted(self, ["gmm_", "indices_"])
        x = check_array(X, estimator=self, dtype="float64")
        outputs = self.gmm_.predict(self.indices_, x)
        return outputs[:, 0] if self.has_one_axis_ else outputs
