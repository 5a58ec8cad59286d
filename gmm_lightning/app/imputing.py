"""The rows of a file with their missing entries filled in, and without their errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Generator, Tensor

from gmm_lightning._messages import format_list
from gmm_lightning._validation import require_choice
from gmm_lightning.app.input_rows import input_rows, missing_of_run
from gmm_lightning.app.runs import FinishedRun
from gmm_lightning.distributions import deconvolve, impute
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import keep_constant
from gmm_lightning.rows import BLOCK_ROWS, Batch, errors_of

# Settings of draws that begin without rows, and their values when they say nothing.
_WITHOUT_INPUT = {
    **dict.fromkeys(("component", "condition", "picture", "columns")),
    **{"temperature": 1.0, "quasi": False, "antithetic": False, "with_noise": False},
}


def check_imputation(config: DictConfig) -> int:
    """The number of rows for each row of the input, after a check of the settings.

    Raises:
        InvalidArgumentError: a setting of draws that begin without rows, or several means.
    """
    kinds = ("draw", "mean", "mode")
    require_choice("impute", config.impute, kinds if config.errors is None else kinds[:2])
    chosen = [name for name, value in _WITHOUT_INPUT.items() if config[name] != value]
    if config.within or chosen:
        chosen += ["within"] if config.within else []
        raise InvalidArgumentError(
            f"input= completes the rows of a file, to which {format_list(chosen)} does not apply: "
            "leave it out"
        )
    n = 1 if config.n is None else config.n
    if config.impute != "draw" and n != 1:
        raise InvalidArgumentError(
            f"n={n} rows of impute={config.impute} would all be the same: leave n out, or take "
            "impute=draw"
        )
    return n


@torch.no_grad()
def completed_rows(
    finished: FinishedRun, config: DictConfig, n: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of rows of the input `(m,)`, and the rows `(m, D)`, n for each row.

    Missing entries are drawn from their distribution given the others, or are its mean or mode.
    With errors the rows are the true ones that the components of the run expect. Noise has no part
    in it.
    """
    generator = Generator().manual_seed(config.seed)
    missing = missing_of_run(finished, config.missing or "em")
    first = 0
    for batch in input_rows(finished, config, missing):
        for part in batch.split(max(1, BLOCK_ROWS // max(1, n))):
            index = torch.arange(part.num_rows).repeat_interleave(n)
            whole = _complete(finished, part.at(index), config.impute, generator)
            yield first + index, whole
            first += part.num_rows


def _complete(finished: FinishedRun, rows: Batch, kind: Any, generator: Generator) -> Tensor:
    mixture, errors = finished.module.distribution(), errors_of(rows)
    if errors is None:
        found = impute(mixture, rows.x, kind, generator)
    else:
        found = deconvolve(mixture, rows.x, errors, kind, generator)
    known = ~torch.isnan(rows.x) if errors is None else ~torch.isnan(rows.x) & (errors == 0)
    filled = keep_constant(found, mixture.means, finished.module.layer.is_constant)
    return torch.where(known, rows.x, filled.to(rows.x))
