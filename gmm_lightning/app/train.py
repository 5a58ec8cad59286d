"""`gmm-train`: fits a mixture to data, and reports on it."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
from hydra.utils import instantiate
from omegaconf import DictConfig

from gmm_lightning.app.checks import check_fit, check_optimizer, check_size
from gmm_lightning.app.fitting import fit, phases_of
from gmm_lightning.app.folder import RunFolder
from gmm_lightning.app.logs import degenerate_note, prepare_logs
from gmm_lightning.app.processes import leave_group
from gmm_lightning.app.report import final_metrics, log_hyperparameters, write_report
from gmm_lightning.app.supervised import supervise
from gmm_lightning.app.watch import ProcessWatch
from gmm_lightning.plotting import save_figure
from gmm_lightning.training import RowsDataModule, draw_prior, is_dry, read_checkpoint

log = logging.getLogger(__name__)


def train(config: DictConfig) -> dict[str, Any]:
    """Fit the mixture of a composed configuration, and write its report.

    Args:
        config: as composed from `configs/train.yaml`.

    Returns:
        The metrics that were written to `metrics.json`; empty on other processes than the first.

    Raises:
        GMMError: a mistake in the configuration or the data, in one sentence.
        LostProcessError: another process of the run was killed.
        Interrupted: Ctrl-C or SIGTERM ended the fit after a whole pass.
    """
    prepare_logs(verbose=config.verbose, quiet=config.quiet)
    folder = RunFolder(config)
    with folder, ProcessWatch(folder.path) as others:
        return _train(config, folder, others)


def _train(config: DictConfig, folder: RunFolder, others: ProcessWatch) -> dict[str, Any]:
    """Fit, and write the report into the folder of the run."""
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
        supervise(phase, data)
        check_size(phase, data)
    try:
        fitted = fit(phases, data, checkpoint, folder)
    except Exception as error:
        # Should the memory have been too small.
        error.add_note(
            f"{data.num_train_rows} rows x {data.num_features} features x "
            f"{config.model.layer.num_components} components"
        )
        raise
    leave_group()
    others.end()
    if not fitted.trainer.is_global_zero or is_dry(fitted.trainer):
        return {}
    module = fitted.module.to(fitted.trainer.strategy.root_device).eval()
    metrics, density = final_metrics(module, data)
    metrics |= fitted.outcome()
    folder.require_present()
    write_report(folder.path, metrics, density, module, data)
    if config.prior_predictive:
        save_figure(draw_prior(module, data, config.seed), folder.path / "prior.png")
    log_hyperparameters(fitted.trainer, config, metrics)
    log.info(
        "log-likelihood %(log_likelihood).6f, objective %(objective).6f nats per row after "
        "%(iterations)d passes (%(seconds).1f s now, %(rows_per_second)d rows per second)",
        metrics,
    )
    if metrics["degenerate_components"]:
        log.warning("%s", degenerate_note(metrics["degenerate_components"]))
    log.info("checkpoint, metrics and picture: %s", folder.path)
    return metrics
