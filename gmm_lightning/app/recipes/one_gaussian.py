"""The first step of the lecture: one Gaussian by maximum likelihood, and what it misses."""

from __future__ import annotations

import math

import torch

from gmm_lightning.app.recipes.account import Account
from gmm_lightning.criteria import bic
from gmm_lightning.datasets import load
from gmm_lightning.em import fit_em
from gmm_lightning.layers import GMMLayer
from gmm_lightning.plotting import plot_mixture
from gmm_lightning.plotting.figures import new_grid


def one_gaussian(account: Account, *, seed: int = 0) -> None:
    """One Gaussian and two on Old Faithful, against the closed form of the first.

    The maximum is the mean of the rows and their covariance (divided by n), where the
    log-likelihood per row is `-(D log 2 pi + log|S| + D) / 2`.

    Args:
        account: what it tells.
        seed: of the start of the mixture of two.
    """
    data = load("faithful")
    x = torch.as_tensor(data.x, dtype=torch.float64)
    covariance = x.T.cov(correction=0)
    d = x.shape[1]
    closed = -0.5 * (d * math.log(2 * math.pi) + float(covariance.logdet()) + d)
    grid = new_grid(1, 2, (11.0, 4.4))
    lines = [("closed form", closed, bic(closed * len(x), 5, len(x)))]
    for ax, k in zip(grid.flat, (1, 2), strict=True):
        layer = GMMLayer(d, k, dtype=torch.float64)
        generator = torch.Generator().manual_seed(seed)
        result = fit_em(layer, x, tol=1e-8, max_iter=500, generator=generator)
        score = bic(float(result.log_likelihood) * len(x), layer.num_free_parameters, len(x))
        lines.append((f"fitted, K = {k}", float(result.log_likelihood), score))
        plot_mixture(layer, x, columns=data.columns, ax=ax, title=f"K = {k}")
        if k == 1:
            mean, matrix = layer.means[0].detach(), layer.covariance_matrix[0].detach()
            account.say(
                "largest difference of the fitted mean and covariance from the closed form: "
                f"{float((mean - x.mean(0)).abs().max()):.1e} and "
                f"{float((matrix - covariance).abs().max()):.1e}"
            )
    account.table(("Old Faithful", "log-likelihood per row", "BIC"), lines)
    account.picture("one_gaussian", grid)
