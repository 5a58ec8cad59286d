"""Modules as folders that can be passed on: tensors in one file, a description in the other."""

from __future__ import annotations

import json
import math
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from gmm_lightning.errors import CheckpointError, InvalidArgumentError
from gmm_lightning.layers._description import build

CONFIG, TENSORS = "config.json", "model.safetensors"
M = TypeVar("M", bound="Pretrained")


class Pretrained(nn.Module):
    """`save_pretrained` and `from_pretrained` for a module that can describe itself.

    The folder holds `model.safetensors` and `config.json`: the class, the version that wrote it,
    and the module's description, names and plain values. Nothing in it is ever run: a description
    can only name what is registered here.
    """

    def describe(self) -> dict[str, Any]:
        """What rebuilds the module without its tensors, as primitives."""
        raise NotImplementedError(f"{type(self).__name__} has to say what rebuilds it")

    @classmethod
    def from_description(cls, description: Any) -> Self:
        """The module that was described, untrained.

        Raises:
            CheckpointError: a description that cannot be used.
        """
        return build(cls, description)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write parameters, buffers and the description into a folder, which is made.

        The files are written beside their places and then moved there: whatever interrupts the
        writing, no half file has their names.

        Raises:
            InvalidArgumentError: safetensors is not installed, the path is that of a file, or the
                module has parts that a description does not hold, such as evidence.
            CheckpointError: a family or a prior that is not registered here.
        """
        safetensors = imported()
        config: dict[str, Any] = {
            "name": type(self).__name__,
            "version": import_module(__name__.partition(".")[0]).__version__,
            "config": self.describe(),
        }
        require_rebuilt(self, config["config"])
        # Copies: the format refuses tensors that share memory.
        state = self.state_dict()
        tensors = {name: value.cpu().clone().contiguous() for name, value in state.items()}
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise InvalidArgumentError(f"expected a folder, {folder} is a file")
        if (folder / CONFIG).is_dir() or (folder / TENSORS).is_dir():
            raise InvalidArgumentError(f"{CONFIG} and {TENSORS} in {folder} must not be folders")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InvalidArgumentError(f"cannot write into {folder}: {error.strerror}") from error
        written = {name: folder / f"{name}.partial" for name in (TENSORS, CONFIG)}
        try:
            safetensors.save_file(tensors, written[TENSORS], {"format": "pt"})
            written[CONFIG].write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
            for name, beside in written.items():
                beside.replace(folder / name)
        finally:
            for beside in written.values():
                beside.unlink(missing_ok=True)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """The module that `save_pretrained` wrote, bit for bit, on the default device.

        Raises:
            InvalidArgumentError: safetensors is not installed.
            CheckpointError: files that are missing, truncated or foreign, another class, names
                that are not registered here, or tensors that do not fit the description.
        """
        safetensors = imported()
        folder = Path(folder)
        description = read_config(folder / CONFIG, cls.__name__)
        path = require_file(folder / TENSORS)
        require_size(description, path)
        module = untrained(cls, description)
        try:
            tensors = safetensors.load_file(path)
        except Exception as error:
            raise CheckpointError(f"{path} is truncated or not a safetensors file") from error
        wanted, given = kinds(module.state_dict()), kinds(tensors)
        for name in sorted({*wanted, *given}):
            if wanted.get(name) != given.get(name):
                raise CheckpointError(
                    f"{path} does not fit {CONFIG}: {name} is {given.get(name, 'absent')} and "
                    f"should be {wanted.get(name, 'absent')}"
                )
        module.load_state_dict(tensors)
        return module


def imported() -> Any:
    """Safetensors for torch, when it is needed.

    Raises:
        InvalidArgumentError: it is not installed.
    """
    try:
        return import_module("safetensors.torch")
    except ImportError as error:
        raise InvalidArgumentError(
            "pretrained folders need safetensors: pip install gmm-lightning[export]"
        ) from error


def untrained(cls: type[M], description: Any) -> M:
    """A module from its description, the global random state left as it is."""
    with torch.random.fork_rng(devices=[]):
        return cls.from_description(description)


def require_rebuilt(module: Pretrained, description: dict[str, Any]) -> None:
    """Raise unless a description gives the same modules: nothing is written that is not read back.

    Raises:
        InvalidArgumentError: a part is not described.
        CheckpointError: a family or a prior that is not registered here.
    """
    twin = untrained(type(module), description)
    # Not a module, and a class that derives from a registered one has its name.
    family, theirs = getattr(module, "covariance", None), getattr(twin, "covariance", None)
    if family != theirs:
        raise InvalidArgumentError(
            f"{family} is not registered here: a pretrained folder would make {theirs} of it"
        )
    described = {name: type(part) for name, part in twin.named_modules()}
    for name, part in module.named_modules():
        if described.get(name) is not type(part):
            raise InvalidArgumentError(
                f"{name or 'the module'} ({type(part).__name__}) is no part of a pretrained "
                "folder: save the state_dict(), and rebuild the module by your own code"
            )


def read_config(path: Path, name: str) -> Any:
    """The description in a `config.json`, of a module of the class with this name.

    Raises:
        CheckpointError: no such file, one that is not ours, or one of another class.
    """
    require_file(path)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is truncated or not JSON: {error}") from error
    if not isinstance(config, dict) or not {"name", "version", "config"} <= config.keys():
        raise CheckpointError(f"{path} was not written by save_pretrained of this library")
    if config["name"] != name:
        raise CheckpointError(f"{path} describes a {config['name']}, not a {name}")
    return config["config"]


def require_file(path: Path) -> Path:
    """The path, when there is a file at it.

    Raises:
        CheckpointError: there is none.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no {path.name} in {path.parent}")
    return path


def require_size(description: Any, path: Path) -> None:
    """Raise when a file is too small for the means of what is described: before they are made.

    Raises:
        CheckpointError: it is.
    """
    get = description.get if isinstance(description, dict) else {}.get
    batch = get("batch_shape") or []
    sizes = [
        get("num_components"),
        get("num_features"),
        *(batch if isinstance(batch, list) else []),
    ]
    if all(isinstance(size, int) for size in sizes) and math.prod(sizes) > path.stat().st_size:
        raise CheckpointError(f"{path} is truncated: {CONFIG} describes more than it holds")


def kinds(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Shape and dtype of tensors, as words."""
    return {
        name: f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
        for name, value in tensors.items()
    }
