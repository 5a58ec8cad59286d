"""Eigenvalues of scatters: whether they are above a bound, raised to it, and the smallest one."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from gmm_lightning.linalg import thin_factor

# Below this number of features an eigendecomposition of all matrices at once is faster, and up to
# this share of it the rank counts as low.
_LARGE, _LOW_RANK = 48, 0.75
# Steps of the Lanczos iteration at most and between two tests, its tolerance, and the steps after
# which what is far from 1 is believed to be so.
_STEPS, _STRIDE, _CONVERGED, _SURE = 80, 4, 1e-7, 20
# Times that the moving part of a bound is lowered, to how much it is known, and the steps of it:
# if rounding lowered it a little in each M-step, EM would not come to an end.
_LOWERINGS, _KNOWN, _GRID = 3, 1e-6, 1e-5


def in_units(scatter: Tensor, dof: Tensor, bound: Tensor) -> tuple[Tensor, Tensor]:
    """Covariances in units of a bound, and the deviations of the scatter at the bound.

    Args:
        scatter: `(*B, G, D, D)`.
        dof: `(*B, G)`.
        bound: variances, `(*B, G, D)` or `(*B, 1, D)`.

    Returns:
        The covariances, `(*B, G, D, D)`, and the deviations, `(*B, G, D)`.
    """
    unit = (bound.expand(*dof.shape, bound.shape[-1]) * dof.unsqueeze(-1)).sqrt()
    return (scatter / unit.unsqueeze(-1)).div_(unit.unsqueeze(-2)), unit


def is_below_one(scaled: Tensor) -> Tensor:
    """Whether symmetric matrices `(..., D, D)` have an eigenvalue below one, `(...)`."""
    shifted = scaled.clone()
    shifted.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    return torch.linalg.cholesky_ex(shifted).info != 0


def raise_to_one(scaled: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric matrices `(n, D, D)` with eigenvalues below one raised to it, and the smallest.

    With an eigendecomposition `U diag(l) U'` it is `U diag(max(l, 1)) U'`. A covariance of fewer
    rows than features has a low rank, and a thin factor `F F'`: with the one of its few products,
    `F'F = W diag(l) W'`,

        U diag(max(l, 1)) U' = I + F W diag(max(1 - 1 / l, 0)) W' F'

    A row without entries beside its diagonal keeps these zeros: otherwise a constant column would
    get the rounding of large ones as its variance.

    Returns:
        The raised matrices, and the smallest eigenvalues before, `(n)`: 0 for a low rank.
    """
    if scaled.shape[-1] < _LARGE:
        raised, smallest = _raise_all(scaled)
    else:
        parts = [_raise_one(one) for one in scaled]
        raised, smallest = (torch.stack(values) for values in zip(*parts, strict=True))
    alone = scaled.count_nonzero(-1) <= 1
    if bool(alone.any()):
        identity = torch.eye(scaled.shape[-1], dtype=torch.bool, device=scaled.device)
        apart = (alone.unsqueeze(-1) | alone.unsqueeze(-2)) & ~identity
        raised = torch.where(apart, 0.0, raised)
    return raised, smallest


def _raise_all(scaled: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(scaled)
    raised = (vectors * values.clamp(min=1.0).unsqueeze(-2)) @ vectors.mT
    return raised, values[..., 0]


def _raise_one(scaled: Tensor) -> tuple[Tensor, Tensor]:
    factor = thin_factor(scaled)
    if factor is None or factor.shape[-1] > _LOW_RANK * len(scaled):
        return _raise_all(scaled)
    values, vectors = torch.linalg.eigh(factor.mT @ factor)
    # What rounding makes negative is below one, and left out.
    share = (1 - 1 / values.clamp(min=1.0)).sqrt()
    kept = factor @ (vectors * share)
    raised = kept @ kept.mT
    raised.diagonal().add_(1.0)
    return raised, values.new_zeros(())


def satisfied_bound(share: Tensor, own: Tensor, factor: Tensor) -> Tensor:
    """`max(share, t own)` with a t in [1/16, 1] for which covariances `L L'` satisfy it.

    Args:
        share: the part of the bound that is constant, broadcastable to own.
        own: the part that moves, `(*B, G, D)`.
        factor: L, lower-triangular, `(*B, G, D, D)`.
    """
    lowered, bound = torch.ones_like(own[..., :1]), torch.maximum(share, own)
    for _ in range(_LOWERINGS):
        deviations = torch.where(bound > 0, bound, torch.inf).sqrt().unsqueeze(-1)
        least = smallest_singular_value(factor / deviations).square().unsqueeze(-1)
        if bool((least >= 1 - _KNOWN).all()):
            return bound
        lowered = _down_to_grid(lowered * least.clamp(max=1.0)).clamp(min=1 / 16)
        before, bound = bound, torch.maximum(share, lowered * own)
        if bool((bound <= least * before * (1 + _KNOWN)).all()):
            return bound
    return torch.maximum(share, own / 16)


def _down_to_grid(values: Tensor) -> Tensor:
    return ((1 + _KNOWN) * values / _GRID).floor() * _GRID


def smallest_singular_value(factor: Tensor) -> Tensor:
    """The smallest singular values of lower-triangular factors `(*B, D, D)`, `(*B)`.

    Of large ones the Lanczos iteration finds the largest eigenvalue of `(L L')^-1`, by triangular
    solves, to `1e-8`; one that is clearly above 1 is known less exactly. Where it has not
    converged, singular values are computed.

    References:
        J. Kuczynski, H. Wozniakowski (1992), Estimating the largest eigenvalue by the power and
        Lanczos algorithms with a random start, SIAM J. Matrix Anal. Appl. 13: after 20 steps half
        of it is found, but for a probability of 1e-9 in a thousand dimensions.
    """
    if factor.shape[-1] < _LARGE:
        return torch.linalg.svdvals(factor)[..., -1]
    found = [_smallest_by_lanczos(one) for one in factor.flatten(0, -3)]
    return torch.stack(found).reshape(factor.shape[:-2])


def _smallest_by_lanczos(factor: Tensor) -> Tensor:
    d = len(factor)
    start = torch.randn(d, 1, dtype=factor.dtype, generator=Generator().manual_seed(0))
    vector = (start / torch.linalg.vector_norm(start)).to(factor.device)
    basis, steps = vector.new_empty(d, _STEPS), min(_STEPS, d)
    small = torch.zeros(steps, steps, dtype=torch.float64)
    for k in range(steps):
        basis[:, k : k + 1] = vector
        image = torch.linalg.solve_triangular(factor, vector, upper=False)
        image = torch.linalg.solve_triangular(factor.mT, image, upper=True)
        known = basis[:, : k + 1]
        along = known.mT @ image
        image = image - known @ along
        # Twice is enough to keep the basis orthogonal.
        image = image - known @ (known.mT @ image)
        size = torch.linalg.vector_norm(image)
        small[k, k] = along[k, 0]
        # Nothing is left where all singular values are the same.
        if k % _STRIDE == _STRIDE - 1 or k + 1 == steps or size == 0:
            values, vectors = torch.linalg.eigh(small[: k + 1, : k + 1])
            largest, rest = float(values[-1]), float(size) * abs(float(vectors[-1, -1]))
            if rest <= _CONVERGED * largest or (k >= _SURE and 0 < largest <= 0.5):
                return (1 / values[-1].to(factor)).sqrt()
        if k + 1 < steps:
            small[k, k + 1] = small[k + 1, k] = float(size)
        vector = image / size
    return torch.linalg.svdvals(factor)[-1]
