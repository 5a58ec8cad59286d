"""The density itself, as a `torch.distributions.Distribution`."""

from __future__ import annotations

import math
import operator
from typing import Any, ClassVar, SupportsIndex

import torch
from torch import Generator, Size, Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    MixtureSameFamily,
    MultivariateNormal,
    constraints,
)

from gmm_lightning.covariances import Covariance, FullCovariance
from gmm_lightning.distributions.constrained import sample_within
from gmm_lightning.distributions.quasi import even_draws
from gmm_lightning.distributions.sampling import choose_components, colour_rows, given_components
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import at_least_float32, full_precision

LOG_2PI = 1.8378770664093453


class MixtureOfGaussians(Distribution):
    """`p(x) = sum_k pi_k N(x | mu_k, Sigma_k)`, batched, differentiable in x and parameters.

    Nothing here looks at values: a row with NaN has density NaN, and a whole graph compiles.

    Shape:
        mixture_logits `(*B, K)`, means `(*B, K, D)`, scale `(*B, G, ...)` as the family says;
        x `(*S, *B, D)` gives log densities `(*S, *B)`.

    Args:
        mixture_logits: unnormalised log weights.
        means: the components' means.
        scale: the covariances in the family's compact form; dense lower Cholesky factors
            `(*B, K, D, D)` for the default family.
        covariance: the family.

    Raises:
        InvalidArgumentError: the shapes do not fit each other.

    References:
        C. M. Bishop (2006), Pattern Recognition and Machine Learning, section 9.2.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(2), torch.tensor([[-1.0], [1.0]]),
        ...                              torch.ones(2, 1, 1))
        >>> mixture.log_prob(torch.zeros(1))
        tensor(-1.4189)
    """

    arg_constraints: ClassVar[Any] = {}
    support: ClassVar[Any] = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        mixture_logits: Tensor,
        means: Tensor,
        scale: Tensor,
        covariance: Covariance | None = None,
    ) -> None:
        self.covariance = covariance if covariance is not None else FullCovariance()
        self.mixture_logits = at_least_float32(mixture_logits)
        self.means = at_least_float32(means)
        self.scale = at_least_float32(scale)
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
        """K."""
        return self.means.shape[-2]

    @property
    def num_features(self) -> int:
        """D."""
        return self.means.shape[-1]

    @property
    def log_weights(self) -> Tensor:
        """`log pi_k`, `(*B, K)`."""
        return self.mixture_logits.log_softmax(-1)

    @property
    def weights(self) -> Tensor:
        """`pi_k`, `(*B, K)`."""
        return self.mixture_logits.softmax(-1)

    @property
    def scale_tril(self) -> Tensor:
        """Lower Cholesky factors of the components' covariances, `(*B, K, D, D)`."""
        return self._per_component(self.covariance.scale_tril(self.scale, self.num_features))

    @property
    def component_covariances(self) -> Tensor:
        """The components' covariances, `(*B, K, D, D)`."""
        return self._per_component(self.covariance.covariance_matrix(self.scale, self.num_features))

    def _per_component(self, dense: Tensor) -> Tensor:
        return dense.expand(*self.means.shape, self.num_features)

    # -- density ----------------------------------------------------------------------------

    def log_joint(self, x: Tensor) -> Tensor:
        """`log pi_k + log N(x | mu_k, Sigma_k)`: `(*S, *B, D)` -> `(*S, *B, K)`."""
        x = x.to(self.means.dtype)
        self._check_width(x)
        with full_precision(x.device):
            white = self.covariance.whiten(self.scale, x.unsqueeze(-2) - self.means)
            log_scale = self.covariance.half_log_det(self.scale, self.num_features)
            constant = self.log_weights - log_scale - 0.5 * self.num_features * LOG_2PI
            return constant - 0.5 * white.square().sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """`log p(x)`: `(*S, *B, D)` -> `(*S, *B)`."""
        return self.log_joint(value).logsumexp(-1)

    def log_responsibilities(self, x: Tensor) -> Tensor:
        """`log p(k | x)`: `(*S, *B, D)` -> `(*S, *B, K)`."""
        return self.log_joint(x).log_softmax(-1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """`p(k | x)`: `(*S, *B, D)` -> `(*S, *B, K)`."""
        return self.log_joint(x).softmax(-1)

    def _check_width(self, x: Tensor) -> None:
        if x.dim() == 0 or x.shape[-1] != self.num_features:
            raise InvalidArgumentError(
                f"expected rows with {self.num_features} features in the last axis, got an array "
                f"of shape {tuple(x.shape)}"
                + ("; write x[:, None] for one feature" if x.dim() == 1 else "")
            )

    # -- moments ----------------------------------------------------------------------------

    @property
    def mean(self) -> Tensor:
        """`sum_k pi_k mu_k`, `(*B, D)`."""
        return (self.weights.unsqueeze(-1) * self.means).sum(-2)

    @property
    def variance(self) -> Tensor:
        """Diagonal of `covariance_matrix`, `(*B, D)`."""
        within = self.scale_tril.square().sum(-1)
        between = (self.means - self.mean.unsqueeze(-2)).square()
        return (self.weights.unsqueeze(-1) * (within + between)).sum(-2)

    @property
    def covariance_matrix(self) -> Tensor:
        """`sum_k pi_k (Sigma_k + (mu_k - mu)(mu_k - mu)')`, `(*B, D, D)`."""
        weights = self.weights[..., None, None]
        gap = self.means - self.mean.unsqueeze(-2)
        between = gap.unsqueeze(-1) * gap.unsqueeze(-2)
        return (weights * (self.component_covariances + between)).sum(-3)

    # -- draws ------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        sample_shape: tuple[int, ...] | Size | int = (),
        *,
        component: int | Tensor | None = None,
        return_component: bool = False,
        within: Any = None,
        temperature: float = 1.0,
        quasi: bool = False,
        antithetic: bool = False,
        generator: Generator | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Independent draws in random order, `(*sample_shape, *B, D)`.

        Args:
            sample_shape: how many; an int n means `(n,)`, and 0 gives an empty result.
            component: draw from this component only: an index, or a tensor of indices that
                broadcasts to `(*sample_shape, *B)`.
            return_component: also return the drawn components, `(*sample_shape, *B)`.
            within: a region that the draws are given, exactly and at any probability: `Shell`,
                `Confidence`, `Ball`, `Box`, `HalfSpace` or `Where`.
            temperature: divides logits and multiplies covariances; 1 is the mixture itself.
            quasi: scrambled Sobol points, stratified over the components: each row has the law
                of the mixture, but rows are spread evenly instead of independently.
            antithetic: pairs of neighbouring rows mirror each other about their mean.
            generator: source of randomness, on the parameters' device.

        Raises:
            InvalidArgumentError: a component out of range, a temperature that is not positive,
                a negative number of rows, a region of another width, or two of `within`, `quasi`
                and `antithetic`.
            RegionError: no component reaches the region, or too little of them.

        Example:
            >>> mixture = MixtureOfGaussians(torch.zeros(2), torch.zeros(2, 3),
            ...                              torch.eye(3).repeat(2, 1, 1))
            >>> x, z = mixture.sample(5, return_component=True)
            >>> x.shape, z.shape
            (torch.Size([5, 3]), torch.Size([5]))
        """
        if not 0 < temperature < math.inf:
            raise InvalidArgumentError(
                f"temperature must be a finite number > 0, got {temperature}"
            )
        single = isinstance(sample_shape, SupportsIndex)
        rows = Size([operator.index(sample_shape)] if single else sample_shape)
        if any(n < 0 for n in rows):
            raise InvalidArgumentError(f"sample_shape must not be negative, got {tuple(rows)}")
        shape = Size([*rows, *self.batch_shape])
        weights = (self.mixture_logits / temperature).softmax(-1)
        z = None if component is None else given_components(component, shape, weights)
        if within is not None:
            if quasi or antithetic:
                raise InvalidArgumentError("draws within a region are independent ones only")
            x, z = sample_within(within, self, shape, z, temperature, generator)
            return (x, z) if return_component else x
        if (quasi or antithetic) and shape.numel() > 0:
            z, noise = even_draws(
                weights,
                z,
                shape,
                self.num_features,
                quasi=quasi,
                antithetic=antithetic,
                generator=generator,
            )
            noise *= math.sqrt(temperature)
        else:
            z = choose_components(weights, shape, generator) if z is None else z
            noise = weights.new_empty(*shape, self.num_features)
            noise.normal_(std=math.sqrt(temperature), generator=generator)
        with full_precision(noise.device):
            x = colour_rows(self.covariance, self.means, self.scale, z, noise)
        return (x, z) if return_component else x

    # -- other forms ------------------------------------------------------------------------

    def component(self, k: int) -> MixtureOfGaussians:
        """Component k alone, as a mixture of one.

        Raises:
            InvalidArgumentError: k is not in `[-K, K)`.
        """
        if not -self.num_components <= k < self.num_components:
            raise InvalidArgumentError(f"component must be in [0, {self.num_components}), got {k}")
        k %= self.num_components
        axis = len(self.batch_shape)
        scale = self.scale if self.covariance.tied else self.scale.narrow(axis, k, 1)
        return MixtureOfGaussians(
            torch.zeros_like(self.mixture_logits[..., k : k + 1]),
            self.means[..., k : k + 1, :],
            scale,
            self.covariance,
        )

    def expand(
        self, batch_shape: Size | list[int] | tuple[int, ...], _instance: None = None
    ) -> MixtureOfGaussians:
        """The same mixture over a larger batch, without copying."""
        batch = Size(batch_shape)
        own = len(self.batch_shape)
        return MixtureOfGaussians(
            self.mixture_logits.expand(*batch, *self.mixture_logits.shape[own:]),
            self.means.expand(*batch, *self.means.shape[own:]),
            self.scale.expand(*batch, *self.scale.shape[own:]),
            self.covariance,
        )

    def to_torch(self) -> MixtureSameFamily:
        """The same density as torch's `MixtureSameFamily` over `MultivariateNormal`."""
        return MixtureSameFamily(
            Categorical(logits=self.mixture_logits),
            MultivariateNormal(self.means, scale_tril=self.scale_tril),
        )

    def __repr__(self) -> str:
        batch = f", batch_shape={tuple(self.batch_shape)}" if self.batch_shape else ""
        return (
            f"MixtureOfGaussians(num_components={self.num_components}, "
            f"num_features={self.num_features}, covariance={self.covariance.name!r}{batch})"
        )
