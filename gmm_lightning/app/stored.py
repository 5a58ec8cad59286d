"""What the files of a run say, as plain values: nothing in them is resolved, imported or run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from gmm_lightning._files import read_sized
from gmm_lightning._plain import require_plain
from gmm_lightning.errors import CheckpointError

# Settings and records have a few kilobytes; plain yaml takes five seconds per megabyte.
_MOST_BYTES = 1 << 20
# `${seed}` as a whole value: a reference to another setting, without a resolver.
_REFERENCE = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}")


class _PlainLoader(yaml.SafeLoader):
    """Yaml of mappings, lists and scalars.

    Aliases are refused: a few lines of them unfold to any number of values.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias, which no run writes")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """The values of a yaml file, with its interpolations as they are written.

    Raises:
        CheckpointError: no such file, or one that does not hold plain yaml.
    """
    return _read(path, "plain yaml", lambda text: yaml.load(text, Loader=_PlainLoader))


def read_record(path: Path) -> dict[str, Any]:
    """The table in a JSON file of a run; empty if the run did not get that far.

    Raises:
        CheckpointError: a file that does not hold a table.
    """
    if not path.is_file():
        return {}
    content = _read(path, "JSON", json.loads)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is damaged: it holds no table of numbers")
    return content


def dereference(settings: dict[str, Any], part: str) -> dict[str, Any]:
    """A part of stored settings, with references such as `${seed}` replaced by what they name.

    A value may be a reference as a whole, to a plain value. Anything else that OmegaConf would
    interpolate, such as environment variables, stays as it is, for `require_settled` to refuse.
    """

    def replace(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replace(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [replace(entry) for entry in value]
        named = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        found: Any = settings
        for name in named[1].split(".") if named else ():
            found = found.get(name) if isinstance(found, dict) else None
        return value if named is None or isinstance(found, dict | list) else found

    return replace(settings.get(part))


def _read(path: Path, kind: str, parse: Callable[[str], Any]) -> Any:
    """The parsed text of a small file."""
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise CheckpointError(f"{path} has {size} bytes: no run writes more than {_MOST_BYTES}")
        content = parse(read_sized(path).decode())
        require_plain(content)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, TypeError, LookupError, yaml.YAMLError, RecursionError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        # The lines of yaml's message that quote the file are left out.
        reason = ", ".join(line for line in lines if line and '"<unicode' not in line)
        raise CheckpointError(f"{path} is damaged: it is not {kind} ({reason[:200]})") from error
    return content
