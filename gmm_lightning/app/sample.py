"""`gmm-sample`: new rows from a run, in the units of its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gmm_lightning.app.command import run

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Rows drawn at once.
BLOCK = 1 << 17


def main() -> None:
    """Entry point of `scripts/sample.py` and of the command `gmm-sample`."""
    run("sample", sample)


def sample(config: DictConfig) -> None:
    """Draw rows and write them, with the component of each, and a picture where asked."""
    from pathlib import Path

    import torch

    from gmm_lightning.app.runs import load_run
    from gmm_lightning.datasets.tables import TableWriter
    from gmm_lightning.errors import InvalidArgumentError
    from gmm_lightning.plotting import plot_mixture, save_figure

    if config.output is None and config.picture is None:
        raise InvalidArgumentError("say where to: output=new.csv, or picture=new.png")
    if not isinstance(config.n, int) or config.n < 0:
        raise InvalidArgumentError(f"n must be an integer >= 0, got {config.n!r}")
    if config.picture is not None and Path(config.picture).exists() and not config.overwrite:
        raise InvalidArgumentError(
            f"{config.picture} exists; allow overwrite=true, or choose another"
        )
    stored = load_run(config.run)
    generator = torch.Generator().manual_seed(config.seed)
    options = {"component": config.component, "temperature": config.temperature}
    kept: list[torch.Tensor] = []

    def draws() -> list[int]:
        return [min(BLOCK, config.n - start) for start in range(0, config.n, BLOCK)]

    def one(n: int) -> torch.Tensor:
        x, z = stored.module.sample(n, return_component=True, generator=generator, **options)
        if sum(map(len, kept)) < BLOCK:
            kept.append(x)
        return torch.cat([z.double().unsqueeze(-1), x.double()], -1)

    if config.output is not None:
        columns = ["component", *stored.columns]
        with TableWriter(
            config.output, columns, overwrite=config.overwrite, integers=["component"]
        ) as table:
            for n in draws():
                table.write(one(n).numpy())
        print(f"{config.n} rows: {config.output}")
    else:
        for n in draws()[:1]:
            one(n)
    if config.picture is not None:
        rows = torch.cat(kept) if kept else torch.zeros(0, len(stored.columns))
        title = f"{stored.module.data.get('name', 'data')}: {config.n} draws"
        mixture = stored.module.distribution()
        axes = plot_mixture(mixture, rows, columns=stored.columns, title=title)
        print(f"picture: {save_figure(axes, config.picture)}")


if __name__ == "__main__":
    main()
