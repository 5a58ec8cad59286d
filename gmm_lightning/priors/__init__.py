"""Priors, one module each; a new module here is a new prior."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from gmm_lightning._plugins import Registry
from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.priors.base import Prior
from gmm_lightning.priors.dirichlet import Dirichlet
from gmm_lightning.priors.inverse_wishart import InverseWishart
from gmm_lightning.priors.normal import NormalMeans
from gmm_lightning.priors.normal_inverse_wishart import NormalInverseWishart

registry: Registry[Prior] = Registry(__name__, Prior, "prior")

# What each slot speaks of: two priors may not speak of the same thing.
SLOTS: dict[str, frozenset[str]] = {
    "weights": frozenset({"weights"}),
    "means": frozenset({"means"}),
    "covariances": frozenset({"covariances"}),
    "components": frozenset({"means", "covariances"}),
}

PriorSpec = str | Prior | Iterable[str | Prior] | Mapping[str, str | Prior] | None


def as_priors(spec: PriorSpec) -> dict[str, Prior]:
    """Priors by slot, from a name, an instance, a list of either, or a mapping onto them.

    Raises:
        InvalidArgumentError: an unknown name, or two priors that speak of the same parameters.

    Example:
        >>> sorted(as_priors(["dirichlet", "niw"]))
        ['components', 'weights']
    """
    if spec is None:
        return {}
    if isinstance(spec, str | Prior) or not isinstance(spec, Iterable):
        spec = [spec]
    chosen: dict[str, Prior] = {}
    for one in spec.values() if isinstance(spec, Mapping) else spec:
        prior = registry.create(one)
        for slot, other in chosen.items():
            shared = SLOTS[slot] & SLOTS[prior.slot]
            if shared:
                raise InvalidArgumentError(
                    f"the priors {other.name!r} and {prior.name!r} both speak of the "
                    f"{' and '.join(sorted(shared))}: keep one of them"
                )
        chosen[prior.slot] = prior
    return chosen


def bind_priors(
    spec: PriorSpec,
    num_components: int,
    num_features: int,
    covariance: Covariance,
    batch_shape: tuple[int, ...] = (),
) -> nn.ModuleDict:
    """Copies of priors by slot, with hyper-parameters of full shape: what a module holds.

    Raises:
        InvalidArgumentError: as `as_priors`, or a prior that does not serve the family.
    """
    priors = nn.ModuleDict()
    for slot, prior in as_priors(spec).items():
        own = copy.deepcopy(prior)
        if not own.supports(covariance):
            raise InvalidArgumentError(
                f"the prior {own.name!r} does not serve the covariance {covariance.name!r}"
            )
        own.bind(num_components, num_features, covariance, batch_shape)
        for module in own.modules():
            module._batch_dims = len(batch_shape)  # pyright: ignore
        priors[slot] = own
    return priors


def list_priors(priors: nn.ModuleDict) -> list[Prior]:
    """The priors that a module holds."""
    return [prior for prior in priors.values() if isinstance(prior, Prior)]


def sum_log_prob(priors: nn.ModuleDict, mixture: MixtureOfGaussians) -> Tensor:
    """The sum of their log densities at the parameters of a mixture, `(*B)`; 0 without any.

    Raises:
        UnresolvedPriorError: a prior waits for data that it has not seen.
    """
    total = torch.zeros_like(mixture.mixture_logits[..., 0])
    for prior in list_priors(priors):
        total = total + prior.log_prob(mixture)
    return total


__all__ = [
    "Dirichlet",
    "InverseWishart",
    "NormalInverseWishart",
    "NormalMeans",
    "Prior",
    "as_priors",
    "bind_priors",
    "list_priors",
    "registry",
    "sum_log_prob",
]
