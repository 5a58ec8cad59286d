"""Messages of a run: each once, in the console and in the run's log file."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Sequence

import lightning as L

from gmm_lightning._messages import count_rows, format_list
from gmm_lightning.app.processes import rank_from_environment
from gmm_lightning.errors import printable
from gmm_lightning.evidence import labels_of
from gmm_lightning.layers import GMMLayer
from gmm_lightning.training import BaseEMCallback, GMMModule, RowsDataModule

_NOISE = (
    "litlogger",
    "litmodels",
    "💡",
    "GPU available",
    "TPU available",
    "HPU available",
    "Initializing distributed",
    "distributed processes registered",
    "`Trainer.fit` stopped",
    "to estimate number of stepping batches",
    "Restoring states",
    "Restored all states",
)


def prepare_logs(*, verbose: bool = False, quiet: bool = False) -> logging.Logger:
    """Send Lightning's messages to Hydra's handlers, without those a user cannot act on.

    Args:
        verbose: leave nothing out.
        quiet: warnings and errors only.
    """
    # A log that cannot be written does not end a run, whose results matter more.
    logging.raiseExceptions = False
    threading.excepthook = _thread_failed
    logging.captureWarnings(capture=True)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    for handler in logging.getLogger().handlers:
        if not verbose:
            handler.addFilter(lambda r: not any(word in r.getMessage() for word in _NOISE))
        if quiet:
            handler.setLevel(logging.WARNING)
        if rank_from_environment() > 0:
            # Messages of all processes are logged by the first one.
            handler.setLevel(logging.ERROR)
    return logging.getLogger("gmm_lightning")


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Show what a thread raised, unless TensorBoard's writer raises it again where it is used."""
    if not issubclass(failed.exc_type, OSError):
        threading.__excepthook__(failed)


def constant_note(layer: GMMLayer, columns: Sequence[str]) -> str:
    """One line on columns with one value in all rows."""
    names = [columns[d] for d in layer.constant_features]
    return (
        f"constant, so that likelihoods and criteria are those of the other columns: "
        f"{format_list(names, 20)}; {len(columns) - len(names)} of {len(columns)} features count"
    )


def degenerate_note(components: list[int]) -> str:
    """One line on components that can have any likelihood."""
    several = len(components) > 1
    return (
        f"component{'s' if several else ''} {', '.join(map(str, components))} "
        f"{'are' if several else 'is'} degenerate (at the floor of the covariances, or too few "
        "rows for one): likelihood, BIC, AIC and ICL do not compare with those of regular fits; "
        "priors=niw, fit.num_restarts=5 or fewer components may end in one"
    )


def constraints(layer: GMMLayer) -> str:
    """What is frozen and bounded, for a line on a mixture; empty if nothing is."""
    named = ", ".join(projection.name for projection in layer.projections.to_list())
    return f", constraints {named}" if named else ""


def describe(data: RowsDataModule, module: GMMModule, trainer: L.Trainer) -> str:
    """One line on what is about to be fitted."""
    layer, weight = module.layer, data.total_weight
    weighed = "" if weight == data.num_train_rows else f" of total weight {weight:g}"
    held_out = ((data.part("val"), "to validate"), (data.part("test"), "to test"))
    others = "".join(f", {part.num_rows} {what}" for part, what in held_out if part is not None)
    priors = ", ".join(prior.name for prior in layer.all_priors) or "none"
    noise = "" if layer.noise is None else f", noise {layer.noise.name}"
    labels = labels_of(layer.evidence)
    classes = "" if labels is None else f", {labels.num_classes} classes"
    incomplete, entries = data.num_missing
    lacking = f" ({entries} entries are missing, in {incomplete} rows)" if incomplete else ""
    methods = [c.method for c in trainer.callbacks if isinstance(c, BaseEMCallback)]  # pyright: ignore[reportAttributeAccessIssue]
    how = methods[0] if methods else "gradient descent"
    return (
        f"{printable(data.name)}: {count_rows(data.num_train_rows)} to train{weighed}{lacking}"
        f"{others}, {data.num_features} features, "
        f"{layer.num_components} components, covariance {layer.covariance.name}, "
        f"priors {priors}{classes}{noise}{constraints(layer)}, {how} on {trainer.world_size} "
        "process(es)"
    )
