"""What a fit leaves behind: numbers from a last pass at the final parameters, and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.criteria import aic, bic, icl
from gmm_lightning.plotting import save_figure
from gmm_lightning.training import ArrayDataModule, GMMModule
from gmm_lightning.training.tensorboard import draw

# Rows at a time: N x K responsibilities never stand in memory together.
BLOCK = 1 << 14


@torch.no_grad()
def final_metrics(module: GMMModule, data: ArrayDataModule) -> dict[str, Any]:
    """Objective, likelihood and criteria on the training set, in the user's units."""
    device, rows = module.layer.means.device, data.train_rows
    total = entropy = torch.zeros((), dtype=torch.float64, device=device)
    labels: list[Tensor] = []
    for x in rows.split(BLOCK):
        log_joint = module.layer.log_joint(module.standardize(x.to(device)))
        log_resp = log_joint.log_softmax(-1)
        total = total + log_joint.logsumexp(-1).double().sum()
        entropy = entropy - (log_resp.exp() * log_resp).nan_to_num().double().sum()
        labels.append(log_joint.argmax(-1).cpu())
    n, p = len(rows), module.layer.num_free_parameters
    total_ll = float(total) + n * float(module.standardize.log_abs_det)
    metrics = {
        "objective": (total_ll + float(module.layer.log_prior())) / n,
        "log_likelihood": total_ll / n,
        "bic": bic(total_ll, p, n),
        "aic": aic(total_ll, p),
        "icl": icl(total_ll, p, n, float(entropy)),
        "num_rows": n,
        "num_features": module.layer.num_features,
        "num_components": module.layer.num_components,
        "num_free_parameters": p,
    }
    if data.val_rows is not None:
        blocks = [module.log_prob(x.to(device)).double().sum() for x in data.val_rows.split(BLOCK)]
        metrics["val_log_likelihood"] = float(torch.stack(blocks).sum()) / len(data.val_rows)
    if data.train_labels is not None:
        metrics |= agreement(torch.cat(labels), data.train_labels)
    return metrics


def agreement(predicted: Tensor, labels: Tensor) -> dict[str, float]:
    """How well components and labels agree: 1 is the same partition."""
    from torchmetrics.functional.clustering import adjusted_rand_score, normalized_mutual_info_score

    labels = labels.long()
    return {
        "adjusted_rand_score": float(adjusted_rand_score(predicted, labels)),
        "normalized_mutual_info_score": float(
            normalized_mutual_info_score(predicted, labels, "arithmetic")
        ),
    }


def write_report(
    folder: Path, metrics: dict[str, Any], module: GMMModule, data: ArrayDataModule
) -> None:
    """`metrics.json` and `mixture.png`."""
    save_figure(draw(module, data), folder / "mixture.png")
    beside = folder / "metrics.json.partial"
    beside.write_text(json.dumps(metrics, indent=2) + "\n")
    beside.replace(folder / "metrics.json")
