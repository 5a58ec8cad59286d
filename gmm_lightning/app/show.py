"""`gmm-show`: the components of a run as a table."""

from __future__ import annotations

import math
import shutil

import torch
from omegaconf import DictConfig

from gmm_lightning._messages import format_list
from gmm_lightning.app.logs import constant_note, constraints, degenerate_note
from gmm_lightning.app.runs import FinishedRun, load_run
from gmm_lightning.bayes import PosteriorDraws
from gmm_lightning.errors import InvalidArgumentError, printable
from gmm_lightning.evidence import labels_of


def show(config: DictConfig) -> None:
    """Print a run's components, heaviest first, in the units of its data."""
    finished = load_run(config.run)
    given = config.columns
    if given is None:
        given = finished.columns
    given = [str(name) for name in ([given] if isinstance(given, str | int) else given)]
    print("\n".join(_lines(finished, given)))


@torch.no_grad()
def _lines(finished: FinishedRun, columns: list[str]) -> list[str]:
    """The table, line by line."""
    known = {name: position for position, name in enumerate(finished.columns)}
    missing = [name for name in columns if name not in known]
    if missing:
        raise InvalidArgumentError(
            f"the run has no column {format_list(missing, 20)}; it has {format_list(known, 20)}"
        )
    chosen = [known[name] for name in columns]
    module, metrics = finished.module, finished.metrics
    layer, mixture = module.layer, module.distribution()
    means = mixture.means[:, chosen]
    spread = mixture.component_covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    spread[:, layer.constant_features] = 0.0
    spread = spread[:, chosen]
    priors = ", ".join(prior.name for prior in layer.all_priors) or "none"
    head = [
        f"{printable(module.data.get('name', 'data'))}: {layer.num_components} components, "
        f"{layer.num_features} features, covariance {layer.covariance.name}, priors {priors}"
        f"{constraints(layer)}"
    ]
    if metrics:
        head.append(
            f"{metrics['num_rows']} rows, log-likelihood {metrics['log_likelihood']:.6g} nats per "
            f"row, BIC {metrics['bic']:.6g}, "
            + ("converged" if metrics["converged"] else "not converged")
        )
    if layer.noise is not None:
        head.append(
            f"noise {layer.noise.name} of weight {float(layer.noise.weight):.4f}; the other rows "
            "have the weights below"
        )
    if metrics.get("degenerate_components"):
        head.append(degenerate_note(metrics["degenerate_components"]))
    if layer.constant_features:
        head.append(constant_note(layer, finished.columns))
    labels = labels_of(layer.evidence)
    classes = [] if labels is None else finished.class_names(labels.num_classes)
    titles = ["component", "weight", *(["class"] if classes else [])]
    rows = [[*titles, *map(printable, columns)]]
    for k in mixture.weights.argsort(descending=True).tolist():
        pairs = zip(means[k].tolist(), spread[k].tolist(), strict=True)
        cells = [_with_spread(mean, deviation) for mean, deviation in pairs]
        own = [] if labels is None else [printable(classes[labels.class_of_component[k]])]
        rows.append([str(k), f"{float(mixture.weights[k]):.4f}", *own, *cells])
    table = _wrapped(rows, fixed=len(titles), width=shutil.get_terminal_size((120, 24)).columns)
    said = "mean ± standard deviation, in the units of the data"
    return [*head, "", *table, said, *_intervals(finished, columns, chosen)]


def _intervals(finished: FinishedRun, columns: list[str], chosen: list[int]) -> list[str]:
    """Intervals of the weights and means of a run that drew from its posterior, line by line."""
    path = finished.folder / "posterior.npz"
    if not path.is_file():
        return []
    draws = PosteriorDraws.load(path)
    if draws.means.shape[2:] != finished.module.layer.means.shape:
        return [f"{path.name} is of another mixture"]
    levels = torch.tensor([0.05, 0.95], dtype=draws.means.dtype)
    weights = draws.weights.flatten(0, 1).quantile(levels, 0)
    means = draws.means.flatten(0, 1)[..., chosen].quantile(levels, 0)
    rows = [["component", "weight", *map(printable, columns)]]
    for k in draws.weights.mean((0, 1)).argsort(descending=True).tolist():
        low, high = weights[:, k].tolist()
        pairs = zip(*means[:, k].tolist(), strict=True)
        cells = [f"{one:.4g} to {other:.4g}" for one, other in pairs]
        rows.append([str(k), f"{low:.4f} to {high:.4f}", *cells])
    table = _wrapped(rows, fixed=2, width=shutil.get_terminal_size((120, 24)).columns)
    number = draws.num_chains * draws.num_draws
    return ["", *table, f"90 % of {number:,} draws from the posterior lie there"]


def _with_spread(mean: float, deviation: float) -> str:
    """A mean to two digits of its standard deviation: `1700000005.00 ± 0.10`."""
    # The exponent of its first digit once it is rounded to two.
    decimals = 1 - int(f"{deviation:.1e}"[-3:]) if 0 < deviation < math.inf else 99
    if decimals > 9 or not abs(mean) < 1e15:
        return f"{mean:.4g} ± {deviation:.3g}"
    return f"{mean:.{max(0, decimals)}f} ± {deviation:.{max(0, decimals)}f}"


def _wrapped(rows: list[list[str]], fixed: int, width: int) -> list[str]:
    """Rows of cells as aligned lines of a width; columns that do not fit go into further blocks.

    Every block repeats the leading `fixed` columns.
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
