"""A finished run, read back from its folder or its checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gmm_lightning.app.configs import run_paths
from gmm_lightning.errors import CheckpointError, InvalidArgumentError

if TYPE_CHECKING:
    from gmm_lightning.training import GMMModule, RowsDataModule


@dataclass(frozen=True)
class StoredRun:
    """A trained model with what its folder says about it.

    Attributes:
        folder: where the run lives.
        module: the model, in evaluation mode, in the user's units.
        columns: names of the features, in the order that the model expects.
        metrics: contents of `metrics.json`; empty if the run did not get that far.
    """

    folder: Path
    module: GMMModule
    columns: tuple[str, ...]
    metrics: dict[str, Any]

    def training_data(self) -> RowsDataModule:
        """The data of the run, from its own configuration.

        Raises:
            CheckpointError: the folder has no configuration.
            InvalidArgumentError: the configuration asks for something that is not trusted.
        """
        from hydra.utils import instantiate
        from omegaconf import OmegaConf

        from gmm_lightning.app.configs import require_trusted

        path = self.folder / ".hydra" / "config.yaml"
        if not path.is_file():
            raise CheckpointError(f"{self.folder} has no .hydra/config.yaml that names its data")
        config = OmegaConf.load(path)
        # What is only known while a run is going on, such as its folder, is not asked for.
        plain: Any = OmegaConf.to_container(config.data, resolve=True)
        require_trusted(plain, f"the run at {self.folder}")
        self._from_where_it_ran(plain)
        return instantiate(plain, _convert_="all")

    def _from_where_it_ran(self, data: dict[str, Any]) -> None:
        """Make relative paths absolute: they were typed where the run was started."""
        from omegaconf import OmegaConf

        hydra = self.folder / ".hydra" / "hydra.yaml"
        if not hydra.is_file():
            return
        cwd = OmegaConf.select(OmegaConf.load(hydra), "hydra.runtime.cwd")
        for name in ("path", "val_path", "test_path"):
            if cwd and data.get(name):
                data[name] = str(Path(cwd) / data[name])

    def threshold(self, quantile: float) -> float:
        """The log-density below which a share `quantile` of the training rows lies.

        Raises:
            InvalidArgumentError: a quantile outside (0, 1).
            CheckpointError: the run did not record its training density.
        """
        if not isinstance(quantile, float) or not 0 < quantile < 1:
            raise InvalidArgumentError(f"quantile must be in (0, 1), got {quantile!r}")
        recorded = read_json(self.folder / "density.json")
        if not recorded:
            raise CheckpointError(f"{self.folder} records no training density (density.json)")
        try:
            return float(np.interp(quantile, recorded["probability"], recorded["log_density"]))
        except (KeyError, TypeError, ValueError) as error:
            path = self.folder / "density.json"
            raise CheckpointError(f"{path} is damaged: it holds no quantiles") from error


def load_run(run: str | None) -> StoredRun:
    """Read a run back; nothing that its files hold is ever executed.

    Args:
        run: the folder of a run, or a checkpoint.

    Raises:
        InvalidArgumentError: nothing given.
        CheckpointError: no run there, or one that cannot be read.
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
    from gmm_lightning.training import GMMModule

    module = GMMModule.load_from_checkpoint(checkpoint)
    names = module.data.get("columns") or [f"x{i}" for i in range(module.layer.num_features)]
    return StoredRun(folder, module, tuple(names), read_json(folder / "metrics.json"))


def read_json(path: Path) -> dict[str, Any]:
    """What a run wrote of itself; empty if it did not get that far.

    Raises:
        CheckpointError: a damaged file.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds no table of numbers")
    return content
