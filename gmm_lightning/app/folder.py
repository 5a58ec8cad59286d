"""The folder that a training writes to: nobody else's while it runs, and not replaced unasked."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import lightning as L
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from gmm_lightning._files import atomic_write
from gmm_lightning.app.configs import written_places
from gmm_lightning.app.lock import LOCK_NAME, FolderLock
from gmm_lightning.app.processes import rank_from_environment
from gmm_lightning.app.trust import require_no_links
from gmm_lightning.errors import CheckpointError

log = logging.getLogger(__name__)

# What a run leaves in its folder.
_CHECKPOINT = "checkpoints/last.ckpt"
_REPORT = ("metrics.json", "density.json", "mixture.png")
_LOGS = ("tensorboard/**/*", "csv/**/*")


class RunFolder(L.Callback):
    """Holds the folder of a run from before its data are read until its report is written.

    Until training starts nothing in the folder changes: a run that fails before leaves an older
    run as it was, and a new folder is removed again. Then the settings are written, and what an
    older run left is removed if that was asked for. Of a run that goes on the report is removed:
    it is of other parameters than the checkpoints to come.

    Args:
        config: of the run.

    Attributes:
        path: where it is.

    Raises:
        CheckpointError: another process is training in the folder, it holds a run already, or
            links to other places; on entering.
    """

    def __init__(self, config: DictConfig) -> None:
        self.path = Path(config.paths.output_dir)
        self._writes = rank_from_environment() == 0
        self._resumes, self._overwrites = config.resume is not None, config.overwrite is True
        self._is_dry = bool(config.trainer.get("fast_dev_run"))
        self._settings = _settings(config)
        self._former: list[Path] = []
        hydra = HydraConfig.get() if HydraConfig.initialized() else None
        *self._folders, self._log = written_places(self.path, hydra.job.name if hydra else "train")
        # The setting that names the folder.
        is_swept = hydra is not None and hydra.mode == RunMode.MULTIRUN
        self._typed_as = "hydra.sweep.dir" if is_swept else "hydra.run.dir"
        self._has_begun = False

    def __enter__(self) -> Self:
        if not self._writes:
            return self
        self.path.mkdir(parents=True, exist_ok=True)
        self._identity = self.path.stat()
        try:
            self._lock = FolderLock(self.path)
        except BlockingIOError as holder:
            raise CheckpointError(
                f"another training is writing to {self.path}: {holder}; wait for its end, or "
                f"choose another folder with {self._typed_as}="
            ) from None
        if self._lock.missing is not None:
            log.warning(
                "%s cannot be locked: %s; do not start another training in it",
                self.path,
                self._lock.missing,
            )
        try:
            self._look_inside()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _look_inside(self) -> None:
        """Find what an older run left, and refuse what may not be written over."""
        require_no_links(*self._folders, self._log)
        # Hydra has opened the log by now.
        self._is_new = all(
            (path == self._log and path.stat().st_size == 0) or path.name == LOCK_NAME
            for path in self.path.iterdir()
        )
        holds_run = any((self.path / name).exists() for name in (_CHECKPOINT, "metrics.json"))
        if self._is_dry or not holds_run:
            return
        if not (self._resumes or self._overwrites):
            raise CheckpointError(
                f"{self.path} holds a run already: go on with it by resume={self.path}, choose "
                f"another folder with {self._typed_as}=, or replace it with overwrite=true"
            )
        names = _REPORT if self._resumes else (_CHECKPOINT, *_REPORT, *_LOGS)
        former = (path for name in names for path in self.path.glob(name))
        # What is in a folder comes before it.
        self._former = sorted(former, reverse=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._writes:
            return
        self._lock.release()
        if error is not None and self._is_new and not self._has_begun:
            # Other files may have come meanwhile: they stay, and so does the folder then.
            with suppress(OSError):
                self._discard()

    def require_present(self) -> None:
        """Refuse to go on where the folder was deleted or moved; nothing is made again.

        Raises:
            CheckpointError: it was.
        """
        if not self._writes:
            return
        try:
            present = os.path.samestat(self.path.stat(), self._identity)
        except FileNotFoundError:
            present = False
        if not present:
            raise CheckpointError(
                f"the folder of this run ({self.path}) is gone, deleted or moved while the run "
                "wrote to it; where it was moved, go on with resume=<its new place>"
            )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Look for the folder before loggers open their files."""
        self.require_present()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the settings, and remove what is replaced."""
        if self._has_begun or not self._writes or self._is_dry:
            return
        self.require_present()
        for path in self._former:
            with suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()
        for name, text in self._settings.items():
            with atomic_write(self.path / ".hydra" / name) as partial:
                partial.write_text(text, encoding="utf-8")
        self._has_begun = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look for the folder before the checkpoint is written."""
        self.require_present()

    def _discard(self) -> None:
        """Remove what this run has made in a folder that was new, or empty, and the folder."""
        self._log.unlink(missing_ok=True)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)
        here, folder = Path.cwd(), self.path.absolute()
        above = (path for path in folder.parents if here in path.parents)
        for empty in () if folder in (here, *here.parents) else (folder, *above):
            empty.rmdir()


def _settings(config: DictConfig) -> dict[str, str]:
    """The files of settings, as Hydra writes them, by name; none without Hydra.

    Hydra would write them before it is known whether the folder is free and the run can start.
    """
    if not HydraConfig.initialized():
        return {}
    hydra = HydraConfig.instance().cfg
    assert hydra is not None
    files = {"config.yaml": config, "hydra.yaml": hydra}
    files["overrides.yaml"] = HydraConfig.get().overrides.task
    return {name: OmegaConf.to_yaml(content) for name, content in files.items()}
