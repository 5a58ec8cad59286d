"""Parameters to start from, checked in scikit-learn's words."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_array
from torch import Tensor

from gmm_lightning.covariances import Covariance, from_compact, to_compact

Floats = NDArray[np.floating[Any]]


def weights_of(weights: Any, num_components: int) -> Floats:
    """Weights `(K,)`, not negative and of sum 1.

    Raises:
        ValueError: they are not.
    """
    array = _checked(weights, (num_components,), "weights")
    if (array < 0).any() or (array > 1).any():
        raise ValueError(
            "The parameter 'weights' should be in the range [0, 1], but got max value "
            f"{array.min():.5f}, min value {array.max():.5f}"
        )
    tolerance = 1e-6 if array.dtype == np.float32 else 1e-8
    if abs(1 - array.sum()) > tolerance:
        raise ValueError(
            "The parameter 'weights' should be normalized, but got sum(weights) = "
            f"{array.sum():.5f}"
        )
    return array


def means_of(means: Any, num_components: int, num_features: int) -> Floats:
    """Means `(K, D)`.

    Raises:
        ValueError: they are not.
    """
    return _checked(means, (num_components, num_features), "means")


def precisions_of(
    precisions: Any, name: str, family: Covariance, num_components: int, num_features: int
) -> Floats:
    """Precisions in scikit-learn's shape for a family.

    Raises:
        ValueError: another shape, or precisions that are not symmetric and positive definite.
    """
    eye = torch.eye(num_features).expand(num_components, -1, -1)
    shape = tuple(to_compact(eye, family).shape)
    array = _checked(precisions, shape, f"{name} precision")
    if family.axis_aligned:
        if (array <= 0).any():
            raise ValueError(f"'{name} precision' should be positive")
        return array
    symmetric = np.allclose(array, array.swapaxes(-1, -2))
    if not (symmetric and (np.linalg.eigvalsh(array) > 0).all()):
        raise ValueError(f"'{name} precision' should be symmetric, positive-definite")
    return array


def covariances_of(precisions: Tensor, family: Covariance, num_features: int) -> Tensor:
    """Dense covariances `(G, D, D)` of precisions in scikit-learn's shape."""
    if family.axis_aligned:
        return from_compact(1 / precisions, family, num_features)
    dense = from_compact(precisions, family, num_features)
    return torch.cholesky_inverse(torch.linalg.cholesky(dense))


def _checked(values: Any, shape: tuple[int, ...], name: str) -> Floats:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = check_array(
        np.asarray(values),
        dtype=[np.float64, np.float32],  # pyright: ignore[reportArgumentType]
        ensure_2d=False,
        allow_nd=True,
    )
    if array.shape != shape:
        raise ValueError(
            f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}"
        )
    return array
