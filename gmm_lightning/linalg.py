"""Linear algebra and precision, shared by the covariance families."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor

from gmm_lightning._tracing import is_tracing

LOG_2PI = 1.8378770664093453
# Columns of noise with which a residual is measured.
_PROBES = 4


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Context without autocast: a bfloat16 matrix product would corrupt log densities."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


@contextlib.contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Context in which products have the precision of their operands, without autocast or TF32."""
    changed = [
        (write, present, exact[0])
        for read, write, exact in _precision_settings()
        if (present := read()) not in exact
    ]
    # Without either, a step over few rows would spend a tenth of its time here.
    if not changed and device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        yield
        return
    with full_precision(device), contextlib.ExitStack() as restore:
        for write, present, exact in changed:
            restore.callback(write, present)
            write(exact)
        yield


@functools.cache
def _precision_settings() -> list[tuple[Callable[[], str], Callable[[str], None], tuple[str, ...]]]:
    """Readers and writers of the precision of float32 products, and the exact values.

    Torch 2.9 has a setting per kind of device; once it was used, asking for the older one fails.
    """
    kinds = (getattr(b, "matmul", None) for b in (torch.backends.cuda, torch.backends.mkldnn))
    name = "fp32_precision"
    found = [
        (
            functools.partial(getattr, kind, name),
            functools.partial(setattr, kind, name),
            ("ieee", "none"),
        )
        for kind in kinds
        if hasattr(kind, name)
    ]
    older = (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, ("highest",))
    return [*found] or [older]


def at_least_float32(x: Tensor) -> Tensor:
    """Tensor in float32 or float64, the dtypes of factorisations and solves."""
    if x.dtype in (torch.float32, torch.float64):
        return x
    return x.to(torch.float32 if x.is_floating_point() else torch.get_default_dtype())


def accumulator_dtype(device: torch.device) -> torch.dtype:
    """Dtype of sums over rows: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def all_finite(values: Tensor) -> bool:
    """Whether no value is infinite or NaN."""
    # Of finite numbers nearly all have a finite sum, which takes a fraction of the time.
    return math.isfinite(float(values.sum())) or bool(torch.isfinite(values).all())


def tril_from_raw(raw: Tensor) -> Tensor:
    """Lower Cholesky factors of raw entries `(..., D, D)`: exponential on the diagonal."""
    return raw.tril(-1) + raw.diagonal(dim1=-2, dim2=-1).exp().diag_embed()


def raw_from_tril(factor: Tensor) -> Tensor:
    """Raw entries of lower Cholesky factors, the inverse of `tril_from_raw`."""
    logs = factor.diagonal(dim1=-2, dim2=-1).log()
    return torch.diagonal_scatter(factor.tril(), logs, dim1=-2, dim2=-1)


def invert_tril(factor: Tensor) -> Tensor:
    """Inverses of lower-triangular factors `(..., D, D)`."""
    if _is_for_onnx():
        return _invert_by_blocks(factor)
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)


def _is_for_onnx() -> bool:
    # Asked while tracing alone: the question imports the exporter.
    return is_tracing() and torch.onnx.is_in_onnx_export()


def _invert_by_blocks(factor: Tensor) -> Tensor:
    """Inverses of lower-triangular factors, by products alone: ONNX has no triangular solve.

    The inverse of a factor with blocks A, B, C is that of A, `-C^-1 B A^-1`, and that of C: the
    inverses on the way are blocks of the result, so that none grows beyond it.

    References:
        N. J. Higham (2002), Accuracy and Stability of Numerical Algorithms, section 14.2.
    """
    d = factor.shape[-1]
    if d == 1:
        return 1 / factor
    half = d // 2
    first = _invert_by_blocks(factor[..., :half, :half])
    last = _invert_by_blocks(factor[..., half:, half:])
    across = -last @ factor[..., half:, :half] @ first
    above = torch.zeros_like(across.mT)
    return torch.cat([torch.cat([first, above], -1), torch.cat([across, last], -1)], -2)


def definite_factor(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Lower Cholesky factors of symmetric matrices `(..., D, D)`, and a mask of the definite ones.

    A pivot that is no more than the rounding error of its row says that there is no full rank.
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    pivots = factor.diagonal(dim1=-2, dim2=-1).square()
    rounding = factor.shape[-1] * torch.finfo(factor.dtype).eps
    full_rank = (pivots > rounding * matrix.diagonal(dim1=-2, dim2=-1)).all(-1)
    return factor, full_rank & (info == 0)


def masked_inverse(matrix: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses and log determinants of some rows and columns of matrices.

    Args:
        matrix: symmetric positive definite, `(..., D, D)`.
        kept: which rows and columns, `(..., D)`.

    Returns:
        Inverses `(..., D, D)` with zeros in the other rows and columns, and log determinants; NaN
        where the matrix is not definite.
    """
    mask = kept.to(matrix)
    both = mask.unsqueeze(-1) * mask.unsqueeze(-2)
    factor, info = torch.linalg.cholesky_ex(matrix * both + (1 - mask).diag_embed())
    factor = torch.where((info == 0)[..., None, None], factor, torch.nan)
    log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return torch.cholesky_inverse(factor) * both, log_det


def factor_of_rows(rows: Tensor) -> Tensor:
    """Lower Cholesky factor of `R R'` for rows `(..., n, m)`, n <= m, without squaring them."""
    upper = torch.linalg.qr(rows.mT, mode="reduced").R
    sign = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(upper)
    return (upper * sign.unsqueeze(-1)).mT


def thin_factor(matrix: Tensor) -> Tensor | None:
    """A factor `(D, r)` with `F F' = S` up to rounding, r < D; None: there is none.

    The Cholesky factorisation with complete pivoting ends when no diagonal entry of what remains
    is above the rounding of the largest, after `D r^2` operations; an eigendecomposition takes
    `9 D^3`. What is left out is measured, and refused above `64 D eps max_i S_ii`, about the
    error of an eigendecomposition, and of the sums over rows that the matrix is made of.

    Args:
        matrix: S, symmetric and positive semidefinite up to rounding, `(D, D)`.

    References:
        N. J. Higham (1990), Analysis of the Cholesky decomposition of a semi-definite matrix,
        Reliable Numerical Computation.
    """
    from scipy.linalg import get_lapack_funcs  # imported by a fit that needs it alone

    if matrix.device.type != "cpu" or matrix.dtype != torch.float64:
        return None
    d, largest = len(matrix), float(matrix.diagonal().max())
    eps = torch.finfo(matrix.dtype).eps
    if not 0 < largest < torch.inf:
        return None
    # Of a symmetric matrix the transpose is the same, in the order of columns.
    (pstrf,) = get_lapack_funcs(("pstrf",), dtype="d")
    packed, pivots, rank, _ = pstrf(matrix.numpy().T, lower=1, tol=eps * largest)
    if rank >= d:
        return None
    factor = torch.empty(d, rank, dtype=matrix.dtype)
    factor[torch.from_numpy(pivots - 1).long()] = torch.from_numpy(packed.T).T[:, :rank].tril()
    probes = torch.randn(d, _PROBES, dtype=matrix.dtype, generator=Generator().manual_seed(0))
    rest = matrix @ probes - factor @ (factor.T @ probes)
    # The root mean square of the norms of the columns is the Frobenius norm of what is left out.
    left_out = float(torch.linalg.matrix_norm(rest)) / _PROBES**0.5
    return factor if left_out <= 64 * eps * d * largest else None


def unit_rows(num_features: int, batch_dims: int, like: Tensor) -> Tensor:
    """Rows of the identity, `(D, *B, K, D)` with ones for B and K.

    A linear map of rows, applied to these, returns the columns of its matrix.
    """
    identity = torch.eye(num_features, dtype=like.dtype, device=like.device)
    return identity.reshape(num_features, *[1] * (batch_dims + 1), num_features)


def solve_rows(factor: Tensor, rows: Tensor, *, transposed: bool = False) -> Tensor:
    """Solutions of `L z = d`, or `L' z = d`, `(*S, *B, K, D)`, for many rows at once.

    Args:
        factor: lower-triangular, `(*B, K, D, D)`.
        rows: `(*S, *B, K, D)`, broadcastable against the factor's axes.
        transposed: solve with the transposed factor.
    """
    if factor.shape[-1] == 1:
        # Many times faster where there are many factors.
        return rows / factor.squeeze(-1)
    if _is_for_onnx():
        inverse = _invert_by_blocks(factor)
        return multiply_rows(inverse.mT if transposed else inverse, rows)
    matrix = factor.mT if transposed else factor
    return _apply_by_columns(
        lambda d: torch.linalg.solve_triangular(matrix, d, upper=transposed), factor, rows
    )


def multiply_rows(factor: Tensor, rows: Tensor) -> Tensor:
    """Products `L d` for many rows at once, of the shapes of `solve_rows`."""
    return _apply_by_columns(lambda d: factor @ d, factor, rows)


def _apply_by_columns(apply: Callable[[Tensor], Tensor], factor: Tensor, rows: Tensor) -> Tensor:
    """Apply a map of columns to rows: one call with a matrix per factor, not one per row.

    The leading axes that `factor` does not have become columns of the argument.
    """
    batch = factor.shape[:-2]
    # `torch.broadcast_shapes` imports sympy, for most of a second.
    rows = torch.broadcast_tensors(rows, factor[..., 0])[0]
    sample_shape = rows.shape[: rows.dim() - 1 - len(batch)]
    flat = rows.flatten(0, len(sample_shape) - 1) if sample_shape else rows.unsqueeze(0)
    columns = flat.movedim(0, -1)
    return apply(columns).movedim(-1, 0).reshape(*sample_shape, *rows.shape[len(sample_shape) :])


def symmetrize(matrix: Tensor) -> Tensor:
    """Mean of a matrix and its transpose."""
    return 0.5 * (matrix + matrix.mT)


def unsqueeze_like(values: Tensor, like: Tensor) -> Tensor:
    """Values `(*B, G)` with trailing axes, to broadcast against a tensor `(*B, G, ...)`."""
    return values[(..., *[None] * (like.dim() - values.dim()))]


def take_components(values: Tensor, index: Tensor) -> Tensor:
    """Values `(*B, K, ...)` of the components `index` `(*B, K)`, in that order."""
    return values.gather(index.dim() - 1, unsqueeze_like(index, values).expand_as(values))


def total_covariance(weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """Covariance `sum_k w_k (S_k + (mu_k - mu)(mu_k - mu)')` over components, `(*B, D, D)`."""
    gap = means - (weights.unsqueeze(-1) * means).sum(-2, keepdim=True)
    between = gap.unsqueeze(-1) * gap.unsqueeze(-2)
    return (weights[..., None, None] * (covariances + between)).sum(-3)


def mixture_logits(weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Logarithms of weights `(*B, K)` after division by their sum.

    A weight of zero becomes the smallest positive number: its gradients stay finite.
    """
    weights = weights / weights.sum(-1, keepdim=True)
    return weights.clamp(min=torch.finfo(dtype).tiny).log().to(dtype)


def standard_gamma(shape: Tensor, generator: Generator | None = None) -> Tensor:
    """Draws of gamma distributions of rate 1."""
    # The function behind `torch.distributions.Gamma`, which takes no generator.
    return torch._standard_gamma(shape, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
