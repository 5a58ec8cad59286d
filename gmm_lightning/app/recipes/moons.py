"""How many components for a shape that is no mixture of few: two moons, BIC and AIC."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from gmm_lightning.app.recipes.account import Account
from gmm_lightning.criteria import aic, bic
from gmm_lightning.em import fit_em
from gmm_lightning.layers import GMMLayer
from gmm_lightning.plotting import plot_density, plot_mixture
from gmm_lightning.plotting.figures import new_grid
from gmm_lightning.plotting.palette import palette


def two_moons(num_rows: int, noise: float, generator: Generator) -> Tensor:
    """Rows on two half circles that reach into each other, with Gaussian noise, `(N, 2)`."""
    angle = torch.rand(num_rows, generator=generator, dtype=torch.float64) * torch.pi
    upper = torch.arange(num_rows) % 2 == 0
    x = torch.stack([angle.cos(), angle.sin()], -1)
    x = torch.where(upper.unsqueeze(-1), x, torch.tensor([1.0, 0.5]) - x)
    return x + noise * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def moons(
    account: Account,
    *,
    num_rows: int = 1000,
    noise: float = 0.07,
    most: int = 20,
    num_restarts: int = 5,
    seed: int = 0,
) -> None:
    """BIC and AIC of 1 to `most` components, and the density at the lowest BIC.

    Args:
        account: what it tells.
        num_rows: rows that are drawn.
        noise: deviation from the half circles.
        most: components at most.
        num_restarts: starts of each fit.
        seed: of the rows and of the starts.
    """
    generator = Generator().manual_seed(seed)
    x = two_moons(num_rows, noise, generator)
    fitted, lines = [], []
    for k in range(1, most + 1):
        layer = GMMLayer(2, k, dtype=torch.float64)
        result = fit_em(
            layer, x, num_restarts=num_restarts, tol=1e-4, max_iter=300, generator=generator
        )
        total, p = float(result.log_likelihood) * len(x), layer.num_free_parameters
        lines.append((str(k), float(result.log_likelihood), bic(total, p, len(x)), aic(total, p)))
        fitted.append(layer)
    account.table(("components", "log-likelihood per row", "BIC", "AIC"), lines)
    chosen = {
        name: min(lines, key=lambda line, i=i: line[i]) for i, name in ((2, "BIC"), (3, "AIC"))
    }
    for name, line in chosen.items():
        account.say(f"lowest {name}: {line[0]} components")
    best = fitted[int(chosen["BIC"][0]) - 1]
    grid = new_grid(1, 3, (16.0, 4.4))
    counts = [int(line[0]) for line in lines]
    for i, (name, colour) in enumerate(zip(("BIC", "AIC"), palette(2), strict=True), start=2):
        grid[0, 0].plot(counts, [line[i] for line in lines], "o-", color=colour, label=name)
    ticks = counts[:: -(-len(counts) // 7)]
    grid[0, 0].set(xlabel="components", ylabel="criterion (lower is better)", xticks=ticks)
    grid[0, 0].legend()
    plot_mixture(best, x, ax=grid[0, 1], title=f"{best.num_components} components by BIC")
    plot_density(best, ax=grid[0, 2], title="negative log density")
    account.picture("moons", grid)
