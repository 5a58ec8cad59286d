"""EM as gmr stops it: when the responsibilities stand still."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gmm_lightning.covariances import FullCovariance
from gmm_lightning.em import e_step, m_step
from gmm_lightning.em.shrinkage import Shrinkage
from gmm_lightning.estimators.gmr._translate import Floats, tensor_of
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import Moments


@torch.no_grad()
def fit(
    x: Floats,
    start: tuple[Floats, Floats, Floats],
    *,
    R_diff: float,
    n_iter: int,
    shrink: bool,
    verbose: int,
) -> tuple[Floats, Floats, Floats]:
    """Weights, means and covariances after at most `n_iter` M-steps from given ones."""
    weights, means, covariances = (tensor_of(value) for value in start)
    with torch.random.fork_rng(devices=[]):
        # A layer draws means of its own first: not from the user's random numbers.
        layer = GMMLayer.from_parameters(weights, means, covariances)
    if shrink:
        layer.projections.append(Shrinkage())
    rows = torch.from_numpy(x)
    before: Tensor | float = 0.0
    for iteration in range(n_iter):
        now = layer.responsibilities(rows)
        if float(torch.linalg.norm(now - before)) < R_diff:
            if verbose:
                print("EM converged.")
            break
        before = now
        for event in m_step(layer, e_step(layer, rows)):
            if verbose:
                print(replace(event, iteration=iteration))
    return layer.weights.numpy(), layer.means.numpy(), layer.covariance_matrix.numpy()


def shrunk(means: Floats, covariances: Floats, n_samples_eff: Floats) -> Floats:
    """Covariances `(K, D, D)` pulled towards balls, as if estimated from so many rows `(K,)`."""
    counts = tensor_of(np.broadcast_to(n_samples_eff, len(means)))
    moments = Moments(
        counts, counts, tensor_of(means), tensor_of(covariances), torch.ones_like(counts)
    )
    return Shrinkage()(moments, FullCovariance()).scatter.numpy()
