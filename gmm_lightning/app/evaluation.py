"""Measures of how well a model fits rows, in the user's units, from one pass."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.app.agreement import LabelAgreement
from gmm_lightning.criteria import aic, bic, icl
from gmm_lightning.em import degenerate_components
from gmm_lightning.rows import Batch, RowSource, errors_of
from gmm_lightning.statistics import WeightedMoments
from gmm_lightning.training import GMMModule

# Rows at a time, so that N x K responsibilities are never in memory together.
_BLOCK = 1 << 14
# Number of log densities that are kept for quantiles; of more rows, evenly spaced ones.
_MAX_KEPT = 10_000_000
_DRAWS = 100_000
_COVERAGES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class LogDensitySample:
    """Log densities `(n,)` in float64, weights or None, and whether the rows have errors."""

    values: Tensor
    weight: Tensor | None
    noisy: bool = False

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
        rows, evenly spaced, without those that lack entries, whose densities are of others.
    """
    layer = module.layer
    k = layer.num_components
    agreement, kept = LabelAgreement(layer), _KeptDensities(rows.num_rows)
    moments, lacking = None, torch.zeros(2, dtype=torch.long)
    counts, num_positive = torch.zeros(k, dtype=torch.float64), 0
    for batch in rows.read(size=_BLOCK):
        weight = None if batch.weight is None else batch.weight.double().cpu()
        log_joint, log_scale = _log_joint(module, batch)
        log_prob = _log_density_of(log_joint, log_scale)
        log_resp = log_joint.log_softmax(-1)
        entropy = -(log_resp.exp() * log_resp).nan_to_num().sum(-1).double().cpu()
        # Added at once, for the same reason.
        part = WeightedMoments.of(torch.stack([log_prob, entropy], -1), weight)
        moments = part if moments is None else moments + part
        missing = torch.isnan(batch.x)
        lacking += torch.stack([missing.any(-1).sum(), missing.sum()])
        kept.add(log_prob, weight, batch)
        if fitted:
            num_positive += batch.num_rows if weight is None else int((weight > 0).sum())
            mass = torch.ones_like(log_prob) if weight is None else weight
            counts += mass @ log_resp[:, :k].exp().double().cpu()
        agreement.add(batch.labels, log_joint, weight)
    assert moments is not None
    n, p, mean = float(moments.weight), layer.num_free_parameters, float(moments.mean[0])
    numbers = {
        "log_likelihood": mean,
        "standard_error": math.sqrt(float(moments.scatter[0])) / n,
        "objective": mean + float(layer.log_prior()) / n,
        "bic": bic(mean * n, p, n),
        "aic": aic(mean * n, p),
        "icl": icl(mean * n, p, n, float(moments.mean[1]) * n),
        "num_rows": kept.num_rows,
        **({"total_weight": n} if rows.weighted else {}),
        **_missing_numbers(*lacking.tolist()),
        "num_features": layer.num_features,
        "num_constant_features": len(layer.constant_features),
        "num_components": k,
        **({} if layer.noise is None else {"noise_weight": float(layer.noise.weight)}),
        "num_free_parameters": p,
        **agreement.numbers(),
    }
    if fitted:
        found = degenerate_components(layer, counts, n / num_positive)
        numbers["degenerate_components"] = [component for (component,) in found]
    return numbers, kept.sample(weighted=rows.weighted)


class _KeptDensities:
    """Log densities of at most `_MAX_KEPT` rows, evenly spaced, and their weights.

    They are filled in place: many small pieces between the blocks would fragment the memory.

    Attributes:
        num_rows: how many were added.
    """

    def __init__(self, total: int) -> None:
        self._step, self.num_rows = max(1, -(-total // _MAX_KEPT)), 0
        self._values, self._weights = torch.empty(2, -(-total // self._step), dtype=torch.float64)
        self._complete = torch.ones(len(self._values), dtype=torch.bool)
        self._noisy = False

    def add(self, log_prob: Tensor, weight: Tensor | None, batch: Batch) -> None:
        """Add the log densities of the rows of a batch."""
        kept, first = slice(-self.num_rows % self._step, None, self._step), self.num_rows
        own = log_prob[kept]
        at = slice(-(-first // self._step), -(-first // self._step) + len(own))
        self._values[at] = own
        self._complete[at] = ~torch.isnan(batch.x).any(-1).cpu()[kept]
        if weight is not None:
            self._weights[at] = weight[kept]
        self._noisy |= errors_of(batch) is not None
        self.num_rows += batch.num_rows

    def sample(self, *, weighted: bool) -> LogDensitySample:
        """Those of the rows that have all entries."""
        weight = self._weights[self._complete] if weighted else None
        return LogDensitySample(self._values[self._complete], weight, self._noisy)


def _missing_numbers(num_rows: int, num_entries: int) -> dict[str, int]:
    """Numbers of rows without all entries and of missing entries, if there are any."""
    if not num_rows:
        return {}
    return {"num_incomplete_rows": num_rows, "num_missing_entries": num_entries}


@torch.no_grad()
def log_likelihood(module: GMMModule, rows: RowSource) -> float:
    """Mean log-likelihood: the weighted mean of `log p(x)`, in the user's units."""
    batches = rows.read(size=_BLOCK)
    parts = (WeightedMoments.of(_log_density(module, b), b.weight) for b in batches)
    return float(reduce(operator.add, parts).mean)


@torch.no_grad()
def _log_density(module: GMMModule, rows: Batch) -> Tensor:
    """Log densities of rows in the user's units, `(n,)`, float64, on the CPU."""
    return _log_density_of(*_log_joint(module, rows))


def _log_joint(module: GMMModule, rows: Batch) -> tuple[Tensor, Tensor]:
    """`log p(x, k)` of rows, without their labels, and what it lacks in the user's units."""
    return module.log_joint_of(Batch(rows.x.to(module.layer.means.device), extra=rows.extra))


def _log_density_of(log_joint: Tensor, log_scale: Tensor) -> Tensor:
    """Log densities in the user's units, float64, on the CPU."""
    return (log_joint.logsumexp(-1).double() + log_scale).cpu()


@torch.no_grad()
def drawn_density(module: GMMModule) -> LogDensitySample:
    """Log densities of draws of the components, in place of too few rows that have all entries."""
    drawn = module.sample(_DRAWS, generator=torch.Generator().manual_seed(0))
    return LogDensitySample(_of_draws(module, drawn), None)


def _of_draws(module: GMMModule, drawn: Tensor) -> Tensor:
    return torch.cat([_log_density(module, Batch(x)) for x in drawn.split(_BLOCK)])


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
    Nothing is said of a model whose noise has no draws, of rows with errors, which draws have not,
    or where no row has all entries.
    """
    if density.noisy or not len(density.values):
        return {}
    if module.layer.noise is not None and not module.layer.noise.has_draws:
        return {}
    drawn = _of_draws(module, module.sample_with_noise(_DRAWS, generator=generator))
    edges = drawn.quantile(1 - torch.tensor(_COVERAGES, dtype=torch.float64))
    return {str(p): density.share_above(edge) for p, edge in zip(_COVERAGES, edges, strict=True)}
