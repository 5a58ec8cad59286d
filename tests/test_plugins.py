"""Registries find their plug-ins by themselves."""

from __future__ import annotations

import sys
import textwrap
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from gmm_lightning._plugins import Registry
from gmm_lightning.covariances import Covariance, FullCovariance
from gmm_lightning.covariances import registry as covariances
from gmm_lightning.errors import GMMError, InvalidArgumentError
from gmm_lightning.initializers import registry as initializers
from gmm_lightning.priors import registry as priors

REGISTRIES = {"covariance": covariances, "prior": priors, "initializer": initializers}


class Shape(ABC):
    name: str

    @abstractmethod
    def corners(self) -> int: ...


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A package with a plug-in, an abstract class, a private module and a foreign class."""
    package = tmp_path / "shapes_for_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    source = """
        from abc import ABC
        from pathlib import Path
        from {module} import Shape
        class Half(Shape, ABC):
            name = "half"
        class Square(Shape):
            name, aliases = "square", ("box",)
            def corners(self): return 4
        class Nothing:
            name = "nothing"
    """
    text = textwrap.dedent(source.format(module="shape_base_for_a_test"))
    (package / "square.py").write_text(text)
    (package / "_hidden.py").write_text("raise RuntimeError('a private module was imported')")
    (package / "base.py").write_text("raise RuntimeError('base was imported as a plug-in')")
    module = type(sys)("shape_base_for_a_test")
    module.Shape = Shape
    monkeypatch.setitem(sys.modules, "shape_base_for_a_test", module)
    monkeypatch.syspath_prepend(tmp_path)
    return Registry("shapes_for_a_test", Shape, "shape")


def test_a_new_module_is_a_new_plug_in(shapes: Registry) -> None:
    assert shapes.names == ("square",)
    assert shapes.aliases == {"box": "square"}
    assert shapes.create("square").corners() == 4
    assert type(shapes.create("box")) is shapes.get("square")


def test_an_unknown_name_lists_the_known_ones(shapes: Registry) -> None:
    with pytest.raises(
        InvalidArgumentError, match="unknown shape 'circle'; known are: box, square"
    ):
        shapes.get("circle")


def test_instances_pass_through_and_strangers_do_not(shapes: Registry) -> None:
    square = shapes.create("square")
    assert shapes.create(square) is square
    for stranger in (None, 3, Shape, {"name": "square"}):
        with pytest.raises(InvalidArgumentError, match=r"expected a shape as a name \(square\)"):
            shapes.create(stranger)


@pytest.mark.parametrize("noun", REGISTRIES)
def test_the_shipped_registries(noun: str) -> None:
    registry = REGISTRIES[noun]
    assert registry.noun == noun
    assert list(registry.names) == sorted(registry.names)
    assert not set(registry.names) & set(registry.aliases)
    for name in registry.names:
        assert registry.get(name).name == name
        assert registry.create(name).name == name
        assert registry.get(name).__doc__
    for alias, name in registry.aliases.items():
        assert registry.get(alias) is registry.get(name)
    with pytest.raises(InvalidArgumentError, match="known are") as caught:
        registry.get("no such thing")
    assert all(name in str(caught.value) for name in registry.names)


def test_the_families_of_the_design() -> None:
    required = {"full", "diag", "spherical", "tied", "tied_diag", "tied_spherical"}
    assert required <= set(covariances.names)
    assert covariances.aliases["tied_full"] == "tied"
    assert isinstance(covariances.create("full"), FullCovariance)
    assert issubclass(FullCovariance, Covariance)


def test_errors_can_be_caught_as_one_or_as_the_builtin() -> None:
    with pytest.raises(GMMError):
        covariances.get("?")
    with pytest.raises(ValueError, match="unknown covariance"):
        covariances.get("?")
