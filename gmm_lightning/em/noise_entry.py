"""Responsibilities of rows, by what evidence says and with the noise as one more entry."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.responsibilities import Responsibilities, softmax_responsibilities_
from gmm_lightning.rows import Batch, errors_of


class RowShares(NamedTuple):
    """Shares of components `(M, K, n)` and of noise `(M, H, n)`, and log densities `(M, n)`."""

    components: Tensor
    noise: Tensor
    log_prob: Tensor

    def weighted_(self, weight: Tensor) -> RowShares:
        """These times the weights `(n, M)` of the rows; the components are overwritten."""
        weight = weight.T
        entry = weight.unsqueeze(-2)
        return RowShares(self.components.mul_(entry), self.noise * entry, self.log_prob * weight)


def row_shares(
    model: MixtureModel,
    parameters: MixtureParameters,
    log_joint: Tensor,
    rows: Batch,
    responsibilities: Responsibilities,
    missing: str | None = None,
) -> RowShares:
    """The responsibilities of a chunk from log joint densities, which may be overwritten.

    Args:
        model: of M mixtures; without noise H is 0.
        parameters: of the mixtures.
        log_joint: `log pi_k + log N_k(x)` of the Gaussian part alone, `(M, K, n)`.
        rows: `(n, *B, D)`; evidence and noise read them in the dtype of the layer.
        responsibilities: maps log joint densities to responsibilities.
        missing: see `Noise.log_density`.
    """
    k = log_joint.shape[-2]
    if model.evidence is not None:
        log_joint += model.log_evidence(rows, k).movedim(0, -1)
    if model.noise is None:
        resp, log_prob = responsibilities(log_joint, -2, rows)
        return RowShares(resp, resp[:, :0], log_prob)
    # In the dtype of the layer the corners of a box are values of the rows.
    own = rows._replace(x=rows.x.to(model.local_scale))
    log_density = model.noise.log_evident_density(own, model.evidence, missing)
    log_density = model.per_mixture(log_density).T
    # All entries lack the factor 1 - p0, which makes no difference to the responsibilities.
    entry = (parameters.noise_logit + log_density).to(log_joint).unsqueeze(-2)
    resp, log_prob = responsibilities(torch.cat([log_joint, entry], -2), -2, rows)
    log_share = F.logsigmoid(-parameters.noise_logit)
    return RowShares(resp[:, :k], resp[:, k:], log_prob + log_share.to(log_prob))


def shares_of_few(model: MixtureModel, parameters: MixtureParameters, rows: Batch) -> RowShares:
    """The responsibilities of rows `(n, *B, D)` that are computed at once."""
    x = model.per_mixture(rows.x.to(parameters.means))
    missing = "marginalize" if bool(torch.isnan(x).any()) else None
    joint = model.distribution(parameters).log_joint(x, missing, errors_of(rows)).movedim(0, -1)
    return row_shares(model, parameters, joint, rows, softmax_responsibilities_, missing)
