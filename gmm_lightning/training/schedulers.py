"""Learning rate schedulers, as Lightning wants to hear of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import lightning as L
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training.fits import has_validation

SchedulerFactory = Callable[[Optimizer], Any]

# Both count steps of the optimizer.
_PER_STEP = (OneCycleLR, CyclicLR)
# Logged numbers that a fit makes larger.
_RISING = ("log_likelihood", "objective")


def scheduler_config(
    factory: SchedulerFactory, trainer: L.Trainer, monitor: str | None, optimizer: Optimizer
) -> dict[str, Any]:
    """The scheduler of a factory, with when it is stepped and what it watches.

    Args:
        factory: takes the optimizer, and returns a scheduler, or Lightning's own dictionary
            (`scheduler`, `interval`, `frequency`, `monitor`), whose entries win. A `OneCycleLR`
            that knows no length gets the number of steps of the fit.
        trainer: of the fit.
        monitor: what a `ReduceLROnPlateau` watches; None: `val/log_likelihood` if there is a
            validation set, else `train/objective`.
        optimizer: the optimizer.
    """
    made = _with_length(factory, trainer)(optimizer)
    given = dict(made) if isinstance(made, Mapping) else {"scheduler": made}
    scheduler = given.get("scheduler")
    options: dict[str, Any] = {"interval": "step" if isinstance(scheduler, _PER_STEP) else "epoch"}
    if isinstance(scheduler, ReduceLROnPlateau) or given.get("reduce_on_plateau"):
        options["monitor"] = monitor or "train/objective"
        if monitor is None and has_validation(trainer):
            # It is known only when it is validated.
            every = trainer.check_val_every_n_epoch or 1
            options |= {"monitor": "val/log_likelihood", "frequency": every}
    return options | given


def falling(monitor: str | None, scheduler: Any, value: Any) -> Any:
    """A number as a scheduler wants it: what a fit makes larger is negated in mode `min`."""
    rises = monitor is not None and monitor.split("/dataloader")[0].endswith(_RISING)
    return -value if rises and getattr(scheduler, "mode", None) == "min" else value


def _with_length(factory: SchedulerFactory, trainer: L.Trainer) -> SchedulerFactory:
    """The factory; one of a `OneCycleLR` without a length is given the steps of the fit."""
    function = factory.func if isinstance(factory, partial) else factory
    given = factory.keywords if isinstance(factory, partial) else {}
    if function is not OneCycleLR or given.get("total_steps") or given.get("epochs"):
        return factory
    steps = trainer.estimated_stepping_batches
    # A fit without an end has no length.
    return partial(factory, total_steps=int(steps)) if 0 < steps < math.inf else factory


def make_part(name: str, factory: Callable[[Any], Any], argument: Any) -> Any:
    """What a factory makes of an argument, such as an optimizer of parameters.

    Raises:
        InvalidArgumentError: the factory refuses its settings.
    """
    try:
        return factory(argument)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidArgumentError(f"this {name} cannot be made: {error}") from error
