"""Priors, one module each; a new module here is a new prior."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from gmm_lightning._plugins import Registry
from gmm_lightning.covariances import registry as families
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.priors.base import Prior, require_closed_forms
from gmm_lightning.priors.data_moments import DataMoments
from gmm_lightning.priors.dirichlet import Dirichlet
from gmm_lightning.priors.half_cauchy import HalfCauchy
from gmm_lightning.priors.half_normal import HalfNormal
from gmm_lightning.priors.independent_normal import IndependentNormal
from gmm_lightning.priors.inverse_gamma import InverseGamma
from gmm_lightning.priors.inverse_wishart import InverseWishart
from gmm_lightning.priors.lkj import LKJ
from gmm_lightning.priors.log_normal import LogNormal
from gmm_lightning.priors.normal import NormalMeans
from gmm_lightning.priors.normal_inverse_wishart import NormalInverseWishart
from gmm_lightning.priors.predictive import sample_prior
from gmm_lightning.priors.sparse_dirichlet import SparseDirichlet
from gmm_lightning.priors.stick_breaking import StickBreaking

registry: Registry[Prior] = Registry(__name__, Prior, "prior")

# The parameters of each slot: two priors may not be on the same ones. A dot leads to a part.
_SLOTS = {
    "weights": {"weights"},
    "means": {"means"},
    "covariances": {"covariances.scales", "covariances.correlations"},
    "components": {"means", "covariances.scales", "covariances.correlations"},
    "scales": {"covariances.scales"},
    "correlations": {"covariances.correlations"},
}

PriorSpec = str | Prior | Iterable[str | Prior] | Mapping[str, str | Prior] | None


def as_priors(spec: PriorSpec) -> dict[str, Prior]:
    """Priors by slot, from names or instances: one, several, or the values of a mapping.

    Raises:
        InvalidArgumentError: an unknown name, or two priors on the same parameters.

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
            shared = _SLOTS[slot] & _SLOTS[prior.slot]
            if shared:
                subjects = sorted({one.partition(".")[0] for one in shared})
                raise InvalidArgumentError(
                    f"the priors {other.name!r} and {prior.name!r} are both on the "
                    f"{' and '.join(subjects)}: keep one of them"
                )
        chosen[prior.slot] = prior
    return chosen


class PriorDict(nn.ModuleDict):
    """Priors of a module, by slot."""

    def to_list(self) -> list[Prior]:
        """The priors as a list."""
        return [prior for prior in self.values() if isinstance(prior, Prior)]

    def reset_parameters(self) -> None:
        """Give all hyper-parameters the values that they were given, as when they were bound."""
        for prior in self.to_list():
            prior.reset_parameters()

    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        """Sum of the log densities at the parameters of a mixture, `(*B)`; 0 without any prior.

        Raises:
            UnresolvedPriorError: a prior has hyper-parameters that still follow from data.
        """
        total = torch.zeros_like(mixture.mixture_logits[..., 0])
        for prior in self.to_list():
            total = total + prior.log_prob(mixture)
        return total


def bind_priors(spec: PriorSpec, shape: MixtureShape) -> PriorDict:
    """Copies of priors by slot, with hyper-parameters of full shape.

    Raises:
        InvalidArgumentError: as for `as_priors`, or a prior that does not support the family.
    """
    priors = PriorDict()
    for slot, prior in as_priors(spec).items():
        own = copy.deepcopy(prior)
        if not own.supports(shape.covariance):
            others = [name for name in families.names if own.supports(families.create(name))]
            raise InvalidArgumentError(
                f"the prior {own.name!r} does not support the covariance "
                f"{shape.covariance.name!r}: "
                f"leave it out (on the command line ~model.layer.priors.{own.name}), or choose a "
                f"covariance that it supports ({', '.join(others) or 'none is registered'})"
            )
        own.bind(shape)
        for part in own.modules():
            if isinstance(part, Prior):
                part.batch_shape, part.shape = tuple(shape.batch_shape), shape
        priors[slot] = own
    return priors


__all__ = [
    "LKJ",
    "DataMoments",
    "Dirichlet",
    "HalfCauchy",
    "HalfNormal",
    "Hyperparameter",
    "IndependentNormal",
    "InverseGamma",
    "InverseWishart",
    "LogNormal",
    "MixtureShape",
    "NormalInverseWishart",
    "NormalMeans",
    "Prior",
    "PriorDict",
    "PriorSpec",
    "SparseDirichlet",
    "StickBreaking",
    "as_priors",
    "bind_priors",
    "registry",
    "require_closed_forms",
    "sample_prior",
]
