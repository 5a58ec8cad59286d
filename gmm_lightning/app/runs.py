"""A finished run, read back from its folder or its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import get_object
from numpy.typing import NDArray

from gmm_lightning.app.configs import DATA_PATHS, launch_folder, run_paths
from gmm_lightning.app.stored import dereference, read_record, read_yaml
from gmm_lightning.app.trust import require_data_settings
from gmm_lightning.errors import CheckpointError, InvalidArgumentError
from gmm_lightning.training import GMMModule, RowsDataModule

# What is shown of a report.
_REPORTED = {"num_rows": int, "log_likelihood": float, "bic": float, "converged": bool}


@dataclass(frozen=True)
class FinishedRun:
    """A trained model with the records in its folder.

    Attributes:
        folder: of the run.
        module: the model, in evaluation mode, in the user's units.
        columns: names of the features, in the order that the model expects.
        metrics: contents of `metrics.json`; empty if the run did not get that far.
    """

    folder: Path
    module: GMMModule
    columns: tuple[str, ...]
    metrics: dict[str, Any]

    @property
    def files(self) -> list[Path]:
        """The files of the run that commands read."""
        stored = [self.folder / ".hydra" / name for name in ("config.yaml", "overrides.yaml")]
        names = ("metrics.json", "density.json", "checkpoints/last.ckpt")
        return [*(self.folder / name for name in names), *stored]

    def class_names(self, num_classes: int) -> list[str]:
        """The names of the classes of a run that was fitted with labels, or their numbers."""
        known = self.module.data.get("classes") or []
        return known if len(known) == num_classes else [str(c) for c in range(num_classes)]

    def training_data(self) -> RowsDataModule:
        """The data of the run, from its stored settings, which name a data module of ours.

        Raises:
            CheckpointError: no settings, or a damaged file.
            InvalidArgumentError: settings that would build anything else, or values that it
                does not take.
        """
        path = self.folder / ".hydra" / "config.yaml"
        if not path.is_file():
            raise CheckpointError(f"{self.folder} has no .hydra/config.yaml that names its data")
        settings = read_yaml(path)
        stored = dereference(settings, "data") if isinstance(settings, dict) else None
        data = dict(require_data_settings(stored, str(path)))
        started = launch_folder(self.folder)
        for name in DATA_PATHS:
            if started is not None and isinstance(data.get(name), str):
                data[name] = str(started / data[name])
        make = get_object(data.pop("_target_"))
        try:
            return make(**data)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path} names data that cannot be read: {error}") from error

    def threshold(self, quantile: float) -> float:
        """The log-density below which a share `quantile` of the training rows lies.

        Raises:
            InvalidArgumentError: a quantile outside (0, 1).
            CheckpointError: the run did not record its training density.
        """
        if not isinstance(quantile, float) or not 0 < quantile < 1:
            raise InvalidArgumentError(f"quantile must be in (0, 1), got {quantile!r}")
        path = self.folder / "density.json"
        recorded = read_record(path)
        if not recorded:
            raise CheckpointError(f"{self.folder} records no training density (density.json)")
        try:
            levels, values = (_numbers(recorded[name]) for name in ("probability", "log_density"))
            ascending = (levels[1:] > levels[:-1]).all() and (values[1:] >= values[:-1]).all()
            within = len(levels) > 0 and levels[0] >= 0 and levels[-1] <= 1
            if within and levels.shape == values.shape and ascending:
                return float(np.interp(quantile, levels, values))
        except (KeyError, TypeError, ValueError, OverflowError):
            pass
        raise CheckpointError(f"{path} is damaged: it holds no quantiles")


def load_run(run: str | None) -> FinishedRun:
    """A run, read from its folder or a checkpoint; nothing in its files is executed.

    Raises:
        InvalidArgumentError: no path given.
        CheckpointError: no run at the path, or one that cannot be read.
    """
    if not run:
        raise InvalidArgumentError("say which run: run=outputs/<date>/<time>")
    path = Path(run)
    folder, checkpoint = run_paths(path)
    if not checkpoint.is_file():
        raise CheckpointError(
            f"{path} is not the folder of a run: there is no {checkpoint}"
            if path.is_dir()
            else f"there is no run at {path}"
        )
    module = GMMModule.load_from_checkpoint(checkpoint)
    names = module.data.get("columns") or [f"x{i}" for i in range(module.layer.num_features)]
    return FinishedRun(folder, module, tuple(names), _read_metrics(folder / "metrics.json"))


def _read_metrics(path: Path) -> dict[str, Any]:
    """The report of a run; empty if it did not get that far."""
    metrics = read_record(path)
    wrong = [
        name
        for name, kind in _REPORTED.items()
        # A truth value is an int, too.
        if metrics and type(metrics.get(name)) is not kind
    ]
    components = metrics.get("degenerate_components", [])
    if not (isinstance(components, list) and all(type(k) is int and k >= 0 for k in components)):
        wrong.append("degenerate_components")
    if wrong:
        raise CheckpointError(f"{path} is damaged: it has no valid {', '.join(wrong)}")
    return metrics


def _numbers(values: Any) -> NDArray[np.float64]:
    """A list of finite numbers as an array.

    Raises:
        TypeError: anything else.
    """
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise TypeError("expected numbers")
    numbers = np.array(values, dtype=float)
    if not np.isfinite(numbers).all():
        raise TypeError("expected finite numbers")
    return numbers
