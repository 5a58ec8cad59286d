"""Saving of modules as folders of a tensor file and a configuration."""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from gmm_lightning.covariances import Covariance
from gmm_lightning.errors import CheckpointError, InvalidArgumentError
from gmm_lightning.layers._config import module_from_config, module_to_config, plain_arguments

_CONFIG, _TENSORS = "config.json", "model.safetensors"
M = TypeVar("M", bound="PretrainedMixin")


class PretrainedMixin(nn.Module):
    """Adds `save_pretrained` and `from_pretrained` to a module with its arguments as attributes.

    The folder holds `model.safetensors` and `config.json`: the class, the version that wrote it,
    and the configuration of the module, names and plain values. Nothing in it is executed: a
    configuration can only name what is registered here.
    """

    covariance: Covariance

    def to_config(self) -> dict[str, Any]:
        """Constructor arguments as primitives: registry names and plain values."""
        return module_to_config(self)

    def extra_repr(self) -> str:
        """Sizes and options that are set, and the family."""
        options = [f"{name}={value!r}" for name, value in plain_arguments(self).items() if value]
        return ", ".join([*options, f"covariance={self.covariance.name!r}"])

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Module of a configuration, untrained.

        Raises:
            CheckpointError: a configuration that cannot be used.
        """
        return module_from_config(cls, config)

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
        written = {name: folder / f"{name}.partial" for name in (_TENSORS, _CONFIG)}
        try:
            safetensors.save_file(tensors, written[_TENSORS], {"format": "pt"})
            written[_CONFIG].write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            for name, beside in written.items():
                beside.replace(folder / name)
        finally:
            for beside in written.values():
                beside.unlink(missing_ok=True)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Module that `save_pretrained` wrote, bit for bit, on the default device.

        Raises:
            InvalidArgumentError: safetensors is not installed.
            CheckpointError: files that are missing, truncated, foreign or of another class, names
                that are not registered here, or tensors that do not fit the configuration.
        """
        safetensors = _import_safetensors()
        folder = Path(folder)
        config = _read_config(folder / _CONFIG, cls.__name__)
        path = _require_file(folder / _TENSORS)
        _require_size(config, path)
        module = _untrained(cls, config)
        try:
            tensors = safetensors.load_file(path)
        except Exception as error:
            raise CheckpointError(f"{path} is truncated or not a safetensors file") from error
        wanted, given = _format_tensors(module.state_dict()), _format_tensors(tensors)
        for name in sorted({*wanted, *given}):
            if wanted.get(name) != given.get(name):
                raise CheckpointError(
                    f"{path} does not fit {_CONFIG}: {name} is {given.get(name, 'absent')} and "
                    f"should be {wanted.get(name, 'absent')}"
                )
        module.load_state_dict(tensors)
        return module


def _import_safetensors() -> Any:
    try:
        return import_module("safetensors.torch")
    except ImportError as error:
        raise InvalidArgumentError(
            "pretrained folders need safetensors: pip install gmm-lightning[export]"
        ) from error


def _untrained(cls: type[M], config: Any) -> M:
    """Module of a configuration, without a draw from the global generator."""
    with torch.random.fork_rng(devices=[]):
        return cls.from_config(config)


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


def _read_config(path: Path, name: str) -> Any:
    """Configuration of a module of the class `name` from a `config.json`."""
    _require_file(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is truncated or not JSON: {error}") from error
    if not isinstance(config, dict) or not {"name", "version", "config"} <= config.keys():
        raise CheckpointError(f"{path} was not written by save_pretrained of this library")
    if config["name"] != name:
        raise CheckpointError(f"{path} describes a {config['name']}, not a {name}")
    return config["config"]


def _require_file(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(f"there is no {path.name} in {path.parent}")
    return path


def _require_size(config: Any, path: Path) -> None:
    """Raise if a file is too small for the means of a configuration, before these are allocated."""
    get = config.get if isinstance(config, dict) else {}.get
    batch = get("batch_shape")
    batch = batch if isinstance(batch, list) else []
    sizes = [get("num_components"), get("num_features"), *batch]
    if all(isinstance(size, int) for size in sizes) and math.prod(sizes) > path.stat().st_size:
        raise CheckpointError(f"{path} is truncated: {_CONFIG} describes more than it holds")


def _format_tensors(tensors: dict[str, Tensor]) -> dict[str, str]:
    return {
        name: f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        for name, value in tensors.items()
    }
