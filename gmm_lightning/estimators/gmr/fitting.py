"""EM with gmr's rule to stop, by the change of the responsibilities."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike

from gmm_lightning._messages import describe
from gmm_lightning.covariances import FullCovariance
from gmm_lightning.em import fit_em
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.gmr._translate import Floats, floats_of, tensor_of
from gmm_lightning.layers import GMMLayer
from gmm_lightning.projections import Shrinkage
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
        # The constructor draws means, which must not advance the user's generator.
        layer = GMMLayer.from_parameters(weights, means, covariances)
    if shrink:
        layer.projections.append(Shrinkage())
    result = fit_em(
        layer,
        x,
        initializer=None,
        max_iter=n_iter,
        tol=R_diff,
        stopping="responsibilities",
        acceleration=None,
    )
    if verbose:
        print("\n".join(["EM converged."] * result.converged + list(map(str, result.events))))
    return layer.weights.numpy(), layer.means.numpy(), layer.covariance_matrix.numpy()


def shrink_covariances(means: Floats, covariances: Floats, n_samples_eff: ArrayLike) -> Floats:
    """Covariances `(K, D, D)` shrunk towards spherical ones, for given numbers of rows."""
    counts = floats_of(n_samples_eff)
    fits = counts.shape in ((), (1,), (len(means),)) and np.isfinite(counts).all()
    if not (fits and (counts > 0).all()):
        raise InvalidArgumentError(
            f"n_samples_eff must be a number > 0, or one for each of {len(means)} components, "
            f"got {describe(n_samples_eff)}"
        )
    counts = tensor_of(np.broadcast_to(counts, len(means)))
    about, scatter, one = tensor_of(means), tensor_of(covariances), torch.ones_like(counts)
    moments = Moments(counts, counts, about, scatter, dof=one, mean_precision=counts)
    return Shrinkage()(moments, FullCovariance()).scatter.numpy()
