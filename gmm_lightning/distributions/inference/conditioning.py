"""Marginal and conditional distributions, and regression."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning._validation import require_numbers
from gmm_lightning.distributions.density import M, MixtureDensity, as_mixture
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.linalg import full_precision

Indices = int | Sequence[int] | Tensor
Values = float | Sequence[float] | Tensor


def _as_indices(mixture: MixtureDensity, indices: Indices, *, proper: bool = False) -> Tensor:
    """Positions of features in `[0, D)`, as a tensor."""
    d = mixture.num_features
    try:
        index = torch.as_tensor(indices)
    except (TypeError, ValueError, RuntimeError):
        index = torch.ones(())
    index = index if index.numel() else index.long()
    if index.dtype == torch.bool and index.shape == (d,):
        index = index.nonzero().squeeze(-1)
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise InvalidArgumentError(f"indices must be integers in [0, {d}), got {indices!r}")
    index = index.reshape(-1).long().cpu()
    if not bool(((index >= -d) & (index < d)).all()):
        raise InvalidArgumentError(f"indices must be in [0, {d}), got {index.tolist()}")
    index = index % d
    if len(index.unique()) < len(index):
        raise InvalidArgumentError(f"indices must differ, got {index.tolist()}")
    if len(index) == 0 or (proper and len(index) == d):
        part = f"between 1 and {d - 1}" if proper else "at least one"
        raise InvalidArgumentError(f"expected {part} of {d} features, got {index.tolist()}")
    return index


def _complement(mixture: MixtureDensity, index: Tensor) -> Tensor:
    """Positions of the other features, in order."""
    left = torch.ones(mixture.num_features, dtype=torch.bool)
    left[index] = False
    return left.nonzero().squeeze(-1)


def marginal(mixture: M, indices: Indices) -> M:
    """The marginal distribution of some features: see `MixtureOfGaussians.marginal`."""
    mixture = as_mixture(mixture)
    index = _as_indices(mixture, indices)
    family, d = mixture.covariance, mixture.num_features
    with full_precision(mixture.means.device):
        scale = family.marginal(mixture.scale, index.to(mixture.means.device), d)
    return mixture.with_parameters(mixture.mixture_logits, mixture.means[..., index], scale, family)


def condition(mixture: M, indices: Indices, values: Values) -> M:
    """The conditional distribution of the others: see `MixtureOfGaussians.condition`."""
    mixture = as_mixture(mixture)
    index = _as_indices(mixture, indices, proper=True)
    values = _as_values(mixture, index, values)
    rest = _complement(mixture, index).to(mixture.means.device)
    index = index.to(mixture.means.device)
    family, d, k = mixture.covariance, mixture.num_features, mixture.num_components
    with full_precision(mixture.means.device):
        known, unknown, slope = family.condition(mixture.scale, index, rest, d)
        means = mixture.means[..., index]
        given = mixture.with_parameters(mixture.mixture_logits, means, known, family)
        log_joint = given.log_joint(values)
        require_positive_density(log_joint, values)
        centre = mixture.means[..., rest].expand(*log_joint.shape, len(rest))
        if slope is not None:
            gap = values.unsqueeze(-2) - means
            centre = centre + (slope @ gap.unsqueeze(-1)).squeeze(-1)
    batch = log_joint.shape[:-1]
    shape = family.shape(k, len(rest))
    return mixture.with_parameters(log_joint, centre, unknown.expand(*batch, *shape), family)


def _as_values(mixture: MixtureDensity, index: Tensor, values: Values) -> Tensor:
    """Values of the features at `index`, `(*S, *B, I)`, in the mixture's dtype."""
    values = require_numbers("values", values, mixture.means)
    if values.dim() == 0 and len(index) == 1:
        values = values.unsqueeze(-1)
    if values.dim() == 0 or values.shape[-1] != len(index):
        raise InvalidArgumentError(
            f"expected values of the {len(index)} features {index.tolist()} in the last axis, got "
            f"an array of shape {tuple(values.shape)}"
        )
    try:
        torch.broadcast_shapes(values.shape[:-1], mixture.batch_shape)
    except RuntimeError:
        raise InvalidArgumentError(
            f"values of shape {tuple(values.shape)} do not fit the batch shape "
            f"{tuple(mixture.batch_shape)} of the mixture"
        ) from None
    return values


def require_positive_density(log_joint: Tensor, values: Tensor) -> None:
    """Raise where all components have density 0, so that responsibilities are undefined.

    A squared Mahalanobis distance overflows at 1e154 standard deviations, or 1e19 in float32. NaN
    passes, and a graph that is being compiled is not checked.

    Raises:
        InvalidDataError: with the number of such rows, and the first.
    """
    if torch.compiler.is_compiling():
        return
    lost = (log_joint.detach() == -math.inf).all(-1)
    if bool(lost.any()):
        first = values.detach().expand(*lost.shape, -1)[lost][0].tolist()
        dtype = str(log_joint.dtype).removeprefix("torch.")
        raise InvalidDataError(
            f"{int(lost.sum())} of {lost.numel()} rows of values lie so far from every component "
            f"that {dtype} holds no density there, the first at {first}"
        )


def regress(
    mixture: MixtureDensity, indices: Indices, values: Values, *, covariance: bool = True
) -> tuple[Tensor, Tensor | None]:
    """Gaussian mixture regression: mean and covariance of the other features, row by row.

        E[y | x] = sum_k w_k(x) m_k(x)
        Cov[y | x] = sum_k w_k(x) (C_k + (m_k(x) - E[y | x])(m_k(x) - E[y | x])')

    Rows are processed in chunks, so a million of them take little more memory than the result.

    Args:
        mixture: of inputs and outputs together.
        indices: the features that are known.
        values: their values, `(*S, *B, I)`.
        covariance: whether to return the covariance too.

    Returns:
        The mean `(*S, *B, R)` and the covariance `(*S, *B, R, R)` of the rest, or None.

    Raises:
        InvalidArgumentError: as for `MixtureOfGaussians.condition`.
        InvalidDataError: values where no component has a positive density.

    References:
        Z. Ghahramani, M. I. Jordan (1994), Supervised learning from incomplete data via an EM
        approach, NIPS 6.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(2), torch.randn(2, 3),
        ...                              torch.eye(3).repeat(2, 1, 1))
        >>> mean, spread = regress(mixture, [0], torch.randn(100, 1))
        >>> mean.shape, spread.shape
        (torch.Size([100, 2]), torch.Size([100, 2, 2]))
    """
    mixture = as_mixture(mixture)
    index = _as_indices(mixture, indices, proper=True)
    values = _as_values(mixture, index, values)
    lead = values.dim() - 1 - len(mixture.batch_shape)
    rest = mixture.num_features - len(index)
    per_row = mixture.means.shape[:-1].numel() * (rest**2 if covariance else rest)
    if lead <= 0:
        given = condition(mixture, index, values)
        return given.mean, given.covariance_matrix if covariance else None
    flat = values.reshape(-1, *values.shape[lead:])
    means, spreads = [], []
    for chunk in flat.split(rows_per_chunk(per_row, mixture.means, in_cache=False)):
        given = condition(mixture, index, chunk)
        means.append(given.mean)
        if covariance:
            spreads.append(given.covariance_matrix)
    shape = values.shape[:lead]
    mean = torch.cat(means)
    mean = mean.reshape(*shape, *mean.shape[1:])
    if not covariance:
        return mean, None
    spread = torch.cat(spreads)
    return mean, spread.reshape(*shape, *spread.shape[1:])
