"""What any logger is given: numbers, settings, and pictures where it shows them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from matplotlib.figure import Figure
from support.lightning_runs import adam, fitted, trainer
from torch import Tensor

from gmm_lightning import GMMLayer
from gmm_lightning.training import (
    ArrayDataModule,
    EMCallback,
    GMMModule,
    InitializeCallback,
    MixtureLogger,
    logger,
)

DATA = {"standardize": True, "batch_size": 20, "columns": ["height", "girth"], "name": "trees"}


class Recorder(Logger):
    """A logger of somebody else: it keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, dict[int, float]] = {}
        self.settings: dict[str, Any] = {}

    name, version = "recorder", 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        for key, value in metrics.items():
            assert isinstance(value, float | int)
            self.numbers.setdefault(key, {})[step] = value

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.settings |= params


class Painter(Recorder):
    """One that shows images, as Lightning's `WandbLogger` does."""

    def __init__(self) -> None:
        super().__init__()
        self.images: list[tuple[str, int]] = []

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None:
        assert all(isinstance(image, Figure) for image in images)
        assert step is not None
        self.images.append((key, step))


@pytest.mark.parametrize("fit", ["em", "sgd"])
def test_a_logger_of_somebody_else(x: Tensor, fit: str) -> None:
    record, paint = Recorder(), Painter()
    module, run = fitted(
        x, fit, MixtureLogger(every_n_passes=2), max_epochs=3, logger=[record, paint], data=DATA
    )
    passes = [0, 1, 2]
    for key in ("train/log_likelihood", "train/objective", "weights/2", "condition_number/0"):
        assert list(record.numbers[key]) == passes, key
    counts = [record.numbers[f"effective_counts/{k}"][2] for k in range(3)]
    assert sum(counts) == pytest.approx(len(x))
    logged = run.callback_metrics["train/objective"].item()
    assert record.numbers["train/objective"][2] == pytest.approx(logged, rel=1e-15)
    # The means are in the user's units, by the names of the columns.
    means = module.distribution().means
    for k in range(3):
        for i, column in enumerate(("height", "girth")):
            assert record.numbers[f"means/{k}/{column}"][2] == pytest.approx(means[k, i].item())
    assert record.numbers == paint.numbers
    assert paint.images == [("mixture", 0), ("mixture", 2), ("mixture", 3)]
    found = record.settings
    assert found["layer"]["num_components"] == 3
    assert found["layer"]["covariance"]["name"] == "full"
    assert (found["rows"]["name"], found["rows"]["num_train_rows"]) == ("trees", len(x))
    by = {"by": "EMCallback"} if fit == "em" else {"by": "Adam", "lr": 0.01}
    assert found["training"] == by | {"precision": "64-true", "processes": 1}


def test_a_csv_file_beside_tensorboard(x: Tensor, tmp_path: Path) -> None:
    loggers = [CSVLogger(tmp_path, "csv", ""), TensorBoardLogger(tmp_path, "tb", "")]
    module, _ = fitted(x, "em", MixtureLogger(), logger=loggers, data=DATA)
    with (tmp_path / "csv" / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    last = {key: value for row in table for key, value in row.items() if value}
    assert float(last["weights/1"]) == pytest.approx(module.layer.weights[1].item())
    assert {"train/objective", "means/0/girth", "condition_number/2"} <= set(last)
    assert "num_components: 3" in (tmp_path / "csv" / "hparams.yaml").read_text()


def test_many_means_are_not_logged(x: Tensor) -> None:
    record = Recorder()
    wide = x.repeat(1, 15)[:, :22] + 0.1 * torch.arange(22)
    fitted(wide, "em", MixtureLogger(), covariance="diag", logger=record)
    assert "weights/0" in record.numbers
    assert not [key for key in record.numbers if key.startswith("means/")]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_a_number_of_rows_that_nobody_knows_is_left_out(x: Tensor) -> None:
    class Loader:
        def __iter__(self) -> Any:
            return iter(x.split(20))

    record, module = Recorder(), GMMModule(GMMLayer(2, 3), adam())
    trainer(MixtureLogger(), logger=record, max_epochs=1).fit(module, Loader())
    assert "weights/0" in record.numbers
    assert "effective_counts/0" not in record.numbers
    assert "means/0/x1" in record.numbers
    assert record.settings["rows"] == {}


def test_nothing_is_written_in_a_dry_run(x: Tensor) -> None:
    record = Recorder()
    fitted(x, "em", MixtureLogger(), logger=record, fast_dev_run=True)
    assert not record.numbers
    assert not record.settings


def test_pictures_are_drawn_for_those_who_show_them(
    x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("drawn")

    monkeypatch.setattr(logger, "draw_mixture", refuse)
    start = [InitializeCallback(), EMCallback()]
    run = trainer(*start, MixtureLogger(every_n_passes=1), logger=Recorder(), max_epochs=2)
    run.fit(GMMModule(GMMLayer(2, 3)), ArrayDataModule(x))
    run = trainer(*start, MixtureLogger(every_n_passes=1), logger=Painter(), max_epochs=1)
    with pytest.raises(AssertionError, match="drawn"):
        run.fit(GMMModule(GMMLayer(2, 3)), ArrayDataModule(x))
