"""The two steps: sums from rows, parameters from sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.em.collapse import Collapse, Spread, like
from gmm_lightning.em.kernels import expected_statistics
from gmm_lightning.em.plan import make_plan
from gmm_lightning.em.posterior import Posterior, soft
from gmm_lightning.em.rows import as_rows, as_weights, check_finite, is_shared
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.errors import CollapseError, InvalidArgumentError, InvalidDataError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import Moments, SufficientStatistics

# Below this share of all rows a component has no mean of its own: float64 cannot hold it.
EMPTY_SHARE = 2.3e-16


@torch.no_grad()
def e_step(
    layer: GMMLayer,
    x: Any,
    sample_weight: Any = None,
    *,
    chunk_size: int | None = None,
    posterior: Posterior = soft,
    units: Callable[[Tensor], Tensor] | None = None,
) -> SufficientStatistics:
    """Expected sufficient statistics of rows under the layer's current parameters.

    Args:
        layer: the mixture.
        x: rows `(*S, *B, D)`, a tensor or an array.
        sample_weight: not negative, broadcasts to `(*S, *B)`.
        chunk_size: rows at a time; None: what stays in cache.
        posterior: how responsibilities follow from log joint densities, in place:
            `gmm_lightning.em.posterior.soft`, `hard`, or `tempered(beta)`.
        units: a change of units of the rows, such as a `Standardize`, applied to a chunk at a
            time while it is in cache.

    Returns:
        Statistics that add over batches, ranks and machines.

    Raises:
        InvalidDataError: wrong shape, bad weights, or rows that are not finite (by number).

    References:
        R. M. Neal, G. E. Hinton (1998), A view of the EM algorithm that justifies incremental,
        sparse, and other variants.

    Example:
        >>> layer = GMMLayer(2, 3)
        >>> stats = e_step(layer, torch.randn(10, 2)) + e_step(layer, torch.randn(5, 2))
        >>> int(stats.num_samples), round(float(stats.counts.sum()), 6)
        (15, 15.0)
    """
    rows = as_rows(layer, x)
    weight = as_weights(layer, sample_weight, x)
    stats = expected_statistics(
        layer,
        make_plan(layer, shared=is_shared(rows)),
        [(rows, weight)],
        workspace=Workspace(chunk_size),
        posterior=posterior,
        units=units,
    )
    if not bool(torch.isfinite(stats.log_likelihood).all()):
        check_finite(rows)
        raise InvalidDataError(
            f"the log-likelihood of these rows is {stats.log_likelihood.tolist()}: their values "
            f"are too large for {layer.means.dtype}; standardise them or use float64"
        )
    return stats


@torch.no_grad()
def m_step(layer: GMMLayer, stats: SufficientStatistics) -> list[Collapse]:
    """Write the parameters that maximise the expected objective, in place.

    The priors add their pseudo-observations, the layer's projections apply in order, the floor
    bounds the covariances from below, and the family estimates its scale.

    Args:
        layer: the mixture that the statistics were taken under.
        stats: from `e_step`, summed over whatever the data were split into.

    Returns:
        The components that had to be repaired; empty when all is well.

    Raises:
        InvalidArgumentError: the statistics are of another shape or family.
        InvalidDataError: they hold no rows, or are not finite.
        CollapseError: a covariance is singular and `relative_floor` is 0.

    Example:
        >>> layer = GMMLayer(2, 1)
        >>> m_step(layer, e_step(layer, torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])))
        []
        >>> layer.means
        Parameter containing:
        tensor([[1., 1.]], requires_grad=True)
    """
    family = layer.covariance
    if stats.shift.shape != layer.means.shape:
        raise InvalidArgumentError(
            f"the statistics are of shape {tuple(stats.shift.shape)}, the layer's means of shape "
            f"{tuple(layer.means.shape)}"
        )
    if not bool(torch.isfinite(stats.pack()).all()):
        raise InvalidDataError(
            f"the statistics are not finite: the values of the rows are too large for "
            f"{layer.means.dtype}; standardise them or use float64"
        )
    if not bool((stats.total_weight > 0).all()):
        raise InvalidDataError("the statistics hold no rows: their total weight is 0")
    moments = Moments.from_statistics(stats, family)
    spread = Spread.of(moments, family, layer.means.dtype)
    empty = moments.counts <= stats.total_weight.unsqueeze(-1) * EMPTY_SHARE
    moments = without_rows(moments, stats, family, empty)
    for prior in layer.all_priors:
        moments = prior.update(moments, family)
    for projection in layer.projections:
        moments = projection(moments, family)
    moments = spread.fill(moments, family)
    scatter, smallest = moments.scatter, torch.full_like(moments.dof, torch.inf)
    if family.relative_floor > 0:
        eps = torch.finfo(layer.means.dtype).eps
        bound = family.variance_floor(scatter, moments.dof, spread.variance, eps)
        scatter, smallest = family.floor(scatter, moments.dof, bound)
        if bool(torch.isfinite(smallest).any()):
            present = layer.scale.detach()
            bound = family.variance_floor(
                moments.scatter, moments.dof, spread.variance, eps, present
            )
            scatter, smallest = family.floor(moments.scatter, moments.dof, bound)
        smallest = smallest * (bound / spread.variance.unsqueeze(-2)).amin(-1)
    if family.reg_covar > 0:
        identity = torch.eye(layer.num_features).to(scatter)
        unit = family.project(identity.expand(*moments.dof.shape, *identity.shape))
        scatter = scatter + family.reg_covar * like(moments.dof, unit) * unit
    scale = family.estimate(scatter, moments.dof)
    if not bool(torch.isfinite(family.raw(scale)).all()):
        raise CollapseError(
            "a covariance is singular; set relative_floor or reg_covar of the covariance above 0, "
            "add a covariance prior, or use fewer components"
        )
    if not bool(torch.isfinite(moments.means.to(layer.means)).all()):
        raise InvalidDataError(
            f"the means are too large for {layer.means.dtype}; standardise the rows or use float64"
        )
    newly_empty = empty & ~without_weight(layer)
    layer.write(moments.mass, moments.means, scale)
    return [
        *describe(torch.isfinite(smallest), family.sum_tied(stats.counts), smallest, "floored"),
        *emptied(newly_empty, stats),
    ]


def without_weight(layer: GMMLayer) -> Tensor:
    """Components that the last M-step left without rows, `(*B, K)`."""
    return layer.weights <= 2 * torch.finfo(layer.means.dtype).tiny


def emptied(where: Tensor, stats: SufficientStatistics) -> list[Collapse]:
    """Events for the marked components, which hold no rows."""
    return describe(where, stats.counts, torch.full_like(stats.counts, torch.inf), "emptied")


def without_rows(
    moments: Moments, stats: SufficientStatistics, family: Covariance, empty: Tensor
) -> Moments:
    """Components that hold no rows keep their reference point and add nothing."""
    if not bool(empty.any()):
        return moments
    counts = torch.where(empty, 0.0, moments.counts)
    scatter = moments.scatter
    if not family.tied:
        scatter = torch.where(like(empty, scatter), 0.0, scatter)
    return Moments(
        counts=counts,
        mass=counts,
        means=torch.where(empty.unsqueeze(-1), stats.shift.to(moments.means), moments.means),
        scatter=scatter,
        dof=family.sum_tied(counts),
    )


def describe(where: Tensor, counts: Tensor, smallest: Tensor, action: str) -> list[Collapse]:
    """Events for the marked components."""
    return [
        Collapse(tuple(index), float(counts[tuple(index)]), float(smallest[tuple(index)]), action)
        for index in where.nonzero().tolist()
    ]
