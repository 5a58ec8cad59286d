"""Base of modules that have a mixture as their distribution."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from gmm_lightning.distributions import MixtureOfGaussians

P = ParamSpec("P")
R = TypeVar("R")


def _of_distribution(
    method: Callable[Concatenate[MixtureOfGaussians, P], R],
) -> Callable[Concatenate[MixtureModule, P], R]:
    """Method of a module that calls the same method of its distribution."""

    @wraps(method)
    def call(self: MixtureModule, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.distribution(), *args, **kwargs)

    return call


class MixtureModule(nn.Module):
    """Dense covariances, samples and the score of the mixture that `distribution` returns."""

    def distribution(self) -> MixtureOfGaussians:
        """Mixture over the module's parameters; gradients flow into them."""
        raise NotImplementedError(f"{type(self).__name__} does not implement distribution")

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

    grad_log_prob = _of_distribution(MixtureOfGaussians.grad_log_prob)
    sample = _of_distribution(MixtureOfGaussians.sample)
    rsample = _of_distribution(MixtureOfGaussians.rsample)
