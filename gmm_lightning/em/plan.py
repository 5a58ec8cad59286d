"""What one pass needs of the parameters: coordinates, natural parameters, and a precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning.covariances import Features, StandardizedCoordinates
from gmm_lightning.distributions import LOG_2PI
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import accumulator_dtype

# The largest magnitude of cancelling terms that a dtype may carry. Its machine precision times
# this, the error of a log density, is 6e-5 in float32 and 2e-10 in float64.
LARGEST = {torch.float32: 2.0**10, torch.float64: 2.0**20}


@dataclass(frozen=True)
class Plan:
    """The log joint densities of all components as one product with the features of a row.

    Attributes:
        features: the terms of the family.
        frame: the coordinates, in float64.
        natural: coefficients of `(1, q(z), z)`, `(P, M, 1 + Q + D)`, in the dtype to compute in.
        shared: whether all mixtures of a batch read the same rows: then P = 1 and M counts the
            components of all of them.
    """

    features: Features
    frame: StandardizedCoordinates
    natural: Tensor
    shared: bool


@torch.no_grad()
def make_plan(layer: GMMLayer, *, shared: bool) -> Plan | None:
    """A plan in the layer's dtype, else in float64, else None: differences must be taken.

    The choice follows from a bound on what cancels in the sum of the terms, and so from the
    parameters alone: a component that is tight and far from the centre of the mixture needs
    more digits than one that is not.
    """
    d, k = layer.num_features, layer.num_components
    features = layer.covariance.features(d)
    batch = layer.batch_shape
    groups = 1 if shared else batch.numel()
    if features is None or not features.pays(batch.numel() * k // groups):
        return None
    wide = accumulator_dtype(layer.means.device)
    mixtures = batch.numel() // groups
    log_weights = layer.mixture_logits.detach().to(wide).log_softmax(-1).reshape(groups, -1)
    means = layer.means.detach().to(wide).reshape(groups, -1, d)
    compact = layer.covariance.scale(layer.raw_scale.detach().to(wide))
    log_scale = layer.covariance.half_log_det(compact, d)
    log_scale = log_scale.expand(*batch, k).reshape(groups, -1)
    form = compact.shape[len(batch) + 1 :]
    scale = compact.expand(*batch, k, *form).reshape(groups, -1, *form)
    weights = log_weights.exp() / mixtures
    centre = (weights.unsqueeze(-1) * means).sum(-2)
    for dtype in dict.fromkeys((layer.means.dtype, wide)):
        # The centre is a number of the dtype, so that subtracting it is exact where it matters.
        centre = centre.to(dtype).to(wide)
        gap = means - centre.unsqueeze(-2)
        frame = StandardizedCoordinates(centre, *features.axes(weights, gap, scale))
        natural = features.natural(scale, gap, frame)
        if not bool((natural.magnitude <= LARGEST[dtype]).all()):
            continue
        constant = log_weights - log_scale - 0.5 * (natural.square + d * LOG_2PI)
        whole = torch.cat([constant.unsqueeze(-1), natural.quadratic, natural.linear], -1)
        return Plan(features, frame, whole.to(dtype), shared)
    return None
