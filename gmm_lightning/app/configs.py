"""Locations of configurations and runs, and the classes that may be built from them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import utils
from omegaconf import OmegaConf

from gmm_lightning.errors import InvalidArgumentError

# A configuration from a run folder may build only classes of these: the prefix of a target, and
# the module prefix under which the class that it names must be defined.
_TRUSTED = {
    "gmm_lightning.": "gmm_lightning.",
    "lightning.Trainer": "lightning.pytorch.trainer.",
    "lightning.pytorch.callbacks.": "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.": "lightning.pytorch.loggers.",
    "torch.optim.": "torch.optim.",
}
# Keys of `data` that name files.
DATA_PATHS = ("path", "val_path", "test_path")


def config_dir() -> str:
    """The folder of the yaml files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return str(inside if inside.is_dir() else package.parent / "configs")


def run_paths(path: Path) -> tuple[Path, Path]:
    """Folder and checkpoint of a run, from either of them; they need not exist."""
    if path.is_dir():
        return path, path / "checkpoints" / "last.ckpt"
    return path.parent.parent, path


def launch_folder(run: Path) -> Path | None:
    """The folder that a run was started in, where its relative paths begin, if it is known."""
    settings = run / ".hydra" / "hydra.yaml"
    if not settings.is_file():
        return None
    cwd = OmegaConf.select(OmegaConf.load(settings), "hydra.runtime.cwd")
    return Path(cwd) if cwd else None


def require_trusted(config: Any, origin: str) -> None:
    """Refuse a stored configuration that would run untrusted code.

    A trusted prefix alone is not enough, since a dotted path also reaches what a module has
    imported: the object found must be a class, or a class method, defined under that prefix.

    Raises:
        InvalidArgumentError: a target is not one; the message names it.
    """
    for target in _targets(config):
        home = next((_TRUSTED[start] for start in _TRUSTED if target.startswith(start)), None)
        found = _locate(target) if home else None
        owner = found.__self__ if inspect.ismethod(found) else found
        if home is None or not (inspect.isclass(owner) and owner.__module__.startswith(home)):
            raise InvalidArgumentError(
                f"{origin} asks for {target}, and a stored run is only rebuilt from classes of "
                f"{', '.join(name.rstrip('.') for name in _TRUSTED)}"
            )


def _targets(config: Any) -> Iterator[str]:
    """Every `_target_` of a plain nested config."""
    if isinstance(config, dict) and isinstance(config.get("_target_"), str):
        yield config["_target_"]
    if isinstance(config, dict | list):
        for value in config.values() if isinstance(config, dict) else config:
            yield from _targets(value)


def _locate(target: str) -> Any:
    """The object at a dotted path, or None; Hydra would log a failure as an error."""
    utils.log.disabled = True
    try:
        return utils.get_object(target)
    except (ImportError, ValueError):
        return None
    finally:
        utils.log.disabled = False
