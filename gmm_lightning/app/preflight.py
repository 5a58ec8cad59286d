"""Before Hydra takes over: the command line is composed once, so that mistakes read well."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from gmm_lightning.app.configs import config_dir, require_trusted
from gmm_lightning.errors import CheckpointError, InvalidArgumentError


def key_of(override: str) -> str:
    """What an override speaks of: `+a.b=1` and `~a.b` speak of `a.b`."""
    return override.split("=", 1)[0].lstrip("+~")


def check_command_line(config_name: str) -> None:
    """Compose the configuration of `sys.argv` and refuse mistakes in one sentence.

    `resume=` is resolved here: the stored run's own overrides come first, those typed now win,
    and the run's folder becomes the output folder, so that the run continues where it was.

    Raises:
        InvalidArgumentError: an option or key that does not exist, or an output folder that
            cannot be written.
        CheckpointError: nothing to resume from.
    """
    overrides = sys.argv[1:]
    if "LOCAL_RANK" in os.environ or any(word.startswith("-") for word in overrides):
        return
    resumed = next((o.split("=", 1)[1] for o in overrides if key_of(o) == "resume"), None)
    if resumed not in (None, "", "null"):
        overrides = continued(Path(str(resumed)), overrides)
        sys.argv[1:] = overrides
    config = composed(config_name, overrides)
    if resumed not in (None, "", "null"):
        plain = OmegaConf.to_container(config, resolve=False)
        require_trusted(plain, f"the run at {resumed}")
    require_writable(Path(config.hydra.run.dir))


def composed(config_name: str, overrides: list[str]) -> DictConfig:
    """The configuration that Hydra is going to compose."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        with initialize_config_dir(config_dir(), version_base="1.3"):
            return compose(config_name, overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InvalidArgumentError(one_line(str(error))) from error
    finally:
        GlobalHydra.instance().clear()


def one_line(message: str) -> str:
    """Hydra's message as one sentence, without its advice to its own developers."""
    lines = [line.strip() for line in message.splitlines()]
    kept = [line for line in lines if line and not line.startswith(("full_key", "object_type"))]
    return " ".join(kept).replace("Available options in", "; available options in")


def run_folder(path: Path) -> tuple[Path, Path]:
    """The folder and the checkpoint of a run, from either of them.

    Raises:
        CheckpointError: there is no such run.
    """
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    folder = path if path.is_dir() else path.parent.parent
    if not checkpoint.is_file():
        raise CheckpointError(f"there is nothing to resume: no checkpoint at {checkpoint}")
    if not (folder / ".hydra" / "overrides.yaml").is_file():
        raise CheckpointError(f"{folder} is not the folder of a run: it has no .hydra/overrides.yaml")
    return folder, checkpoint


def continued(path: Path, overrides: list[str]) -> list[str]:
    """The stored overrides of a run followed by those typed now, in the run's own folder."""
    folder, checkpoint = run_folder(path)
    stored = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
    if not isinstance(stored, list):
        raise CheckpointError(f"{folder}/.hydra/overrides.yaml does not hold a list of overrides")
    typed = [o for o in overrides if key_of(o) not in ("resume", "hydra.run.dir")]
    known = {key_of(o) for o in typed} | {"resume", "hydra.run.dir"}
    kept = [str(o) for o in stored if key_of(str(o)) not in known]
    return [*kept, *typed, f"resume={quoted(checkpoint)}", f"hydra.run.dir={quoted(folder)}"]


def quoted(path: Path) -> str:
    """A path as a Hydra value, whatever characters it has."""
    text = str(path.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def require_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be made or written, before anything is started.

    Raises:
        InvalidArgumentError: naming the folder and the reason.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise InvalidArgumentError(f"cannot write the output folder {folder}: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InvalidArgumentError(f"cannot write the output folder {folder}: no permission in {existing}")
