"""Handwritten digits through principal components to a mixture, and back to new digits."""

from __future__ import annotations

import torch

from gmm_lightning.app.recipes._scikit_learn import load_with_scikit_learn
from gmm_lightning.app.recipes.account import Account
from gmm_lightning.criteria import bic
from gmm_lightning.em import fit_em
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.plotting import plot_images
from gmm_lightning.plotting.figures import new_grid


def digits(
    account: Account,
    *,
    num_axes: int = 16,
    num_components: int = 30,
    num_draws: int = 30,
    seed: int = 0,
) -> None:
    """Fit a mixture to 1,797 digits of 8 x 8 pixels and draw new ones.

    Args:
        account: what it tells.
        num_axes: principal components that are kept.
        num_components: of the mixture.
        num_draws: new digits in the picture.
        seed: of the start and of the draws.

    Raises:
        InvalidArgumentError: scikit-learn, which has the digits, is not installed; or more axes
            than pixels.

    References:
        E. Alpaydin, C. Kaynak (1998), Optical recognition of handwritten digits, UCI.
    """
    x, _ = load_with_scikit_learn("digits", "the digits", torch.float64)
    if num_axes > x.shape[1]:
        raise InvalidArgumentError(f"num_axes must be at most {x.shape[1]}, got {num_axes}")
    mean = x.mean(0)
    _, singular, axes = torch.linalg.svd(x - mean, full_matrices=False)
    axes = axes[:num_axes]
    kept = float(singular[:num_axes].square().sum() / singular.square().sum())
    account.say(f"{num_axes} of {x.shape[1]} principal components keep {kept:.0%} of the variance")
    z = (x - mean) @ axes.T
    lines = []
    generator = torch.Generator().manual_seed(seed)
    for family, k in (("full", 1), ("diag", num_components), ("full", num_components)):
        layer = GMMLayer(num_axes, k, family, "niw", dtype=torch.float64)
        result = fit_em(layer, z, num_restarts=5, tol=1e-4, generator=generator)
        mean_density = float(result.log_likelihood)
        score = bic(mean_density * len(z), layer.num_free_parameters, len(z))
        lines.append((f"{family}, K = {k}", mean_density, score))
    account.table(("mixture", "log-likelihood per row", "BIC"), lines)
    with torch.no_grad():
        new = layer.sample(num_draws, generator=generator) @ axes + mean
        centres = layer.means[layer.weights.argsort(descending=True)] @ axes + mean
    grid = new_grid(1, 3, (15.0, 4.4))
    grid[0, 0].figure.get_layout_engine().set(wspace=0.06)
    for ax, (title, images) in zip(
        grid.flat,
        (("digits", x[:num_draws]), ("means", centres), ("draws", new)),
        strict=True,
    ):
        plot_images(images, ax=ax, num_cols=6, limits=(0.0, 16.0), title=title)
    account.picture("digits", grid)
