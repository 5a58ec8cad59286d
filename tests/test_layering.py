"""The order of the house: imports point down, heavy libraries keep to their rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import gmm_lightning
from gmm_lightning.covariances import registry as covariances

PACKAGE = Path(gmm_lightning.__file__).parent
NAME = PACKAGE.name

# Section 2 of the design, from the ground up. `errors` is what everything may raise.
ORDER: dict[str, int] = {
    "errors": 0,
    "_validation": 0,
    "_chunking": 0,
    "_plugins": 0,
    "linalg": 0,
    "covariances": 0,
    "distributions": 1,
    "priors": 2,
    "statistics": 2,
    "layers": 3,
    "initializers": 3,
    "em": 4,
    "criteria": 5,
    "losses": 5,
    "metrics": 5,
    "interop": 5,
    "datasets": 6,
    "plotting": 6,
    "training": 7,
    "estimators": 7,
    "bayes": 7,
    "app": 8,
}
# Who alone may import what.
ROOMS: dict[str, set[str]] = {
    "hydra": {"app"},
    "omegaconf": {"app"},
    "lightning": {"training", "app"},
    "pytorch_lightning": set(),
    "torchmetrics": {"metrics", "training", "app"},
    # Its data sets and its mixtures are what examples compare with.
    "sklearn": {"estimators", "interop", "app.recipes"},
    "gmr": {"interop"},
    "pyro": {"bayes"},
    "matplotlib": {"plotting", "training", "app"},
}

# Private names of other libraries for which there is no public one.
BORROWED = {("gmm_lightning.app.processes", "_hydra_subprocess_cmd")}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def trees() -> dict[str, ast.Module]:
    """Every module of the package, parsed."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in files}


def imports(module: str) -> Iterator[tuple[str, str | None]]:
    """(module, name or None) for every import, those in functions and TYPE_CHECKING included."""
    for node in ast.walk(trees()[module]):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            yield from ((node.module or "", alias.name) for alias in node.names)


def own_imports(module: str) -> set[str]:
    """Modules of the package that one imports: a submodule where the name is one."""
    found = set()
    for target, name in imports(module):
        if target.split(".")[0] == NAME:
            deeper = f"{target}.{name}"
            found.add(deeper if deeper in trees() else target)
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def subpackage(module: str) -> str:
    """The package that holds a module, or the module if it is one."""
    is_package = (PACKAGE.parent / module.replace(".", "/")).is_dir()
    return module if is_package else module.rpartition(".")[0]


def exported(package: str) -> list[str]:
    """Names in `__all__`."""
    for node in trees()[package].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


MODULES = sorted(trees())


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    own = room(module)
    if not own:
        return  # The top level gathers what it offers.
    assert own in ORDER, f"{own} has no place in the house"
    for target in own_imports(module):
        theirs = room(target)
        assert theirs, f"{module} imports the top level"
        assert ORDER[theirs] <= ORDER[own], f"{module} imports {target}, which lies above it"


def test_the_top_level_imports_only_the_core() -> None:
    for target in own_imports(NAME):
        assert ORDER[room(target)] <= ORDER["em"], target


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """Some cycle of a graph, or nothing."""
    done: set[str] = set()

    def visit(node: str, trail: list[str]) -> list[str]:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph.get(node, ())):
            found = visit(following, [*trail, node])
            if found:
                return found
        done.add(node)
        return []

    for node in graph:
        found = visit(node, [])
        if found:
            return found
    return []


def test_no_cycles_between_modules() -> None:
    assert cycle({module: own_imports(module) - {module} for module in MODULES}) == []


def test_no_cycles_between_packages() -> None:
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        if room(module):
            theirs = {room(target) for target in own_imports(module)}
            graph.setdefault(room(module), set()).update(theirs - {room(module)})
    assert cycle(graph) == []


def test_no_cycles_between_the_rooms_of_a_package() -> None:
    """Subpackages are packages too; a face and what it gathers are one."""
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        own = subpackage(module)
        theirs = {subpackage(target) for target in own_imports(module)}
        graph.setdefault(own, set()).update(
            other for other in theirs if not (own.startswith(other) or other.startswith(own))
        )
    assert cycle(graph) == []


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) == "distributions"])
def test_rooms_take_from_each_other_what_their_faces_show(module: str) -> None:
    for target, name in imports(module):
        own, other = subpackage(module), subpackage(target) if target in trees() else ""
        if room(target) != room(module) or own.startswith(other) or other.startswith(own):
            continue
        assert target == other, f"{module} imports {target}, past the face {other}"
        assert name in exported(target), f"{target} does not show {name}"


def test_the_cycle_finder_finds_cycles() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_stay_in_their_rooms(module: str) -> None:
    for target, _ in imports(module):
        allowed = ROOMS.get(target.split(".")[0])
        rooms = [f"{NAME}.{name}" for name in allowed or ()]
        at_home = any(f"{module}.".startswith(f"{home}.") for home in rooms)
        assert allowed is None or at_home, f"{module} imports {target}"


@pytest.mark.parametrize("module", MODULES)
def test_private_names_stay_private(module: str) -> None:
    package = (
        module
        if (PACKAGE.parent / module.replace(".", "/")).is_dir()
        else (module.rpartition(".")[0])
    )
    for target, name in imports(module):
        if target.split(".")[0] != NAME or target == "gmm_lightning._plugins":
            continue
        if name is not None and name.startswith("_") and not name.startswith("__"):
            assert f"{target}.{name}" in trees(), f"{module} imports {target}.{name}"
            assert target == package, f"{module} imports {target}.{name}"
        parts = target.split(".")
        for i, part in enumerate(parts):
            if part.startswith("_"):
                inside = ".".join(parts[:i])
                assert module.startswith(inside), f"{module} imports {target}"


@pytest.mark.parametrize("module", MODULES)
def test_no_attribute_of_another_object_is_private(module: str) -> None:
    for node in ast.walk(trees()[module]):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            if node.attr.startswith("__"):
                continue
            owner = node.value
            named = isinstance(owner, ast.Name) and owner.id in ("self", "cls")
            calls_super = (
                isinstance(owner, ast.Call)
                and isinstance(owner.func, ast.Name)
                and owner.func.id == "super"
            )
            allowed = (module, node.attr) in BORROWED
            assert named or calls_super or allowed, (
                f"{module}:{node.lineno} uses {ast.unparse(node)}"
            )


@pytest.mark.parametrize("module", [m for m in MODULES if room(m) != "covariances"])
def test_no_family_is_asked_for_its_name(module: str) -> None:
    names = {*covariances.names, *covariances.aliases}

    def is_name(node: ast.AST) -> bool:
        values = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
        return any(isinstance(v, ast.Constant) and v.value in names for v in values)

    for node in ast.walk(trees()[module]):
        where = f"{module}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Compare):
            assert not any(map(is_name, [node.left, *node.comparators])), where
        if isinstance(node, ast.MatchValue):
            assert not is_name(node.value), where
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            families = {covariances.get(name).__name__ for name in covariances.names}
            asked = node.func.id in ("isinstance", "issubclass") and any(
                isinstance(n, ast.Name) and n.id in families for n in ast.walk(node)
            )
            assert not asked, where


@pytest.mark.parametrize("module", MODULES)
def test_no_name_holds_both_a_family_and_a_prior(module: str) -> None:
    priors = {"dirichlet", "wishart", "niw", "normal"}
    for node in ast.walk(trees()[module]):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            words = set(node.name.lower().split("_"))
            both = words & priors and words & {*covariances.names, "isotropic"}
            assert not both, f"{module}:{node.lineno} {node.name}"


SIDE_EFFECTS = """
import logging, sys, warnings, signal, os
import numpy as np
import torch
import random

def state():
    handlers = [id(h) for h in logging.getLogger().handlers]
    return {
        "dtype": torch.get_default_dtype(), "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(), "rng": bytes(torch.random.get_rng_state().tolist()),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "numpy": np.random.get_state()[1].tobytes(), "print": str(np.get_printoptions()),
        "random": random.getstate(), "handlers": handlers,
        "level": logging.getLogger().level, "filters": list(warnings.filters),
        "environ": dict(os.environ), "sigterm": signal.getsignal(signal.SIGTERM),
        "hook": sys.excepthook, "tensor": torch._tensor_str.PRINT_OPTS.precision,
    }

before = state()
import gmm_lightning
after = state()
changed = [key for key in before if before[key] != after[key]]
heavy = {"lightning", "pytorch_lightning", "hydra", "omegaconf", "matplotlib", "sklearn", "scipy",
         "torchmetrics", "tensorboard", "pandas", "pyro"} & set(sys.modules)
print("changed", sorted(changed), "heavy", sorted(heavy))
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_changes_nothing_and_loads_nothing_heavy() -> None:
    assert run(SIDE_EFFECTS) == "changed [] heavy []"


def test_importing_the_plots_leaves_the_style_alone() -> None:
    code = (
        "import matplotlib as mpl; before = dict(mpl.rcParams); backend = mpl.get_backend();"
        "import gmm_lightning.plotting;"
        "print(dict(mpl.rcParams) == before and mpl.get_backend() == backend)"
    )
    assert run(code) == "True"


def test_every_public_name_exists() -> None:
    for module in MODULES:
        tree = trees()[module]
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names = ast.literal_eval(node.value)
                assert len(set(names)) == len(names), module
                if ORDER.get(room(module), 0) <= ORDER["em"]:
                    loaded = __import__(module, fromlist=["*"])
                    assert all(hasattr(loaded, name) for name in names), module
