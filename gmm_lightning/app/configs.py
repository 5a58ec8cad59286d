"""Where the configuration lives, and what may be built from it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gmm_lightning.errors import InvalidArgumentError

# A configuration that was found in a run folder builds classes of these and nothing else: what a
# target begins with, and where the class that it names must be defined.
TRUSTED = {
    "gmm_lightning.": "gmm_lightning.",
    "lightning.Trainer": "lightning.pytorch.trainer.",
    "lightning.pytorch.callbacks.": "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.": "lightning.pytorch.loggers.",
    "torch.optim.": "torch.optim.",
}


def config_dir() -> str:
    """The folder of the yaml files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return str(inside if inside.is_dir() else package.parent / "configs")


def run_paths(path: Path) -> tuple[Path, Path]:
    """Folder and checkpoint of a run, from either of them; whether they exist is not asked."""
    if path.is_dir():
        return path, path / "checkpoints" / "last.ckpt"
    return path.parent.parent, path


def targets(config: Any) -> Iterator[str]:
    """Every `_target_` of a plain nested config."""
    if isinstance(config, dict):
        if isinstance(config.get("_target_"), str):
            yield config["_target_"]
        for value in config.values():
            yield from targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from targets(value)


def located(target: str) -> Any:
    """What Hydra finds under a dotted path, or None; it would log a failure as an error."""
    from hydra import utils

    utils.log.disabled = True
    try:
        return utils.get_object(target)
    except (ImportError, ValueError):
        return None
    finally:
        utils.log.disabled = False


def require_trusted(config: Any, origin: str) -> None:
    """Refuse a stored configuration that would run somebody else's code.

    A trusted prefix alone proves little, since a dotted path also reaches what a module has
    imported: the object found must be a class, or a class method, defined under that prefix.

    Raises:
        InvalidArgumentError: naming the first target that is not one.
    """
    for target in targets(config):
        home = next((TRUSTED[start] for start in TRUSTED if target.startswith(start)), None)
        found = located(target) if home else None
        owner = found.__self__ if inspect.ismethod(found) else found
        if home is None or not (inspect.isclass(owner) and owner.__module__.startswith(home)):
            raise InvalidArgumentError(
                f"{origin} asks for {target}, and a stored run is only rebuilt from classes of "
                f"{', '.join(name.rstrip('.') for name in TRUSTED)}"
            )
