"""`gmm-sample`: new rows from a run, in the units of its data."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from omegaconf import DictConfig
from torch import Tensor

from gmm_lightning._validation import require_integer
from gmm_lightning.app.checks import require_flag, require_path, require_unread
from gmm_lightning.app.drawing import draw_options, draws, extrapolation, given_columns
from gmm_lightning.app.imputing import check_imputation, completed_rows
from gmm_lightning.app.pictures import save_picture, shown_columns
from gmm_lightning.app.runs import load_run
from gmm_lightning.datasets import TableWriter
from gmm_lightning.errors import InvalidArgumentError

# Rows in a picture, at most.
_SHOWN = 5000


def sample(config: DictConfig) -> None:
    """Draw rows and write them, with the component of each, and a picture where asked.

    With `input` the missing entries of the rows of a file are drawn, or filled in, instead.

    Raises:
        InvalidArgumentError: nowhere to write to, or an option out of range.
        RegionError: a region that the mixture does not reach.
        CheckpointError: no run at the given path.
    """
    _check_outputs(config)
    if config.input is not None:
        _complete(config)
        return
    n = 1000 if config.n is None else config.n
    options = draw_options(config)
    finished = load_run(config.run)
    given = given_columns(config.condition, finished.columns)
    visible = shown_columns(config.columns, finished.columns, given)
    shown: tuple[Tensor, Tensor] | None = None
    columns = ["component", *finished.columns]
    writer = (
        TableWriter(config.output, columns, overwrite=config.overwrite) if config.output else None
    )
    with writer or nullcontext():
        for x, z in draws(finished, n, given, options, config.seed):
            if writer is not None:
                values = dict(zip(finished.columns, x.T.numpy(), strict=True))
                # The given values, not rounded to the mixture's precision.
                values |= {finished.columns[i]: np.full(len(x), v) for i, v in given.items()}
                writer.write(component=z.numpy(), **values)
            shown = shown or (x[:_SHOWN], z[:_SHOWN])
    warning = extrapolation(finished, given)
    if warning is not None:
        print(f"gmm-sample: {warning}", file=sys.stderr)
    if config.output is not None:
        print(f"{n} rows: {config.output}")
    if config.picture is not None and shown is not None:
        path = save_picture(finished, *shown, given, options["within"], visible, config.picture)
        print(f"picture: {path}")


def _complete(config: DictConfig) -> None:
    """Write the rows of a file with their missing entries filled in."""
    n = check_imputation(config)
    require_unread(config.output, [config.input])
    finished, count = load_run(config.run), 0
    columns = ["row", *finished.columns]
    with TableWriter(config.output, columns, overwrite=config.overwrite) as table:
        for number, x in completed_rows(finished, config, n):
            values = dict(zip(finished.columns, x.T.numpy(), strict=True))
            table.write(row=number.numpy(), **values)
            count += len(x)
    print(f"{count} rows, completed by impute={config.impute}: {config.output}")


def _check_outputs(config: DictConfig) -> None:
    """Refuse outputs that cannot be written, and numbers out of range, before a run is read."""
    for name in ("run", "output", "picture", "input"):
        require_path(name, config[name])
    if config.output is None and config.picture is None:
        raise InvalidArgumentError("say where to: output=new.csv, or picture=new.png")
    require_flag("overwrite", config.overwrite)
    if config.n is not None:
        require_integer("n", config.n, least=0)
    require_integer("seed", config.seed, least=0)
    if config.picture is None:
        if config.columns is not None:
            raise InvalidArgumentError("columns are those of a picture: add picture=new.png")
        return
    if Path(config.picture).suffix not in (".png", ".pdf", ".svg"):
        raise InvalidArgumentError(
            f"{config.picture}: expected a name that ends in .png, .pdf or .svg"
        )
    if Path(config.picture).exists() and not config.overwrite:
        raise InvalidArgumentError(
            f"{config.picture} exists; choose another name, or replace it with overwrite=true"
        )
