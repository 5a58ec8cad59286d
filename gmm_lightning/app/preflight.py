"""Checks before Hydra runs: the configuration is composed once, for clear error messages."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gmm_lightning.app.configs import DATA_PATHS, START_PATH, config_dir, written_places
from gmm_lightning.app.overrides import quoted, unquoted
from gmm_lightning.app.processes import rank_from_environment, started_from_outside
from gmm_lightning.app.resume import key_of, resume_overrides
from gmm_lightning.app.trust import require_no_links
from gmm_lightning.errors import InvalidArgumentError

# Settings that are paths; file names hold characters that Hydra's grammar takes for its own.
_PATHS = {
    *("run", "input", "output", "picture", "hydra.run.dir", "hydra.sweep.dir"),
    *(f"data.{name}" for name in DATA_PATHS),
    START_PATH,
}


def check_command_line(config_name: str) -> Path | None:
    """Compose the configuration of `sys.argv` and refuse mistakes in one sentence.

    `resume=` is resolved here: the stored run's own overrides come first, those typed now win,
    and the run's folder becomes the output folder, so that the run continues where it was.

    Returns:
        The folder of a resumed run.

    Raises:
        InvalidArgumentError: an option or key that does not exist, or an output folder that
            cannot be written.
        CheckpointError: nothing to resume from, or a folder with links to other places.
    """
    overrides = sys.argv[1:] = [_quote_path(_spell_out(word)) for word in sys.argv[1:]]
    if rank_from_environment() > 0:
        if started_from_outside():
            # Its clock would name another folder than the first process's: it writes none.
            sys.argv += ["hydra.run.dir=.", "hydra/job_logging=stdout"]
        return None
    if any(word.startswith("-") for word in overrides):
        return None
    typed = [o.split("=", 1)[1] for o in overrides if key_of(o) == "resume" and "=" in o]
    resumed = unquoted(typed[0]) if typed else ""
    is_resumed = resumed not in ("", "null")
    if is_resumed:
        overrides = sys.argv[1:] = resume_overrides(Path(resumed), overrides)
    config = _compose_config(config_name, overrides)
    folder = Path(config.hydra.run.dir)
    if config_name == "train":
        _require_writable(folder)
        # Hydra opens the log before anything else happens.
        require_no_links(*written_places(folder, config.hydra.job.name))
    return folder if is_resumed else None


def _compose_config(config_name: str, overrides: list[str]) -> DictConfig:
    """The configuration that Hydra will compose."""
    try:
        with initialize_config_dir(config_dir(), version_base="1.3"):
            try:
                return compose(config_name, overrides, return_hydra_config=True)
            except OverrideParseException as error:
                reason = str(error).split("\nSee ")[0].splitlines()[0]
                raise InvalidArgumentError(f"cannot read {error.override!r}: {reason}") from error
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                message = _explain_error(str(error), config_name, overrides)
                raise InvalidArgumentError(message) from error
    finally:
        GlobalHydra.instance().clear()


def _explain_error(message: str, config_name: str, overrides: list[str]) -> str:
    """Hydra's message as one sentence that lists the known options or keys."""
    option = re.search(r"Could not (?:find|load) '(?:(.*)/)?([^'/]+)'", message)
    if option and option[1]:
        known = _options(option[1])
        if known:
            return f"unknown option {option[1]}={option[2]}; known are: {known}"
    key = re.search(r"Could not override '([^']+)'", message)
    if key:
        groups = [o for o in overrides if "." not in key_of(o) and key_of(o) != key[1]]
        parent, _, name = key[1].rpartition(".")
        config = compose(config_name, groups)
        node = OmegaConf.select(config, parent) if parent else config
        chosen = _groups(config_name)
        group = next((group for group in chosen if parent in (group, _package(group))), None)
        if not node and group is not None:
            return f"{group} has no {name!r} yet; choose first: {group}={_options(group)}"
        settings = OmegaConf.to_container(config, resolve=False)
        elsewhere = [path for path in _paths(settings) if path.rpartition(".")[2] == name]
        if elsewhere and (not node or not parent):
            near = sorted(elsewhere, key=len)[:2]
            return f"unknown key {key[1]!r}; did you mean {' or '.join(near)}?"
        known = ", ".join(str(k) for k in node if k != "_target_") if node else "none"
        return f"unknown key {name!r} in {parent or 'the configuration'}; known are: {known}"
    return " ".join(message.split("Config search path")[0].split())


def _groups(config_name: str) -> list[str]:
    """The groups of which a command has an option."""
    defaults = OmegaConf.load(Path(config_dir(), f"{config_name}.yaml")).defaults
    return [next(iter(word)) for word in defaults if OmegaConf.is_dict(word)]


def _paths(settings: Any, before: str = "") -> Iterator[str]:
    """The dotted paths of all settings, with those that hold others."""
    for key, value in settings.items() if isinstance(settings, dict) else ():
        yield f"{before}{key}"
        yield from _paths(value, f"{before}{key}.")


def _options(group: str) -> str:
    """The options of a group, in a list."""
    return ", ".join(sorted(path.stem for path in Path(config_dir(), group).glob("*.yaml")))


def _spell_out(override: str) -> str:
    """An override of a group's key under the path that the group fills.

    `cov.relative_floor=1e-9` is `model.layer.covariance.relative_floor=1e-9`.
    """
    sign, key = override[: -len(override.lstrip("+~")) or None], key_of(override)
    group, dot, rest = key.partition(".")
    path = _package(group) if dot and group.isidentifier() else None
    if path is None:
        return override
    return f"{sign}{path}.{rest}{override[len(sign) + len(key) :]}"


def _quote_path(override: str) -> str:
    """An override of a path, in quotes where Hydra cannot read it: as a shell hands it over."""
    key, equals, value = override.partition("=")
    if key not in _PATHS or not equals:
        return override
    try:
        OverridesParser.create().parse_override(override)
    except HydraException:
        return f"{key}={quoted(value)}"
    return override


def _package(group: str) -> str | None:
    """Where the options of a group go in the configuration, if not under the group's name."""
    found = []
    for path in Path(config_dir(), group).glob("*.yaml"):
        header = re.match(r"# @package (\S+)", path.read_text())
        if header and not header[1].startswith("_"):
            found.append(header[1].removesuffix(f".{path.stem}"))
    return max(found, key=len, default=None)


def _require_writable(folder: Path) -> None:
    """Refuse an output folder that cannot be made or written, before anything is started."""
    folder = folder.absolute()
    if "${" in str(folder):
        raise InvalidArgumentError(
            f"the output folder {folder} has ${{ in its path, which Hydra takes for the name of a "
            "setting: choose another one"
        )
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
