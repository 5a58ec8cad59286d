"""What a mixture says of many rows, by the products of an E-step instead of differences."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan import make_plan
from gmm_lightning.em.plan_parts import parts_of
from gmm_lightning.em.plan_terms import EStepPlan
from gmm_lightning.em.products import squeeze_group
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import exact_products


@torch.no_grad()
def reduce_log_joint(
    layer: GMMLayer, x: Tensor, reduce: Callable[[Tensor], Tensor]
) -> Tensor | None:
    """`reduce(log_joint)` of rows, as exact as the E-steps of a fit: to 2e-10 nats in float64.

    It takes a fifth of the time of `layer.log_joint` for full covariances of 32 features.

    Args:
        layer: one mixture, without noise or evidence.
        x: rows `(N, D)`, without missing entries.
        reduce: maps log joint densities `(K, n)` of some rows to a result for each, `(n, ...)`.

    Returns:
        The results, or None for a batch, and where an E-step would take differences too: of few
        rows, or of densities that are not finite. Ask the layer then.
    """
    if layer.batch_shape or layer.noise is not None or layer.evidence is not None:
        return None
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    plan = make_plan(model, parameters, len(x), shared=True)
    if plan is None:
        return None
    workspace = Workspace()
    parts = parts_of(plan, model.family, parameters, workspace)
    dtype, found = plan.joint_dtype(parameters.dtype), list[Tensor]()
    with exact_products(x.device):
        for rows in x.to(parameters.means).split(workspace.rows_per_chunk(plan, parameters)):
            shape = (1, layer.num_components, len(rows))
            joint = workspace.log_joint(shape, dtype, x.device)
            for part in parts:
                part.write_log_joint(rows, joint)
            if not bool(torch.isfinite(joint.sum())):
                return None
            log_joint = joint[0].to(parameters.dtype)
            if layer.covariance.tied:
                log_joint -= _shared_term(model, parameters, plan, rows)
            found.append(reduce(log_joint))
    return torch.cat(found)


def _shared_term(
    model: MixtureModel, parameters: MixtureParameters, plan: EStepPlan, rows: Tensor
) -> Tensor:
    """What the products of a tied family leave out: half a squared distance `(n)` to the centre."""
    centre = squeeze_group(plan.products[0].coordinates.centre.to(rows))
    white = model.family.whiten(model.scale(parameters)[0], (rows - centre).unsqueeze(-2))
    return 0.5 * white.square().sum((-2, -1))
