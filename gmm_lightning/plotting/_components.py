"""The components of a mixture as float64 arrays, and densities made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from reprlib import repr as short
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.plotting._rows import Array, to_array

# Or anything with the same `weights` (K,), `means` (K, D) and `scale_tril` (K, D, D).
MixtureLike = MixtureOfGaussians | GMMLayer | Any


@dataclass(frozen=True)
class Components:
    """The components with finite parameters, in the d coordinates of a picture.

    Attributes:
        num_components: K, those left out included.
        index: Their indices among the K, `(J,)`.
        weights: `(J,)`.
        means: `(J, d)`.
        factors: F `(J, d, D)` of covariances `F F'`, which need not have full rank.
    """

    num_components: int
    index: NDArray[np.intp]
    weights: Array
    means: Array
    factors: Array

    @property
    def num_features(self) -> int:
        """The number of coordinates, d."""
        return self.means.shape[-1]

    @cached_property
    def covariances(self) -> Array:
        """Covariances `F F'`, `(J, d, d)`."""
        return self.factors @ np.swapaxes(self.factors, -1, -2)

    @cached_property
    def stds(self) -> Array:
        """Standard deviations of the coordinates, `(J, d)`."""
        return np.linalg.norm(self.factors, axis=-1)

    @cached_property
    def ellipses(self) -> list[tuple[float, float, float]]:
        """Width, height and angle in degrees of each at one standard deviation.

        The width lies along the axis of largest variance: `2 sqrt(lambda_1)`.
        """
        axes, lengths, _ = np.linalg.svd(self.factors, full_matrices=False)
        angles = np.degrees(np.arctan2(axes[:, 1, 0], axes[:, 0, 0]))
        return np.column_stack([2 * lengths, angles]).tolist()

    def select(self, mask: NDArray[np.bool_]) -> Components:
        """The components in a mask `(J,)`."""
        names = ("index", "weights", "means", "factors")
        return replace(self, **{name: getattr(self, name)[mask] for name in names})

    def density(self) -> tuple[MixtureOfGaussians, NDArray[np.intp]]:
        """The mixture, in float64 on the CPU, of the components with a density, and their indices.

        A density needs a positive weight and a covariance of full rank.
        """
        factor, info = torch.linalg.cholesky_ex(torch.from_numpy(self.covariances))
        pivots = factor.diagonal(dim1=-2, dim2=-1)
        kept = (self.weights > 0) & ((info == 0) & (pivots > 0).all(-1)).numpy()
        if not kept.any():
            raise InvalidArgumentError(
                "expected a component with positive weight, finite parameters and a covariance of "
                "full rank, got none; such a mixture has no density to draw"
            )
        logits, means = torch.from_numpy(self.weights).log(), torch.from_numpy(self.means)
        return MixtureOfGaussians(logits[kept], means[kept], factor[kept]), self.index[kept]

    def responsibilities(self, x: Array) -> Array:
        """Responsibilities of all K components `(N, K)`, zero for those without a density."""
        mixture, index = self.density()
        full = np.zeros((len(x), self.num_components))
        full[:, index] = map_rows(mixture.responsibilities, mixture, x)
        return full


def components(mixture: MixtureLike) -> Components:
    """The components whose parameters are all finite."""
    if not all(hasattr(mixture, name) for name in ("weights", "means", "scale_tril")):
        raise InvalidArgumentError(f"expected a mixture, or a layer with one, got {short(mixture)}")
    weights = to_array(mixture.weights)
    if weights.ndim != 1:
        raise InvalidArgumentError(
            f"expected one mixture (batch shape ()), got batch shape {weights.shape[:-1]}; plot "
            "one mixture of the batch at a time, made from its own slice of the parameters"
        )
    means = to_array(mixture.means)
    tril = np.broadcast_to(to_array(mixture.scale_tril), (*means.shape, means.shape[-1]))
    parts = Components(len(weights), np.arange(len(weights)), weights, means, tril)
    # Covariances that overflow cannot be drawn either, and need no warning.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(parts.covariances).all((1, 2))
    return parts.select(finite & np.isfinite(weights) & np.isfinite(means).all(-1))


def principal_plane(parts: Components) -> tuple[Array, Array, Array]:
    """The plane through the mixture's mean in which the mixture itself varies most.

    Its covariance is `sum_k w_k Sigma_k + sum_k w_k (mu_k - m)(mu_k - m)'`: within plus between
    components. The plane belongs to the mixture, not to the rows shown, so that pictures of the
    same mixture with different data can be laid over each other.

    Returns:
        The origin (D,), two orthonormal axes (D, 2), and the share of the total variance along
        each (2,): the first two coordinate axes and zeros where the covariance is not finite.
    """
    size, total_weight = parts.num_features, parts.weights.sum()
    fallback = np.zeros(size), np.eye(size)[:, :2], np.zeros(2)
    if not total_weight > 0:
        return fallback
    with np.errstate(over="ignore", invalid="ignore"):
        weights = parts.weights / total_weight
        origin = weights @ parts.means
        centred = parts.means - origin
        within = np.einsum("k,kij->ij", weights, parts.covariances)
        covariance = within + (centred.T * weights) @ centred
    if not np.isfinite(covariance).all():
        return fallback
    variances, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, [-1, -2]]
    # The sign of an eigenvector is arbitrary; this rule keeps a picture from flipping between runs.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    total = variances.sum()
    return origin, axes, variances[[-1, -2]] / total if total > 0 else np.zeros(2)


def map_rows(function: Any, mixture: MixtureOfGaussians, x: Array) -> Array:
    """Values `function(x)` as an array, for any number of rows, a chunk at a time."""
    size = rows_per_chunk(mixture.scale.numel(), mixture.means, in_cache=False)
    return torch.cat([function(chunk) for chunk in torch.from_numpy(x).split(size)]).numpy()
