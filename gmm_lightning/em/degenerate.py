"""Degenerate components, which can have any likelihood: which they are, and fits without them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Size, Tensor

from gmm_lightning.em.data_scale import DataScale
from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.state import EMState
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import accumulator_dtype, unsqueeze_like

# A covariance in a layer counts as one at the floor up to this factor: in float32 its smallest
# eigenvalue is known to some percent.
_NEAR = 1.25


@torch.no_grad()
def degenerate_components(
    layer: GMMLayer, counts: Tensor | None = None, mean_weight: float = 1.0
) -> list[tuple[int, ...]]:
    """Components at the floor, or of fewer than `D + 1` rows, as in `EMResult.degenerate`.

    It needs only the parameters, however they were trained.

    Args:
        layer: the mixture, after a fit.
        counts: weight of the rows that each component holds, `(*B, K)`; None: not known.
        mean_weight: of the rows that have any.

    Example:
        >>> layer = GMMLayer(2, 3)
        >>> degenerate_components(layer, torch.tensor([80.0, 2.5, 40.0]))
        [(1,)]
    """
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    found = _at_floor(model, parameters).expand(parameters.means.shape[:-1])
    if counts is not None:
        weight = torch.full((parameters.num_mixtures,), mean_weight).to(counts)
        few = replace(model, mean_weight=weight).has_few_rows(counts.reshape(found.shape))
        found = found | few.to(found.device)
    return component_indices(found.cpu(), layer.batch_shape)


def component_indices(found: Tensor, batch_shape: Size) -> list[tuple[int, ...]]:
    """Indices of the components in a mask `(M, K)`, after those of the batch."""
    mixture, component = found.nonzero(as_tuple=True)
    cells = np.unravel_index(mixture.numpy(), tuple(batch_shape) or (1,))[: len(batch_shape)]
    return list(zip(*(cell.tolist() for cell in cells), component.tolist(), strict=True))


def _at_floor(model: MixtureModel, parameters: MixtureParameters) -> Tensor:
    """Which covariances are as small as their floor, `(M, G)`."""
    family, (_, k, d) = model.family, parameters.means.shape
    wide = parameters.to(accumulator_dtype(parameters.means.device))
    scatter = family.project(family.covariance_matrix(model.scale(wide), d))
    dof = scatter.new_ones(len(scatter), family.groups(k))
    if family.relative_floor == 0 or model.regularizes_covariances:
        return torch.zeros_like(dof, dtype=torch.bool)
    scale = DataScale.of(model.distribution(wide).variance, model.local_scale)
    unit, eps = scale.of_form(scatter, dof).unit, torch.finfo(parameters.dtype).eps
    bound = _NEAR * family.variance_floor(scatter, dof, unit, eps)
    return family.is_below(scatter, dof, bound) & ~model.has_frozen("covariances")


@torch.no_grad()
def regular_objectives(e_step: EStep, model: MixtureModel, state: EMState) -> Tensor:
    """The final objective of every start without what degenerate components gain, `(R,)`.

    A component on a few rows gains without bound as its covariance shrinks. The covariance within
    the other components is added to it, and the objective is taken anew: so a start
    that puts a row far away into a component of its own can be the best one, and one that has
    found three rows in a line is not.

    Args:
        e_step: over the rows.
        model: of all starts.
        state: of the finished fit.
    """
    number, size = state.final.num_mixtures, model.batch_shape.numel()
    objective = state.history[-1].clone() if state.history else torch.zeros(number)
    runs = state.degenerate.any(-1).nonzero().squeeze(-1)
    if number == size or not len(runs) or not state.history:
        return objective
    if model.family.tied:
        objective[runs] = -torch.inf
        return objective
    some, parameters = model.select(runs), state.final.select(runs)
    regular = _with_pooled_scale(some, parameters, state.degenerate[runs])
    objective[runs] = some.objective(regular, e_step(some, regular)).cpu()
    return objective.nan_to_num(nan=-torch.inf)


def _with_pooled_scale(
    model: MixtureModel, parameters: MixtureParameters, degenerate: Tensor
) -> MixtureParameters:
    """The parameters with the pooled covariance of the others added to degenerate components."""
    family, d = model.family, parameters.means.shape[-1]
    mixture, scale = model.distribution(parameters), model.scale(parameters)
    own = family.project(family.covariance_matrix(scale, d))
    proper = torch.where(degenerate.to(own.device), 0.0, mixture.weights)
    total = proper.sum(-1, keepdim=True)
    pooled = (unsqueeze_like(proper, own) * own).sum(1, keepdim=True)
    pooled = pooled / unsqueeze_like(total.clamp(min=1e-300), pooled)
    whole = family.project(mixture.covariance_matrix).unsqueeze(1)
    pooled = torch.where(unsqueeze_like(total, pooled) > 0, pooled, whole)
    raw = family.raw(family.estimate(own + pooled, torch.ones_like(proper)))
    where = unsqueeze_like(degenerate.to(raw.device), parameters.raw_scale)
    return parameters._replace(raw_scale=torch.where(where, raw, parameters.raw_scale))
