"""The density of a mixture: parameters, log p(x), responsibilities, moments."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar, cast

import torch
from torch import Size, Tensor, distributions
from torch.distributions import constraints

from gmm_lightning._messages import describe
from gmm_lightning._tracing import values_are_readable
from gmm_lightning._validation import require_number, require_tensor
from gmm_lightning.covariances import Covariance, FullCovariance, as_covariance
from gmm_lightning.errors import InvalidArgumentError, NoClosedFormError
from gmm_lightning.linalg import (
    LOG_2PI,
    at_least_float32,
    factor_of_rows,
    full_precision,
    total_covariance,
)
from gmm_lightning.rows import as_dense


class MixtureDensity(distributions.Distribution):
    """The base class of `MixtureOfGaussians`, and the type that functions of mixtures take.

    Functions build their results by `with_parameters`, so that a subclass is preserved.
    """

    arg_constraints: ClassVar[Any] = {}
    support: ClassVar[Any] = constraints.real_vector

    def __init__(
        self,
        mixture_logits: Tensor,
        means: Tensor,
        scale: Tensor,
        covariance: str | Covariance | None = None,
    ) -> None:
        self.covariance = FullCovariance() if covariance is None else as_covariance(covariance)
        self.mixture_logits = at_least_float32(require_tensor("mixture_logits", mixture_logits))
        self.means = at_least_float32(require_tensor("means", means))
        self.scale = at_least_float32(require_tensor("a scale", scale))
        if means.dim() < 2:
            raise InvalidArgumentError(f"means must be (*B, K, D), got shape {tuple(means.shape)}")
        *batch, num_components, num_features = means.shape
        expected = (*batch, *self.covariance.shape(num_components, num_features))
        if mixture_logits.shape != means.shape[:-1] or scale.shape != expected:
            raise InvalidArgumentError(
                f"means of shape {tuple(means.shape)} need mixture_logits of shape "
                f"{tuple(means.shape[:-1])} and a scale of shape {expected}, got "
                f"{tuple(mixture_logits.shape)} and {tuple(scale.shape)}"
            )
        super().__init__(Size(batch), Size([num_features]), validate_args=False)

    # -- parameters -------------------------------------------------------------------------

    @property
    def num_components(self) -> int:
        """Number of components, K."""
        return self.means.shape[-2]

    @property
    def num_features(self) -> int:
        """Number of features, D."""
        return self.means.shape[-1]

    @property
    def log_weights(self) -> Tensor:
        """Log weights `log pi_k`, `(*B, K)`."""
        return self.mixture_logits.log_softmax(-1)

    @property
    def weights(self) -> Tensor:
        """Weights `pi_k`, `(*B, K)`."""
        return self.mixture_logits.softmax(-1)

    @property
    def scale_tril(self) -> Tensor:
        """Lower Cholesky factors of the components' covariances, `(*B, K, D, D)`."""
        dense = self.covariance.scale_tril(self.scale, self.num_features)
        return dense.expand(*self.means.shape, -1)

    @property
    def component_covariances(self) -> Tensor:
        """The components' covariances, `(*B, K, D, D)`."""
        dense = self.covariance.covariance_matrix(self.scale, self.num_features)
        return dense.expand(*self.means.shape, -1)

    # -- density ----------------------------------------------------------------------------

    def whiten(self, x: Tensor) -> Tensor:
        """Whitened differences `L_k^-1 (x - mu_k)`: `(*S, *B, D)` -> `(*S, *B, K, D)`."""
        x = self.check_rows(x).to(self.means.dtype)
        with full_precision(x.device):
            return self.covariance.whiten(self.scale, x.unsqueeze(-2) - self.means)

    def check_rows(self, x: Any) -> Tensor:
        """Rows as a tensor, checked to be of shape `(*S, *B, D)`: arrays and tables are converted.

        Raises:
            InvalidArgumentError: they are of another shape.
            InvalidDataError: x does not hold numbers.
        """
        x = as_dense(x, self.means.device)
        if x.dim() == 0 or x.shape[-1] != self.num_features:
            raise InvalidArgumentError(
                f"expected rows with {self.num_features} features in the last axis, got an array "
                f"of shape {tuple(x.shape)}"
                + ("; write x[:, None] for one feature" if x.dim() == 1 else "")
            )
        # Of equal length: torch.compile of torch 2.6 knows no other zip.
        common = min(x.dim() - 1, len(self.batch_shape))
        sizes, batch = x.shape[x.dim() - 1 - common : -1], self.batch_shape
        pairs = zip(sizes, batch[len(batch) - common :], strict=True)
        if any(n != b and 1 not in (n, b) for n, b in pairs):
            raise InvalidArgumentError(
                f"expected rows (*S, *B, D) for mixtures of batch shape {tuple(self.batch_shape)}, "
                f"got shape {tuple(x.shape)}; for the same rows in all of them write "
                f"x[:, {', '.join(['None'] * len(self.batch_shape))}]"
            )
        return x

    def log_joint(self, x: Tensor) -> Tensor:
        """Log joint densities `log pi_k + log N(x | mu_k, Sigma_k)`, `(*S, *B, K)`."""
        white = self.whiten(x)
        with full_precision(white.device):
            log_scale = self.covariance.half_log_det(self.scale, self.num_features)
            constant = self.log_weights - log_scale - 0.5 * self.num_features * LOG_2PI
            return constant - 0.5 * white.square().sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density `log p(x)`: `(*S, *B, D)` -> `(*S, *B)`."""
        return self.log_joint(value).logsumexp(-1)

    def log_responsibilities(self, x: Tensor) -> Tensor:
        """Log responsibilities `log p(k | x)`: `(*S, *B, D)` -> `(*S, *B, K)`."""
        return self.log_joint(x).log_softmax(-1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Responsibilities `p(k | x)`: `(*S, *B, D)` -> `(*S, *B, K)`."""
        return self.log_joint(x).softmax(-1)

    # -- moments ----------------------------------------------------------------------------

    @property
    def mean(self) -> Tensor:
        """Mean `sum_k pi_k mu_k`, `(*B, D)`."""
        return (self.weights.unsqueeze(-1) * self.means).sum(-2)

    @property
    def variance(self) -> Tensor:
        """Variance per feature, the diagonal of `covariance_matrix`, `(*B, D)`."""
        within = self.scale_tril.square().sum(-1)
        between = (self.means - self.mean.unsqueeze(-2)).square()
        return (self.weights.unsqueeze(-1) * (within + between)).sum(-2)

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariance `sum_k pi_k (Sigma_k + (mu_k - mu)(mu_k - mu)')`, `(*B, D, D)`."""
        return total_covariance(self.weights, self.means, self.component_covariances)

    def entropy(self) -> Tensor:
        """Raise `NoClosedFormError`, which names the estimate and the bounds."""
        raise NoClosedFormError(
            "the entropy of a mixture has no closed form; distributions.entropy(mixture) estimates "
            "it from draws, distributions.entropy_bounds(mixture) encloses it"
        )

    @property
    def mode(self) -> Tensor:
        """Raise `NoClosedFormError`, which names the search."""
        raise NoClosedFormError(
            "the mode of a mixture has no closed form; distributions.modes(mixture) finds those "
            "that its means lead to, and log_prob says which is the highest"
        )

    # -- other forms ------------------------------------------------------------------------

    def with_parameters(
        self,
        mixture_logits: Tensor,
        means: Tensor,
        scale: Tensor,
        covariance: str | Covariance | None = None,
    ) -> Self:
        """A mixture of the same type with other parameters; see the constructor."""
        return type(self)(mixture_logits, means, scale, covariance)

    def map_parameters(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The mixture with a function applied to logits, means and scale."""
        logits, means, scale = map(change, (self.mixture_logits, self.means, self.scale))
        return self.with_parameters(logits, means, scale, self.covariance)

    def temper(self, temperature: float) -> Self:
        """The mixture with logits divided, and covariances multiplied, by a temperature.

        Raises:
            InvalidArgumentError: the temperature is not positive.
        """
        temperature = require_number("temperature", temperature, above=0)
        if temperature == 1:
            return self
        factor = math.sqrt(temperature) * self.scale_tril
        return self.with_parameters(self.mixture_logits / temperature, self.means, factor)

    def component(self, k: int) -> Self:
        """The mixture of component k alone.

        Raises:
            InvalidArgumentError: k is not in `[-K, K)`.
        """
        try:
            k = operator.index(k)
        except TypeError:
            raise InvalidArgumentError(f"component must be an integer, got {describe(k)}") from None
        if not -self.num_components <= k < self.num_components:
            count = self.num_components
            raise InvalidArgumentError(f"component must be in [{-count}, {count}), got {k}")
        k, axis = k % self.num_components, len(self.batch_shape)
        scale = self.scale if self.covariance.tied else self.scale.narrow(axis, k, 1)
        logits = torch.zeros_like(self.mixture_logits[..., :1])
        return self.with_parameters(logits, self.means.narrow(axis, k, 1), scale, self.covariance)

    def expand(
        self, batch_shape: Size | list[int] | tuple[int, ...], _instance: None = None
    ) -> Self:
        """The mixture expanded to a larger batch, without copying.

        Raises:
            InvalidArgumentError: not a batch shape that this one expands to.
        """
        own = len(self.batch_shape)
        try:
            return self.map_parameters(lambda p: p.expand(*batch_shape, *p.shape[own:]))
        except (TypeError, RuntimeError):
            raise InvalidArgumentError(
                f"a mixture of batch shape {tuple(self.batch_shape)} does not expand to "
                f"{describe(batch_shape)}"
            ) from None

    def to_torch(self) -> distributions.MixtureSameFamily:
        """Torch's `MixtureSameFamily` over `MultivariateNormal` with the same density."""
        logits, factor = self.mixture_logits, self.scale_tril
        # Torch's checks look at values.
        check = None if values_are_readable(logits, self.means, factor) else False
        weights = distributions.Categorical(logits=logits, validate_args=check)
        normals = distributions.MultivariateNormal(
            self.means, scale_tril=factor, validate_args=check
        )
        return distributions.MixtureSameFamily(weights, normals, validate_args=check)

    def __repr__(self) -> str:
        batch = f", batch_shape={tuple(self.batch_shape)}" if self.batch_shape else ""
        return (
            f"{type(self).__name__}(num_components={self.num_components}, "
            f"num_features={self.num_features}, covariance={self.covariance.name!r}{batch})"
        )


M = TypeVar("M", bound=MixtureDensity)


def as_mixture(value: M, name: str = "mixture") -> M:
    """The mixture itself, or the one that a layer's `distribution()` returns.

    Raises:
        InvalidArgumentError: anything else; the message begins with the `name` of the argument.

    Example:
        >>> from gmm_lightning import GMMLayer
        >>> as_mixture(GMMLayer(num_features=2, num_components=3))
        MixtureOfGaussians(num_components=3, num_features=2, covariance='full')
    """
    make = getattr(value, "distribution", None)
    mixture = make() if callable(make) else value
    if not isinstance(mixture, MixtureDensity):
        raise InvalidArgumentError(
            f"{name} must be a mixture or a layer with one, got {describe(value)}"
        )
    return cast("M", mixture)


def moment_match(mixture: M) -> M:
    """The Gaussian with the mixture's moments: see `MixtureOfGaussians.moment_match`."""
    mixture = as_mixture(mixture)
    gap = mixture.means - mixture.mean.unsqueeze(-2)
    # Rows of a square root: forming the covariance would lose half of the digits.
    rows = torch.cat([mixture.scale_tril, gap.unsqueeze(-1)], -1)
    # Not the square root of the weights, which is not differentiable at 0.
    rows = (0.5 * mixture.log_weights).exp()[..., None, None] * rows
    with full_precision(rows.device):
        factor = factor_of_rows(rows.movedim(-3, -2).flatten(-2))
    logits = torch.zeros_like(mixture.mixture_logits[..., :1])
    return mixture.with_parameters(logits, mixture.mean.unsqueeze(-2), factor.unsqueeze(-3))
