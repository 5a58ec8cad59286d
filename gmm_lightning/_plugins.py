"""Registries that fill themselves: a plug-in is a module beside its siblings."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Generic, TypeVar

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
        self._classes: dict[str, type[T]] | None = None
        self._aliases: dict[str, str] = {}

    def _found(self) -> dict[str, type[T]]:
        if self._classes is None:
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
                        self._aliases |= dict.fromkeys(getattr(cls, "aliases", ()), name)
            self._classes = dict(sorted(found.items()))
        return self._classes

    @property
    def names(self) -> tuple[str, ...]:
        """Registered names, sorted, without aliases."""
        return tuple(self._found())

    @property
    def aliases(self) -> dict[str, str]:
        """Aliases, each with the registered name."""
        self._found()
        return dict(self._aliases)

    def get(self, name: str) -> type[T]:
        """The class registered under a name or an alias.

        Raises:
            InvalidArgumentError: the name is unknown; the message lists the known ones.
        """
        classes = self._found()
        resolved = self._aliases.get(name, name)
        if resolved not in classes:
            known = ", ".join(sorted({*classes, *self._aliases}))
            raise InvalidArgumentError(f"unknown {self.noun} {name!r}; known are: {known}")
        return classes[resolved]

    def create(self, spec: str | T) -> T:
        """Instance from a name, or the instance that was given."""
        if isinstance(spec, str):
            return self.get(spec)()
        if isinstance(spec, self._base):
            return spec
        raise InvalidArgumentError(
            f"expected a {self.noun} as a name ({', '.join(self.names)}) or as an instance of "
            f"{self._base.__name__}, got {type(spec).__name__}"
        )
