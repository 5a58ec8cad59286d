"""A finished run, read back from its folder or its checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra.utils import instantiate
from omegaconf import OmegaConf

from gmm_lightning.app.configs import DATA_PATHS, launch_folder, require_trusted, run_paths
from gmm_lightning.errors import CheckpointError, InvalidArgumentError
from gmm_lightning.training import GMMModule, RowsDataModule


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

    def training_data(self) -> RowsDataModule:
        """The data of the run, from its stored configuration, of trusted classes only."""
        path = self.folder / ".hydra" / "config.yaml"
        if not path.is_file():
            raise CheckpointError(f"{self.folder} has no .hydra/config.yaml that names its data")
        # The rest of the configuration may depend on the running job, such as its folder.
        data: Any = OmegaConf.to_container(OmegaConf.load(path).data, resolve=True)
        require_trusted(data, f"the run at {self.folder}")
        started = launch_folder(self.folder)
        for name in DATA_PATHS:
            if started is not None and data.get(name):
                data[name] = str(started / data[name])
        return instantiate(data, _convert_="all")

    def threshold(self, quantile: float) -> float:
        """The log-density below which a share `quantile` of the training rows lies.

        Raises:
            InvalidArgumentError: a quantile outside (0, 1).
            CheckpointError: the run did not record its training density.
        """
        if not isinstance(quantile, float) or not 0 < quantile < 1:
            raise InvalidArgumentError(f"quantile must be in (0, 1), got {quantile!r}")
        path = self.folder / "density.json"
        recorded = _read_json(path)
        if not recorded:
            raise CheckpointError(f"{self.folder} records no training density (density.json)")
        try:
            return float(np.interp(quantile, recorded["probability"], recorded["log_density"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged: it holds no quantiles") from error


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
    return FinishedRun(folder, module, tuple(names), _read_json(folder / "metrics.json"))


def _read_json(path: Path) -> dict[str, Any]:
    """A table that a run wrote; empty if it did not get that far."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds no table of numbers")
    return content
