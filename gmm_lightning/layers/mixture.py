"""Base of modules that have a mixture as their distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.distributions.drawing import SampleShape


class MixtureModule(nn.Module):
    """Dense covariances, draws and the score of the mixture that `distribution` returns."""

    def distribution(self) -> MixtureOfGaussians:
        """Mixture over the module's parameters; gradients flow into them."""
        raise NotImplementedError(f"{type(self).__name__} does not implement distribution")

    # -- parameters -------------------------------------------------------------------------

    @property
    def scale_tril(self) -> Tensor:
        """Dense lower Cholesky factors, `(*B, K, D, D)`."""
        return self.distribution().scale_tril

    @property
    def covariance_matrix(self) -> Tensor:
        """Dense covariances of the components, `(*B, K, D, D)`."""
        return self.distribution().component_covariances

    @property
    def precision_matrix(self) -> Tensor:
        """Inverses of `covariance_matrix`, `(*B, K, D, D)`."""
        return torch.cholesky_inverse(self.scale_tril)

    # -- density ----------------------------------------------------------------------------

    def grad_log_prob(self, x: Tensor) -> Tensor:
        """Score `d log p / dx`, `(*S, *B, D)`: see `MixtureOfGaussians.grad_log_prob`."""
        return self.distribution().grad_log_prob(x)

    # -- draws ------------------------------------------------------------------------------

    def sample(
        self,
        sample_shape: SampleShape = (),
        *,
        component: int | Tensor | None = None,
        return_component: bool = False,
        within: Any = None,
        temperature: float = 1.0,
        quasi: bool = False,
        antithetic: bool = False,
        generator: Generator | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Draws from the mixture: see `MixtureOfGaussians.sample`."""
        return self.distribution().sample(
            sample_shape,
            component=component,
            return_component=return_component,
            within=within,
            temperature=temperature,
            quasi=quasi,
            antithetic=antithetic,
            generator=generator,
        )

    def rsample(
        self,
        sample_shape: SampleShape = (),
        *,
        component: int | Tensor | None = None,
        temperature: float = 1.0,
        quasi: bool = False,
        antithetic: bool = False,
        relaxed: float | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """Draws with gradients to the parameters: see `MixtureOfGaussians.rsample`."""
        return self.distribution().rsample(
            sample_shape,
            component=component,
            temperature=temperature,
            quasi=quasi,
            antithetic=antithetic,
            relaxed=relaxed,
            generator=generator,
        )
