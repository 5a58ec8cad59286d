"""`gmm-predict`: component, log-density and outliers for the rows of a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from gmm_lightning._validation import require_integer
from gmm_lightning.app.checks import require_flag, require_unread
from gmm_lightning.app.runs import load_run
from gmm_lightning.datasets import TableWriter, iter_table
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training import GMMModule


def predict(config: DictConfig) -> None:
    """Read a file block by block and write one row of results for each of its rows.

    Raises:
        InvalidArgumentError: nothing to read or nowhere to write to.
        InvalidDataError: a file that cannot be read, or without the columns of the run.
        CheckpointError: no run at the given path.
    """
    if not config.input or not config.output:
        raise InvalidArgumentError(
            "say what to read and where to write: input=new.csv output=labels.csv"
        )
    require_flag("overwrite", config.overwrite)
    require_flag("responsibilities", config.responsibilities)
    require_integer("batch_rows", config.batch_rows, least=1)
    require_unread(config.output, [config.input])
    finished = load_run(config.run)
    threshold = finished.threshold(config.quantile)
    options = {name: config[name] for name in ("header", "separator", "key", "batch_rows")}
    blocks = iter_table(config.input, columns=finished.columns, **options)
    columns = ["component", "log_density", "outlier"]
    if finished.module.layer.noise is not None:
        columns.append("noise")
    if config.responsibilities:
        columns.append("responsibility")
    rows = outliers = 0
    with TableWriter(config.output, columns, overwrite=config.overwrite) as table:
        for block in blocks:
            answers = _answers(finished.module, block, threshold)
            table.write(**{name: answers[name] for name in columns})
            rows, outliers = rows + len(block), outliers + int(answers["outlier"].sum())
    print(
        f"{rows} rows, {outliers} outliers (log-density below {threshold:.6g}, the "
        f"{config.quantile:g} quantile of the training rows): {config.output}"
    )


@torch.no_grad()
def _answers(
    module: GMMModule, block: NDArray[np.float64], threshold: float
) -> dict[str, NDArray[Any]]:
    """Component, log-density, outlier and responsibilities of a block of rows."""
    log_joint = module.layer.log_joint_with_noise(module.standardize(torch.from_numpy(block)))
    best, shares, k = log_joint.argmax(-1), log_joint.softmax(-1), module.layer.num_components
    log_density = log_joint.logsumexp(-1) + module.standardize.log_abs_det
    return {
        "component": torch.where(best == k, -1, best).numpy(),
        "log_density": log_density.numpy(),
        # A density that is no number is not above the threshold, either.
        "outlier": ~(log_density >= threshold).numpy(),
        "noise": shares[:, k:].sum(-1).numpy(),
        "responsibility": shares[:, :k].numpy(),
    }
