"""What may be built from stored settings, and what is refused. The page is `docs/security.md`."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gmm_lightning.app.configs import config_dir
from gmm_lightning.errors import CheckpointError, InvalidArgumentError

_TARGET = re.compile(r"^\s*_target_:\s*([\w.]+)\s*$", re.MULTILINE)
# Keys that Hydra reads, and that a stored setting may have.
_ALLOWED = ("_target_", "_partial_")
_KEY = re.compile(r"\w+(?:[./]\w+)*")
# Names of settings that say where something is written.
_PLACE = re.compile(r"(?:^|_)(?:dir|dirpath|path|root|folder|file|filename|uri|url)$")
# What leads elsewhere in a path; loggers put variables of the environment for `$HOME`.
_EXPANDED = frozenset("~$%")
# Options of a group are files in its folder.
_OPTION = re.compile(r"\w[\w-]*")


@cache
def built_in_targets(group: str = "") -> frozenset[str]:
    """The classes that our own configurations name: all of them, or those of a group."""
    files = Path(config_dir(), group).rglob("*.yaml")
    return frozenset(name for path in files for name in _TARGET.findall(path.read_text()))


def settle(config: DictConfig) -> DictConfig:
    """A configuration with every interpolation resolved, once.

    Hydra resolves again what it builds: a text that only looks like an interpolation after the
    first time would run then.

    Raises:
        InvalidArgumentError: a value or key that would be resolved again.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        reason = (str(error).splitlines() or ["they refer to each other in a circle"])[0]
        raise InvalidArgumentError(f"the settings cannot be resolved: {reason}") from error
    require_settled(plain, "the configuration")
    settled = OmegaConf.create(plain)
    assert isinstance(settled, DictConfig)
    OmegaConf.set_struct(settled, value=True)
    return settled


def require_settled(config: Any, origin: str) -> None:
    """Refuse plain settings in which something is left to resolve.

    Raises:
        InvalidArgumentError: a value or key with `${`; the message names the key, not the value.
    """
    for path, value in _walk(config):
        if any("${" in text for text in (*path, value) if isinstance(text, str)):
            name = ".".join(path).replace("${", "$ {")
            raise InvalidArgumentError(
                f"{origin} has an interpolation left in {name or 'a value'}, and it is not "
                "resolved: write its value"
            )


def require_data_settings(config: Any, origin: str) -> dict[str, Any]:
    """The stored settings of a data module, if they name one of ours and hold plain values.

    Raises:
        InvalidArgumentError: settings of anything else.
    """
    remedy = "name the rows yourself, as in data=file data.path=rows.csv"
    if not isinstance(config, dict):
        raise InvalidArgumentError(f"{origin} does not say which data it had: {remedy}")
    require_settled({"data": config}, origin)
    _require_built_in(config, ("data",), f"{origin}, data:", remedy)
    if "_target_" not in config:
        raise InvalidArgumentError(f"{origin} does not say how its data are read: {remedy}")
    return config


def trusted_value(text: str, folder: Path, source: Path) -> Any:
    """The value of a stored override, if it can run no code and write nowhere but in its folder.

    Args:
        text: the override.
        folder: of the run.
        source: the file that holds the override, for the message.

    Raises:
        InvalidArgumentError: the message names the override's key.
    """
    key = text.split("=", 1)[0].lstrip("+~")
    if not _KEY.fullmatch(key):
        raise InvalidArgumentError(f"{source} holds {text[:40]!r}, which is no setting; remove it")
    origin, remedy = f"{source} sets {key}:", f"type {key}=... again, or remove the line"
    override = _parse(text)
    value = _plain(override.value()) if override is not None else ...
    # `$\{` is an interpolation once Hydra has read it.
    parts = (text, *(part for inner, entry in _walk(value) for part in (*inner, entry)))
    if any("${" in str(part) for part in parts):
        raise InvalidArgumentError(f"{origin} an interpolation is not taken from a file; {remedy}")
    if override is None or value is ...:
        raise InvalidArgumentError(f"{origin} expected one plain value; {remedy}")
    path = tuple(re.split(r"[./]", key))
    if Path(config_dir(), key).is_dir() and not all(
        entry is None or _OPTION.fullmatch(str(entry)) for _, entry in _walk(value)
    ):
        raise InvalidArgumentError(f"{origin} expected the name of an option; {remedy}")
    _require_built_in(value, path, origin, remedy)
    deleted = override.type == OverrideType.DEL
    for inner, entry in _walk(value):
        if path[0] != "data":
            _require_inside((*path, *inner), None if deleted else entry, folder, origin, remedy)
    return value


def require_no_links(*places: Path) -> None:
    """Refuse links, pipes and devices at some places and below.

    What is written through a link lands somewhere else, and into a pipe until somebody reads it.

    Raises:
        CheckpointError: the message names the first of them.
    """
    for path in chain.from_iterable(map(_contents, places)):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode) or (stat.S_ISREG(mode) and path.lstat().st_nlink > 1):
            raise CheckpointError(
                f"{path} is a link, and a run writes into its own folder alone: replace it by "
                "what it names, or remove it"
            )
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise CheckpointError(f"{path} is neither a file nor a folder: remove it")


def _contents(place: Path) -> Iterator[Path]:
    """A place, if there is anything, and all below it; links are not followed."""

    def refuse(error: OSError) -> None:
        raise CheckpointError(f"cannot look into {error.filename}: {error.strerror}") from error

    if os.path.lexists(place):
        yield place
    if place.is_dir() and not place.is_symlink():
        for parent, folders, files in os.walk(place, onerror=refuse):
            yield from (Path(parent, name) for name in (*folders, *files))


def _require_built_in(value: Any, path: tuple[str, ...], origin: str, remedy: str) -> None:
    """Refuse classes that our configurations do not name, and other keys that Hydra acts on."""
    group = "data" if path[0] == "data" else ""
    for inner, entry in _walk(value):
        whole = (*path, *inner)
        special = [name for name in whole if name.startswith("_") and name.endswith("_")]
        for name in special:
            if name not in _ALLOWED or whole[-1] != name:
                raise InvalidArgumentError(f"{origin} {name} is not taken from a file; {remedy}")
        known = built_in_targets(group)
        if special == ["_target_"] and (not isinstance(entry, str) or entry not in known):
            raise InvalidArgumentError(
                f"{origin} only classes that our own configurations name are built from a file; "
                f"{remedy}"
            )


def _require_inside(
    path: tuple[str, ...], value: Any, folder: Path, origin: str, remedy: str
) -> None:
    """Refuse a place outside a folder: resuming a run writes into its own folder alone."""
    names_place = _PLACE.search(path[-1]) is not None or path[0] == "paths"
    expands = not _EXPANDED.isdisjoint(str(value))
    looks_like = isinstance(value, str) and (
        expands or ".." in value or bool(set(value) & set("/\\"))
    )
    if path[-1] == "_target_" or not (names_place or looks_like):
        return
    inside = isinstance(value, str) and Path(value).resolve().is_relative_to(folder.resolve())
    if not inside or expands:
        raise InvalidArgumentError(
            f"{origin} a resumed run writes into its own folder, {folder}, alone; {remedy}"
        )


def _walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every scalar of nested values, with the keys that lead to it."""
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from _walk(entry, (*path, str(key)))
    elif isinstance(value, list) and value:
        for entry in value:
            yield from _walk(entry, path)
    else:
        yield path, value


def _parse(text: str) -> Override | None:
    """An override as Hydra reads it, or None."""
    try:
        override = OverridesParser.create().parse_override(text)
    except (HydraException, OmegaConfBaseException, ValueError, RecursionError):
        return None
    return None if override.is_sweep_override() or override.package is not None else override


def _plain(value: Any) -> Any:
    """A parsed value in plain types; `...` for one that holds anything else."""
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        entries = {_plain(key): _plain(entry) for key, entry in value.items()}
        return ... if ... in (*entries, *entries.values()) else entries
    if isinstance(value, list):
        entries = [_plain(entry) for entry in value]
        return ... if ... in entries else entries
    return value if value is None or isinstance(value, str | int | float) else ...
