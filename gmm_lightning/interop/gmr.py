"""Conversion of gmr's `GMM`."""

from __future__ import annotations

from typing import Any

from gmm_lightning.covariances import Covariance
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.interop._parts import LayerOrMixture, as_tensors, to_single_float64
from gmm_lightning.layers import GMMLayer


def from_gmr(gmm: Any, covariance: str | Covariance = "full") -> GMMLayer:
    """Layer with the parameters of gmr's `GMM`, or of any object with its attributes.

    Means are exact; weights and covariances are as close as their logarithms hold them.

    Args:
        gmm: has `priors` `(K,)`, `means` `(K, D)` and `covariances` `(K, D, D)`.
        covariance: the family, which projects them.

    Raises:
        InvalidArgumentError: attributes that are missing or None, shapes that do not fit, or
            covariances that are not positive definite.

    Example:
        >>> from types import SimpleNamespace
        >>> gmm = SimpleNamespace(priors=[0.5, 0.5], means=[[0.0], [1.0]],
        ...                       covariances=[[[1.0]], [[4.0]]])
        >>> from_gmr(gmm).scale_tril.flatten()
        tensor([1., 2.], dtype=torch.float64, grad_fn=<ViewBackward0>)
    """
    names = ("priors", "means", "covariances")
    parts = {name: getattr(gmm, name, None) for name in names}
    weights, means, covariances = as_tensors("gmr", **parts)
    return GMMLayer.from_parameters(weights, means.double(), covariances, covariance)


def to_gmr(layer: LayerOrMixture) -> Any:
    """Gmr's `GMM` with the parameters of a layer or a mixture, in float64, dense.

    Raises:
        InvalidArgumentError: a batch of mixtures, a layer with evidence, or gmr is not installed.
    """
    try:
        from gmr import GMM
    except ImportError as error:
        raise InvalidArgumentError("to_gmr needs gmr: pip install gmr") from error

    mixture = to_single_float64(layer, "gmr")
    return GMM(
        mixture.num_components,
        mixture.weights.numpy(),
        mixture.means.numpy().copy(),
        mixture.component_covariances.numpy().copy(),
    )
