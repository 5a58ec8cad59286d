"""Missing measurements filled in from those that are there: penguins with a quarter left out."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning.app.recipes.account import Account
from gmm_lightning.datasets import load
from gmm_lightning.distributions import impute
from gmm_lightning.em import fit_em
from gmm_lightning.layers import GMMLayer
from gmm_lightning.plotting.figures import new_grid
from gmm_lightning.plotting.palette import palette


def imputation(
    account: Account,
    *,
    num_components: int = 3,
    fraction: float = 0.25,
    train_fraction: float = 0.5,
    seed: int = 0,
) -> None:
    """A mixture of complete rows fills in entries that were taken out of other rows.

    Args:
        account: what it tells.
        num_components: of the mixture.
        fraction: of the entries of the test rows, left out at random.
        train_fraction: of the rows, for the fit.
        seed: of the split, of what is left out and of the start.
    """
    data = load("penguins")
    x = torch.as_tensor(data.x, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    x = x[torch.randperm(len(x), generator=generator)]
    count = int(train_fraction * len(x))
    mean, deviation = x[:count].mean(0), x[:count].std(0)
    z = (x - mean) / deviation
    train, test = z[:count], z[count:]
    layer = GMMLayer(z.shape[1], num_components, "full", "niw", dtype=torch.float64)
    fit_em(layer, train, num_restarts=5, tol=1e-6, max_iter=500, generator=generator)
    mixture = layer.distribution()
    hole = torch.rand(test.shape, generator=generator, dtype=test.dtype) < fraction
    holed = torch.where(hole, torch.nan, test)
    one = GMMLayer(z.shape[1], 1, dtype=torch.float64)
    fit_em(one, train)
    with torch.no_grad():
        guesses = {
            "column means": torch.where(hole, train.mean(0), test),
            "one Gaussian": impute(one.distribution(), holed, "mean"),
            "mixture, mean": impute(mixture, holed, "mean"),
            "mixture, mode": impute(mixture, holed, "mode"),
            "mixture, draw": impute(mixture, holed, "draw", generator=generator),
        }
    lines = []
    for name, filled in guesses.items():
        spread = spread_of_holes(filled, test, hole)
        lines.append((name, *(error_of(filled, test, hole, j) for j in range(z.shape[1])), spread))
    account.say(f"{int(hole.sum())} of {hole.numel()} entries left out; errors in deviations")
    account.table(("filled in by", *data.columns, "spread kept"), lines)
    grid = new_grid(1, z.shape[1], (4.0 * z.shape[1], 3.8))
    own, drawn = palette(2)
    for j, ax in enumerate(grid.flat):
        at = hole[:, j]
        truth = (test[at, j] * deviation[j] + mean[j]).numpy()
        for name, colour in (("mixture, mean", own), ("mixture, draw", drawn)):
            guess = (guesses[name][at, j] * deviation[j] + mean[j]).numpy()
            ax.scatter(truth, guess, s=14, alpha=0.7, color=colour, label=name.split(", ")[1])
        ax.axline((truth.mean(), truth.mean()), slope=1, color="#8C8C8C", linewidth=1)
        ax.set(title=data.columns[j], xlabel="measured", ylabel="filled in" if j == 0 else "")
    grid[0, 0].legend()
    account.picture("imputation", grid)


def error_of(filled: Tensor, truth: Tensor, hole: Tensor, j: int) -> float:
    """Root mean square error of one column, where something was left out."""
    return float((filled - truth)[hole[:, j], j].square().mean().sqrt())


def spread_of_holes(filled: Tensor, truth: Tensor, hole: Tensor) -> float:
    """Deviation of what was filled in over that of what stood there: means shrink it."""
    return float(filled[hole].std() / truth[hole].std())
