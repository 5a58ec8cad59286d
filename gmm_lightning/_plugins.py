"""Registries of plug-ins, found by importing the modules of a package."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cached_property
from typing import Generic, TypeVar

from gmm_lightning._validation import require_choice
from gmm_lightning.errors import InvalidArgumentError

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to classes, found by importing every public module of one package.

    A class is registered when it is concrete, derives from `base` and has a `name`; it may have
    `aliases`.

    Args:
        package: dotted name of the package whose modules are the plug-ins.
        base: class that every plug-in derives from.
        noun: name of a plug-in in error messages.
    """

    def __init__(self, package: str, base: type[T], noun: str) -> None:
        self._package, self._base, self.noun = package, base, noun

    @cached_property
    def _classes(self) -> dict[str, type[T]]:
        found: dict[str, type[T]] = {}
        package = importlib.import_module(self._package)
        for info in pkgutil.iter_modules(package.__path__):
            if info.name.startswith("_") or info.name == "base":
                continue
            module = importlib.import_module(f"{self._package}.{info.name}")
            for _, cls in inspect.getmembers(module, inspect.isclass):
                own = cls.__module__ == module.__name__ and not inspect.isabstract(cls)
                name = getattr(cls, "name", None)
                if own and issubclass(cls, self._base) and isinstance(name, str):
                    found[name] = cls
        return dict(sorted(found.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """Registered names, sorted, without aliases."""
        return tuple(self._classes)

    @property
    def aliases(self) -> dict[str, str]:
        """Aliases, each with its registered name."""
        classes = self._classes.items()
        return {alias: name for name, cls in classes for alias in getattr(cls, "aliases", ())}

    def get(self, name: str) -> type[T]:
        """The class registered under a name or an alias.

        Raises:
            InvalidArgumentError: the name is unknown; the message lists the known ones.
        """
        aliases = self.aliases
        require_choice(self.noun, name, sorted({*self._classes, *aliases}))
        return self._classes[aliases.get(name, name)]

    def create(self, spec: str | T) -> T:
        """An instance from a name, or the given instance; InvalidArgumentError for others."""
        if isinstance(spec, str):
            return self.get(spec)()
        if isinstance(spec, self._base):
            return spec
        raise InvalidArgumentError(
            f"expected a {self.noun} as a name ({', '.join(self.names)}) or as an instance of "
            f"{self._base.__name__}, got {type(spec).__name__}"
        )
