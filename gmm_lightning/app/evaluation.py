"""Measures of how well a model fits rows, in the user's units, from one pass."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.criteria import aic, bic, icl
from gmm_lightning.em import degenerate_components
from gmm_lightning.metrics import label_agreement
from gmm_lightning.rows import RowSource
from gmm_lightning.statistics import WeightedMoments
from gmm_lightning.training import GMMModule

# Rows at a time, so that N x K responsibilities are never in memory together.
_BLOCK = 1 << 14
# Number of log densities that are kept for quantiles; of more rows, evenly spaced ones.
_MAX_KEPT = 10_000_000
_COVERAGES = (0.5, 0.9, 0.95, 0.99)
_SCORES = ("adjusted_rand_score", "normalized_mutual_info_score")


@dataclass(frozen=True)
class LogDensitySample:
    """Log densities of rows, `(n,)` float64, and their weights or None."""

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


@torch.no_grad()
def evaluate_rows(
    module: GMMModule, rows: RowSource, *, fitted: bool = False
) -> tuple[dict[str, Any], LogDensitySample]:
    """Log-likelihood with its standard error, criteria, and agreement with labels.

    With sample weights every mean is weighted, and the criteria and the standard error use the
    total weight as the number of rows.

    Args:
        module: the model.
        rows: to evaluate it on.
        fitted: whether these are the rows it was fitted to: their numbers per component say which
            ones are degenerate.

    Returns:
        The numbers, and the log densities that they are computed from: of at most `_MAX_KEPT`
        rows, evenly spaced.
    """
    layer = module.layer
    k = layer.num_components
    # Noise is a cluster of its own.
    pairs = torch.zeros(0, k + (layer.noise is not None), dtype=torch.float64)
    step, row = max(1, -(-rows.num_rows // _MAX_KEPT)), 0
    # Filled in place: many small pieces between the blocks would fragment the memory.
    values, weights = torch.empty(2, -(-rows.num_rows // step), dtype=torch.float64)
    moments: WeightedMoments | None = None
    counts, num_positive = pairs.new_zeros(k), 0
    for batch in rows.read(size=_BLOCK):
        weight = None if batch.weight is None else batch.weight.double().cpu()
        log_joint = layer.log_joint_with_noise(module.standardize(batch.x.to(layer.means.device)))
        log_prob = _log_density_of(module, log_joint)
        log_resp = log_joint.log_softmax(-1)
        entropy = -(log_resp.exp() * log_resp).nan_to_num().sum(-1).double().cpu()
        # Added at once, for the same reason.
        part = WeightedMoments.of(torch.stack([log_prob, entropy], -1), weight)
        moments = part if moments is None else moments + part
        kept = slice(-row % step, None, step)
        own = log_prob[kept]
        at = slice(-(-row // step), -(-row // step) + len(own))
        values[at] = own
        if weight is not None:
            weights[at] = weight[kept]
        if fitted:
            num_positive += batch.num_rows if weight is None else int((weight > 0).sum())
            mass = torch.ones_like(log_prob) if weight is None else weight
            counts += mass @ log_resp[:, :k].exp().double().cpu()
        if batch.labels is not None:
            pairs = _add_pairs(pairs, batch.labels.cpu(), log_joint.argmax(-1).cpu(), weight)
        row += batch.num_rows
    assert moments is not None
    n, p, mean = float(moments.weight), layer.num_free_parameters, float(moments.mean[0])
    numbers = {
        "log_likelihood": mean,
        "standard_error": math.sqrt(float(moments.scatter[0])) / n,
        "objective": mean + float(layer.log_prior()) / n,
        "bic": bic(mean * n, p, n),
        "aic": aic(mean * n, p),
        "icl": icl(mean * n, p, n, float(moments.mean[1]) * n),
        "num_rows": row,
        **({"total_weight": n} if rows.weighted else {}),
        "num_features": layer.num_features,
        "num_constant_features": len(layer.constant_features),
        "num_components": k,
        **({} if layer.noise is None else {"noise_weight": float(layer.noise.weight)}),
        "num_free_parameters": p,
        **({name: float(label_agreement(pairs, name)) for name in _SCORES} if len(pairs) else {}),
    }
    if fitted:
        found = degenerate_components(layer, counts, n / num_positive)
        numbers["degenerate_components"] = [component for (component,) in found]
    return numbers, LogDensitySample(values, weights if rows.weighted else None)


def _add_pairs(pairs: Tensor, labels: Tensor, components: Tensor, weight: Tensor | None) -> Tensor:
    """Weights of the pairs `(C, K)` of label and component, with more rows for new labels."""
    pairs = torch.nn.functional.pad(pairs, (0, 0, 0, max(int(labels.max()) + 1 - len(pairs), 0)))
    weight = torch.ones_like(labels) if weight is None else weight
    return pairs.index_put((labels.long(), components), weight.to(pairs), accumulate=True)


@torch.no_grad()
def log_likelihood(module: GMMModule, rows: RowSource) -> float:
    """Mean log-likelihood: the weighted mean of `log p(x)`, in the user's units."""
    batches = rows.read(size=_BLOCK)
    parts = (WeightedMoments.of(_log_density(module, b.x), b.weight) for b in batches)
    return float(reduce(operator.add, parts).mean)


@torch.no_grad()
def _log_density(module: GMMModule, rows: Tensor) -> Tensor:
    """Log densities of rows in the user's units, `(N,)`, float64, on the CPU."""
    layer = module.layer
    blocks = (module.standardize(x.to(layer.means.device)) for x in rows.split(_BLOCK))
    return torch.cat([_log_density_of(module, layer.log_joint_with_noise(z)) for z in blocks])


def _log_density_of(module: GMMModule, log_joint: Tensor) -> Tensor:
    """Log densities in the user's units, float64, on the CPU, from `log p(x, k)`."""
    return (log_joint.logsumexp(-1).double() + module.standardize.log_abs_det).cpu()


def density_quantiles(density: LogDensitySample) -> dict[str, list[float]]:
    """Quantiles of the training density, finest where outliers are cut off."""
    tail = torch.logspace(-5, -2, 31, dtype=torch.float64)[:-1]
    probability = torch.cat([tail, torch.linspace(0.01, 0.99, 99, dtype=torch.float64)])
    quantile = density.quantiles(probability)
    return {"probability": probability.tolist(), "log_density": quantile.tolist()}


def coverage(
    module: GMMModule, density: LogDensitySample, generator: torch.Generator
) -> dict[str, float]:
    """Share of rows inside the model's highest-density regions of given masses.

    A region of mass p holds the densest points; its edge is the (1 - p) quantile of the density
    of draws from the model (Hyndman 1996). A calibrated model covers a share p of new rows.
    Nothing is said of a model whose noise has no draws.
    """
    if module.layer.noise is not None and not module.layer.noise.has_draws:
        return {}
    drawn = _log_density(module, module.sample_with_noise(100_000, generator=generator))
    edges = drawn.quantile(1 - torch.tensor(_COVERAGES, dtype=torch.float64))
    return {str(p): density.share_above(edge) for p, edge in zip(_COVERAGES, edges, strict=True)}
