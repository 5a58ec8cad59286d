"""Rows that given assignments mark as noise, at the start of EM."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning.em.maximization import MStepResult
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.responsibilities import ASSIGNMENTS
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.rows import Batch

# A smaller share of a row is the rounding of responsibilities that sum to one.
_LEAST_SHARE = 1e-5


def without_marked(model: MixtureModel, rows: Batch) -> tuple[Batch, Tensor]:
    """Rows that weigh as much as their components hold of them, and the weight of noise `(M,)`.

    Noise is what is labelled -1, or what is missing in responsibilities to a sum of one. It is
    the same for all mixtures, since no initializer but given assignments marks rows.

    Raises:
        InvalidArgumentError: labels of -1 for a model without noise, or for all rows.
    """
    assert rows.extra is not None
    assert rows.weight is not None
    given = rows.extra[ASSIGNMENTS]
    labels = not given.is_floating_point()
    held = (given[:, 0] >= 0).double() if labels else given[:, 0].sum(-1).double()
    held = torch.where(held >= 1 - _LEAST_SHARE, 1.0, held).to(rows.weight.device)
    nothing = model.per_mixture(torch.zeros_like(rows.weight[:1], dtype=torch.float64))[0]
    if bool((held == 1).all()) or (model.noise is None and not labels):
        return rows, nothing.to(model.batch_index.device)
    if model.noise is None:
        raise InvalidArgumentError(
            "component indices must be >= 0: -1 marks rows of noise, and the layer has none; make "
            'it with noise="uniform"'
        )
    share = held.reshape(-1, *[1] * (rows.weight.dim() - 1))
    weight = rows.weight.double()
    kept, marked = weight * share, (weight * (1 - share)).sum(0, keepdim=True)
    if not bool((kept.sum(0) > 0).all()):
        raise InvalidArgumentError(
            "the initializer marks every row as noise: some must belong to a component"
        )
    if labels:
        given = given.clamp(min=0)
    else:
        given = given / torch.where(held > 0, held, 1.0).to(given)[:, None, None]
    own = rows._replace(weight=kept, extra={**rows.extra, ASSIGNMENTS: given})
    return own, model.per_mixture(marked)[0].to(model.batch_index.device)


def with_start_weight(model: MixtureModel, start: MStepResult, marked: Tensor) -> MStepResult:
    """A first M-step with the noise's weight of the start, where no row is marked as noise."""
    if model.noise is None:
        return start
    logit = start.parameters.noise_logit
    if not model.noise.fixed:
        logit = torch.where((marked > 0).unsqueeze(-1), logit, model.noise.start_logit)
    return start._replace(parameters=start.parameters._replace(noise_logit=logit))
