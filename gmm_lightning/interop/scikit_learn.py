"""Conversion of scikit-learn's `GaussianMixture`."""

from __future__ import annotations

from typing import Any

import numpy as np

from gmm_lightning.covariances import as_covariance, from_compact, to_compact
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.interop._parts import LayerOrMixture, as_tensors, to_single_float64
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import invert_tril

# The values of covariance_type, which are the registered names of the same families.
_COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")


def from_sklearn(mixture: Any) -> GMMLayer:
    """Layer with the parameters of a fitted scikit-learn mixture, in their dtype.

    Means are exact; weights and covariances are as close as their logarithms hold them. `reg_covar`
    is already part of the covariances and is not copied.

    Args:
        mixture: a fitted `GaussianMixture`, or a `BayesianGaussianMixture` for its point estimates.

    Raises:
        InvalidArgumentError: it is not fitted, or not such a mixture, or its covariances are not
            positive definite.

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
    family, k, d = as_covariance(kind), len(means), means.shape[-1]
    if covariances.shape != to_compact(means.new_zeros(k, d, d), family).shape:
        raise InvalidArgumentError(
            f"covariances_ of covariance_type {kind!r} do not fit means_ of shape "
            f"{tuple(means.shape)}, got shape {tuple(covariances.shape)}"
        )
    dense = from_compact(covariances, family, d).expand(k, d, d)
    return GMMLayer.from_parameters(weights, means, dense, family)


def to_sklearn(layer: LayerOrMixture) -> Any:
    """Fitted `GaussianMixture` of scikit-learn with the parameters of a layer or a mixture.

    It predicts, scores, draws and has `bic`, like one that was fitted there; `fit` starts afresh. A
    family that scikit-learn does not have becomes `tied` where the components share their
    covariance, else `full`, whose parameters information criteria count. As it was not fitted,
    `converged_` is False, `n_iter_` 0 and `lower_bound_` NaN.

    Raises:
        InvalidArgumentError: a batch, a layer with evidence, or scikit-learn is not installed.

    Example:
        >>> mixture = to_sklearn(GMMLayer(num_features=2, num_components=3, covariance="tied_diag"))
        >>> mixture.covariance_type, mixture.covariances_.shape
        ('tied', (2, 2))
    """
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        message = "to_sklearn needs scikit-learn: pip install scikit-learn"
        raise InvalidArgumentError(message) from error

    mixture = to_single_float64(layer, "scikit-learn")
    name = mixture.covariance.name
    larger = "tied" if mixture.covariance.tied else "full"
    family = as_covariance(name if name in _COVARIANCE_TYPES else larger)
    # scikit-learn's factor U of the precision, with U U' = L^-T L^-1.
    inverse = invert_tril(mixture.scale_tril)
    there: Any = GaussianMixture(mixture.num_components, covariance_type=family.name)
    there.weights_ = mixture.weights.numpy()
    there.means_ = mixture.means.numpy().copy()
    matrices = {
        "covariances_": mixture.component_covariances,
        "precisions_": inverse.mT @ inverse,
        # The factors of axis-aligned families are their diagonals, which `project` reads as well.
        "precisions_cholesky_": inverse.mT,
    }
    for attribute, dense in matrices.items():
        setattr(there, attribute, np.ascontiguousarray(to_compact(dense, family).numpy()))
    there.converged_, there.n_iter_, there.lower_bound_ = False, 0, float("nan")
    there.lower_bounds_ = []
    there.n_features_in_ = mixture.num_features
    return there
