"""Gaussian mixture regression, by scikit-learn's rules."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians, regress
from gmm_lightning.em import EMResult, VBResult, fit_em, fit_vb
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.scikit_learn._options import INFERENCE, OPTIONS
from gmm_lightning.estimators.scikit_learn._rows import (
    Rows,
    generator_of,
    new_layer,
    weights_of_rows,
)
from gmm_lightning.layers import GMMLayer
from gmm_lightning.rows import as_tensor


class GaussianMixtureRegressor(RegressorMixin, MultiOutputMixin, BaseEstimator):
    """Regressor `p(y | x)` under a mixture of Gaussians of inputs and outputs together.

    One component is linear regression; several give a conditional distribution that may have
    several modes, of which `predict` is the mean and `sample_y` draws.

    Args:
        n_components: of the mixture.
        covariance_type: a family of covariances, as in `GMMLayer`; only those with correlations
            (`full`, `tied`) are linear in x inside a component.
        priors: of the parameters, as in `GMMLayer`.
        tol: the fit ends when it is estimated to gain no more nats per row than this.
        max_iter: iterations at most.
        n_init: starts, of which the best is kept.
        init_params: the initializer.
        random_state: a seed, a `RandomState`, or None for numpy's global one.
        inference: `map`: maximum likelihood, or the mode under `priors`; `vb`: the expected
            parameters of a variational posterior (see `fit_vb`), whose bound of the log evidence
            takes the place of the log-likelihood.
        device: where to compute; None: where the rows are.

    Attributes:
        layer_: the fitted layer of inputs, then outputs.
        result_: what `fit_em` returned.
        n_iter_: iterations.
        n_features_in_: number of inputs.
        feature_names_in_: names of the inputs of a table.

    References:
        Z. Ghahramani, M. I. Jordan (1994), Supervised learning from incomplete data via an EM
        approach, NIPS 6.

    Example:
        >>> import numpy as np
        >>> x = np.linspace(-2, 2, 100)[:, np.newaxis]
        >>> model = GaussianMixtureRegressor(n_components=4, random_state=0).fit(x, x[:, 0] ** 2)
        >>> mean, deviation = model.predict(x, return_std=True)
        >>> mean.shape, deviation.shape, bool(model.score(x, x[:, 0] ** 2) > 0.97)
        ((100,), (100,), True)
    """

    n_features_in_: int
    n_iter_: int
    layer_: GMMLayer
    result_: EMResult | VBResult

    _parameter_constraints: ClassVar[dict[str, Any]] = {**OPTIONS, **INFERENCE}

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str | Covariance = "full",
        priors: Any = None,
        tol: float = 1e-5,
        max_iter: int = 500,
        n_init: int = 1,
        init_params: str = "mixed",
        random_state: Any = None,
        inference: str = "map",
        device: Any = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.priors = priors
        self.tol = tol
        self.max_iter = max_iter
        self.n_init = n_init
        self.init_params = init_params
        self.random_state = random_state
        self.inference = inference
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the mixture of inputs and outputs.

        Args:
            X: inputs `(n_samples, n_features)`.
            y: outputs `(n_samples,)` or `(n_samples, n_outputs)`.
            sample_weight: of the rows, not negative.

        Raises:
            ValueError: unusable rows, or fewer of them than components.
        """
        self._validate_params()
        options = {"y": y, "multi_output": True, "y_numeric": True}
        given = Rows(self, X, reset=True, device=self.device, **options)
        outputs = as_tensor(given.y, "y").to(given.x).reshape(len(given.x), -1)
        rows = torch.cat([given.x, outputs], 1)
        layer = new_layer(
            rows.shape[1],
            self.n_components,
            self.covariance_type,
            self.priors,
            device=rows.device,
            dtype=rows.dtype,
        )
        method = fit_em if self.inference == "map" else fit_vb
        self.result_ = method(
            layer,
            rows,
            initializer=self.init_params,
            sample_weight=weights_of_rows(sample_weight, rows),
            max_iter=self.max_iter,
            tol=self.tol,
            num_restarts=self.n_init,
            generator=generator_of(self.random_state, rows.device),
        )
        # A fit that fails leaves the last one.
        self.layer_, self._has_one_axis = layer, given.y.ndim == 1
        self.n_iter_ = max(1, self.result_.num_iterations)
        return self

    @torch.no_grad()
    def predict(
        self,
        X: Any,
        return_std: bool = False,  # noqa: FBT001, FBT002 (as of scikit-learn's regressors)
        return_cov: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """The mean `E[y | x]`, and with it the standard deviation or the covariance.

        Args:
            X: inputs `(n_samples, n_features)`.
            return_std: also return standard deviations, in the shape of the mean.
            return_cov: also return the covariances of the outputs of each row,
                `(n_samples, n_outputs, n_outputs)`.

        Raises:
            InvalidArgumentError: both are asked for.
        """
        if return_std and return_cov:
            raise InvalidArgumentError(
                "at most one of return_std and return_cov can be asked for: variances are the "
                "diagonal of covariances"
            )
        given = self._inputs(X)
        wanted = return_std or return_cov
        mean, covariance = regress(self._mixture(), self._known(), given.x, covariance=wanted)
        mean = given.give_back(self._outputs(mean))
        if covariance is None:
            return mean
        constant = self._constant_outputs()
        covariance = covariance.masked_fill(constant | constant.unsqueeze(-1), 0.0)
        if return_cov:
            return mean, given.give_back(covariance)
        deviation = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
        return mean, given.give_back(self._outputs(deviation))

    @torch.no_grad()
    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> Any:
        """Outputs drawn from `p(y | x)`.

        Args:
            X: inputs `(n_rows, n_features)`.
            n_samples: draws for each row.
            random_state: a seed, a `RandomState`, or None for numpy's global one.

        Returns:
            `(n_rows, n_samples)`, or `(n_rows, n_outputs, n_samples)` after a fit to outputs with
            two axes.
        """
        given = self._inputs(X)
        conditional = self._mixture().condition(self._known(), given.x)
        generator = generator_of(random_state, given.x.device)
        drawn = conditional.sample(n_samples, generator=generator)
        assert isinstance(drawn, Tensor)
        drawn = torch.where(self._constant_outputs(), conditional.mean, drawn)
        return given.give_back(self._outputs(drawn).movedim(0, -1))

    def _inputs(self, X: Any) -> Rows:
        check_is_fitted(self, "layer_")
        rows = Rows(self, X, device=self.layer_.means.device)
        rows.x = rows.x.to(self.layer_.means.dtype)
        return rows

    def _mixture(self) -> MixtureOfGaussians:
        return self.layer_.distribution()

    def _known(self) -> list[int]:
        return list(range(self.n_features_in_))

    def _constant_outputs(self) -> Tensor:
        """Which outputs had one value in the fit: their variance in the layer is none of theirs."""
        return self.layer_.is_constant[self.n_features_in_ :]

    def _outputs(self, values: Tensor) -> Tensor:
        """Values of outputs in the shape that those of the fit had."""
        return values.squeeze(-1) if self._has_one_axis else values
