"""Parameters that a user gives, checked and brought into a layer's own form."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Size, Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.covariances import Covariance
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype


class Parametrized(Protocol):
    """What is needed of a layer."""

    means: Any
    covariance: Covariance

    @property
    def weights(self) -> Tensor:
        """`(*B, K)`."""
        ...


def constrained(
    layer: Parametrized,
    weights: Tensor | None,
    means: Tensor | None,
    covariance_matrix: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Weights, means and the family's scale, each None where nothing was given.

    Raises:
        InvalidArgumentError: shapes that do not fit, values that are not finite, weights that
            are negative or sum to zero, covariances that are not symmetric positive definite.
    """
    shape = layer.means.shape
    device = layer.means.device
    share = checked("weights", weights, shape[:-1], device)
    centres = checked("means", means, shape, device)
    dense = checked("covariance_matrix", covariance_matrix, (*shape, shape[-1]), device)
    if share is not None and not bool(((share >= 0).all(-1) & (share.sum(-1) > 0)).all()):
        raise InvalidArgumentError(f"weights must be >= 0 and not all 0, got {share.tolist()}")
    if dense is None:
        return share, centres, None
    # Asymmetry is judged in correlations, so that neither scale nor a tiny covariance matters.
    scale = dense.diagonal(dim1=-2, dim2=-1).abs().sqrt()
    allowed = 1e-5 * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    symmetric = bool(((dense - dense.mT).abs() <= allowed).all())
    if not symmetric or bool((torch.linalg.cholesky_ex(dense).info != 0).any()):
        raise InvalidArgumentError(
            "covariance_matrix must be symmetric and positive definite for every component"
        )
    by = layer.weights.to(dense) if share is None else share
    return share, centres, projected_scale(layer.covariance, dense, by)


def prior_rows(num_samples: float | None, rows: int) -> float:
    """What a log-prior is divided by: the rows of the training set, or those at hand.

    Raises:
        InvalidArgumentError: a number that is not positive.
    """
    if num_samples is None:
        return max(1, rows)
    return require_number("num_samples", num_samples, above=0)


def checked(
    name: str, value: Tensor | None, shape: tuple[int, ...] | Size, device: torch.device
) -> Tensor | None:
    """A given parameter in the widest dtype, refused unless finite and of the right shape."""
    if value is None:
        return None
    value = torch.as_tensor(value, device=device).to(accumulator_dtype(device))
    if value.shape != Size(shape):
        raise InvalidArgumentError(
            f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}"
        )
    if not bool(torch.isfinite(value).all()):
        raise InvalidArgumentError(f"{name} must be finite")
    return value


def projected_scale(family: Covariance, dense: Tensor, weights: Tensor) -> Tensor:
    """The family's scale nearest in likelihood to dense covariances `(*B, K, D, D)`.

    A tied family takes their average by the weights `(*B, K)`.
    """
    share = weights if family.tied else torch.ones_like(weights)
    projected = family.project(dense)
    scatter = share[(..., *[None] * (projected.dim() - share.dim()))] * projected
    if family.tied:
        scatter = scatter.sum(weights.dim() - 1, keepdim=True)
    return family.estimate(scatter, family.sum_tied(share))


def mixture_logits(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Logarithms of weights `(*B, K)` after division by their sum.

    A weight of zero becomes the smallest positive number, so that its logarithm is finite and a
    later gradient phase stays so.
    """
    weights = weights / weights.sum(-1, keepdim=True)
    return weights.clamp(min=torch.finfo(dtype).tiny).log().to(dtype)
