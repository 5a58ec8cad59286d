"""Regression by conditioning: the wait for an eruption given how long the last one was."""

from __future__ import annotations

import torch

from gmm_lightning.app.recipes.account import Account
from gmm_lightning.datasets import load
from gmm_lightning.em import fit_em
from gmm_lightning.layers import GMMLayer
from gmm_lightning.plotting import plot_regression

# Deviations that hold 90 per cent of a Gaussian.
NINETY = 1.645


def regression(
    account: Account,
    *,
    num_components: int = 2,
    num_folds: int = 10,
    seed: int = 0,
) -> None:
    """Gaussian mixture regression on Old Faithful against a straight line, cross-validated.

    The predictive density of both is judged: `log p(wait | eruption)` of rows left out, beside
    the error of the mean.

    Args:
        account: what it tells.
        num_components: of the joint density.
        num_folds: parts, each left out once.
        seed: of the folds and of the starts.

    References:
        Z. Ghahramani, M. I. Jordan (1994), Supervised learning from incomplete data via an EM
        approach, NIPS 6.
    """
    data = load("faithful")
    x = torch.as_tensor(data.x, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    folds = torch.randperm(len(x), generator=generator) % num_folds
    lines = []
    for name, k in (
        ("straight line (one Gaussian)", 1),
        (f"mixture of {num_components}", num_components),
    ):
        squares, densities, inside = [], [], []
        for fold in range(num_folds):
            layer = GMMLayer(2, k, "full", "niw", dtype=torch.float64)
            fit_em(layer, x[folds != fold], tol=1e-6, max_iter=300, generator=generator)
            test = x[folds == fold]
            with torch.no_grad():
                given = layer.distribution().condition([0], test[:, :1])
            squares.append((given.mean - test[:, 1:]).square())
            densities.append(given.log_prob(test[:, 1:]))
            inside.append((given.mean - test[:, 1:]).abs() <= NINETY * given.variance.sqrt())
        error = torch.cat(squares).mean().sqrt()
        cover = torch.cat(inside).double().mean()
        lines.append((name, float(error), float(torch.cat(densities).mean()), f"{cover:.0%}"))
    account.table(
        ("waiting | eruptions", "error (minutes)", "log density", "within the 90 % band"), lines
    )
    layer = GMMLayer(2, num_components, "full", "niw", dtype=torch.float64)
    fit_em(layer, x, tol=1e-6, max_iter=300, generator=generator)
    title = "Gaussian mixture regression with its 90 % band"
    axes = plot_regression(layer, x, stds=NINETY, columns=data.columns, title=title)
    account.picture("regression", axes)
