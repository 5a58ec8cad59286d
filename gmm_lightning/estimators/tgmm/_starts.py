"""Initial means, weights and covariances by tgmm's names, from the initializers here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning._validation import require_choice, require_enough_rows
from gmm_lightning.em import initialize_layer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.tgmm._forms import FAMILIES, dense_of
from gmm_lightning.initializers import (
    DistanceTable,
    kmeans_plus_plus_seeds,
    lloyd,
    maxdist_seeds,
)
from gmm_lightning.layers import GMMLayer

Draw = Generator | None


def seeded(random_state: int | None, device: torch.device) -> Draw:
    """A generator of a seed, or None for torch's global one."""
    return None if random_state is None else Generator(device).manual_seed(int(random_state))


def untrained_layer(
    k: int, like: Tensor, covariance: Any, priors: Any = None, **options: Any
) -> GMMLayer:
    """A layer for rows like the given ones, without a draw from the global generator."""
    with torch.random.fork_rng(devices=[]):
        layer = GMMLayer(like.shape[1], k, covariance, priors, dtype=like.dtype, **options)
    return layer.to(like.device)


class _Table:
    """Rows in one unit for all features, so that squares are exact and ratios are kept."""

    def __init__(self, x: Tensor) -> None:
        x = x.to(torch.float64)
        self.centre = x.mean(0)
        self.unit = (x - self.centre).abs().max().clamp(min=torch.finfo(x.dtype).tiny)
        ones = torch.ones(1, len(x), dtype=x.dtype, device=x.device)
        self.rows = DistanceTable(((x - self.centre) / self.unit).unsqueeze(0), ones)

    def points(self, seeds: Tensor) -> Tensor:
        """Points `(1, K, D)` in the units of the data, `(K, D)`."""
        return seeds[0] * self.unit + self.centre

    def numbers(self, seeds: Tensor) -> Tensor:
        """Numbers `(K,)` of the rows that seeds `(1, K, D)` are."""
        return self.rows.distances(seeds)[0].argmin(-1)


def kmeans_means(
    x: Tensor, k: int, generator: Draw, max_iter: int = 1000, tol: float = 1e-4
) -> Tensor:
    """Centres of k-means from k-means++ seeds."""
    table = _Table(x)
    seeds = kmeans_plus_plus_seeds(table.rows, k, 1, generator)
    labels, _ = lloyd(table.rows, seeds, max_iter, tol)
    sums = table.rows.sums(labels, k)
    mass = sums[..., -1:]
    return table.points(torch.where(mass > 0, sums[..., :-1] / mass, seeds))


def _kpp_means(x: Tensor, k: int, generator: Draw) -> Tensor:
    """Seeds by k-means++."""
    table = _Table(x)
    return x[table.numbers(kmeans_plus_plus_seeds(table.rows, k, 1, generator))]


def _maxdist_means(x: Tensor, k: int, generator: Draw) -> Tensor:
    """Rows that are farthest from each other."""
    table = _Table(x)
    return x[table.numbers(maxdist_seeds(table.rows, k, 1, generator))]


def _points_means(x: Tensor, k: int, generator: Draw) -> Tensor:
    """Different rows at random."""
    return x[torch.randperm(len(x), generator=generator, device=x.device)[:k]]


def _random_means(x: Tensor, k: int, generator: Draw) -> Tensor:
    """Draws from the Gaussian with the mean and the covariance of the rows."""
    shape, wide = (k, len(x)), x.to(torch.float64)
    z = torch.randn(shape, generator=generator, dtype=wide.dtype, device=x.device)
    # Combinations of centred rows have their covariance, a singular one too.
    return wide.mean(0) + z @ (wide - wide.mean(0)) / max(len(x) - 1, 1) ** 0.5


MEANS: dict[str, Callable[[Tensor, int, Draw], Tensor]] = {
    "kmeans": kmeans_means,
    "kpp": _kpp_means,
    "random": _random_means,
    "points": _points_means,
    "maxdist": _maxdist_means,
}


def random_weights(k: int, like: Tensor, generator: Draw) -> Tensor:
    """Weights drawn uniformly from the simplex."""
    draws = torch.empty(k, dtype=like.dtype, device=like.device).exponential_(generator=generator)
    return draws / draws.sum()


def nearest(x: Tensor, means: Tensor) -> Tensor:
    """Number of the nearest mean of each row, `(N,)`."""
    table = _Table(x)
    centres = ((means.to(torch.float64) - table.centre) / table.unit).unsqueeze(0)
    return table.rows.nearest(centres)[0][0]


def cluster_weights(x: Tensor, means: Tensor) -> Tensor:
    """Shares of the rows that are nearest to each mean; an empty cluster has a tiny one."""
    counts = torch.bincount(nearest(x, means), minlength=len(means)).to(x.dtype)
    counts = counts.clamp(min=1e-10)
    return counts / counts.sum()


def empirical_covariances(x: Tensor, means: Tensor, covariance_type: str) -> Tensor:
    """Dense covariances `(K, D, D)` of the rows nearest to each mean, by one M-step."""
    layer = untrained_layer(len(means), x, FAMILIES[covariance_type])
    initialize_layer(layer, x, nearest(x, means))
    return layer.covariance_matrix.detach()


def global_covariances(x: Tensor, k: int) -> Tensor:
    """The covariance of all rows for each component, `(K, D, D)`."""
    d = x.shape[1]
    return torch.cov(x.T).reshape(d, d).expand(k, d, d)


def random_covariances(covariance_type: str, like: Tensor, generator: Draw) -> Tensor:
    """Random dense covariances `(K, D, D)` of a type: see `GMMInitializer`."""
    k, d = like.shape
    if covariance_type.endswith("full"):
        shape = (1 if covariance_type.startswith("tied") else k, d, d)
        a = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)
        return (a @ a.mT).expand(k, d, d)
    shape = {"diag": (k, d), "tied_diag": (1, d), "spherical": (k, 1), "tied_spherical": (1, 1)}
    uniform = torch.empty(shape[covariance_type], dtype=like.dtype, device=like.device)
    uniform.uniform_(generator=generator)
    if covariance_type.endswith("spherical"):
        uniform += 1.0
    return uniform.expand(k, d).diag_embed()


def start_of(
    x: Tensor, k: int, covariance_type: str, specs: tuple[Any, Any, Any], generator: Draw
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights `(K,)`, means `(K, D)` and dense covariances `(K, D, D)` at the start of a fit.

    Args:
        x: complete rows `(N, D)`.
        k: K.
        covariance_type: tgmm's name.
        specs: `init_weights`, `init_means` and `init_covariances`: names or values.
        generator: source of randomness.

    Raises:
        InvalidArgumentError: unknown names, or values that do not fit.
        InvalidDataError: fewer rows than components.
    """
    require_enough_rows(len(x), k)
    of_weights, of_means, of_covariances = specs
    if isinstance(of_means, str):
        method = require_choice("init_means", of_means.lower(), MEANS)
        means = MEANS[method](x, k, generator).to(x)
    else:
        means = _given("init_means", of_means, (k, x.shape[1]), x)
    if isinstance(of_weights, str):
        known = ("uniform", "equal", "random", "kmeans")
        method = require_choice("init_weights", of_weights.lower(), known)
        weights = x.new_full((k,), 1.0 / k)
        if method == "random":
            weights = random_weights(k, x, generator)
        elif method == "kmeans":
            weights = cluster_weights(x, means)
    else:
        weights = _given("init_weights", of_weights, (k,), x)
    return weights, means, _start_covariances(x, means, covariance_type, of_covariances, generator)


def _start_covariances(
    x: Tensor, means: Tensor, covariance_type: str, spec: Any, generator: Draw
) -> Tensor:
    if not isinstance(spec, str):
        return dense_of("init_covariances", spec, covariance_type, means)
    known = ("empirical", "eye", "random", "global")
    method = require_choice("init_covariances", spec.lower(), known)
    if method == "empirical":
        return empirical_covariances(x, means, covariance_type)
    if method == "random":
        return random_covariances(covariance_type, means, generator)
    k, d = means.shape
    return global_covariances(x, k) if method == "global" else torch.eye(d).to(x).expand(k, d, d)


def _given(name: str, value: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    try:
        value = torch.as_tensor(value).to(like)
    except (TypeError, ValueError, RuntimeError):
        value = like.new_empty(0)
    if tuple(value.shape) != shape:
        raise InvalidArgumentError(
            f"{name} must be a name or values of shape {shape}, got shape {tuple(value.shape)}"
        )
    return value
