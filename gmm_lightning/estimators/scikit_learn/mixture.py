"""scikit-learn's `GaussianMixture`."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from gmm_lightning.criteria import aic, bic
from gmm_lightning.estimators.scikit_learn._fitted import FittedMixture
from gmm_lightning.estimators.scikit_learn._fitting import INITIALIZERS, Fitter
from gmm_lightning.estimators.scikit_learn._options import INFERENCE, OPTIONS
from gmm_lightning.estimators.scikit_learn._parameters import fitted_layer, parameters_of


class GaussianMixture(FittedMixture):
    """scikit-learn's Gaussian mixture, on this engine: change the import.

    Arguments, methods, attributes and rules are those of `sklearn.mixture.GaussianMixture`: plain
    EM until a step gains less than `tol`, `reg_covar` on every variance, the best of `n_init`
    starts by the lower bound. Random numbers follow from `random_state`, but are not
    scikit-learn's; no global seed is used or set. Tensors give tensors on their device.

    Args:
        n_components: number of components.
        covariance_type: `full`, `tied`, `diag`, `spherical`, or any other family of this library.
        tol: a step that gains less than this, in nats per row, ends the fit.
        reg_covar: added to every variance.
        max_iter: EM steps at most; 0 keeps the initial parameters.
        n_init: starts, of which the one with the highest lower bound is kept.
        init_params: `kmeans`, `k-means++`, `random` or `random_from_data`.
        weights_init: weights to start from, `(n_components,)`.
        means_init: means to start from, `(n_components, n_features)`.
        precisions_init: inverse covariances to start from, in the shape of `precisions_`.
        random_state: a seed, a `numpy.random.RandomState`, or None.
        warm_start: go on from the last fit.
        verbose: 1 shows the steps and a progress bar, 2 the times too.
        verbose_interval: steps between two lines.
        priors: names or instances: see `GMMLayer`; the lower bound is then the objective with the
            log-prior. scikit-learn has none.
        missing: `em` takes rows with NaN: see `fit_em`.
        supervised: whether `y` holds classes, -1 where it is not known: see `fit_em`.
        acceleration: None, `squarem` or `anderson`: see `fit_em`.
        inference: `map`: maximum likelihood, or the mode under `priors`; `vb`: the expected
            parameters of a variational posterior (see `fit_vb`), whose bound of the log evidence
            takes the place of the log-likelihood.
        device: where to compute; None: where the rows are.

    Attributes:
        weights_: `(n_components,)`.
        means_: `(n_components, n_features)`.
        covariances_: `(n_components, n_features, n_features)` for `full`, `(n_features,
            n_features)` for `tied`, `(n_components, n_features)` for `diag`, `(n_components,)` for
            `spherical`.
        precisions_: their inverses.
        precisions_cholesky_: factors U of the precisions `U U'`.
        converged_: whether the best start converged.
        n_iter_: its steps.
        lower_bound_: its mean log-likelihood before the last step, in nats per row.
        lower_bounds_: those before each step.
        n_features_in_: number of features.
        feature_names_in_: their names, where the rows are a table.
        layer_: the fitted `GMMLayer`.
        result_: the `EMResult` of the best start; its objectives end before the last M-step, as
            `lower_bounds_` do.

    References:
        F. Pedregosa et al. (2011), Scikit-learn: Machine learning in Python, JMLR 12.

    Example:
        >>> import numpy as np
        >>> x = np.array([[1.0, 2.0], [1.0, 4.0], [1.0, 0.0], [9.0, 2.0], [9.0, 4.0], [9.0, 0.0]])
        >>> mixture = GaussianMixture(n_components=2, random_state=0).fit(x)
        >>> sorted(mixture.means_.round(6).tolist()), mixture.predict([[0.0, 0.0]]).shape
        ([[1.0, 2.0], [9.0, 2.0]], (1,))
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **OPTIONS,
        **INFERENCE,
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "init_params": [StrOptions(set(INITIALIZERS))],
        "weights_init": ["array-like", None],
        "means_init": ["array-like", None],
        "precisions_init": ["array-like", None],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "missing": [StrOptions({"em"}), None],
        "supervised": ["boolean"],
        "acceleration": "no_validation",
    }

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weights_init: Any = None,
        means_init: Any = None,
        precisions_init: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        priors: Any = None,
        missing: str | None = None,
        supervised: bool = False,
        acceleration: Any = None,
        inference: str = "map",
        device: Any = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weights_init = weights_init
        self.means_init = means_init
        self.precisions_init = precisions_init
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.priors = priors
        self.missing = missing
        self.supervised = supervised
        self.acceleration = acceleration
        self.inference = inference
        self.device = device

    # -- fit --------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the mixture to rows `(n_samples, n_features)`.

        Args:
            X: the rows.
            y: ignored, unless `supervised`: their classes.
            sample_weight: weights of the rows, `(n_samples,)`.

        Raises:
            ValueError: unusable rows, fewer of them than components, a start that is singular, or
                `supervised` without `y`.
        """
        self._validate_params()
        rows = self._rows(X, reset=True, ensure_min_samples=2)
        if len(rows.x) < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {len(rows.x)}"
            )
        Fitter(self, rows.x, self._labels(y), sample_weight).fit()
        if not self.converged_ and self.max_iter > 0:
            warnings.warn(
                "Best performing initialization did not converge. Try different init parameters, "
                "or increase max_iter, tol, or check for degenerate data.",
                ConvergenceWarning,
                stacklevel=2,
            )
        self._fitted_parameters = parameters_of(self.layer_)
        for name, value in self._fitted_parameters.items():
            setattr(self, name, rows.give_back(value.clone()))
        return self

    def _labels(self, y: Any) -> Any:
        """The labels of the rows, a column of them as one axis, or None."""
        if not self.supervised:
            return None
        if y is None:
            raise ValueError(
                "GaussianMixture(supervised=True) requires y to be passed, but the target y is "
                "None: give classes, -1 where they are not known"
            )
        return column_or_1d(y, warn=True) if np.shape(y)[1:] == (1,) else y

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit the mixture, and return the component of each row."""
        return self.fit(X, y, sample_weight).predict(X)

    def bic(self, X: Any) -> float:
        """Bayesian information criterion on rows; lower is better."""
        n = len(X)
        return bic(self.score(X) * n, self._n_parameters(), n)

    def aic(self, X: Any) -> float:
        """Akaike's information criterion on rows; lower is better."""
        return aic(self.score(X) * len(X), self._n_parameters())

    def _n_parameters(self) -> int:
        check_is_fitted(self, "means_")
        return fitted_layer(self).num_free_parameters

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing is not None
        return tags
