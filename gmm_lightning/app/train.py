"""`gmm-train`: fits a mixture to data, and reports on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig

from gmm_lightning.app.checks import check_fit, check_optimizer, check_size
from gmm_lightning.app.fitting import fit, phases_of
from gmm_lightning.app.logs import degenerate_note, prepare_logs
from gmm_lightning.app.processes import leave_group, use_child_command
from gmm_lightning.app.report import final_metrics, log_hyperparameters, write_report
from gmm_lightning.training import RowsDataModule, is_dry, read_checkpoint


def train(config: DictConfig) -> dict[str, Any]:
    """Fit the mixture of a composed configuration, and write its report.

    Args:
        config: as composed from `configs/train.yaml`.

    Returns:
        The metrics that were written to `metrics.json`; empty on other processes than the first.

    Raises:
        GMMError: a mistake in the configuration or the data, in one sentence.
        Interrupted: Ctrl-C or SIGTERM ended the fit after a whole pass.
    """
    log = prepare_logs(verbose=config.verbose, quiet=config.quiet)
    use_child_command()
    check_fit(config)
    phases = phases_of(config)
    for phase in phases:
        check_optimizer(phase)
    L.seed_everything(config.seed, workers=True, verbose=False)
    # From here on, everything is built from settings in which nothing is left to resolve.
    config = phases[0]
    checkpoint = None if config.resume is None else read_checkpoint(config.resume)
    data: RowsDataModule = instantiate(config.data, _convert_="all")
    for phase in phases:
        check_size(phase, data)
    fitted = fit(phases, data, checkpoint)
    leave_group()
    if not fitted.trainer.is_global_zero or is_dry(fitted.trainer):
        return {}
    module = fitted.module.to(fitted.trainer.strategy.root_device).eval()
    metrics, density = final_metrics(module, data)
    metrics |= fitted.outcome()
    folder = Path(config.paths.output_dir)
    write_report(folder, metrics, density, module, data)
    log_hyperparameters(fitted.trainer, config, metrics)
    log.info(
        "log-likelihood %(log_likelihood).6f, objective %(objective).6f nats per row after "
        "%(iterations)d passes (%(seconds).1f s now, %(rows_per_second)d rows per second)",
        metrics,
    )
    if metrics["degenerate_components"]:
        log.warning("%s", degenerate_note(metrics["degenerate_components"]))
    log.info("checkpoint, metrics and picture: %s", folder)
    return metrics
