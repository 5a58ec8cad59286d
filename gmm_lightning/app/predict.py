"""`gmm-predict`: component, log-density and outliers for the rows of a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from gmm_lightning.app.checks import require_flag, require_unread
from gmm_lightning.app.input_rows import input_rows, missing_of_run
from gmm_lightning.app.runs import FinishedRun, load_run
from gmm_lightning.datasets import TableWriter
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.evidence import labels_of
from gmm_lightning.rows import Batch


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
    require_unread(config.output, [config.input])
    finished = load_run(config.run)
    threshold = finished.threshold(config.quantile)
    missing = missing_of_run(finished, config.missing)
    finished.module.missing = "em" if missing == "em" else None
    batches = input_rows(finished, config, missing)
    columns = ["component", "log_density", "outlier"]
    if finished.module.layer.noise is not None:
        columns.append("noise")
    if labels_of(finished.module.layer.evidence) is not None:
        columns.append("class")
    if config.responsibilities:
        columns.append("responsibility")
        columns += ["class_probability"] * ("class" in columns)
    rows = outliers = incomplete = 0
    with TableWriter(config.output, columns, overwrite=config.overwrite) as table:
        for batch in batches:
            answers = _answers(finished, batch, threshold)
            table.write(**{name: answers[name] for name in columns})
            rows, outliers = rows + batch.num_rows, outliers + int(answers["outlier"].sum())
            incomplete += int(torch.isnan(batch.x).any(-1).sum())
    unjudged = f"; {incomplete} with empty cells, which are not judged" if incomplete else ""
    print(
        f"{rows} rows, {outliers} outliers (log-density below {threshold:.6g}, the "
        f"{config.quantile:g} quantile of the training rows{unjudged}): {config.output}"
    )


@torch.no_grad()
def _answers(finished: FinishedRun, batch: Batch, threshold: float) -> dict[str, NDArray[Any]]:
    """Component, class, log-density, outlier and responsibilities of a batch of rows."""
    module = finished.module
    log_joint, log_scale = module.log_joint_of(batch)
    best, shares, k = log_joint.argmax(-1), log_joint.softmax(-1), module.layer.num_components
    log_density = log_joint.logsumexp(-1) + log_scale
    # The density of fewer entries does not compare with the threshold.
    judged = ~torch.isnan(batch.x).any(-1)
    classes: dict[str, NDArray[Any]] = {}
    labels = labels_of(module.layer.evidence)
    if labels is not None:
        own = labels.class_probabilities(log_joint)
        # Where noise is more probable than any class, there is none.
        names = np.array([*finished.class_names(labels.num_classes), ""])
        place = torch.where(own.amax(-1) < shares[:, k:].sum(-1), -1, own.argmax(-1))
        classes = {"class": names[place.numpy()], "class_probability": own.numpy()}
    return classes | {
        "component": torch.where(best == k, -1, best).numpy(),
        "log_density": log_density.numpy(),
        # A density that is no number is not above the threshold, either.
        "outlier": (judged & ~(log_density >= threshold)).numpy(),
        "noise": shares[:, k:].sum(-1).numpy(),
        "responsibility": shares[:, :k].numpy(),
    }
