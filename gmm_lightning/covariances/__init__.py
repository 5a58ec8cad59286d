"""Covariance families; a new module here is a new family."""

from __future__ import annotations

from gmm_lightning._plugins import Registry
from gmm_lightning.covariances._conjugate import InverseWishartForm
from gmm_lightning.covariances._features import (
    Features,
    NaturalParameters,
    StandardizedCoordinates,
)
from gmm_lightning.covariances._precision import PrecisionCholesky, TiedPrecisionCholesky
from gmm_lightning.covariances.base import Covariance
from gmm_lightning.covariances.compact import from_compact, to_compact
from gmm_lightning.covariances.dense import FullCovariance, TiedCovariance
from gmm_lightning.covariances.diagonal import DiagCovariance, TiedDiagCovariance
from gmm_lightning.covariances.spherical import SphericalCovariance, TiedSphericalCovariance
from gmm_lightning.errors import InvalidArgumentError

registry: Registry[Covariance] = Registry(__name__, Covariance, "covariance")


def as_covariance(spec: str | Covariance) -> Covariance:
    """Family from its name, or the instance itself.

    Example:
        >>> as_covariance("diag")
        DiagCovariance(reg_covar=0.0, relative_floor=1e-08)
    """
    return registry.create(spec)


def conjugate_form(family: Covariance, num_features: int) -> InverseWishartForm:
    """The conjugate distributions of the covariances of a family.

    Raises:
        InvalidArgumentError: the family has none.
    """
    if family.conjugate_class is None:
        raise InvalidArgumentError(
            f"the covariance {family.name!r} has no conjugate prior, so the posterior has no "
            "closed form: use fit=nuts, or give its class a conjugate_class"
        )
    return family.conjugate_class(num_features)


__all__ = [
    "Covariance",
    "DiagCovariance",
    "Features",
    "FullCovariance",
    "InverseWishartForm",
    "NaturalParameters",
    "PrecisionCholesky",
    "SphericalCovariance",
    "StandardizedCoordinates",
    "TiedCovariance",
    "TiedDiagCovariance",
    "TiedPrecisionCholesky",
    "TiedSphericalCovariance",
    "as_covariance",
    "conjugate_form",
    "from_compact",
    "registry",
    "to_compact",
]
