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

registry: Registry[Covariance] = Registry(__name__, Covariance, "covariance")


def as_covariance(spec: str | Covariance) -> Covariance:
    """Family from its name, or the instance itself.

    Example:
        >>> as_covariance("diag")
        DiagCovariance(reg_covar=0.0, relative_floor=1e-08)
    """
    return registry.create(spec)


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
    "from_compact",
    "registry",
    "to_compact",
]
