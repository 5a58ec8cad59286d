"""What a fitted mixture says of rows, and draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.em import EMResult, VBResult, reduce_log_joint
from gmm_lightning.estimators.scikit_learn._parameters import fitted_layer
from gmm_lightning.estimators.scikit_learn._rows import Rows, generator_of, weights_of_rows
from gmm_lightning.layers import GMMLayer
from gmm_lightning.rows import weighted_mean

# Methods of layers, and what they make of log joint densities `(K, n)`.
_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "predict": lambda log_joint: log_joint.max(0).indices,
    "responsibilities": lambda log_joint: log_joint.softmax(0).T,
    "log_prob": lambda log_joint: log_joint.logsumexp(0),
}


class FittedMixture(DensityMixin, BaseEstimator):
    """The methods of `GaussianMixture` that follow a fit.

    They ask `layer_`; or, where the user assigned `weights_`, `means_` or `precisions_cholesky_`,
    a layer with these, as scikit-learn does. Its mixture is a density and no `ClusterMixin` either,
    of which `check_estimator` expects `labels_`.
    """

    covariance_type: str | Covariance
    reg_covar: float
    random_state: Any
    missing: str | None
    device: Any

    # Written by the fit.
    layer_: GMMLayer
    _fitted_parameters: dict[str, Tensor]
    result_: EMResult | VBResult
    converged_: bool
    n_iter_: int
    lower_bound_: float
    lower_bounds_: list[float]
    weights_: Any
    means_: Any
    covariances_: Any
    precisions_: Any
    precisions_cholesky_: Any

    def predict(self, X: Any) -> Any:
        """The most probable component of each row, `(n_samples,)`."""
        return self._answer(X, "predict")

    def predict_proba(self, X: Any) -> Any:
        """Responsibilities of the components for each row, `(n_samples, n_components)`."""
        return self._answer(X, "responsibilities")

    def score_samples(self, X: Any) -> Any:
        """Log density of each row in nats, `(n_samples,)`."""
        return self._answer(X, "log_prob")

    def score(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, X: Any, y: Any = None, sample_weight: Any = None
    ) -> float:
        """Mean log density of the rows, in nats.

        Args:
            X: the rows.
            y: ignored.
            sample_weight: weights of the rows, `(n_samples,)`.
        """
        values = torch.as_tensor(self.score_samples(X))
        weight = weights_of_rows(sample_weight, values.unsqueeze(-1))
        return float(weighted_mean(values, None if weight is None else weight.to(values.device)))

    def sample(self, n_samples: int = 1) -> tuple[Any, Any]:
        """Draws `(n_samples, n_features)` and their components, sorted by component.

        With an integer `random_state` every call gives the same draws.

        Raises:
            ValueError: fewer than one sample.
        """
        check_is_fitted(self, "means_")
        if n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one "
                "sample."
            )
        layer = self._draws_from()
        generator = generator_of(self.random_state, layer.means.device)
        x, component = layer.sample(int(n_samples), return_component=True, generator=generator)
        order = component.argsort(stable=True)
        if isinstance(self.means_, Tensor):
            return x[order].to(self.means_), component[order].to(self.means_.device)
        return x[order].double().cpu().numpy(), component[order].cpu().numpy()

    def _rows(self, X: Any, *, reset: bool = False, **options: Any) -> Rows:
        finite: Any = "allow-nan" if self.missing else True
        return Rows(self, X, reset=reset, device=self.device, ensure_all_finite=finite, **options)

    @torch.no_grad()
    def _answer(self, X: Any, method: str) -> Any:
        check_is_fitted(self, "means_")
        rows = self._rows(X)
        layer = self._answers_from()
        x = rows.x.to(layer.means.device)
        missing = "marginalize" if bool(torch.isnan(x.sum())) else None
        answer = reduce_log_joint(layer, x, _REDUCTIONS[method]) if missing is None else None
        return rows.give_back(getattr(layer, method)(x, missing) if answer is None else answer)

    def _draws_from(self) -> GMMLayer:
        """The layer that draws."""
        return fitted_layer(self)

    def _answers_from(self) -> GMMLayer:
        """The layer whose joint densities answer for rows."""
        return fitted_layer(self)
