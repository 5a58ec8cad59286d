"""The rows of a file that a command reads: the columns of a run, their errors, empty cells."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from gmm_lightning._validation import require_integer
from gmm_lightning.app.runs import FinishedRun
from gmm_lightning.datasets import iter_table
from gmm_lightning.rows import Batch, complete
from gmm_lightning.training import ErrorColumns, missing_word


def input_rows(finished: FinishedRun, config: DictConfig, missing: str) -> Iterator[Batch]:
    """Batches of the file `config.input` in the units of the data, with the errors of the rows.

    Args:
        finished: the run, whose columns are read.
        config: with `input`, `errors`, `header`, `separator`, `key` and `batch_rows`.
        missing: `refuse`, `drop` or `em`.

    Raises:
        InvalidArgumentError: an option that does not fit the file.
        InvalidDataError: a file that cannot be used; the message says where.
    """
    require_integer("batch_rows", config.batch_rows, least=1)
    errors: Any = config.errors
    errors = OmegaConf.to_container(errors) if OmegaConf.is_config(errors) else errors
    names: Any = ErrorColumns.to_read(finished.columns, errors)
    split = ErrorColumns.of(names, errors)
    options = {name: config[name] for name in ("header", "separator", "key", "batch_rows")}
    blocks = iter_table(config.input, columns=names, allow_missing=missing != "refuse", **options)
    batches = (split(Batch(torch.from_numpy(block))) for block in blocks)
    return map(complete, batches) if missing == "drop" else batches


def missing_of_run(finished: FinishedRun, given: str | None) -> str:
    """What is done with empty cells: as given, or for None as in the fit of the run."""
    return missing_word(finished.module.missing if given is None else given)
