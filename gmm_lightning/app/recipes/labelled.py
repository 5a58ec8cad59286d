"""A fit that knows the classes against one that does not."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gmm_lightning.app.recipes.account import Account
from gmm_lightning.datasets import load
from gmm_lightning.em import fit_em
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.plotting import plot_mixture
from gmm_lightning.plotting.figures import new_grid


def labelled(account: Account, *, data: str = "penguins", seed: int = 0) -> None:
    """One component per class, from the labels and without them.

    With labels a single M-step is the maximum. Without, EM maximises the likelihood of the rows
    alone, which is then higher, and components are matched with classes afterwards.

    Args:
        account: what it tells.
        data: a built-in data set with classes.
        seed: of the starts.

    Raises:
        InvalidArgumentError: no such data, or data without classes.
    """
    table = load(data)
    if table.labels is None or table.classes is None:
        raise InvalidArgumentError(f"{data} has no classes; try penguins or thyroid_gland")
    x = torch.as_tensor(table.x, dtype=torch.float64)
    x = (x - x.mean(0)) / x.std(0)
    labels, classes = torch.as_tensor(table.labels), np.array(table.classes)[table.labels]
    k, d = len(table.classes), x.shape[1]
    generator = torch.Generator().manual_seed(seed)
    fits = {"every label": labels, "no label": "kmeans"}
    grid, lines = new_grid(1, 2, (13.0, 5.0)), []
    for ax, (name, start) in zip(grid.flat, fits.items(), strict=True):
        layer = GMMLayer(d, k, "full", dtype=torch.float64)
        known = name == "every label"
        result = fit_em(
            layer,
            x,
            initializer=start,
            max_iter=0 if known else 500,
            num_restarts=1 if known else 10,
            tol=1e-6,
            generator=generator,
        )
        found = layer.predict(x)
        if not known:
            found = matched(found, labels, k)
        right = float((found == labels).double().mean())
        lines.append((name, float(result.log_likelihood), f"{right:.1%}"))
        plot_mixture(layer, x, labels=classes, mismatches=True, ax=ax, title=name)
    account.table((data, "log-likelihood per row", "rows in their class"), lines)
    account.picture("labelled", grid)


def matched(found: Tensor, labels: Tensor, k: int) -> Tensor:
    """Component numbers as the classes that they cover best, one to one (the Hungarian method)."""
    table = torch.zeros(k, k, dtype=torch.long)
    table.index_put_((found, labels), torch.ones_like(labels), accumulate=True)
    components, classes = linear_sum_assignment(-np.asarray(table))
    name = torch.empty(k, dtype=torch.long)
    name[components] = torch.as_tensor(classes)
    return name[found]
