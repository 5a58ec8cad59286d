"""Marginal and conditional distributions, and regression."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning._messages import describe
from gmm_lightning._tracing import value_of
from gmm_lightning._validation import require_bool
from gmm_lightning.distributions.density import M, MixtureDensity, as_mixture
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.linalg import full_precision
from gmm_lightning.rows import as_dense

Indices = int | Sequence[int] | Tensor
Values = float | Sequence[float] | Tensor


def _as_indices(mixture: MixtureDensity, indices: Indices, *, proper: bool = False) -> list[int]:
    """Positions of features in `[0, D)`."""
    d = mixture.num_features
    try:
        # Not as a tensor, whose values are hidden where tensors are fake.
        index = np.asarray(indices.tolist() if isinstance(indices, Tensor) else indices)
    except (TypeError, ValueError, RuntimeError):
        index = np.ones(())
    if index.dtype == bool and index.shape == (d,):
        index = index.nonzero()[0]
    if index.size and index.dtype.kind not in "iu":
        raise InvalidArgumentError(f"indices must be integers in [0, {d}), got {describe(indices)}")
    found = [int(position) for position in index.reshape(-1)]
    if not all(-d <= position < d for position in found):
        raise InvalidArgumentError(f"indices must be in [0, {d}), got {describe(found)}")
    found = [position % d for position in found]
    if len(set(found)) < len(found):
        raise InvalidArgumentError(f"indices must differ, got {describe(found)}")
    if not found or (proper and len(found) == d):
        part = f"between 1 and {d - 1}" if proper else "at least one"
        raise InvalidArgumentError(f"expected {part} of {d} features, got {describe(found)}")
    return found


def _at(positions: Sequence[int], like: Tensor) -> Tensor:
    """Positions as an index of a tensor."""
    return torch.tensor(positions, dtype=torch.long, device=like.device)


def marginal(mixture: M, indices: Indices) -> M:
    """The marginal distribution of some features: see `MixtureOfGaussians.marginal`."""
    mixture = as_mixture(mixture)
    index = _as_indices(mixture, indices)
    family, d = mixture.covariance, mixture.num_features
    with full_precision(mixture.means.device):
        scale = family.marginal(mixture.scale, _at(index, mixture.means), d)
    return mixture.with_parameters(mixture.mixture_logits, mixture.means[..., index], scale, family)


def condition(mixture: M, indices: Indices, values: Values) -> M:
    """The conditional distribution of the others: see `MixtureOfGaussians.condition`."""
    mixture = as_mixture(mixture)
    index = _as_indices(mixture, indices, proper=True)
    values = _as_values(mixture, index, values)
    family, d, device = mixture.covariance, mixture.num_features, mixture.means.device
    rest = [position for position in range(d) if position not in set(index)]
    with full_precision(device):
        places = (_at(index, mixture.means), _at(rest, mixture.means))
        known, unknown, slope = family.condition(mixture.scale, *places, d)
        means = mixture.means[..., index]
        given = mixture.with_parameters(mixture.mixture_logits, means, known, family)
        log_joint = given.log_joint(values)
        require_positive_density(log_joint, values)
        centre = mixture.means[..., rest].expand(*log_joint.shape, len(rest))
        if slope is not None:
            gap = values.unsqueeze(-2) - means
            centre = centre + (slope @ gap.unsqueeze(-1)).squeeze(-1)
    shape = (*log_joint.shape[:-1], *family.shape(mixture.num_components, len(rest)))
    return mixture.with_parameters(log_joint, centre, unknown.expand(shape), family)


def _as_values(mixture: MixtureDensity, index: list[int], values: Values) -> Tensor:
    """Values of the features at `index`, `(*S, *B, I)`, in the mixture's dtype."""
    values = as_dense(values, mixture.means.device, "values").to(mixture.means)
    if values.dim() == 0 and len(index) == 1:
        values = values.unsqueeze(-1)
    if values.dim() == 0 or values.shape[-1] != len(index):
        raise InvalidArgumentError(
            f"expected values of the {len(index)} features {describe(index)} in the last axis, got "
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
    """Raise `InvalidDataError` where all components have density 0: no responsibilities exist.

    A squared Mahalanobis distance overflows at 1e154 standard deviations, or 1e19 in float32. NaN
    passes, and so do values that nobody can look at: in a graph that is compiled, under vmap.
    """
    lost = (log_joint.detach() == -math.inf).all(-1)
    if value_of(lost.any()):
        first = describe(values.detach().expand(*lost.shape, -1)[lost][0].tolist())
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
        InvalidArgumentError, InvalidDataError: as for `MixtureOfGaussians.condition`.

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
    require_bool("covariance", covariance)
    index = _as_indices(mixture, indices, proper=True)
    values = _as_values(mixture, index, values)
    own, rest = mixture.batch_shape, mixture.num_features - len(index)
    shape = torch.broadcast_shapes(values.shape[:-1], own)
    lead = shape[: len(shape) - len(own)].numel()
    flat = values.expand(*shape, -1).reshape(lead, *own, len(index))
    per_row = mixture.means.shape[:-1].numel() * (rest**2 if covariance else rest)
    means, spreads = [], []
    for chunk in flat.split(rows_per_chunk(per_row, mixture.means, in_cache=False)):
        given = condition(mixture, index, chunk)
        means.append(given.mean)
        if covariance:
            spreads.append(given.covariance_matrix)
    mean = torch.cat(means).reshape(*shape, rest)
    return mean, torch.cat(spreads).reshape(*shape, rest, rest) if covariance else None
