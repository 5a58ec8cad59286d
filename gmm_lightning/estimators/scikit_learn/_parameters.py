"""The parameters of a layer as scikit-learn's attributes, and a layer of such attributes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance, as_covariance, from_compact, to_compact
from gmm_lightning.estimators.scikit_learn._start import covariances_of
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import invert_tril
from gmm_lightning.rows import as_tensor

# From these, as in scikit-learn, densities follow.
_NAMES = ("weights_", "means_", "precisions_cholesky_")


def family_of(covariance_type: str | Covariance, reg_covar: float) -> Covariance:
    """The family with scikit-learn's regularisation, and without a floor."""
    return replace(as_covariance(covariance_type), reg_covar=float(reg_covar), relative_floor=0.0)


@torch.no_grad()
def parameters_of(layer: GMMLayer) -> dict[str, Tensor]:
    """Weights, means, covariances, precisions and their factors, by scikit-learn's names."""
    mixture, family = layer.distribution(), layer.covariance
    inverse = invert_tril(mixture.scale_tril)
    matrices = {
        "covariances_": mixture.component_covariances,
        "precisions_": inverse.mT @ inverse,
        # The factors of axis-aligned families are their diagonals.
        "precisions_cholesky_": inverse.mT,
    }
    formed = {name: to_compact(dense, family) for name, dense in matrices.items()}
    named = {"weights_": mixture.weights, "means_": mixture.means, **formed}
    return {name: value.clone() for name, value in named.items()}


@torch.no_grad()
def fitted_layer(estimator: Any) -> GMMLayer:
    """The fitted layer, or one of the attributes where the user assigned others.

    As in scikit-learn, densities then follow from `precisions_cholesky_`, or where there are none
    from `covariances_`.

    Args:
        estimator: has attributes of a fit, or some that were assigned.
    """
    known = getattr(estimator, "_fitted_parameters", None)
    if known is not None and all(_is_still(estimator, name, known[name]) for name in _NAMES):
        return estimator.layer_
    family = family_of(estimator.covariance_type, estimator.reg_covar)
    weights, means = as_tensor(estimator.weights_), as_tensor(estimator.means_)
    k, d = means.shape
    if hasattr(estimator, "precisions_cholesky_"):
        factors = from_compact(as_tensor(estimator.precisions_cholesky_).double(), family, d)
        precisions = to_compact(factors @ factors.mT, family)
        dense = covariances_of(precisions, family, d)
    else:
        dense = from_compact(as_tensor(estimator.covariances_), family, d)
    return GMMLayer.from_parameters(weights, means, dense.expand(k, d, d), family)


def _is_still(estimator: Any, name: str, value: Tensor) -> bool:
    return torch.equal(as_tensor(getattr(estimator, name)).to(value.device), value)
