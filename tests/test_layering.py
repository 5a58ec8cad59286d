"""The order of the house: imports point down, heavy libraries keep to their rooms."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import gmm_lightning
from gmm_lightning.covariances import registry as covariances
from gmm_lightning.em import stopping_rules
from gmm_lightning.noise import registry as noises
from gmm_lightning.priors import registry as priors
from gmm_lightning.projections import registry as projections

PACKAGE = Path(gmm_lightning.__file__).parent
NAME = PACKAGE.name

# From the ground up; docs/architecture.md draws it. What lies on the ground everything may use.
GROUND = (
    "errors",
    "linalg",
    "_chunking",
    "_files",
    "_messages",
    "_plain",
    "_plugins",
    "_tracing",
    "_validation",
    "rows",
)
FLOORS: tuple[tuple[str, ...], ...] = (
    (*GROUND, "covariances"),
    ("distributions", "hyperparameters"),
    ("priors", "noise", "statistics", "datasets"),
    ("layers", "initializers", "evidence", "projections"),
    ("em",),
    ("criteria", "losses", "metrics", "interop"),
    ("plotting",),
    ("training", "estimators", "bayes"),
    ("app",),
)
ORDER = {name: number for number, floor in enumerate(FLOORS) for name in floor}
# Who alone may import what.
ROOMS: dict[str, set[str]] = {
    "hydra": {"app"},
    "omegaconf": {"app"},
    "lightning": {"training", "app"},
    "pytorch_lightning": set(),
    "torchmetrics": {"metrics", "training", "app"},
    "sklearn": {"estimators", "interop"},
    "gmr": {"interop"},
    "pyro": {"bayes"},
    "nutpie": {"bayes"},
    "arviz": {"bayes"},
    # Their tables are known by what they can do.
    "pandas": set(),
    "polars": set(),
    "pyarrow": {"datasets"},
    "matplotlib": {"plotting", "training", "app"},
}

# Private names of other libraries for which there is no public one.
BORROWED = {
    ("gmm_lightning.app.processes", "_hydra_subprocess_cmd"),
    ("gmm_lightning.app.processes", "_launch_process_observer"),
    ("gmm_lightning.app.watch", "_exit"),
    # Draws of gamma distributions take a generator nowhere else.
    ("gmm_lightning.linalg", "_standard_gamma"),
}


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


MODULES = sorted(trees())


def is_package(module: str) -> bool:
    return (PACKAGE.parent / module.replace(".", "/")).is_dir()


def package_of(module: str) -> str:
    """The package whose inside a module belongs to."""
    return module if is_package(module) else module.rpartition(".")[0]


def test_imports_point_down() -> None:
    wrong = []
    for module in MODULES:
        own = room(module)
        if not own:
            continue  # The top level gathers what it offers.
        assert own in ORDER, f"{own} has no place in the house"
        for target in own_imports(module):
            theirs = room(target)
            if not theirs or ORDER[theirs] > ORDER[own]:
                wrong.append(f"{module} imports {target}, which lies above it")
    assert wrong == []


@cache
def exported(package: str) -> set[str]:
    """The names in a package's `__all__`."""
    for node in trees()[package].body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def test_packages_take_from_each_other_what_is_exported() -> None:
    """`from gmm_lightning.em import e_step`, never a name of one of its modules.

    Subpackages are packages too: what lies below the last common package is seen through its
    `__init__` alone.
    """
    wrong = []
    for module in MODULES:
        for target, name in imports(module):
            parts, own = target.split("."), package_of(module).split(".")
            if parts[0] != NAME:
                continue
            common = 0
            while common < min(len(parts), len(own)) and parts[common] == own[common]:
                common += 1
            face = ".".join(parts[: common + 1])
            if common == len(parts) or not is_package(face):
                continue
            if target != face or name not in exported(face):
                wrong.append(f"{module} imports {target}.{name}")
    assert wrong == []


def test_the_top_level_imports_nothing_by_itself() -> None:
    # What it offers it imports for type checkers, and when it is asked for.
    body = trees()[NAME].body
    found = [ast.unparse(n) for n in body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert [line for line in found if NAME in line] == []


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
        own = package_of(module)
        theirs = {package_of(target) for target in own_imports(module)}
        graph.setdefault(own, set()).update(
            other for other in theirs if not (own.startswith(other) or other.startswith(own))
        )
    assert cycle(graph) == []


def test_the_cycle_finder_finds_cycles() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_heavy_libraries_stay_in_their_rooms() -> None:
    wrong = []
    for module in MODULES:
        for target, _ in imports(module):
            allowed = ROOMS.get(target.split(".")[0])
            homes = [f"{NAME}.{name}." for name in allowed or ()]
            if allowed is not None and not any(f"{module}.".startswith(home) for home in homes):
                wrong.append(f"{module} imports {target}")
    assert wrong == []


def test_private_names_stay_private() -> None:
    wrong = []
    for module in MODULES:
        for target, name in imports(module):
            if target.split(".")[0] != NAME or target.removeprefix(f"{NAME}.") in GROUND:
                continue
            where = f"{module} imports {target}.{name}"
            is_private = name is not None and name.startswith("_") and not name.startswith("__")
            own = f"{target}.{name}" in trees() and target == package_of(module)
            if is_private and not own:
                wrong.append(where)
            parts = target.split(".")
            for i, part in enumerate(parts):
                if part.startswith("_") and not module.startswith(".".join(parts[:i])):
                    wrong.append(where)
    assert wrong == []


# Methods of named tuples and dataclasses whose underscore is not a sign of privacy.
PUBLIC = {"_replace", "_fields", "_asdict"}


def is_own(node: ast.Attribute) -> bool:
    """Whether an attribute is asked of self, of the class or of super()."""
    owner = node.value
    if isinstance(owner, ast.Name):
        return owner.id in ("self", "cls")
    return (
        isinstance(owner, ast.Call)
        and isinstance(owner.func, ast.Name)
        and owner.func.id == "super"
    )


def test_no_attribute_of_another_object_is_private() -> None:
    wrong = []
    for module in MODULES:
        for node in ast.walk(trees()[module]):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
                continue
            known = node.attr.startswith("__") or node.attr in PUBLIC
            if not (known or is_own(node) or (module, node.attr) in BORROWED):
                wrong.append(f"{module}:{node.lineno} uses {ast.unparse(node)}")
    assert wrong == []


def compared_words() -> set[str]:
    """Names of plug-ins, policies and accelerations: there are objects for them."""
    registries = (covariances, priors, noises, projections, stopping_rules)
    policies = {"floor", "reseed", "raise", "squarem", "anderson"}
    return policies.union(*((*registry.names, *registry.aliases) for registry in registries))


def test_nothing_is_compared_by_its_name() -> None:
    words, wrong = compared_words(), []

    def is_word(node: ast.AST) -> bool:
        values = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
        return any(isinstance(v, ast.Constant) and v.value in words for v in values)

    families = {covariances.get(name).__name__ for name in covariances.names}
    for module in MODULES:
        if room(module) in ("covariances", "estimators"):
            continue  # The families themselves, and doors that translate other libraries' words.
        for node in ast.walk(trees()[module]):
            where = f"{module}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Compare) and any(map(is_word, [node.left, *node.comparators])):
                wrong.append(where)
            if isinstance(node, ast.MatchValue) and is_word(node.value):
                wrong.append(where)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                asks = node.func.id in ("isinstance", "issubclass")
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                if asks and names & families:
                    wrong.append(where)
    assert wrong == []


def test_no_name_holds_both_a_family_and_a_prior() -> None:
    prior_words = {"dirichlet", "wishart", "niw", "normal"}
    family_words = {*covariances.names, "isotropic"}
    wrong = []
    for module in MODULES:
        for node in ast.walk(trees()[module]):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                words = set(node.name.lower().split("_"))
                if words & prior_words and words & family_words:
                    wrong.append(f"{module}:{node.lineno} {node.name}")
    assert wrong == []


def test_files_are_small() -> None:
    """One idea each; what is longer hides a second one."""
    lengths = {
        str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: n for name, n in lengths.items() if n > 300} == {}


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
         "torchmetrics", "tensorboard", "pandas", "pyro", "nutpie", "arviz"} & set(sys.modules)
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
