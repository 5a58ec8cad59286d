"""Conversion of scikit-learn's `GaussianMixture`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gmm_lightning.covariances import Covariance, as_covariance
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.interop._parts import LayerOrMixture, as_tensors, make_layer, to_single_float64
from gmm_lightning.layers import GMMLayer

# The values of covariance_type, which are the registered names of the same families.
_COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


def from_sklearn(mixture: Any) -> GMMLayer:
    """Layer with the parameters of a fitted scikit-learn mixture, in their dtype.

    Means are exact; weights and covariances are as close as their logarithms hold them, a few
    units in the last digit. `reg_covar`, a setting of the fit, is already in the covariances and
    is not taken over.

    Args:
        mixture: a fitted `GaussianMixture`, or a `BayesianGaussianMixture` for its point estimates.

    Raises:
        InvalidArgumentError: it is not fitted, or not such a mixture.

    Example:
        >>> import numpy as np
        >>> from sklearn.mixture import GaussianMixture
        >>> x = np.array([[0.0, 0.0], [0.0, 2.0], [2.0, 1.0], [9.0, 9.0], [9.0, 7.0], [7.0, 8.0]])
        >>> layer = from_sklearn(GaussianMixture(2, random_state=0).fit(x))
        >>> layer.weights
        tensor([0.5000, 0.5000], dtype=torch.float64, grad_fn=<SoftmaxBackward0>)
    """
    kind = getattr(mixture, "covariance_type", None)
    if kind not in _COVARIANCE_TYPES:
        raise InvalidArgumentError(
            f"expected a GaussianMixture of scikit-learn, got {type(mixture).__name__}"
        )
    names = ("weights_", "means_", "covariances_")
    parts = {name: getattr(mixture, name, None) for name in names}
    weights, means, covariances = as_tensors("scikit-learn", **parts)
    family = as_covariance(kind)
    compact = covariances.unsqueeze(0) if family.tied else covariances
    dense = means.new_zeros(family.groups(len(means)), means.shape[-1], means.shape[-1])
    expected = family.project(dense).shape
    if compact.shape != expected:
        raise InvalidArgumentError(
            f"covariances_ of covariance_type {kind!r} do not fit means_ of shape "
            f"{tuple(means.shape)}, got shape {tuple(covariances.shape)}"
        )
    if compact.dim() == 3 and not torch.allclose(compact, compact.mT):
        raise InvalidArgumentError("covariances_ must be symmetric")
    dof = compact.new_ones(family.groups(len(means)))
    return make_layer(weights, means, family.estimate(compact, dof), family)


def to_sklearn(layer: LayerOrMixture) -> Any:
    """Fitted `GaussianMixture` of scikit-learn with the layer's parameters, in float64.

    It predicts, scores, draws and has `bic`, like one that was fitted there; `fit` starts anew. A
    family that scikit-learn does not have becomes the smallest that contains it: `tied` where the
    components share their covariance, else `full`. Information criteria then count the parameters
    of that family. Without a fit, `converged_` is False, `n_iter_` 0 and `lower_bound_` NaN.

    Args:
        layer: a layer or a `MixtureOfGaussians` without a batch.

    Raises:
        InvalidArgumentError: a batch of mixtures, a layer with evidence, or no scikit-learn here.

    Example:
        >>> mixture = to_sklearn(GMMLayer(num_features=2, num_components=3, covariance="tied_diag"))
        >>> mixture.covariance_type, mixture.covariances_.shape
        ('tied', (2, 2))
    """
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise InvalidArgumentError(
            "to_sklearn needs scikit-learn: pip install scikit-learn"
        ) from error

    mixture = to_single_float64(layer, "scikit-learn")
    family = _smallest_containing(mixture.covariance)
    factor = mixture.scale_tril
    identity = torch.eye(mixture.num_features, dtype=factor.dtype, device=factor.device)
    # scikit-learn's factor U of the precision, with U U' = L^-T L^-1.
    inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
    there: Any = GaussianMixture(mixture.num_components, covariance_type=family.name)
    there.weights_ = mixture.weights.numpy()
    there.means_ = mixture.means.numpy().copy()
    there.covariances_ = _compact(family, mixture.component_covariances)
    there.precisions_ = _compact(family, inverse.mT @ inverse)
    # The factors of axis-aligned families are their diagonals, which `project` reads as well.
    there.precisions_cholesky_ = _compact(family, inverse.mT)
    there.converged_, there.n_iter_, there.lower_bound_ = False, 0, float("nan")
    there.lower_bounds_ = []
    there.n_features_in_ = mixture.num_features
    return there


def _smallest_containing(family: Covariance) -> Covariance:
    """Smallest family of scikit-learn that contains a family."""
    if family.name in _COVARIANCE_TYPES:
        return as_covariance(family.name)
    return as_covariance("tied" if family.tied else "full")


def _compact(family: Covariance, dense: torch.Tensor) -> np.ndarray[Any, Any]:
    """Matrices `(K, D, D)` in scikit-learn's shape for a family."""
    formed = family.project(dense)
    return np.ascontiguousarray((formed[0] if family.tied else formed).numpy())
