"""`resume=`: the command line that continues a run, from its stored overrides and those typed."""

from __future__ import annotations

import os
from pathlib import Path

from gmm_lightning.app.configs import DATA_PATHS, START_PATH, launch_folder, run_paths
from gmm_lightning.app.overrides import quoted
from gmm_lightning.app.stored import read_yaml
from gmm_lightning.app.trust import require_no_links, trusted_value
from gmm_lightning.errors import CheckpointError, InvalidArgumentError


def resume_overrides(path: Path, overrides: list[str]) -> list[str]:
    """The stored overrides of a run followed by those typed now, in the run's own folder.

    Raises:
        CheckpointError: nothing to resume from, or a folder with links to other places, pipes or
            devices.
        InvalidArgumentError: a stored override that could run code or write elsewhere.
    """
    folder, checkpoint = run_paths(path)
    if not checkpoint.is_file():
        raise CheckpointError(f"there is nothing to resume: no checkpoint at {checkpoint}")
    source = folder / ".hydra" / "overrides.yaml"
    if not source.is_file():
        raise CheckpointError(
            f"{folder} is not the folder of a run: it has no .hydra/overrides.yaml"
        )
    require_no_links(*folder.iterdir())
    _require_plain_name(folder.resolve())
    stored = read_yaml(source)
    if not (isinstance(stored, list) and all(isinstance(word, str) for word in stored)):
        raise CheckpointError(f"{source} does not hold a list of overrides")
    typed = [o for o in overrides if key_of(o) not in ("resume", "hydra.run.dir")]
    # It was read when the run started, and may be gone.
    known = {key_of(o) for o in typed} | {"resume", "hydra.run.dir", START_PATH}
    kept = [o for o in stored if key_of(o) not in known and not key_of(o).startswith("hydra")]
    values = [trusted_value(override, folder, source) for override in kept]
    kept = [_absolute_path(o, value, folder) for o, value in zip(kept, values, strict=True)]
    return [
        *kept,
        *typed,
        f"resume={quoted(checkpoint.resolve())}",
        f"hydra.run.dir={quoted(folder.resolve())}",
    ]


def key_of(override: str) -> str:
    """The key of an override: `a.b` of `+a.b=1` and of `~a.b`."""
    return override.split("=", 1)[0].lstrip("+~")


def _absolute_path(override: str, value: object, folder: Path) -> str:
    """An override; a path of data becomes absolute, from the folder the run was started in."""
    key = override.partition("=")[0]
    if key not in (f"data.{name}" for name in DATA_PATHS) or not isinstance(value, str):
        return override
    started = launch_folder(folder)
    if not value or started is None:
        return override
    path = str((started / value).resolve())
    if "${" in path:
        raise InvalidArgumentError(
            f"{folder / '.hydra' / 'hydra.yaml'} names a folder with an interpolation, which is "
            f"not taken from a file; type {key}=... again"
        )
    return f"{key}={quoted(path)}"


def _require_plain_name(folder: Path) -> None:
    """Refuse a folder whose name stands for another one: Hydra and loggers expand names."""
    if "${" in str(folder) or os.path.expandvars(folder) != str(folder):
        raise CheckpointError(
            f"{str(folder)!r} has the name of a variable in it, which is expanded where the run is "
            "written: rename the folder"
        )
