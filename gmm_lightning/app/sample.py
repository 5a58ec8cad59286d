"""`gmm-sample`: new rows from a run, in the units of its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gmm_lightning.app.command import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omegaconf import DictConfig
    from torch import Tensor

    from gmm_lightning.app.runs import StoredRun

# Rows drawn at once, and at most this many in a picture.
BLOCK = 1 << 17
SHOWN = 5000


def main() -> None:
    """Entry point of `scripts/sample.py` and of the command `gmm-sample`."""
    run("sample", sample)


def sample(config: DictConfig) -> None:
    """Draw rows and write them, with the component of each, and a picture where asked.

    Raises:
        InvalidArgumentError: nowhere to write to, or an option out of range.
        CheckpointError: no run there.
    """
    from contextlib import nullcontext
    from pathlib import Path

    import torch

    from gmm_lightning.app.checks import require_flag, require_integer
    from gmm_lightning.app.runs import load_run
    from gmm_lightning.datasets.tables import TableWriter
    from gmm_lightning.errors import InvalidArgumentError

    if config.output is None and config.picture is None:
        raise InvalidArgumentError("say where to: output=new.csv, or picture=new.png")
    require_flag("overwrite", config.overwrite)
    require_integer("n", config.n, least=0)
    require_integer("seed", config.seed, least=0)
    if config.component is not None:
        require_integer("component", config.component, least=0)
    if config.picture is not None and Path(config.picture).suffix not in (".png", ".pdf", ".svg"):
        raise InvalidArgumentError(
            f"{config.picture}: expected a name that ends in .png, .pdf or .svg"
        )
    if isinstance(config.temperature, str | bool):
        raise InvalidArgumentError(f"temperature must be a number, got {config.temperature!r}")
    if config.picture is not None and Path(config.picture).exists() and not config.overwrite:
        raise InvalidArgumentError(
            f"{config.picture} exists; choose another name, or replace it with overwrite=true"
        )
    stored = load_run(config.run)
    shown: list[Tensor] = []
    columns = ["component", *stored.columns]
    writer = (
        TableWriter(config.output, columns, overwrite=config.overwrite) if config.output else None
    )
    with writer or nullcontext():
        for x, z in draws(stored, config):
            if writer is not None:
                values = dict(zip(stored.columns, x.T.numpy(), strict=True))
                writer.write(component=z.numpy(), **values)
            if not shown:
                shown.append(x[:SHOWN])
    if config.output is not None:
        print(f"{config.n} rows: {config.output}")
    if config.picture is not None:
        rows = shown[0] if shown else torch.zeros(0, len(stored.columns))
        print(f"picture: {picture(stored, rows, config.picture)}")


def draws(stored: StoredRun, config: DictConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and components, in blocks of bounded size; the same for the same seed."""
    import torch

    generator = torch.Generator().manual_seed(config.seed)
    for start in range(0, max(config.n, 1), BLOCK):
        yield stored.module.sample(
            min(BLOCK, config.n - start),
            return_component=True,
            component=config.component,
            temperature=config.temperature,
            generator=generator,
        )


def picture(stored: StoredRun, rows: Tensor, path: str) -> str:
    """The rows over the mixture: in standard units when there are more than two features."""
    from gmm_lightning.plotting import plot_mixture, save_figure

    module = stored.module
    title = f"{module.data.get('name', 'data')}: {len(rows)} draws"
    if len(stored.columns) <= 2:
        axes = plot_mixture(module.distribution(), rows, columns=stored.columns, title=title)
    else:
        axes = plot_mixture(module.layer.distribution(), module.standardize(rows), title=title)
    return str(save_figure(axes, path))


if __name__ == "__main__":
    main()
