"""`gmm-evaluate`: how well a run fits its own data, or other data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from gmm_lightning._messages import format_list
from gmm_lightning._validation import require_integer
from gmm_lightning.app.checks import require_flag, require_unread
from gmm_lightning.app.evaluation import coverage, evaluate_rows
from gmm_lightning.app.logs import degenerate_note
from gmm_lightning.app.report import write_json
from gmm_lightning.app.runs import FinishedRun, load_run
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import Batch, MappedRows, RowSource, take_features
from gmm_lightning.training import RowsDataModule


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Evaluate a run on each part of its data, or on all rows of another data set.

    Returns:
        Numbers by part: `train`, and `val` and `test` where they were set aside; or `data`.
    """
    require_flag("overwrite", config.overwrite)
    require_integer("seed", config.seed, least=0)
    if config.output is not None and Path(config.output).exists() and not config.overwrite:
        raise InvalidArgumentError(
            f"{config.output} exists; allow overwrite=true, or choose another"
        )
    finished = load_run(config.run)
    if config.output is not None:
        require_unread(config.output, finished.files)
    if config.get("data"):
        if config.fit.missing is None:
            config.fit.missing = finished.module.missing
        # All rows of it, in the units of the model.
        given = {"val_fraction": 0.0, "test_fraction": 0.0, "standardize": False}
        given = {name: value for name, value in given.items() if name in config.data}
        data = instantiate(config.data, _convert_="all", **given)
        finished.module.missing = "em" if data.missing == "em" else None
        parts = {"data": _in_classes(finished, data, _select_columns(finished, data))}
    else:
        data = finished.training_data()
        parts = {name: data.part(name, labels=True) for name in ("train", "val", "test")}
    report = {}
    for name, part in parts.items():
        if part is not None:
            generator = torch.Generator().manual_seed(config.seed)
            report[name], density = evaluate_rows(finished.module, part, fitted=name == "train")
            report[name]["coverage"] = coverage(finished.module, density, generator)
    print("\n".join(_lines(report)))
    if config.output is not None:
        write_json(Path(config.output), report)
    return report


def _select_columns(finished: FinishedRun, data: RowsDataModule) -> RowSource:
    """Other data with their columns in the order of the model, by name."""
    part = data.part("train", labels=True)
    assert part is not None
    if data.columns == finished.columns:
        return part
    known = {name: position for position, name in enumerate(data.columns)}
    missing = [name for name in finished.columns if name not in known]
    if missing:
        raise InvalidDataError(
            f"{data.name} lacks the column(s) {format_list(missing, 20)} of the run; it has "
            f"{format_list(known, 20)}"
        )
    columns = [known[name] for name in finished.columns]
    return MappedRows(part, lambda batch: take_features(batch, columns), finished.columns)


def _in_classes(finished: FinishedRun, data: RowsDataModule, part: RowSource) -> RowSource:
    """Other data with the codes of their labels as in the run, and further ones for new classes."""
    known = finished.module.data.get("classes")
    if data.classes is None or not known or list(data.classes) == known:
        return part
    new = [name for name in data.classes if name not in known]
    codes = {name: code for code, name in enumerate([*known, *new])}
    # The last one is for rows without a label.
    table = torch.tensor([*(codes[name] for name in data.classes), -1])

    def change(batch: Batch) -> Batch:
        return batch if batch.labels is None else batch._replace(labels=table[batch.labels.long()])

    return MappedRows(part, change)


def _lines(report: dict[str, dict[str, Any]]) -> list[str]:
    """The numbers as lines of text."""
    text = []
    for part, numbers in report.items():
        text += [
            f"{part}: {numbers['num_rows']} rows",
            f"  log-likelihood   {numbers['log_likelihood']:.6f} ± {numbers['standard_error']:.6f} "
            "nats per row (± standard error)",
            f"  BIC, AIC, ICL    {numbers['bic']:.2f}, {numbers['aic']:.2f}, {numbers['icl']:.2f}",
        ]
        if "num_missing_entries" in numbers:
            entries = numbers["num_rows"] * numbers["num_features"]
            text.append(
                f"  missing          {numbers['num_missing_entries']} of {entries} entries, in "
                f"{numbers['num_incomplete_rows']} rows"
            )
        ignored = numbers["num_constant_features"]
        if ignored:
            text.append(
                f"  features         {numbers['num_features'] - ignored} of "
                f"{numbers['num_features']} count; the others are constant"
            )
        if numbers.get("degenerate_components"):
            text.append(f"  {degenerate_note(numbers['degenerate_components'])}")
        covered = ", ".join(f"{float(p):.0%}: {c:.1%}" for p, c in numbers["coverage"].items())
        if covered:
            rows = "complete rows" if "num_missing_entries" in numbers else "rows"
            meaning = f"mass of the region: share of {rows} inside"
            text.append(f"  coverage         {covered} ({meaning})")
        if "noise_weight" in numbers:
            text.append(f"  noise            weight {numbers['noise_weight']:.4f}")
        if "accuracy" in numbers:
            text.append(f"  accuracy         {numbers['accuracy']:.1%} of the labelled rows")
        if "adjusted_rand_score" in numbers:
            text.append(
                f"  agreement        adjusted Rand {numbers['adjusted_rand_score']:.4f}, "
                f"normalised mutual information {numbers['normalized_mutual_info_score']:.4f}"
            )
    return text
