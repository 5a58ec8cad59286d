"""The report of a fit: numbers from a last pass at the final parameters, and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig

from gmm_lightning._files import atomic_write
from gmm_lightning.app.evaluation import (
    LogDensitySample,
    density_quantiles,
    evaluate_rows,
    log_likelihood,
)
from gmm_lightning.plotting import save_figure
from gmm_lightning.training import GMMModule, RowsDataModule, draw_mixture


def final_metrics(
    module: GMMModule, data: RowsDataModule
) -> tuple[dict[str, Any], LogDensitySample]:
    """Objective and criteria on the training set with its density, likelihoods of other parts."""
    train = data.part("train", labels=True)
    assert train is not None
    metrics, density = evaluate_rows(module, train, fitted=True)
    for name in ("val", "test"):
        part = data.part(name)
        if part is not None:
            metrics[f"{name}_log_likelihood"] = log_likelihood(module, part)
    return metrics, density


def write_report(
    folder: Path,
    metrics: dict[str, Any],
    density: LogDensitySample,
    module: GMMModule,
    data: RowsDataModule,
) -> None:
    """Write `metrics.json`, `density.json` (training density quantiles) and `mixture.png`."""
    save_figure(draw_mixture(module, data), folder / "mixture.png")
    write_json(folder / "density.json", density_quantiles(density))
    write_json(folder / "metrics.json", metrics)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a table to a JSON file, atomically."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")


def log_hyperparameters(trainer: L.Trainer, config: DictConfig, metrics: dict[str, Any]) -> None:
    """Log settings and final numbers, so that a logger can compare runs."""
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    groups = ("data", "cov", "priors", "noise", "init", "fit", "optimizer")
    settings = {group: str(chosen[group]) for group in groups if group in chosen}
    settings |= {
        "num_components": config.model.layer.num_components,
        "seed": config.seed,
        "tol": config.fit.tol,
        "processes": trainer.world_size,
    }
    named = ("log_likelihood", "val_log_likelihood", "objective", "bic", "aic", "icl", "iterations")
    final = {f"final/{name}": float(metrics[name]) for name in named if name in metrics}
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(settings, final)
            logger.finalize("success")
        else:
            logger.log_hyperparams(settings)
            logger.log_metrics(final, metrics["iterations"])
            logger.save()
