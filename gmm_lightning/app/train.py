"""`gmm-train`: data in, a fitted and reported mixture out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gmm_lightning.app.command import run

if TYPE_CHECKING:
    import lightning as L
    from omegaconf import DictConfig

    from gmm_lightning.training import ArrayDataModule, GMMModule


def main() -> None:
    """Entry point of `scripts/train.py` and of the command `gmm-train`."""
    run("train", train)


def train(config: DictConfig) -> dict[str, Any]:
    """Fit what a composed configuration describes.

    Args:
        config: as composed from `configs/train.yaml`.

    Returns:
        The metrics that were written to `metrics.json`; empty on other processes than the first.

    Raises:
        GMMError: a mistake in the configuration or the data, in one sentence.
        Interrupted: Ctrl-C or SIGTERM ended the fit after a whole pass.
    """
    # Heavy imports wait until the command line is known to be right.
    import time
    from pathlib import Path

    import lightning as L
    from hydra.utils import instantiate

    from gmm_lightning.app.checks import check_fit, check_size, require_trusted_run
    from gmm_lightning.app.logs import describe, prepare_logs
    from gmm_lightning.app.processes import leave_group, use_child_command
    from gmm_lightning.app.report import final_metrics, write_report
    from gmm_lightning.training.files import read_checkpoint, read_state

    log = prepare_logs(verbose=config.verbose, quiet=config.quiet)
    use_child_command()
    check_fit(config)
    L.seed_everything(config.seed, workers=True, verbose=False)
    checkpoint, stored = None, {}
    if config.resume is not None:
        require_trusted_run(config)
        checkpoint = read_checkpoint(config.resume)
        stored = checkpoint["gmm_lightning"]
    data: ArrayDataModule = instantiate(config.data, _convert_="all")
    check_size(config, data)
    module: GMMModule | None = None
    trainer: L.Trainer | None = None
    seconds, passes, phases = 0.0, stored.get("passes_before", 0), phases_of(config)
    for index in range(stored.get("phase", 0), len(phases)):
        phase = phases[index]
        trainer = make_trainer(phase)
        if module is None:
            with trainer.init_module():
                module = instantiate(phase.model, _convert_="all")
            assert module is not None
            if checkpoint is not None:
                read_state(module, checkpoint, config.resume)
            if trainer.is_global_zero:
                log.info(describe(data, module, trainer))
        module.optimizer = instantiate(phase.model.optimizer)
        module.scheduler = instantiate(phase.model.scheduler)
        module.phase, module.passes_before = index, passes
        data.shuffle, data.batch_size = phase.data.shuffle, phase.data.batch_size
        resume = config.resume if stored.get("phase", 0) == index else None
        started = time.perf_counter()
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        seconds += time.perf_counter() - started
        passes += trainer.current_epoch
        stop_if_interrupted(trainer, config, passes)
    assert module is not None
    assert trainer is not None
    leave_group()
    if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return {}
    module = module.to(trainer.strategy.root_device).eval()
    rate = round(data.num_train_rows * passes / max(seconds, 1e-9))
    metrics = final_metrics(module, data) | outcome(trainer, seconds, passes)
    metrics["rows_per_second"] = rate
    folder = Path(config.paths.output_dir)
    write_report(folder, metrics, module, data)
    log_hyperparameters(trainer, config, metrics)
    log.info(
        "log-likelihood %.6f, objective %.6f nats per row after %d passes in %.1f s, "
        "%d rows per second",
        metrics["log_likelihood"],
        metrics["objective"],
        passes,
        seconds,
        rate,
    )
    log.info("checkpoint, metrics and picture: %s", folder)
    return metrics


def phases_of(config: DictConfig) -> list[DictConfig]:
    """The consecutive fits of a run: the configuration, then with `fit.then` on top of it."""
    from omegaconf import DictConfig, OmegaConf

    then = config.fit.get("then")
    if not then:
        return [config]
    base = config.copy()
    OmegaConf.set_struct(base, value=False)
    second = OmegaConf.merge(base, then)
    assert isinstance(second, DictConfig)
    return [config, second]


def make_trainer(config: DictConfig) -> L.Trainer:
    """The trainer of one phase, with its callbacks and logger."""
    from hydra.utils import instantiate

    wanted = [
        c for n, c in config.callbacks.items() if c and not (config.quiet and n == "progress")
    ]
    callbacks = [instantiate(callback, _convert_="all") for callback in wanted]
    logger = instantiate(config.logger) if config.get("logger") else False
    bar = {"enable_progress_bar": False} if config.quiet else {}
    return instantiate(config.trainer, callbacks=callbacks, logger=logger, **bar)


def outcome(trainer: L.Trainer, seconds: float, passes: int) -> dict[str, Any]:
    """How the fit went, for `metrics.json`."""
    from gmm_lightning.training import EMCallback

    stopping = trainer.early_stopping_callback
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    events = [str(e) for c in callbacks if isinstance(c, EMCallback) for e in c.events]
    return {
        "iterations": passes,
        "converged": bool(stopping is not None and stopping.stopped_epoch > 0),
        "seconds": round(seconds, 3),
        "collapsed": events,
    }


def log_hyperparameters(trainer: L.Trainer, config: DictConfig, metrics: dict[str, Any]) -> None:
    """Let TensorBoard compare runs: the settings that differ, with the final numbers."""
    from hydra.core.hydra_config import HydraConfig
    from lightning.pytorch.loggers import TensorBoardLogger

    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    groups = ("data", "cov", "priors", "init", "fit", "optimizer")
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


def stop_if_interrupted(trainer: L.Trainer, config: DictConfig, passes: int) -> None:
    """Leave with the signal's exit code, saying how to go on.

    Raises:
        Interrupted: a signal ended the fit.
    """
    from gmm_lightning.app.processes import Interrupted
    from gmm_lightning.training import GracefulStop

    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    signum = next((c.signum for c in callbacks if isinstance(c, GracefulStop)), None)
    if signum is not None:
        raise Interrupted(
            f"interrupted after {passes} passes; go on with resume={config.paths.output_dir}",
            signum,
        )


if __name__ == "__main__":
    main()
