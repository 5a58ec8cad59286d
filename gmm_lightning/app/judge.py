"""Numbers that say how well a model describes rows, in the user's units, from one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.app.agreement import Agreement
from gmm_lightning.criteria import aic, bic, icl
from gmm_lightning.training import GMMModule
from gmm_lightning.training.parts import Part, Portion, spacing

# Rows at a time: N x K responsibilities never stand in memory together.
BLOCK = 1 << 14
# Log-densities that are kept for quantiles; of more rows, evenly spaced ones.
KEPT = 10_000_000
COVERAGES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Density:
    """`log p(x)` of rows, `(n,)` float64, and their weights or None."""

    values: Tensor
    weight: Tensor | None

    def quantiles(self, probability: Tensor) -> Tensor:
        """Values below which the given shares lie.

        Between two rows it is interpolated. With weights it is the first value at which the
        cumulated weight reaches the share.
        """
        order = self.values.argsort()
        ordered = self.values[order]
        if self.weight is not None:
            mass = self.weight[order].cumsum(0)
            index = torch.searchsorted(mass, probability * mass[-1])
            return ordered[index.clamp(max=len(ordered) - 1)]
        position = probability * (len(ordered) - 1)
        below = position.floor().long()
        above = (below + 1).clamp(max=len(ordered) - 1)
        return ordered[below].lerp(ordered[above], position - below)

    def share_above(self, edge: Tensor) -> float:
        """Share of the rows, by weight, at an edge or above."""
        above = (self.values >= edge).double()
        if self.weight is None:
            return float(above.mean())
        return float((self.weight * above).sum() / self.weight.sum())


class Spread:
    """Weighted mean and variance, block by block (Chan, Golub and LeVeque 1979)."""

    def __init__(self) -> None:
        self.weight = self.mean = self.squares = 0.0

    def add(self, values: Tensor, weight: Tensor | None) -> None:
        """Values `(n,)`; weights likewise, or None."""
        mass = float(len(values)) if weight is None else float(weight.sum())
        if mass == 0:
            return
        total = values.sum() if weight is None else (weight * values).sum()
        mean = float(total) / mass
        gaps = (values - mean).square()
        squares = float(gaps.sum() if weight is None else (weight * gaps).sum())
        both, gap = self.weight + mass, mean - self.mean
        self.squares += squares + gap * gap * self.weight * mass / both
        self.mean += gap * mass / both
        self.weight = both


@torch.no_grad()
def judge(module: GMMModule, part: Part) -> tuple[dict[str, Any], Density]:
    """Log-likelihood with its standard error, criteria, and agreement with labels.

    With sample weights every mean is weighted, and the number of rows that the criteria and the
    standard error speak of is the total weight.

    Returns:
        The numbers, and the density that they come from: of at most `KEPT` rows, evenly spaced.
    """
    layer, spread, entropy = module.layer, Spread(), 0.0
    pairs = Agreement(layer.num_components)
    step, row = spacing(part.num_rows, KEPT), 0
    # Filled in place: many small pieces between the blocks would keep their memory from them.
    values, weights = torch.empty(2, -(-part.num_rows // step), dtype=torch.float64)
    weighted = False
    for portion in small(part):
        weight = None if portion.weight is None else portion.weight.double().cpu()
        log_joint = layer.log_joint(module.standardize(portion.x.to(layer.means.device)))
        log_prob = log_density_of(module, log_joint)
        log_resp = log_joint.log_softmax(-1)
        spent = -(log_resp.exp() * log_resp).nan_to_num().sum(-1).double().cpu()
        entropy += float((spent if weight is None else weight * spent).sum())
        spread.add(log_prob, weight)
        kept = slice(-row % step, None, step)
        own = log_prob[kept]
        at = slice(-(-row // step), -(-row // step) + len(own))
        values[at] = own
        if weight is not None:
            weights[at], weighted = weight[kept], True
        if portion.labels is not None:
            pairs.add(portion.labels.cpu(), log_joint.argmax(-1).cpu(), weight)
        row += len(log_prob)
    n, p, total = spread.weight, layer.num_free_parameters, spread.mean * spread.weight
    numbers = {
        "log_likelihood": spread.mean,
        "standard_error": math.sqrt(spread.squares) / n,
        "objective": spread.mean + float(layer.log_prior()) / n,
        "bic": bic(total, p, n),
        "aic": aic(total, p),
        "icl": icl(total, p, n, entropy),
        "num_rows": row,
        **({"total_weight": n} if weighted else {}),
        "num_features": layer.num_features,
        "num_components": layer.num_components,
        "num_free_parameters": p,
        **(pairs.scores() if pairs.counts else {}),
    }
    return numbers, Density(values, weights if weighted else None)


def small(part: Part) -> Iterator[Portion]:
    """The rows in blocks of which the responsibilities may stand in memory."""
    for portion in part:
        for low in range(0, len(portion.x), BLOCK):
            at = slice(low, low + BLOCK)
            weight, labels = portion.weight, portion.labels
            yield Portion(
                portion.x[at],
                None if weight is None else weight[at],
                None if labels is None else labels[at],
            )


@torch.no_grad()
def log_likelihood(module: GMMModule, part: Part) -> float:
    """Weighted mean of `log p(x)`, in the user's units."""
    spread = Spread()
    for portion in small(part):
        weight = None if portion.weight is None else portion.weight.double().cpu()
        spread.add(log_density(module, portion.x), weight)
    return spread.mean


@torch.no_grad()
def log_density(module: GMMModule, rows: Tensor) -> Tensor:
    """`log p(x)` of rows in the user's units, `(N,)`, float64, on the processor."""
    device = module.layer.means.device
    blocks = (module.standardize(x.to(device)) for x in rows.split(BLOCK))
    return torch.cat([log_density_of(module, module.layer.log_joint(z)) for z in blocks])


def log_density_of(module: GMMModule, log_joint: Tensor) -> Tensor:
    """`log p(x)` in the user's units, float64, on the processor, from `log p(x, k)`."""
    return (log_joint.logsumexp(-1).double() + module.standardize.log_abs_det).cpu()


def density_quantiles(density: Density) -> dict[str, list[float]]:
    """Quantiles of the training density, finest where outliers are cut off."""
    tail = torch.logspace(-5, -2, 31, dtype=torch.float64)[:-1]
    probability = torch.cat([tail, torch.linspace(0.01, 0.99, 99, dtype=torch.float64)])
    quantile = density.quantiles(probability)
    return {"probability": probability.tolist(), "log_density": quantile.tolist()}


def coverage(module: GMMModule, density: Density, generator: torch.Generator) -> dict[str, float]:
    """Share of rows inside the model's highest-density regions of given masses.

    A region of mass p holds the densest points; its edge is the (1 - p) quantile of the density
    of draws from the model (Hyndman 1996). A calibrated model covers a share p of new rows.
    """
    drawn = log_density(module, module.sample(100_000, generator=generator))
    edges = drawn.quantile(1 - torch.tensor(COVERAGES, dtype=torch.float64))
    return {str(p): density.share_above(edge) for p, edge in zip(COVERAGES, edges, strict=True)}
