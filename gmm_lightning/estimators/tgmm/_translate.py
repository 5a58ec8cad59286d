"""From tgmm's arguments to priors, noise and layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_weights
from gmm_lightning.covariances import registry as covariance_registry
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.tgmm._constraints import constraints_of
from gmm_lightning.estimators.tgmm._forms import FAMILIES, dense_of
from gmm_lightning.estimators.tgmm._starts import untrained_layer
from gmm_lightning.estimators.tgmm.settings import Settings
from gmm_lightning.layers import GMMLayer
from gmm_lightning.noise import Uniform
from gmm_lightning.priors import (
    Dirichlet,
    InverseWishart,
    NormalInverseWishart,
    NormalMeans,
    Prior,
)
from gmm_lightning.rows import as_dense

_CONVENTIONS = {"mode": "held_out", "expected_precision": "expected_precision"}


def _priors_of(settings: Settings, like: Tensor) -> list[Prior]:
    """The priors of a mixture for means like the given ones, `(K, D)`."""
    priors: list[Prior] = []
    if settings.weight_concentration_prior is not None:
        priors.append(Dirichlet(settings.weight_concentration_prior))
    convention = _CONVENTIONS[settings.prior_convention]
    means = settings.mean_prior, settings.mean_precision_prior
    if settings.covariance_prior is None:
        return priors if means[0] is None else [*priors, NormalMeans(*means)]
    name, kind = "covariance_prior", settings.covariance_type
    psi = dense_of(name, settings.covariance_prior, kind, like)
    if kind.endswith("spherical"):
        # tgmm's number is of the trace.
        psi = psi / like.shape[1]
    psi = psi[0] if kind.startswith("tied") else psi
    of_covariances = settings.degrees_of_freedom_prior, psi, convention
    if means[0] is None:
        return [*priors, InverseWishart(*of_covariances)]
    return [*priors, NormalInverseWishart(*means, *of_covariances)]


def _noise_of(settings: Settings, mask: Tensor | None) -> Uniform | None:
    """The noise of a mixture, with the weight at the start of a fit."""
    if not settings.noise:
        return None
    weight = settings.noise_prior
    if mask is not None:
        # Neither none nor all: both would stay so.
        weight = min(max(float(mask.double().mean()), 1e-3), 0.9)
    if settings.noise_volume == "bbox":
        return Uniform(weight)
    if isinstance(settings.noise_volume, str):
        raise InvalidArgumentError(
            f"noise_volume must be 'bbox' or a number > 0, got {describe(settings.noise_volume)}"
        )
    return Uniform(weight, volume=settings.noise_volume)


def noise_mask(settings: Settings, num_rows: int, device: torch.device) -> Tensor | None:
    """Rows that are noise at the start, `(N,)`, or None.

    Raises:
        InvalidArgumentError: not one entry per row, or noise alone.
    """
    if not settings.noise or settings.noise_init is None:
        return None
    given = torch.as_tensor(settings.noise_init).to(device)
    if given.shape != (num_rows,):
        raise InvalidArgumentError(
            f"noise_init must have one entry for each of {num_rows} rows, got shape "
            f"{tuple(given.shape)}"
        )
    mask = given if given.dtype == torch.bool else given == -1
    if bool(mask.all()):
        raise InvalidArgumentError("noise_init marks every row as noise: leave some to components")
    return mask


def layer_of(settings: Settings, x: Tensor, mask: Tensor | None = None) -> GMMLayer:
    """An untrained layer for complete rows, with family, priors, noise and constraints.

    `reg_covar` counts in squared units of the data, and below that as a share of the smallest
    variance of a feature: as an absolute number it would replace the covariances of small data.
    """
    assert settings.n_components is not None
    like = x.new_empty(settings.n_components, x.shape[1])
    variances = x.double().var(0, correction=0)
    varying = variances[variances > 0]
    unit = min(1.0, float(varying.min())) if len(varying) else 1.0
    family = covariance_registry.get(FAMILIES[settings.covariance_type])
    return untrained_layer(
        settings.n_components,
        like,
        family(reg_covar=settings.reg_covar * unit),
        _priors_of(settings, like),
        noise=_noise_of(settings, mask),
        **constraints_of(settings),
    )


def row_weights(sample_weight: Any, num_rows: int, device: torch.device) -> Tensor | None:
    """Weights `(N,)` of rows, or None.

    Raises:
        InvalidArgumentError: another shape, as weights of entries.
        InvalidDataError: weights that are negative or not finite.
    """
    if sample_weight is None:
        return None
    weight = as_dense(sample_weight, device, "sample_weight").to(device)
    if weight.shape != (num_rows,):
        raise InvalidArgumentError(
            f"sample_weight must be one number for each of {num_rows} rows, got shape "
            f"{tuple(weight.shape)}; to hide single entries set them to NaN, with missing='em'"
        )
    return require_weights(weight)
