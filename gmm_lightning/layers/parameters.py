"""Options and checks of parameters, and their projection onto a covariance family."""

from __future__ import annotations

from reprlib import repr as short
from typing import Any

import torch
from torch import Size, Tensor

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_integer, require_number, require_numbers
from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype, unsqueeze_like


def tensor_options(device: torch.device | str | None, dtype: torch.dtype | None) -> dict[str, Any]:
    """Device and dtype of new parameters and buffers, torch's defaults for None.

    Raises:
        InvalidArgumentError: a dtype other than float32 and float64.
    """
    if dtype not in (None, torch.float32, torch.float64):
        raise InvalidArgumentError(f"dtype must be float32 or float64, got {dtype}")
    # By name: parameters are made on the default device, but buffers of priors are moved to it.
    device = torch.get_default_device() if device is None else device
    return {"device": device, "dtype": dtype or torch.get_default_dtype()}


def require_batch_shape(batch_shape: Any) -> Size:
    """A batch shape, checked to be sizes of at least 1.

    Raises:
        InvalidArgumentError: anything else.
    """
    try:
        return Size(require_integer("a size", size, least=1) for size in batch_shape)
    except (TypeError, InvalidArgumentError):
        hint = f"; write ({batch_shape},)" if isinstance(batch_shape, int) else ""
        raise InvalidArgumentError(
            f"batch_shape must hold sizes >= 1, got {short(batch_shape)}{hint}"
        ) from None


def project_parameters(
    mixture: MixtureOfGaussians,
    weights: Tensor | None,
    means: Tensor | None,
    covariance_matrix: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Arguments of `GMMLayer.set_parameters`, checked, the covariances as the family's scale.

    The present mixture has the weights that pool tied covariances if none are given.
    """
    shape, device = mixture.means.shape, mixture.means.device
    weights = _require_parameter("weights", weights, shape[:-1], device)
    means = _require_parameter("means", means, shape, device)
    dense = _require_parameter("covariance_matrix", covariance_matrix, (*shape, shape[-1]), device)
    if weights is not None and not bool(((weights >= 0).all(-1) & (weights.sum(-1) > 0)).all()):
        raise InvalidArgumentError(
            f"weights must be >= 0 and not all 0, got {describe(weights.tolist())}"
        )
    if dense is None:
        return weights, means, None
    # Asymmetry is judged in correlations, so that neither scale nor a tiny covariance matters.
    scale = dense.diagonal(dim1=-2, dim2=-1).abs().sqrt()
    allowed = 1e-5 * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    symmetric = bool(((dense - dense.mT).abs() <= allowed).all())
    if not symmetric or bool((torch.linalg.cholesky_ex(dense).info != 0).any()):
        raise InvalidArgumentError(
            "covariance_matrix must be symmetric and positive definite for every component"
        )
    pooling = mixture.weights.to(dense) if weights is None else weights
    return weights, means, project_scale(mixture.covariance, dense, pooling)


def prior_num_samples(num_samples: float | None, num_rows: float | Tensor) -> float | Tensor:
    """Number of rows that a log-prior is divided by: `num_samples`, or the rows of the batch."""
    if num_samples is None:
        return num_rows.clamp(min=1) if isinstance(num_rows, Tensor) else max(1, num_rows)
    return require_number("num_samples", num_samples, above=0)


def _require_parameter(
    name: str, value: Tensor | None, shape: tuple[int, ...] | Size, device: torch.device
) -> Tensor | None:
    """A parameter in the widest dtype, checked to be finite and of the right shape."""
    if value is None:
        return None
    wide = accumulator_dtype(device)
    value = require_numbers(name, value, torch.empty(0, dtype=wide, device=device))
    if value.shape != Size(shape):
        raise InvalidArgumentError(
            f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}"
        )
    if not bool(torch.isfinite(value).all()):
        raise InvalidArgumentError(f"{name} must be finite")
    return value


def project_scale(family: Covariance, dense: Tensor, weights: Tensor) -> Tensor:
    """Scale of the family that is nearest in likelihood to covariances `(*B, K, D, D)`.

    A tied family takes their average by the weights `(*B, K)`.
    """
    share = weights if family.tied else torch.ones_like(weights)
    projected = family.project(dense)
    scatter = unsqueeze_like(share, projected) * projected
    if family.tied:
        scatter = scatter.sum(weights.dim() - 1, keepdim=True)
    return family.estimate(scatter, family.sum_tied(share))


def require_order(index: Any, num_components: int, batch_shape: Size) -> Tensor:
    """An order of the components, `(*B, K)`, from one for all mixtures of a batch or for each.

    Raises:
        InvalidArgumentError: it does not name each component once.
    """
    try:
        order, k = torch.as_tensor(index), num_components
    except (TypeError, ValueError, RuntimeError):
        order, k = torch.zeros(()), num_components
    integral = order.dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    fits = tuple(order.shape) in ((k,), (*batch_shape, k))
    if not (integral and fits) or bool((order.sort(-1).values.cpu() != torch.arange(k)).any()):
        each = f" or {(*batch_shape, k)}" if batch_shape else ""
        raise InvalidArgumentError(
            f"expected each of the components 0 to {k - 1} once, of shape ({k},){each}, "
            f"got {describe(index)}"
        )
    return order.long().expand(*batch_shape, k)
