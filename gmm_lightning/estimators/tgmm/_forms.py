"""tgmm's forms of covariances: a number, a vector or a matrix, of each component or of all."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning.covariances import as_covariance, from_compact, to_compact
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.errors import InvalidArgumentError

# Families by tgmm's names, and the codes of mclust for them.
FAMILIES = {
    "full": "full",
    "diag": "diag",
    "spherical": "spherical",
    "tied_full": "tied",
    "tied_diag": "tied_diag",
    "tied_spherical": "tied_spherical",
}
CODES = {
    "full": "VVV",
    "diag": "VVI",
    "spherical": "VII",
    "tied_full": "EEE",
    "tied_diag": "EEI",
    "tied_spherical": "EII",
}
_ALIASES = {"tied": "tied_full", "isotropic": "spherical"}
_NOT_HERE = ("VEI", "EVI", "VEE", "EVE", "EEV", "VVE", "VEV", "EVV")


def covariance_name(name: Any) -> str:
    """The name in tgmm of a covariance type from a name, an alias or one of mclust's codes.

    Raises:
        InvalidArgumentError: an unknown type, or one of the eight without a family here.
    """
    known = {code: own for own, code in CODES.items()} | _ALIASES
    if isinstance(name, str):
        own = known.get(name, known.get(name.upper(), name))
        if own in FAMILIES:
            return own
        if name.upper() in _NOT_HERE:
            raise InvalidArgumentError(
                f"covariance_type {name!r} has no family here: take one of {', '.join(FAMILIES)}"
            )
    names = ", ".join(repr(own) for own in (*FAMILIES, *known))
    raise InvalidArgumentError(f"covariance_type must be one of {names}, got {describe(name)}")


def dense_of(name: str, value: Any, covariance_type: str, like: Tensor) -> Tensor:
    """Dense matrices `(K, D, D)` of covariances in tgmm's form.

    Args:
        name: of the argument, for messages.
        value: in the form of the type; of types that are not tied one for all components will do.
        covariance_type: tgmm's name.
        like: means `(K, D)`, for sizes, device and dtype.

    Raises:
        InvalidArgumentError: another shape.
    """
    (k, d), family = like.shape, as_covariance(FAMILIES[covariance_type])
    value = torch.as_tensor(value).to(like)
    shape = tuple(to_compact(like.new_zeros(k, d, d), family).shape)
    fitting = (shape,) if family.tied else (shape, shape[1:])
    if tuple(value.shape) not in fitting:
        allowed = " or ".join(map(str, fitting))
        raise InvalidArgumentError(
            f"{name} must have shape {allowed} for covariance_type={covariance_type!r}, "
            f"got {tuple(value.shape)}"
        )
    return from_compact(value.expand(shape), family, d).expand(k, d, d)


def form_of(mixture: MixtureDensity) -> Tensor:
    """The covariances of a mixture in tgmm's form."""
    return to_compact(mixture.component_covariances.detach(), mixture.covariance).clone()
