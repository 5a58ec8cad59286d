"""`gmm-show`: the components of a run as a table."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from gmm_lightning.app.command import run

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from gmm_lightning.app.runs import StoredRun


def main() -> None:
    """Entry point of `scripts/show.py` and of the command `gmm-show`."""
    run("show", show)


def show(config: DictConfig) -> None:
    """Print a run's components, heaviest first, in the units of its data."""
    from gmm_lightning.app.runs import load_run

    stored = load_run(config.run)
    wanted = config.columns
    if wanted is not None:
        wanted = [str(name) for name in ([wanted] if isinstance(wanted, str | int) else wanted)]
    print("\n".join(lines(stored, wanted)))


def lines(stored: StoredRun, wanted: list[str] | None) -> list[str]:
    """The table, line by line."""
    import torch

    from gmm_lightning.errors import InvalidArgumentError

    missing = [name for name in wanted or () if name not in stored.columns]
    if missing:
        raise InvalidArgumentError(
            f"the run has no column {', '.join(missing)}; it has {', '.join(stored.columns)}"
        )
    chosen = [stored.columns.index(name) for name in (wanted or stored.columns)]
    module, metrics = stored.module, stored.metrics
    with torch.no_grad():
        mixture = module.distribution()
        weights, means = mixture.weights, mixture.means[:, chosen]
        spread = mixture.component_covariances.diagonal(dim1=-2, dim2=-1).sqrt()[:, chosen]
    layer = module.layer
    priors = ", ".join(prior.name for prior in layer.all_priors) or "none"
    head = [
        f"{module.data.get('name', 'data')}: {layer.num_components} components, "
        f"{layer.num_features} features, covariance {layer.covariance.name}, priors {priors}"
    ]
    if metrics:
        head.append(
            f"{metrics['num_rows']} rows, log-likelihood {metrics['log_likelihood']:.6g} nats per "
            f"row, BIC {metrics['bic']:.6g}, "
            + ("converged" if metrics["converged"] else "not converged")
        )
    rows = [["component", "weight", *(stored.columns[i] for i in chosen)]]
    for k in weights.argsort(descending=True).tolist():
        pairs = zip(means[k].tolist(), spread[k].tolist(), strict=True)
        cells = [f"{mean:.4g} ± {deviation:.3g}" for mean, deviation in pairs]
        rows.append([str(k), f"{float(weights[k]):.4f}", *cells])
    table = wrapped(rows, fixed=2, width=shutil.get_terminal_size((120, 24)).columns)
    return [*head, "", *table, "mean ± standard deviation, in the units of the data"]


def wrapped(rows: list[list[str]], fixed: int, width: int) -> list[str]:
    """Rows of cells as aligned lines; columns that do not fit go into further blocks.

    Args:
        rows: the cells, headings first.
        fixed: leading columns that every block repeats.
        width: characters in a line.
    """
    widths = [max(len(row[i]) for row in rows) + 2 for i in range(len(rows[0]))]
    blocks, used = [list(range(fixed))], sum(widths[:fixed])
    for i in range(fixed, len(widths)):
        if used + widths[i] > width and len(blocks[-1]) > fixed:
            blocks.append(list(range(fixed)))
            used = sum(widths[:fixed])
        blocks[-1].append(i)
        used += widths[i]
    text = []
    for block in blocks:
        text += ["".join(row[i].rjust(widths[i]) for i in block) for row in rows]
        text.append("")
    return text


if __name__ == "__main__":
    main()
