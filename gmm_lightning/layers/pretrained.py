"""Saving of modules as folders of a tensor file and a configuration."""

from __future__ import annotations

import hashlib
import json
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self, TypeVar

import torch
from torch import nn

from gmm_lightning._files import atomic_write, read_sized
from gmm_lightning._messages import format_error
from gmm_lightning.covariances import Covariance
from gmm_lightning.errors import CheckpointError, InvalidArgumentError
from gmm_lightning.layers._config import module_from_config, module_to_config, plain_arguments
from gmm_lightning.layers._state import require_state
from gmm_lightning.priors import Prior, PriorDict

_CONFIG, _TENSORS = "config.json", "model.safetensors"
_KEYS = {"name", "version", "config"}
M = TypeVar("M", bound="PretrainedMixin")


class PretrainedMixin(nn.Module):
    """Adds `save_pretrained` and `from_pretrained` to a module with its arguments as attributes.

    The folder holds `model.safetensors` and `config.json`: the class, the version that wrote it,
    the configuration of the module, names and plain values, and the SHA-256 of both, by which
    damage is noticed. Nothing in it is executed: a configuration can only name what is registered
    here.
    """

    covariance: Covariance
    priors: PriorDict

    @property
    def all_priors(self) -> list[Prior]:
        """Priors of the module, copies of the given ones."""
        return self.priors.to_list()

    def to_config(self) -> dict[str, Any]:
        """Constructor arguments as primitives: registry names and plain values."""
        return module_to_config(self)

    def extra_repr(self) -> str:
        """Sizes and options that are set, and the family."""
        options = [f"{name}={value!r}" for name, value in plain_arguments(self).items() if value]
        return ", ".join([*options, f"covariance={self.covariance.name!r}"])

    @classmethod
    def from_config(cls, config: Any, *, max_bytes: float | None = None) -> Self:
        """Module of a configuration, untrained.

        Args:
            config: as `to_config` returns it.
            max_bytes: what the parameters may take; a larger module is refused before it is made.

        Raises:
            CheckpointError: a configuration that cannot be used.
        """
        return module_from_config(cls, config, max_bytes)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write parameters, buffers and the configuration into a folder, creating it.

        Files are written under other names and then renamed, so that none is ever incomplete.

        Raises:
            InvalidArgumentError: safetensors is not installed, the path is that of a file, or the
                module has parts that a configuration does not hold, such as evidence.
            CheckpointError: a family or a prior that is not registered here.
        """
        safetensors = _import_safetensors()
        config: dict[str, Any] = {
            "name": type(self).__name__,
            "version": import_module(__name__.partition(".")[0]).__version__,
            "config": self.to_config(),
        }
        _require_rebuilt(self, config["config"])
        # Copies: the format refuses tensors that share memory.
        state = self.state_dict()
        tensors = {name: value.cpu().clone().contiguous() for name, value in state.items()}
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InvalidArgumentError(f"expected a folder, {folder} is a file")
        if (folder / _CONFIG).is_dir() or (folder / _TENSORS).is_dir():
            raise InvalidArgumentError(f"{_CONFIG} and {_TENSORS} in {folder} must not be folders")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InvalidArgumentError(f"cannot write into {folder}: {error.strerror}") from error
        with atomic_write(folder / _CONFIG) as text, atomic_write(folder / _TENSORS) as binary:
            safetensors.save_file(tensors, binary, {"format": "pt"})
            config["sha256"] = {_CONFIG: _digest_values(config), _TENSORS: _digest_file(binary)}
            text.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Module that `save_pretrained` wrote, bit for bit, on the default device.

        Raises:
            InvalidArgumentError: safetensors is not installed.
            CheckpointError: files that are missing, truncated, damaged, foreign or of another
                class, names that are not registered here, tensors that do not fit the
                configuration, or values that no module can have.
        """
        safetensors = _import_safetensors()
        folder = Path(folder)
        path = folder / _TENSORS
        config = _read_config(folder / _CONFIG, path, cls.__name__)
        module = _untrained(cls, config, path.stat().st_size)
        try:
            tensors = safetensors.load_file(path)
        except Exception as error:
            raise CheckpointError(f"{path} is truncated or not a safetensors file") from error
        require_state(module, tensors, path, exact=True)
        module.load_state_dict(tensors)
        return module


def _import_safetensors() -> Any:
    try:
        return import_module("safetensors.torch")
    except ImportError as error:
        raise InvalidArgumentError(
            "pretrained folders need safetensors: pip install gmm-lightning[export]"
        ) from error


def _untrained(cls: type[M], config: Any, max_bytes: float | None = None) -> M:
    """Module of a configuration, without a draw from the global generator."""
    with torch.random.fork_rng(devices=[]):
        return cls.from_config(config, max_bytes=max_bytes)


def _require_rebuilt(module: PretrainedMixin, config: dict[str, Any]) -> None:
    """Raise unless a configuration gives the same modules."""
    twin = _untrained(type(module), config)
    # A family is not a module, and a class derived from a registered one has its name.
    if module.covariance != twin.covariance:
        raise InvalidArgumentError(
            f"{module.covariance} is not registered here: a pretrained folder would make "
            f"{twin.covariance} of it"
        )
    rebuilt = {name: type(part) for name, part in twin.named_modules()}
    for name, part in module.named_modules():
        if rebuilt.get(name) is not type(part):
            raise InvalidArgumentError(
                f"{name or 'the module'} ({type(part).__name__}) is no part of a pretrained "
                "folder: save the state_dict(), and rebuild the module by your own code"
            )


def _read_config(path: Path, tensors: Path, name: str) -> Any:
    """Configuration of a module of the class `name` from a folder whose digests are right."""
    _require_file(path)
    try:
        config = json.loads(read_sized(path).decode())
        # Another key may be one of these with a changed bit.
        if not isinstance(config, dict) or config.keys() - {"sha256"} != _KEYS:
            raise CheckpointError(f"{path} was not written by save_pretrained of this library")
        digest = _digest_values(config)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is truncated or not JSON: {format_error(error)}") from error
    _require_file(tensors)
    if "sha256" in config:
        found = {_CONFIG: digest, _TENSORS: _digest_file(tensors)}
        _require_digests(config["sha256"], found, path.parent)
    if config["name"] != name:
        raise CheckpointError(f"{path} describes a {config['name']}, not a {name}")
    return config["config"]


def _require_digests(stored: Any, found: dict[str, str], folder: Path) -> None:
    """Compare the digests of files with those that a configuration holds."""
    for name, digest in found.items():
        if not isinstance(stored, dict) or stored.get(name) != digest:
            raise CheckpointError(
                f"{folder / name} is truncated, damaged or edited: its content is not that of the "
                f"sha256 in {_CONFIG}; take another copy (without the entry sha256, nothing is "
                "compared)"
            )


def _digest_values(config: dict[str, Any]) -> str:
    """SHA-256 of the values in a configuration apart from digests, however they are laid out."""
    values = {name: config[name] for name in sorted(_KEYS)}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise CheckpointError(f"there is no {path.name} in {path.parent}")
    if path.stat().st_size == 0:
        # So are files of the system (/proc/...), which may go on without end.
        raise CheckpointError(f"{path} is truncated: it is empty; take another copy of it")
