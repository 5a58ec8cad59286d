"""The finished examples: each runs, finds what it should, and leaves a picture."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import get_method
from omegaconf import OmegaConf
from trainers import ROOT, script

from gmm_lightning.app.example import example
from gmm_lightning.app.recipes.account import Account
from gmm_lightning.errors import InvalidArgumentError

CONFIGS = {path.stem: path for path in sorted((ROOT / "configs" / "recipe").glob("*.yaml"))}
# The others take minutes, and have a file of tests each.
QUICK = [
    name for name in CONFIGS if not (Path(__file__).parent / f"test_recipe_{name}.py").exists()
]
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Account]:
    """Each recipe once, whoever asks for it."""
    return cache(lambda name: run(name, tmp_path_factory.mktemp(name)))


def run(name: str, folder: Path) -> Account:
    """A recipe with the options of its file."""
    options: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(CONFIGS[name]))  # pyright: ignore
    account = Account(folder)
    get_method(options.pop("_target_"))(account, **options)
    return account


def column(account: Account, name: str, table: int = 0) -> dict[str, Any]:
    """A column of a table, by what stands in the first."""
    header, *rows = account.tables[table]
    at = list(header).index(name)
    return {str(row[0]): row[at] for row in rows}


def test_every_recipe_has_a_file_and_is_told_of() -> None:
    folder = ROOT / "gmm_lightning" / "app" / "recipes"
    files = {path.stem for path in folder.glob("[!_]*.py")} - {"account"}
    assert files == set(CONFIGS)
    footer = (ROOT / "configs" / "example.yaml").read_text()
    assert all(re.search(rf"^ +{name}  ", footer, re.MULTILINE) for name in files)


@pytest.mark.parametrize("name", QUICK)
def test_it_leaves_a_picture(name: str, finished: Callable[[str], Account]) -> None:
    account = finished(name)
    assert account.pictures
    for path in account.pictures:
        assert path.read_bytes()[:4] == PNG
        assert path.stat().st_size > 20_000


def test_it_is_the_same_again(finished: Callable[[str], Account], tmp_path: Path) -> None:
    for name in ("imputation", "labelled"):
        assert run(name, tmp_path).tables == finished(name).tables


def test_radii_are_within_their_shells(finished: Callable[[str], Account]) -> None:
    account = finished("sampling_tour")
    least, largest = (column(account, name) for name in ("least radius", "largest radius"))
    assert largest["within one deviation"] <= 1.0
    assert least["between two and three"] >= 2.0
    assert largest["between two and three"] <= 3.0
    # The radius of the outermost hundredth of a Gaussian in two dimensions: sqrt(2 log 100).
    assert least["the outermost 1 %"] >= 3.0348


def test_one_gaussian_is_the_closed_form(finished: Callable[[str], Account]) -> None:
    density = column(finished("one_gaussian"), "log-likelihood per row")
    assert density["fitted, K = 1"] == pytest.approx(density["closed form"], abs=1e-12)
    # Numeric case: the best of two components on Old Faithful.
    assert density["fitted, K = 2"] * 272 == pytest.approx(-1130.26396, abs=1e-4)


def test_the_mixture_beats_its_baselines(finished: Callable[[str], Account]) -> None:
    account = finished("regression")
    for name, better in (("error (minutes)", -1), ("log density", 1)):
        line, mixture = column(account, name).values()
        assert better * mixture > better * line
    account = finished("imputation")
    for feature in account.tables[0][0][1:5]:
        error = column(account, str(feature))
        assert error["mixture, mean"] < error["one Gaussian"] < error["column means"]
    # Draws vary as what stood there did; means do not.
    assert column(account, "spread kept")["mixture, draw"] == pytest.approx(1.0, abs=0.1)


def test_criteria_have_a_lowest_inside(finished: Callable[[str], Account]) -> None:
    account = finished("moons")
    scores = column(account, "BIC")
    assert 6 <= int(min(scores, key=scores.__getitem__)) <= 14
    aic = column(account, "AIC")
    assert int(min(aic, key=aic.__getitem__)) >= int(min(scores, key=scores.__getitem__))


def test_classes_are_found_without_labels(finished: Callable[[str], Account]) -> None:
    account = finished("labelled")
    density = column(account, "log-likelihood per row")
    # Without labels the likelihood of the rows alone is maximised.
    assert density["no label"] > density["every label"]
    assert all(float(s.rstrip("%")) > 97 for s in column(account, "rows in their class").values())


def test_on_the_command_line(tmp_path: Path) -> None:
    out = script(
        str(ROOT / "scripts" / "example.py"), "one_gaussian", f"output={tmp_path}", cwd=tmp_path
    )
    assert out.returncode == 0, out.stderr
    assert "closed form" in out.stdout
    assert (tmp_path / "one_gaussian.png").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], f"gmm-example NAME, one of {min(CONFIGS)},"),
        (["moon"], f"known are: {min(CONFIGS)},"),
        (["moons", "most=many"], "recipe.most must be an integer"),
    ],
    ids=str,
)
def test_mistakes_are_one_sentence(arguments: list[str], said: str, tmp_path: Path) -> None:
    out = script(str(ROOT / "scripts" / "example.py"), *arguments, cwd=tmp_path)
    assert out.returncode == 1
    assert said in out.stderr
    assert len(out.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_is_told_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "pictures"
    script_path = str(ROOT / "scripts" / "example.py")
    out = script(script_path, "one_gaussian", f"output={folder}", cwd=tmp_path)
    assert out.returncode == 1
    assert out.stdout == ""
    assert len(out.stderr.strip().splitlines()) == 1
    assert str(folder) in out.stderr


@pytest.mark.parametrize(
    ("name", "option", "said"),
    [
        ("moons", {"most": 0}, "recipe.most must be"),
        ("moons", {"noise": "much"}, "recipe.noise must be"),
        ("imputation", {"fraction": 1.5}, "between 0 and 1, got 1.5"),
        ("labelled", {"data": "faithful"}, "faithful has no classes"),
        ("digits", {"num_axes": 65}, "at most 64, got 65"),
    ],
    ids=str,
)
def test_options_out_of_range_are_typed(
    name: str, option: dict[str, Any], said: str, tmp_path: Path
) -> None:
    config = OmegaConf.create({"recipe": OmegaConf.load(CONFIGS[name]), "output": str(tmp_path)})
    config.recipe.update(option)
    with pytest.raises(InvalidArgumentError, match=said):
        example(config)
    assert not list(tmp_path.iterdir())
