"""Numbers that say how well a model describes rows, in the user's units."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.criteria import aic, bic, icl
from gmm_lightning.training import GMMModule

# Rows at a time: N x K responsibilities never stand in memory together.
BLOCK = 1 << 14
COVERAGES = (0.5, 0.9, 0.95, 0.99)


@torch.no_grad()
def judge(module: GMMModule, rows: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
    """Log-likelihood with its standard error, criteria, and agreement with labels.

    Args:
        module: the model.
        rows: `(N, D)`, any real dtype.
        labels: `(N,)`, where there are any.
    """
    device = module.layer.means.device
    log_prob, predicted, entropy = [], [], 0.0
    for x in rows.split(BLOCK):
        log_joint = module.layer.log_joint(module.standardize(x.to(device)))
        log_resp = log_joint.log_softmax(-1)
        log_prob.append((log_joint.logsumexp(-1).double() + module.standardize.log_abs_det).cpu())
        predicted.append(log_joint.argmax(-1).cpu())
        entropy -= float((log_resp.exp() * log_resp).nan_to_num().sum())
    values = torch.cat(log_prob)
    n, p, total = len(values), module.layer.num_free_parameters, float(values.sum())
    prior = float(module.layer.log_prior())
    return {
        "log_likelihood": total / n,
        "standard_error": float(values.std(correction=0)) / math.sqrt(n),
        "objective": (total + prior) / n,
        "bic": bic(total, p, n),
        "aic": aic(total, p),
        "icl": icl(total, p, n, entropy),
        "num_rows": n,
        "num_features": module.layer.num_features,
        "num_components": module.layer.num_components,
        "num_free_parameters": p,
        **({} if labels is None else agreement(torch.cat(predicted), labels)),
    }


@torch.no_grad()
def log_density(module: GMMModule, rows: Tensor) -> Tensor:
    """`log p(x)` of rows in the user's units, `(N,)`, float64, on the processor."""
    device = module.layer.means.device
    return torch.cat([module.log_prob(x.to(device)).double().cpu() for x in rows.split(BLOCK)])


def density_quantiles(values: Tensor) -> dict[str, list[float]]:
    """Quantiles of the training density, finest where outliers are cut off."""
    tail = torch.logspace(-5, -2, 31, dtype=torch.float64)[:-1]
    probability = torch.cat([tail, torch.linspace(0.01, 0.99, 99, dtype=torch.float64)])
    ordered = values.sort().values
    position = probability * (len(ordered) - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    quantile = ordered[below].lerp(ordered[above], position - below)
    return {"probability": probability.tolist(), "log_density": quantile.tolist()}


def coverage(module: GMMModule, rows: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Share of rows inside the model's highest-density regions of given masses.

    A region of mass p holds the densest points; its edge is the (1 - p) quantile of the density
    of draws from the model (Hyndman 1996). A calibrated model covers a share p of new rows.
    """
    drawn = log_density(module, module.sample(100_000, generator=generator))
    values = log_density(module, rows)
    edges = drawn.quantile(1 - torch.tensor(COVERAGES, dtype=torch.float64))
    return {
        str(p): float((values >= edge).double().mean())
        for p, edge in zip(COVERAGES, edges, strict=True)
    }


def agreement(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """How well components and labels agree: 1 is the same partition."""
    from torchmetrics.functional.clustering import adjusted_rand_score, normalized_mutual_info_score

    labels = labels.long()
    with warnings.catch_warnings():
        # torchmetrics builds its contingency table as a sparse tensor.
        warnings.filterwarnings("ignore", message="Sparse invariant checks")
        rand = adjusted_rand_score(predicted, labels)
        information = normalized_mutual_info_score(predicted, labels, "arithmetic")
    return {
        "adjusted_rand_score": float(rand),
        "normalized_mutual_info_score": float(information),
    }
