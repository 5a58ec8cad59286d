"""scikit-learn's `BayesianGaussianMixture`."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, Self

from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from torch import Tensor

from gmm_lightning.em import MixturePosterior
from gmm_lightning.estimators.scikit_learn._bayesian_fit import PosteriorFitter
from gmm_lightning.estimators.scikit_learn._fitted import FittedMixture
from gmm_lightning.estimators.scikit_learn._fitting import INITIALIZERS
from gmm_lightning.estimators.scikit_learn._options import OPTIONS
from gmm_lightning.layers import GMMLayer


class BayesianGaussianMixture(FittedMixture):
    """scikit-learn's variational Gaussian mixture, on this engine: change the import.

    Arguments, methods, attributes and rules are those of
    `sklearn.mixture.BayesianGaussianMixture`. Random numbers follow from `random_state`, but are
    not scikit-learn's. Tensors give tensors on their device.

    Args:
        n_components: number of components, of which superfluous ones are emptied.
        covariance_type: `full`, `tied`, `diag`, `spherical`, or any other family of this library.
        tol: a step that changes the lower bound by less than this, in nats, ends the fit.
        reg_covar: added to every variance of the rows of a component.
        max_iter: steps at most; 0 keeps the initial posterior.
        n_init: starts, of which the one with the highest lower bound is kept.
        init_params: `kmeans`, `k-means++`, `random` or `random_from_data`.
        weight_concentration_prior_type: `dirichlet_process` or `dirichlet_distribution`.
        weight_concentration_prior: concentration of each weight, or of the process; None:
            `1 / n_components`.
        mean_precision_prior: rows that the prior mean is worth; None: 1.
        mean_prior: prior mean, `(n_features,)`; None: that of the rows.
        degrees_of_freedom_prior: of the covariances; None: `n_features`.
        covariance_prior: in the shape of one covariance; None: that of the rows.
        random_state: a seed, a `numpy.random.RandomState`, or None.
        warm_start: go on from the last fit.
        verbose: 1 shows the steps, 2 the times too.
        verbose_interval: steps between two lines.
        convention: `sklearn`: its rules to the letter; `exact`: the conjugate posterior of every
            family, and a bound with all constants (see `fit_vb`).
        missing: `em` takes rows with NaN: see `fit_vb`.
        device: where to compute; None: where the rows are.

    Attributes:
        weights_: expected weights, `(n_components,)`.
        means_: expected means, `(n_components, n_features)`.
        covariances_: inverses of the expected precisions, in the shapes of `GaussianMixture`.
        precisions_: expected precisions.
        precisions_cholesky_: factors U of the precisions `U U'`.
        converged_: whether the best start converged.
        n_iter_: its steps.
        lower_bound_: its lower bound, in nats.
        lower_bounds_: those of each step.
        weight_concentration_: of the Dirichlet distribution, `(n_components,)`, or both parameters
            of the sticks.
        mean_precision_: `(n_components,)`.
        degrees_of_freedom_: `(n_components,)`, or one number for `tied`.
        weight_concentration_prior_: the values used, and so for `mean_precision_prior_`,
            `mean_prior_`, `degrees_of_freedom_prior_` and `covariance_prior_`.
        n_features_in_: number of features.
        feature_names_in_: their names, where the rows are a table.
        layer_: a `GMMLayer` with the expected parameters.
        posterior_: the `MixturePosterior`.

    References:
        F. Pedregosa et al. (2011), Scikit-learn: Machine learning in Python, JMLR 12.

    Example:
        >>> import numpy as np
        >>> x = np.array([[1.0, 2.0], [1.0, 4.0], [1.0, 0.0], [4.0, 2.0], [12.0, 4.0], [10.0, 7.0]])
        >>> mixture = BayesianGaussianMixture(n_components=2, random_state=42).fit(x)
        >>> mixture.means_.shape, len(set(mixture.predict([[0.0, 0.0], [9.0, 3.0]])))
        ((2, 2), 2)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{name: rule for name, rule in OPTIONS.items() if name != "priors"},
        "reg_covar": [Interval(Real, 0.0, None, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "init_params": [StrOptions(set(INITIALIZERS))],
        "weight_concentration_prior_type": [
            StrOptions({"dirichlet_process", "dirichlet_distribution"})
        ],
        "weight_concentration_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_precision_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "mean_prior": [None, "array-like"],
        "degrees_of_freedom_prior": [None, Interval(Real, 0.0, None, closed="neither")],
        "covariance_prior": [None, "array-like", Interval(Real, 0.0, None, closed="neither")],
        "warm_start": ["boolean"],
        "verbose": ["verbose"],
        "verbose_interval": [Interval(Integral, 1, None, closed="left")],
        "convention": [StrOptions({"sklearn", "exact"})],
        "missing": [StrOptions({"em"}), None],
    }

    posterior_: MixturePosterior
    weight_concentration_: Any
    # Of an E-step with expected log densities, and what its log densities lack.
    _expected_layer: GMMLayer
    _log_total: float

    def __init__(
        self,
        *,
        n_components: int = 1,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 100,
        n_init: int = 1,
        init_params: str = "kmeans",
        weight_concentration_prior_type: str = "dirichlet_process",
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
        convention: str = "sklearn",
        missing: str | None = None,
        device: Any = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval
        self.convention = convention
        self.missing = missing
        self.device = device

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the posterior to rows `(n_samples, n_features)`.

        Args:
            X: the rows.
            y: ignored.
            sample_weight: weights of the rows, `(n_samples,)`.

        Raises:
            ValueError: unusable rows, fewer of them than components, or a prior out of range.
        """
        self._validate_params()
        rows = self._rows(X, reset=True, ensure_min_samples=2)
        if len(rows.x) < self.n_components:
            raise ValueError(
                f"Expected n_samples >= n_components but got n_components = {self.n_components}, "
                f"n_samples = {len(rows.x)}"
            )
        found = PosteriorFitter(self, rows.x, sample_weight).fit()
        if not self.converged_ and self.max_iter > 0:
            warnings.warn(
                "Best performing initialization did not converge. Try different init parameters, "
                "or increase max_iter, tol, or check for degenerate data.",
                ConvergenceWarning,
                stacklevel=2,
            )
        for name, value in found.items():
            if isinstance(value, tuple):
                setattr(self, name, tuple(map(rows.give_back, value)))
            else:
                setattr(self, name, rows.give_back(value) if isinstance(value, Tensor) else value)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit the posterior, and return the component of each row."""
        return self.fit(X, y, sample_weight).predict(X)

    def score_samples(self, X: Any) -> Any:
        """Logarithm of the sum of the expected joint densities of each row, `(n_samples,)`.

        As in scikit-learn, the exponentials of expected log densities: for the density of a new
        row see `posterior_.predictive()`.
        """
        return super().score_samples(X) + self._log_total

    def _draws_from(self) -> GMMLayer:
        return self.layer_

    def _answers_from(self) -> GMMLayer:
        return self._expected_layer

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing is not None
        return tags
