"""Ancestral sampling: a component per row, then a normal with its mean and covariance."""

from __future__ import annotations

import math

import torch
from torch import Generator, Size, Tensor
from torch.quasirandom import SobolEngine

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning._tracing import values_are_readable
from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions.density.mixture_density import MixtureDensity
from gmm_lightning.distributions.density.noise import standard_normals, uniforms

# Numbers that are copied for rows one by one in the time that a group of rows costs.
_GROUP = 8192


def choose_components(weights: Tensor, shape: Size, generator: Generator | None) -> Tensor:
    """Component indices of shape `(*S, *B)`, drawn with weights `(*B, K)`."""
    return _components_at(weights, uniforms(weights, shape, generator))


def _components_at(weights: Tensor, u: Tensor) -> Tensor:
    """The first components whose cumulated weights exceed u in [0, 1), `(*S, *B)`.

    Made of operations that `torch.func.vmap` maps with either randomness, unlike a multinomial
    draw.
    """
    edges = weights.to(u.dtype).cumsum(-1)
    # At the end 1 up to rounding: no u is beyond it, and none in an interval of weight 0.
    edges = (edges / edges[..., -1:]).reshape(-1, edges.shape[-1]).contiguous()
    # The zeros let vmap map the rows too, where it maps the edges alone.
    lead = u.shape[: u.dim() - weights.dim() + 1].numel()
    rows = (u.reshape(lead, len(edges)).T + torch.zeros_like(edges[:, :1])).contiguous()
    found = torch.searchsorted(edges, rows, right=True).clamp(max=edges.shape[-1] - 1)
    return found.T.reshape(u.shape)


def unwhiten_rows(mixture: MixtureDensity, component: Tensor, noise: Tensor) -> Tensor:
    """Rows `mu_z + L_z noise` `(*S, *B, D)`, for components z `(*S, *B)` and noise like rows."""
    own, k, d = len(mixture.batch_shape), mixture.num_components, mixture.num_features
    cell = torch.arange(mixture.batch_shape.numel(), device=noise.device).view(mixture.batch_shape)
    which = (cell * k + component).reshape(-1)
    centre = mixture.means.reshape(-1, d)[which]
    # All components of a tied family have one factor.
    which = which // (k // mixture.scale.shape[own])
    table, rows = mixture.scale.flatten(0, own), noise.reshape(-1, d)
    # A factor that is larger than a row is read once for all of its rows, if these are known.
    size = table[0].numel()
    pays = size > d and len(rows) * size > _GROUP * len(table)
    in_groups = pays and values_are_readable(table, which, rows)
    correlate = _correlate_in_groups if in_groups else _correlate_one_by_one
    return (centre + correlate(mixture.covariance, table, which, rows)).reshape(noise.shape)


def _correlate_in_groups(family: Covariance, table: Tensor, which: Tensor, rows: Tensor) -> Tensor:
    """Products `L_w z`, `(n, D)`, of rows with the factors w of a table, group by group."""
    counts = which.bincount(minlength=len(table)).tolist()
    groups = which.argsort().split(counts)
    factors = family.scale_tril(table, rows.shape[-1])
    correlated = torch.empty_like(rows)
    for factor, mine in zip(factors, groups, strict=True):
        correlated[mine] = rows[mine] @ factor.mT
    return correlated


def _correlate_one_by_one(family: Covariance, table: Tensor, which: Tensor, rows: Tensor) -> Tensor:
    """The same as `_correlate_in_groups`, with a copy of its factor for each row."""
    size = rows_per_chunk(table[0].numel(), table, in_cache=False)
    # Filled in place: small results kept between large chunks would fragment the heap. Of a new
    # row, as under vmap either factors or rows may be the ones that are mapped.
    correlated = family.unwhiten(table[which[:1]], rows[:1]).new_empty(rows.shape)
    chunks = (values.split(size) for values in (which, rows, correlated))
    for index, some, place in zip(*chunks, strict=True):
        place.copy_(family.unwhiten(table[index], some))
    return correlated


def draw_noise(
    weights: Tensor,
    component: Tensor | None,
    shape: Size,
    num_features: int,
    generator: Generator | None,
    *,
    quasi: bool,
    antithetic: bool,
) -> tuple[Tensor, Tensor]:
    """Components `(*S, *B)`, unless they are given, and standard normals `(*S, *B, D)`.

    Antithetic rows 2 i + 1 have the component of row 2 i and the opposite noise: means of functions
    that are nearly linear around a component lose most of their variance.

    References:
        J. M. Hammersley, K. W. Morton (1956), A new Monte Carlo technique: antithetic variates,
        Mathematical Proceedings of the Cambridge Philosophical Society 52.
    """
    batch = weights.shape[:-1]
    rows = math.prod(shape[: len(shape) - len(batch)])
    if quasi:
        z, noise = _sobol_normals(weights, rows, num_features, generator)
    else:
        z = component
        if z is None or antithetic:
            z = choose_components(weights, Size([rows, *batch]), generator)
        noise = standard_normals(weights, (rows, *batch, num_features), generator)
    if antithetic:
        paired = rows - rows % 2
        z[1:paired:2], noise[1:paired:2] = z[:paired:2], -noise[:paired:2]
    return (z.reshape(shape) if component is None else component), noise.reshape(*shape, -1)


def _sobol_normals(
    weights: Tensor, rows: int, num_features: int, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """Components `(n, *B)` and standard normals `(n, *B, D)` from scrambled Sobol points.

    The first coordinate of a point picks the component, the others become normals through the
    inverse distribution function. Rows have the distribution of the mixture, but are dependent and
    evenly spread; where n is a power of two, component k has `n pi_k` of them up to 1.

    References:
        A. B. Owen (1997), Scrambled net variance for integrals of smooth functions, Annals of
        Statistics 25.
    """
    *batch, k = weights.shape
    device = weights.device
    components, normals = [], []
    for own in weights.reshape(-1, k).cpu():
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=device))
        engine = SobolEngine(num_features + 1, scramble=True, seed=seed)
        # Torch's points are multiples of 2^-30; moved by half a step, none is 0 or 1.
        points = engine.draw(rows, dtype=torch.float64).cpu() + 2.0**-31
        order = torch.randperm(rows, generator=generator, device=device).cpu()
        first, rest = points[order].split([1, num_features], dim=-1)
        components.append(_components_at(own, first.squeeze(-1)))
        normals.append(torch.special.ndtri(rest))
    z = torch.stack(components, 1).reshape(rows, *batch)
    noise = torch.stack(normals, 1).reshape(rows, *batch, num_features)
    return z.to(device), noise.to(weights)
