"""Before Hydra takes over: the command line is composed once, so that mistakes read well."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gmm_lightning.app.configs import config_dir, require_trusted, run_paths
from gmm_lightning.app.processes import rank_from_environment, started_from_outside
from gmm_lightning.errors import CheckpointError, InvalidArgumentError


def key_of(override: str) -> str:
    """What an override speaks of: `+a.b=1` and `~a.b` speak of `a.b`."""
    return override.split("=", 1)[0].lstrip("+~")


def check_command_line(config_name: str) -> Path | None:
    """Compose the configuration of `sys.argv` and refuse mistakes in one sentence.

    `resume=` is resolved here: the stored run's own overrides come first, those typed now win,
    and the run's folder becomes the output folder, so that the run continues where it was.

    Returns:
        The folder of a resumed run.

    Raises:
        InvalidArgumentError: an option or key that does not exist, or an output folder that
            cannot be written.
        CheckpointError: nothing to resume from.
    """
    overrides = sys.argv[1:]
    if rank_from_environment() > 0:
        if started_from_outside():
            # Its clock names another folder than the first process's: it writes none.
            sys.argv += ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=stdout"]
        return None
    if any(word.startswith("-") for word in overrides):
        return None
    typed = (o.split("=", 1)[1] for o in overrides if key_of(o) == "resume" and "=" in o)
    resumed = next((unquoted(value) for value in typed), None)
    if resumed not in (None, "", "null"):
        overrides = continued(Path(str(resumed)), overrides)
        sys.argv[1:] = overrides
    config = composed(config_name, overrides)
    if resumed not in (None, "", "null"):
        own = {key: value for key, value in config.items() if key != "hydra"}
        plain = OmegaConf.to_container(OmegaConf.create(own), resolve=False)
        require_trusted(plain, f"the run at {resumed}")
    folder = Path(config.hydra.run.dir)
    if config.hydra.output_subdir is not None:
        require_writable(folder)
    return None if resumed in (None, "", "null") else folder


def composed(config_name: str, overrides: list[str]) -> DictConfig:
    """The configuration that Hydra is going to compose."""
    try:
        with initialize_config_dir(config_dir(), version_base="1.3"):
            try:
                return compose(config_name, overrides, return_hydra_config=True)
            except OverrideParseException as error:
                reason = str(error).split("\nSee ")[0].splitlines()[0]
                raise InvalidArgumentError(f"cannot read {error.override!r}: {reason}") from error
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                message = explained(str(error), config_name, overrides)
                raise InvalidArgumentError(message) from error
    finally:
        GlobalHydra.instance().clear()


def explained(message: str, config_name: str, overrides: list[str]) -> str:
    """Hydra's message as one sentence that says what could have been typed instead."""
    option = re.search(r"Could not (?:find|load) '(?:(.*)/)?([^'/]+)'", message)
    if option and option[1]:
        known = sorted(p.stem for p in Path(config_dir(), option[1]).glob("*.yaml"))
        if known:
            return f"unknown option {option[1]}={option[2]}; known are: {', '.join(known)}"
    key = re.search(r"Could not override '([^']+)'", message)
    if key:
        groups = [o for o in overrides if "." not in key_of(o) and key_of(o) != key[1]]
        parent, _, name = key[1].rpartition(".")
        config = compose(config_name, groups)
        node = OmegaConf.select(config, parent) if parent else config
        if not node and Path(config_dir(), parent).is_dir():
            options = sorted(p.stem for p in Path(config_dir(), parent).glob("*.yaml"))
            return f"{parent} has no {name!r} yet; choose first: {parent}=" + ", ".join(options)
        known = ", ".join(str(k) for k in node if k != "_target_") if node else "none"
        return f"unknown key {name!r} in {parent or 'the configuration'}; known are: {known}"
    return " ".join(message.split("Config search path")[0].split())


def run_folder(path: Path) -> tuple[Path, Path]:
    """The folder and the checkpoint of a run, from either of them.

    Raises:
        CheckpointError: there is no such run.
    """
    folder, checkpoint = run_paths(path)
    if not checkpoint.is_file():
        raise CheckpointError(f"there is nothing to resume: no checkpoint at {checkpoint}")
    if not (folder / ".hydra" / "overrides.yaml").is_file():
        raise CheckpointError(
            f"{folder} is not the folder of a run: it has no .hydra/overrides.yaml"
        )
    return folder, checkpoint


def continued(path: Path, overrides: list[str]) -> list[str]:
    """The stored overrides of a run followed by those typed now, in the run's own folder."""
    folder, checkpoint = run_folder(path)
    try:
        stored = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        stored = None
    if not isinstance(stored, list):
        raise CheckpointError(f"{folder}/.hydra/overrides.yaml does not hold a list of overrides")
    stored = [absolute_path(str(override), folder) for override in stored]
    typed = [o for o in overrides if key_of(o) not in ("resume", "hydra.run.dir")]
    known = {key_of(o) for o in typed} | {"resume", "hydra.run.dir"}
    kept = [o for o in stored if key_of(o) not in known and not key_of(o).startswith("hydra")]
    return [*kept, *typed, f"resume={quoted(checkpoint)}", f"hydra.run.dir={quoted(folder)}"]


def unquoted(value: str) -> str:
    """A value without the quotes that Hydra wants around some paths."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value


def absolute_path(override: str, folder: Path) -> str:
    """An override that names a file, as seen from the folder in which the run was started."""
    key, _, value = override.partition("=")
    if key not in ("data.path", "data.val_path", "data.test_path") or value in ("", "null"):
        return override
    hydra = folder / ".hydra" / "hydra.yaml"
    if not hydra.is_file():
        return override
    started = OmegaConf.load(hydra)
    return f"{key}={quoted(Path(started.hydra.runtime.cwd) / unquoted(value))}"


def quoted(path: Path) -> str:
    """A path as a Hydra value, whatever characters it has."""
    text = str(path.resolve()).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def require_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be made or written, before anything is started.

    Raises:
        InvalidArgumentError: naming the folder and the reason.
    """
    folder = folder.absolute()
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidArgumentError(
            f"cannot write the output folder {folder}: {error.strerror or error}"
        ) from error
    finally:
        # Hydra makes the folder itself, under the time at which it starts.
        for made in missing:
            if made.is_dir():
                made.rmdir()
