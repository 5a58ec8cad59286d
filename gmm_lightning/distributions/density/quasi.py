"""Variance reduction: quasi-random samples, and antithetic pairs."""

from __future__ import annotations

import math

import torch
from torch import Generator, Size, Tensor
from torch.quasirandom import SobolEngine

from gmm_lightning.distributions.density.ancestral import choose_components
from gmm_lightning.errors import InvalidArgumentError

# torch's points are multiples of this.
_STEP = 2.0**-30


def low_variance_normals(
    weights: Tensor, shape: Size, num_features: int, *, quasi: bool, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """Components `(*S, *B)` and standard normals `(*S, *B, D)`, quasi-random or antithetic."""
    batch = weights.shape[:-1]
    rows = math.prod(shape[: len(shape) - len(batch)])
    if quasi:
        z, noise = _sobol_normals(weights, rows, num_features, generator)
    else:
        z = choose_components(weights, Size([rows, *batch]), generator)
        noise = weights.new_empty(rows, *batch, num_features).normal_(generator=generator)
        _antithetic_(z, noise)
    return z.reshape(shape), noise.reshape(*shape, num_features)


def _sobol_normals(
    weights: Tensor, rows: int, num_features: int, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """Components `(n, *B)` and standard normals `(n, *B, D)` from scrambled Sobol points.

    The first coordinate of a point picks the component, the others become normals through the
    inverse distribution function. Every row has the distribution of the mixture; rows are
    dependent and evenly spread. Where n is a power of two, component k has `n pi_k` rows up to 1.
    Means of smooth functions converge faster than `1 / sqrt(n)`.

    References:
        A. B. Owen (1997), Scrambled net variance for integrals of smooth functions, Annals of
        Statistics 25.
    """
    *batch, k = weights.shape
    device = weights.device
    table = weights.double().reshape(-1, k).cumsum(-1).cpu()
    components, normals = [], []
    for edges in table:
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=device))
        engine = SobolEngine(num_features + 1, scramble=True, seed=seed)
        points = engine.draw(rows, dtype=torch.float64).cpu() + 0.5 * _STEP
        order = torch.randperm(rows, generator=generator, device=device).cpu()
        first, rest = points[order].split([1, num_features], dim=-1)
        z = torch.searchsorted(edges / edges[-1], first.squeeze(-1).contiguous())
        components.append(z.clamp(max=k - 1))
        normals.append(torch.special.ndtri(rest))
    z = torch.stack(components, 1).reshape(rows, *batch)
    noise = torch.stack(normals, 1).reshape(rows, *batch, num_features)
    return z.to(device), noise.to(weights)


def check_sobol_dimension(num_features: int) -> None:
    """Raise where torch has no Sobol sequence of D + 1 dimensions."""
    if num_features + 1 > SobolEngine.MAXDIM:
        raise InvalidArgumentError(
            f"quasi-random draws have at most {SobolEngine.MAXDIM - 1} features, got {num_features}"
        )


def _antithetic_(component: Tensor, noise: Tensor) -> None:
    """Give rows 2 i + 1 the component of row 2 i and the opposite noise, in place.

    Means of functions that are nearly linear around a component lose most of their variance. Rows
    of different pairs are independent.

    References:
        J. M. Hammersley, K. W. Morton (1956), A new Monte Carlo technique: antithetic variates,
        Mathematical Proceedings of the Cambridge Philosophical Society 52.
    """
    pairs = len(noise) // 2
    noise[1 : 2 * pairs : 2] = -noise[0 : 2 * pairs : 2]
    component[1 : 2 * pairs : 2] = component[0 : 2 * pairs : 2]
