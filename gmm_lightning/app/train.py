"""`gmm-train`: data in, a fitted and reported mixture out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gmm_lightning.app.command import run

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main() -> None:
    """Entry point of `scripts/train.py` and of the command `gmm-train`."""
    run("train", train)


def train(config: DictConfig) -> dict[str, Any]:
    """Fit what a composed configuration describes.

    Args:
        config: as composed from `configs/train.yaml`.

    Returns:
        The metrics that were written to `metrics.json`; empty on other processes than the first.
    """
    # Heavy imports wait until the command line is known to be right.
    import time
    from pathlib import Path

    import lightning as L
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from gmm_lightning.app.configs import require_trusted
    from gmm_lightning.app.logs import describe, quiet_lightning
    from gmm_lightning.app.report import final_metrics, write_report
    from gmm_lightning.errors import InvalidDataError
    from gmm_lightning.training import ArrayDataModule, EMCallback, GMMModule
    from gmm_lightning.training.checkpoint import is_dry
    from gmm_lightning.training.files import read_checkpoint, read_state

    log = quiet_lightning()
    check_fit(config)
    L.seed_everything(config.seed, workers=True, verbose=False)
    checkpoint, stored = config.resume, None
    if checkpoint is not None:
        # Once more with interpolations resolved: they too can spell a target.
        plain = OmegaConf.to_container(config, resolve=True)
        require_trusted(plain, f"the run of {checkpoint}")
        stored = read_checkpoint(checkpoint)
    data: ArrayDataModule = instantiate(config.data, _convert_="all")
    layer = config.model.layer
    if layer.num_features is None:
        layer.num_features = data.num_features
    if isinstance(layer.num_components, int) and layer.num_components > data.num_train_rows:
        raise InvalidDataError(
            f"num_components={layer.num_components} is larger than the number of training rows, "
            f"{data.num_train_rows}"
        )
    callbacks = [instantiate(c, _convert_="all") for c in config.callbacks.values() if c]
    logger = instantiate(config.logger) if config.get("logger") else False
    trainer: L.Trainer = instantiate(config.trainer, callbacks=callbacks, logger=logger)
    with trainer.init_module():
        module: GMMModule = instantiate(config.model, _convert_="all")
    if stored is not None:
        read_state(module, stored, checkpoint)
    if trainer.is_global_zero:
        log.info(describe(data, module, trainer))
    started = time.perf_counter()
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    seconds = time.perf_counter() - started
    if not trainer.is_global_zero or is_dry(trainer):
        return {}
    module = module.to(trainer.strategy.root_device).eval()
    stopping = trainer.early_stopping_callback
    em = next((c for c in callbacks if isinstance(c, EMCallback)), None)
    metrics = final_metrics(module, data) | {
        "iterations": trainer.current_epoch,
        "converged": bool(stopping is not None and stopping.stopped_epoch > 0),
        "seconds": round(seconds, 3),
        "collapsed": [str(event) for event in em.events] if em is not None else [],
    }
    folder = Path(config.paths.output_dir)
    write_report(folder, metrics, module, data)
    log.info(
        "log-likelihood %.6f, objective %.6f nats per row after %d passes in %.1f s",
        metrics["log_likelihood"],
        metrics["objective"],
        metrics["iterations"],
        seconds,
    )
    log.info("checkpoint, metrics and picture: %s", folder)
    return metrics


def check_fit(config: DictConfig) -> None:
    """Refuse stopping rules out of range, before any data are read.

    Raises:
        InvalidArgumentError: naming the setting, what was expected and what came.
    """
    from gmm_lightning.errors import InvalidArgumentError

    tol, max_iter = config.fit.tol, config.fit.max_iter
    if isinstance(tol, bool) or not isinstance(tol, int | float) or not tol >= 0:
        raise InvalidArgumentError(f"fit.tol must be a number >= 0, got {tol!r}")
    if isinstance(max_iter, bool) or not isinstance(max_iter, int) or max_iter < 1:
        raise InvalidArgumentError(f"fit.max_iter must be an integer >= 1, got {max_iter!r}")
    if isinstance(config.seed, bool) or not isinstance(config.seed, int) or config.seed < 0:
        raise InvalidArgumentError(f"seed must be an integer >= 0, got {config.seed!r}")


if __name__ == "__main__":
    main()
