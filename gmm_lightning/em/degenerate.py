"""Which of several starts is best, where some have a component that can have any likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.state import EMState
from gmm_lightning.linalg import unsqueeze_like


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
