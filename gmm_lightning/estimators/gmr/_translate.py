"""Conversion between arrays and mixtures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Generator, Tensor

from gmm_lightning._messages import describe
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.linalg import definite_factor, factor_of_rows, symmetrize
from gmm_lightning.rows import as_tensor, check_finite

Floats = NDArray[np.float64]

# Relative rounding error of eigenvalues and of symmetry, of the largest entry.
_ROUNDING = 1e-8


class Converted:
    """Attribute whose values are converted by a function when they are assigned."""

    def __init__(self, convert: Callable[[Any], Any]) -> None:
        self.convert = convert

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else instance.__dict__[self.name]

    def __set__(self, instance: Any, value: object) -> None:
        instance.__dict__[self.name] = self.convert(value)


def floats_of(value: ArrayLike) -> Floats:
    """A float64 copy of an array of numbers."""
    return as_tensor(value, "the array").to(torch.float64, copy=True).numpy()


def floats_or_none(value: ArrayLike | None) -> Floats | None:
    """A float64 copy, or None."""
    return None if value is None else floats_of(value)


def require_given(**parts: Floats | None) -> None:
    """Raise `InvalidArgumentError` unless all parameters are given."""
    missing = [name for name, value in parts.items() if value is None]
    if missing:
        raise InvalidArgumentError(
            f"not initialized: {', '.join(missing)}; assign what is missing, or call from_samples"
        )


def mixture_of(
    priors: ArrayLike, means: ArrayLike, covariances: ArrayLike, *, definite: bool = True
) -> MixtureOfGaussians:
    """Mixture of parameters `(K,)`, `(K, D)`, `(K, D, D)`, checked, in float64 on the CPU.

    Singular covariances have samples, moments and conditionals, but no density: they are refused
    where a density is wanted (`definite`).
    """
    parts = {"priors": priors, "means": means, "covariances": covariances}
    weights, centres, dense = (tensor_of(value) for value in parts.values())
    k, d = centres.shape if centres.dim() == 2 else (len(weights.reshape(-1)), -1)
    if weights.shape != (k,) or centres.shape != (k, d) or dense.shape != (k, d, d):
        shapes = ", ".join(f"{name} {np.shape(value)}" for name, value in parts.items())
        raise InvalidArgumentError(
            f"expected priors (K,), means (K, D) and covariances (K, D, D), got {shapes}"
        )
    if not bool((weights >= 0).all() & torch.isfinite(weights).all() & (weights.sum() > 0)):
        raise InvalidArgumentError(
            f"priors must be finite, >= 0 and not all 0, got {describe(weights.tolist())}"
        )
    if not bool(torch.isfinite(centres).all() & torch.isfinite(dense).all()):
        raise InvalidArgumentError("means and covariances must be finite")
    return MixtureOfGaussians(weights.log(), centres, factor_of(dense, definite=definite))


def factor_of(covariances: Tensor, *, definite: bool = True) -> Tensor:
    """Lower factors of covariances `(K, D, D)`, with zeros on the diagonal if singular."""
    size = covariances.abs().amax((-2, -1))
    skew = (covariances - covariances.mT).abs().amax((-2, -1)) > _ROUNDING * size
    covariances = symmetrize(covariances)
    factor, is_definite = definite_factor(covariances)
    if bool(is_definite.all() & ~skew.any()):
        return factor
    values, vectors = torch.linalg.eigh(covariances)
    wrong = skew | (values[:, 0] < -_ROUNDING * size)
    if definite:
        wrong = wrong | ~is_definite
    if bool(wrong.any()):
        k = int(wrong.nonzero()[0])
        raise InvalidArgumentError(
            f"the covariance of component {k} is not symmetric and positive "
            f"{'definite' if definite else 'semi-definite'}: its smallest eigenvalue is "
            f"{float(values[k, 0]):.3g}, its largest {float(values[k, -1]):.3g}; shrink it by "
            "apply_oracle_approximating_shrinkage, or add a multiple of the identity"
        )
    return factor_of_rows(vectors * values.clamp(min=0).sqrt().unsqueeze(-2))


def tensor_of(value: ArrayLike) -> Tensor:
    """A float64 tensor on the CPU that shares no memory."""
    return torch.from_numpy(floats_of(value))


def rows_of(value: ArrayLike, num_features: int | None = None) -> Tensor:
    """Finite rows `(N, D)`; a single one may be given as `(D,)`."""
    rows = np.atleast_2d(floats_of(value))
    if rows.ndim != 2 or num_features not in (None, rows.shape[1]):
        width = "n_features" if num_features is None else num_features
        raise InvalidDataError(
            f"expected an array of shape (n_samples, {width}), got {np.shape(value)}"
        )
    tensor = torch.from_numpy(rows)
    check_finite(tensor)
    return tensor


def training_rows(value: ArrayLike) -> Floats:
    """Finite rows `(N, D)` to estimate from, at least one."""
    if np.ndim(value) != 2 or 0 in np.shape(value):
        raise InvalidDataError(
            f"expected rows of shape (n_samples, n_features), got {np.shape(value)}"
            + ("; write X[:, np.newaxis] for one feature" if np.ndim(value) == 1 else "")
        )
    return rows_of(value).numpy()


def generator_of(random_state: np.random.RandomState) -> Generator:
    """Torch generator, seeded by a draw from numpy's generator."""
    return Generator().manual_seed(int(random_state.randint(1 << 31)))
