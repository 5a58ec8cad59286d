"""What a tgmm mixture has after a fit: its layer, and attributes that read from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.em import EMResult, StepwiseEM
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.tgmm._constraints import active_constraints
from gmm_lightning.estimators.tgmm._forms import FAMILIES, dense_of, form_of
from gmm_lightning.estimators.tgmm._starts import untrained_layer
from gmm_lightning.estimators.tgmm.settings import Settings
from gmm_lightning.layers import GMMLayer
from gmm_lightning.rows import as_dense


@dataclass(eq=False, repr=False)
class Parameters(Settings):
    """Parameters and records of a fit, under tgmm's names.

    Weights, means and covariances are those of `layer_`; they can be assigned, as a whole.
    """

    layer_: GMMLayer | None = field(default=None, init=False)
    result_: EMResult | None = field(default=None, init=False)
    stream_: StepwiseEM | None = field(default=None, init=False)
    initial_weights_: Tensor | None = field(default=None, init=False)
    initial_means_: Tensor | None = field(default=None, init=False)
    initial_covariances_: Tensor | None = field(default=None, init=False)
    fitted_: bool = field(default=False, init=False)
    converged_: bool = field(default=False, init=False)
    n_iter_: int = field(default=0, init=False)
    lower_bound_: float = field(default=-float("inf"), init=False)
    best_random_state_: int | None = field(default=None, init=False)
    log_likelihood_history_: Tensor | None = field(default=None, init=False)
    annealing_schedule_: list[float] | None = field(default=None, init=False)
    classes_: Tensor | None = field(default=None, init=False)
    class_of_component_: Tensor | None = field(default=None, init=False)
    n_empty_components_: int = field(default=0, init=False)
    n_components_history_: None = field(default=None, init=False)
    volume_: None = field(default=None, init=False)
    shape_: None = field(default=None, init=False)
    orientation_: None = field(default=None, init=False)

    # -- parameters -------------------------------------------------------------------------

    def require_fitted(self) -> GMMLayer:
        """The layer.

        Raises:
            InvalidArgumentError: there is none yet.
        """
        if self.layer_ is None:
            raise InvalidArgumentError("this mixture has no parameters yet: call fit(X)")
        return self.layer_

    @property
    def mixture(self) -> MixtureOfGaussians:
        """The Gaussian components as a distribution, without a gradient."""
        layer = self.require_fitted()
        logits, means = layer.mixture_logits.detach(), layer.means.detach()
        return MixtureOfGaussians(logits, means, layer.scale.detach(), layer.covariance)

    @property
    def weights_(self) -> Tensor | None:
        """Weights `(K,)`; with noise they sum to `1 - noise_weight_`."""
        if self.layer_ is None:
            return None
        weights = self.layer_.weights.detach()
        return weights if self.layer_.noise is None else weights * (1 - self.noise_weight_)

    @weights_.setter
    def weights_(self, value: Any) -> None:
        self.require_fitted().set_parameters(weights=torch.as_tensor(value))

    @property
    def means_(self) -> Tensor | None:
        """Means `(K, D)`."""
        return None if self.layer_ is None else self.layer_.means.detach().clone()

    @means_.setter
    def means_(self, value: Any) -> None:
        value = self.rows(value)
        if self.layer_ is None:
            self.layer_ = untrained_layer(
                self.n_components or len(value), value, FAMILIES[self.covariance_type]
            )
            self.n_components, self.n_features = len(value), value.shape[1]
        self.layer_.set_parameters(means=value)

    @property
    def covariances_(self) -> Tensor | None:
        """Covariances in the form of the type: `(K, D, D)` for `full`."""
        return None if self.layer_ is None else form_of(self.mixture)

    @covariances_.setter
    def covariances_(self, value: Any) -> None:
        layer = self.require_fitted()
        dense = dense_of("covariances_", value, self.covariance_type, layer.means.detach())
        layer.set_parameters(covariance_matrix=dense)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters: that of the rows of the last fit."""
        return torch.get_default_dtype() if self.layer_ is None else self.layer_.means.dtype

    @property
    def n_components_(self) -> int | None:
        """Number of components of the fit."""
        return None if self.layer_ is None else self.layer_.num_components

    @property
    def active_(self) -> Tensor | None:
        """Mask `(K,)` of the components that are used: all of them."""
        if self.layer_ is None:
            return None
        return torch.ones(self.layer_.num_components, dtype=torch.bool, device=self.device)

    @property
    def active_constraints_(self) -> dict[str, Tensor] | None:
        """Which bounds hold with equality, by name; None without bounds or before a fit."""
        return None if self.layer_ is None else active_constraints(self, self.mixture)

    # -- noise ------------------------------------------------------------------------------

    @property
    def noise_weight_(self) -> Any:
        """Weight of the noise, or None without noise."""
        noise = None if self.layer_ is None else self.layer_.noise
        return None if noise is None else noise.weight.detach()

    @property
    def noise_bounds_(self) -> Tensor | None:
        """Lower and upper corner of the box of the noise, `(2, D)`, or None without a box."""
        noise = None if self.layer_ is None else self.layer_.noise
        low, high = getattr(noise, "low", None), getattr(noise, "high", None)
        return torch.stack([low, high]) if low is not None and high is not None else None

    # -- rows -------------------------------------------------------------------------------

    def rows(self, X: Any) -> Tensor:
        """Rows `(N, D)` on the device of the mixture, in float32 or float64; a vector is a column.

        Raises:
            InvalidDataError: not numbers, or not a table of them.
        """
        x = as_dense(X, self.device, "X").to(self.device)
        if x.dim() == 1:
            x = x.unsqueeze(-1)
        if x.dtype not in (torch.float32, torch.float64):
            x = x.to(torch.get_default_dtype())
        return x

    @property
    def handles_missing(self) -> str | None:
        """What the layer does about missing entries of rows."""
        return "marginalize" if self.missing == "em" else None
