"""Checks of settings, before anything is trained."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from gmm_lightning._validation import (
    require_choice,
    require_enough_rows,
    require_integer,
    require_number,
)
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training import RowsDataModule

log = logging.getLogger(__name__)

_MOST_PER_CORE = 4


def check_fit(config: DictConfig) -> None:
    """Refuse stopping rules, seeds and flags out of range, before any data are read."""
    for part in ("fit", "fit.sgd"):
        values = OmegaConf.select(config, part)
        if not values:
            continue
        require_number(f"{part}.tol", values.tol, least=0)
        require_integer(f"{part}.max_iter", values.max_iter, least=1)
        for name, least in (("patience", 0), ("batch_size", 1)):
            if name in values:
                require_integer(f"{part}.{name}", values[name], least=least)
        if values.get("clip") is not None:
            require_number(f"{part}.clip", values.clip, least=0)
    if config.fit.get("missing") is not None:
        also = ", or null; data.missing=drop leaves rows out"
        require_choice("fit.missing", config.fit.missing, ("em",), also=also)
    require_integer("fit.num_restarts", config.fit.num_restarts, least=1)
    for name in ("overwrite", "prior_predictive"):
        require_flag(name, config[name])
    if require_integer("seed", config.seed, least=0) >= 2**32:
        raise InvalidArgumentError(f"seed must be below 2**32, as numpy asks, got {config.seed}")
    _check_processes(config.trainer)


def _check_processes(trainer: DictConfig) -> None:
    """Refuse far more processes than the machine has cores: they would only wait for each other."""
    most = _MOST_PER_CORE * max(2, os.cpu_count() or 1)
    if isinstance(trainer.devices, int) and trainer.devices > most:
        raise InvalidArgumentError(
            f"trainer.devices={trainer.devices} asks for as many processes or devices, and this "
            f"machine has {os.cpu_count()} cores: expected {most} at most"
        )


def check_optimizer(config: DictConfig) -> None:
    """Refuse a phase with both EM and an optimizer, or with neither."""
    closed, gradient = bool(config.callbacks.get("em")), bool(config.model.optimizer)
    if closed and gradient:
        hint = "the second phase is set by fit.then.model.optimizer" if "then" in config.fit else ""
        raise InvalidArgumentError(
            f"EM takes no optimizer; {hint or 'choose fit=sgd for gradient descent'}"
        )
    if not closed and not gradient:
        raise InvalidArgumentError(
            "gradient descent needs an optimizer, such as optimizer=adam; for EM choose fit=em"
        )
    for name in ("step_size", "T_max"):
        # torch divides by them after the first pass.
        if name in (config.model.scheduler or {}):
            require_integer(f"model.scheduler.{name}", config.model.scheduler[name], least=1)


def require_path(name: str, value: object) -> None:
    """Refuse a value that is neither None nor a string, such as a number."""
    if value is not None and not isinstance(value, str):
        raise InvalidArgumentError(f"{name} must be a path, got {value!r}; write {name}=./{value}")


def require_unread(output: str, sources: Iterable[str | Path]) -> None:
    """Refuse to write over a file that is read, by whatever name or link."""
    for source in sources:
        with suppress(OSError):
            if Path(output).expanduser().samefile(Path(source).expanduser()):
                raise InvalidArgumentError(
                    f"output={output} is the file that is read, {source}; choose another name"
                )


def require_flag(name: str, value: object) -> bool:
    """The value, checked to be a boolean: a word such as `no` would count as true."""
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{name} must be true or false, got {value!r}")
    return value


def check_size(config: DictConfig, data: RowsDataModule) -> None:
    """Set the number of features from the data; refuse more components than rows."""
    layer = config.model.layer
    if layer.num_features is None:
        layer.num_features = data.num_features
    elif layer.num_features != data.num_features:
        raise InvalidArgumentError(
            f"model.layer.num_features={layer.num_features}, but the rows have "
            f"{data.num_features} features; leave it out, since it follows from the rows"
        )
    if isinstance(layer.num_components, int):
        require_enough_rows(data.num_train_rows, layer.num_components)
    if data.num_train_rows == 1:
        log.warning(
            "there is 1 row to fit: its mean is the row, and it has no spread; a file has one row "
            "on each line"
        )
