"""`gmm-sample` within regions and given columns: in the units of the data, against numpy alone."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import get_object
from omegaconf import DictConfig
from scipy import stats
from support.csv_run import COLUMNS, Plain, Rows
from support.goodness_of_fit import SIGNIFICANCE

from gmm_lightning import distributions
from gmm_lightning.app.configs import config_dir
from gmm_lightning.app.sample import sample

Asked = Callable[..., DictConfig]
Failing = Callable[..., Any]
ROWS = 4000


@pytest.fixture
def drawn(trained: Path, asked: Asked, tmp_path: Path) -> Callable[..., tuple[Rows, Rows]]:
    """Components and rows that a command line gives."""

    def draw(*words: str, n: int = ROWS) -> tuple[Rows, Rows]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npz"
        sample(asked("sample", f"run={trained}", f"n={n}", f"output={path}", *words))
        with np.load(path) as arrays:
            return arrays["component"], np.column_stack([arrays[c] for c in COLUMNS])

    return draw


def rejected(plain: Plain, inside: Callable[[Rows], Any]) -> tuple[Rows, Rows]:
    """Components and rows of the mixture that lie in a region, by numpy and refusal."""
    source = np.random.default_rng(0)
    z = source.choice(len(plain.weights), size=200_000, p=plain.weights)
    noise = source.normal(size=(len(z), len(COLUMNS)))
    factors = np.linalg.cholesky(plain.covariances)
    x = plain.means[z] + np.einsum("nij,nj->ni", factors[z], noise)
    keep = inside(x)
    assert keep.sum() > 2000
    return z[keep], x[keep]


def same(x: Rows, y: Rows) -> None:
    for a, b in zip(x.T, y.T, strict=True):
        assert stats.ks_2samp(a, b).pvalue > SIGNIFICANCE


CENTRE = [6000.0, 0.002, -30.0]
REGIONS: dict[str, tuple[list[str], Callable[[Rows], Any]]] = {
    # A sphere in the units of the data: a thin disc in standard ones.
    "ball": (
        [f"within.center={CENTRE}", "within.radius=500"],
        lambda x: np.linalg.norm(x - CENTRE, axis=1) <= 500,
    ),
    "box": (
        ["within.lower=[5500,-inf,-35]", "within.upper=[inf,0.0025,-20]"],
        lambda x: (x[:, 0] >= 5500) & (x[:, 1] <= 0.0025) & (x[:, 2] >= -35) & (x[:, 2] <= -20),
    ),
    "half_space": (
        ["within.normal=[0.001,1000,0.1]", "within.offset=6"],
        lambda x: x @ [0.001, 1000, 0.1] >= 6,
    ),
}


@pytest.mark.parametrize("name", REGIONS)
def test_regions_in_the_units_of_the_data(
    name: str, trained: Path, drawn: Callable[..., tuple[Rows, Rows]]
) -> None:
    words, inside = REGIONS[name]
    z, x = drawn(f"within={name}", *words)
    assert inside(x).all()
    expected_z, expected_x = rejected(Plain.read(trained), inside)
    same(x, expected_x)
    counts = [np.bincount(which, minlength=3) for which in (z, expected_z)]
    possible = counts[0] + counts[1] > 0
    table = np.array(counts)[:, possible]
    assert stats.chi2_contingency(table).pvalue > SIGNIFICANCE


@pytest.mark.parametrize(
    ("words", "low", "high"),
    [
        (["within=shell", "within.low=2", "within.high=2.5"], 2.0, 2.5),
        (["within=shell", "within.low=3"], 3.0, math.inf),
        (["within=confidence", "within.low=0.95"], math.sqrt(stats.chi2(3).isf(0.05)), math.inf),
        (["within=confidence", "within.high=0.5"], 0.0, math.sqrt(stats.chi2(3).ppf(0.5))),
    ],
)
def test_radii_about_the_drawn_component(
    trained: Path,
    drawn: Callable[..., tuple[Rows, Rows]],
    words: list[str],
    low: float,
    high: float,
) -> None:
    plain = Plain.read(trained)
    z, x = drawn(*words)
    gap = (x - plain.means[z])[:, :, None]
    square = (gap.transpose(0, 2, 1) @ np.linalg.solve(plain.covariances[z], gap)).ravel()
    # The rows went through the units of the data and back.
    assert (np.sqrt(square) >= low - 1e-6).all()
    assert (np.sqrt(square) <= high + 1e-6).all()
    chi, (least, most) = stats.chi2(3), (low**2, high**2)
    share = chi.cdf(most) - chi.cdf(least)
    found = stats.kstest(square, lambda s: (chi.cdf(s) - chi.cdf(least)) / share)
    assert found.pvalue > SIGNIFICANCE
    # Every component has the same mass in its shell.
    assert stats.chisquare(np.bincount(z, minlength=3), ROWS * plain.weights).pvalue > SIGNIFICANCE


def test_a_component_within_a_region(drawn: Callable[..., tuple[Rows, Rows]]) -> None:
    z, x = drawn("within=box", "within.lower=[7000,-inf,-inf]", "component=1", n=200)
    assert (z == 1).all()
    assert (x[:, 0] >= 7000).all()


# -- given columns ------------------------------------------------------------------------------


def conditional(plain: Plain, known: list[int], values: Rows) -> tuple[Rows, Rows, Rows]:
    """Weights, means and covariances of the other columns, by the textbook."""
    rest = [i for i in range(3) if i not in known]
    weights, means, covariances = [], [], []
    for w, m, s in zip(plain.weights, plain.means, plain.covariances, strict=True):
        slope = s[np.ix_(rest, known)] @ np.linalg.inv(s[np.ix_(known, known)])
        weights.append(w * stats.multivariate_normal(m[known], s[np.ix_(known, known)]).pdf(values))
        means.append(m[rest] + slope @ (values - m[known]))
        covariances.append(s[np.ix_(rest, rest)] - slope @ s[np.ix_(known, rest)])
    return np.array(weights) / sum(weights), np.array(means), np.array(covariances)


@pytest.mark.parametrize(
    ("words", "known", "values"),
    [
        ("condition={width: 0.0021}", [1], [0.0021]),
        ("condition={1: 0.0021}", [1], [0.0021]),
        ("condition={temp: -31.5, mass: 6200}", [2, 0], [-31.5, 6200.0]),
    ],
)
def test_the_other_columns_given_some(
    trained: Path,
    drawn: Callable[..., tuple[Rows, Rows]],
    words: str,
    known: list[int],
    values: list[float],
) -> None:
    z, x = drawn(words)
    # As typed, to the last bit.
    assert (x[:, known] == values).all()
    weights, means, covariances = conditional(Plain.read(trained), known, np.array(values))
    rest = [i for i in range(3) if i not in known]
    expected = ROWS * weights
    counts = np.bincount(z, minlength=3)
    kept = expected > 5
    if kept.sum() > 1:
        share = expected[kept] / expected[kept].sum()
        assert stats.chisquare(counts[kept], counts[kept].sum() * share).pvalue > SIGNIFICANCE
    for k in np.flatnonzero(counts > 100):
        for column, at in enumerate(rest):
            reference = stats.norm(means[k, column], math.sqrt(covariances[k, column, column]))
            assert stats.kstest(x[z == k, at], reference.cdf).pvalue > SIGNIFICANCE


def test_a_condition_and_a_region_of_the_rest(drawn: Callable[..., tuple[Rows, Rows]]) -> None:
    _, x = drawn(
        "condition={width: 0.002}",
        *("within=half_space", "within.normal=[1,0]", "within.offset=6500"),
        n=300,
    )
    assert (x[:, 1] == 0.002).all()
    assert (x[:, 0] >= 6500).all()


def test_even_draws(drawn: Callable[..., tuple[Rows, Rows]], trained: Path) -> None:
    plain = Plain.read(trained)
    mean = plain.weights @ plain.means
    z, x = drawn("quasi=true", n=4096)
    assert np.abs(np.bincount(z, minlength=3) - 4096 * plain.weights).max() <= 2
    _, free = drawn(n=4096)
    spread = free.std(0) / 64
    # Independent rows would be as far off as that in two cases of three.
    assert (np.abs(x.mean(0) - mean) < 0.3 * spread).all()
    z, x = drawn("antithetic=true", n=400)
    assert (z[0::2] == z[1::2]).all()
    middle = (x[0::2] + x[1::2]) / 2
    np.testing.assert_allclose(middle, plain.means[z[0::2]], rtol=1e-6)


def test_the_empty_table_of_a_condition(drawn: Callable[..., tuple[Rows, Rows]]) -> None:
    z, x = drawn("condition={width: 0.002}", n=0)
    assert z.shape == (0,)
    assert x.shape == (0, 3)


@pytest.mark.parametrize(
    "words",
    [["condition={width: 0.002}"], ["within=ball", f"within.center={CENTRE}", "within.radius=1"]],
)
def test_pictures(trained: Path, asked: Asked, tmp_path: Path, words: list[str]) -> None:
    picture = tmp_path / "a.png"
    sample(asked("sample", f"run={trained}", "n=20", f"picture={picture}", *words))
    assert picture.stat().st_size > 5000


def test_a_picture_says_what_it_shows(
    trained: Path, asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("gmm_lightning.app.pictures.save_figure", lambda ax, path: drawn.append(ax))
    words = [f"run={trained}", "n=20", f"picture={tmp_path}/a.png"]
    ball = ["within=ball", f"within.center={CENTRE}", "within.radius=500"]
    sample(asked("sample", *words, *ball, "columns=[mass,temp]"))
    assert (drawn[0].get_xlabel(), drawn[0].get_ylabel()) == ("mass", "temp")
    assert [type(p).__name__ for p in drawn[0].patches].count("Polygon") == 1
    assert drawn[0].get_title().startswith("things: 20 draws\nwithin Ball(center=(6000.0, ")
    half = ["within=half_space", "within.normal=[1,0]", "within.offset=5500"]
    sample(asked("sample", *words, "condition={width: 0.0021}", *half))
    assert (drawn[1].get_xlabel(), drawn[1].get_ylabel()) == ("mass", "temp")
    assert "\ngiven width = 0.0021\nwithin HalfSpace(" in drawn[1].get_title()
    sample(asked("sample", *words, "columns=2"))
    assert (drawn[2].get_xlabel(), drawn[2].get_ylabel()) == ("temp", "density")
    # Of three columns, the two in which the components lie apart.
    plain = Plain.read(trained)
    mean = plain.weights @ plain.means
    between = plain.weights @ np.square(plain.means - mean)
    within = plain.weights @ np.diagonal(plain.covariances, axis1=1, axis2=2)
    telling = sorted(np.argsort(within / (between + within))[:2])
    sample(asked("sample", *words))
    shown = [drawn[3].get_xlabel(), drawn[3].get_ylabel()]
    assert shown == [COLUMNS[i] for i in telling]


def test_a_condition_far_outside_warns_in_one_line(
    trained: Path, asked: Asked, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plain = Plain.read(trained)
    for value, far in ((0.002, False), (0.021, True)):
        words = [f"run={trained}", "n=5", f"output={tmp_path}/{far}.csv"]
        sample(asked("sample", *words, f"condition={{width: {value}}}"))
        warned = capfd.readouterr().err
        assert len(warned.splitlines()) == far
        if far:
            radius = np.abs(value - plain.means[:, 1]) / np.sqrt(plain.covariances[:, 1, 1])
            assert f"{radius.min():.3g} standard deviations" in warned


# -- the files, and mistakes --------------------------------------------------------------------


def test_there_is_a_file_for_every_region(asked: Asked) -> None:
    """All but `Where`, which is a function; with the fields of its class, and their defaults."""
    files = {path.stem for path in Path(config_dir(), "within").glob("*.yaml")}
    found = set()
    for name in files - {"none"}:
        fields = dict(asked("sample", f"within={name}").within)
        region = get_object(fields.pop("_target_"))
        found.add(region)
        parameters = inspect.signature(region).parameters
        assert set(fields) == set(parameters)
        for key, parameter in parameters.items():
            assert parameter.default in (inspect.Parameter.empty, fields[key])
    public = {getattr(distributions, name) for name in distributions.__all__}
    kinds = (distributions.EuclideanRegion, distributions.MahalanobisRegion)
    regions = {c for c in public if inspect.isclass(c) and issubclass(c, kinds)}
    assert regions - found - {*kinds} == {distributions.Where}
    assert asked("sample").within is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("columns=width", "columns are those of a picture: add picture=new.png"),
        ("picture=a.png columns=nope", "the run has no column nope; it has mass, width, temp"),
        ("picture=a.png columns=2.5", "the run has no column 2.5; it has mass, width, temp"),
        ("picture=a.png columns=[0,1,2]", "columns must name one or two columns to show"),
        ("picture=a.png columns=[]", "columns must name one or two columns to show"),
        ("picture=a.png columns=[0,mass]", "columns must name one or two columns to show"),
        ("picture=a.png columns=0 condition={mass:6000}", "columns names mass, which condition"),
        ("condition={wdith:1}", "the run has no column wdith; it has mass, width, temp"),
        ("condition={3:1}", "the run has no column 3; it has mass, width, temp"),
        ("condition={-1:1}", "the run has no column -1; it has"),
        ("condition={width:abc}", "the condition on width must be a finite number, got 'abc'"),
        ("condition={width:nan}", "the condition on width must be a finite number, got nan"),
        ("condition={width:true}", "the condition on width must be a finite number, got True"),
        ("condition={width:null}", "the condition on width must be a finite number, got None"),
        ("condition={width:1,1:2}", "condition names the column width twice"),
        ("condition={0:1,1:2,2:3}", "condition gives every column a value"),
        ("condition=3", "condition must give columns their values"),
        ("condition=[width]", "condition must give columns their values"),
        (
            "within=ball within.radius=1",
            "the center of a ball must be a row of finite numbers, got None",
        ),
        ("within=ball within.center=[1,2]", "finite number > 0, got None"),
        ("within=ball within.center=[1,2,3] within.radius=-1", "finite number > 0, got -1"),
        ("within=ball within.center=[1,2,3] within.radius=abc", "number > 0, got 'abc'"),
        ("within=box within.lower=2 within.upper=1", "lower ends of a box must be below"),
        ("within=box within.lower=[1,2] within.upper=3", "must have 3 entries, got 2"),
        ("within=shell within.low=-1", "radii of a shell must be numbers of at least 0, got -1"),
        ("within=shell within.low=3 within.high=2", "low < high, got 3 and 2"),
        ("within=confidence within.high=1.5", "at least 0 and at most 1, got 0.0 and 1.5"),
        ("within=half_space", "the normal of a half-space must be a row of finite numbers"),
        ("within=half_space within.normal=[0,0,0]", "must not be zero"),
        ("within=box within.lower=1e300 component=1", "the region"),
        ("within=box component=3", "component must be in [0, 3), got 3"),
        ("within=shell quasi=true", "draws within a region are independent ones only"),
        ("quasi=true antithetic=true", "quasi and antithetic are two ways to spread draws"),
        ("quasi=nope", "quasi must be true or false, got 'nope'"),
        ("antithetic=2", "antithetic must be true or false, got 2"),
    ],
)
def test_mistakes(
    refused: Callable[..., str], trained: Path, tmp_path: Path, words: str, said: str
) -> None:
    assert said in refused("sample", f"run={trained}", "output=s.csv", *words.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("within=nope", "unknown option within=nope; known are: ball, box, confidence"),
        ("within=ball within.centre=[1,2,3]", "unknown key 'centre' in within; known are: center"),
        ("within=half_space within.normal=[0,0,0]", "must not be zero"),
    ],
)
def test_a_mistake_is_one_sentence(
    failing: Failing, trained: Path, tmp_path: Path, words: str, said: str
) -> None:
    failure = failing(f"run={trained}", "output=s.csv", *words.split(), name="sample")
    assert failure.code == 1
    assert said in failure.message
    assert list(tmp_path.iterdir()) == []


def test_a_module_takes_regions_in_its_own_units(trained: Path) -> None:
    from gmm_lightning.training import GMMModule

    module = GMMModule.load_from_checkpoint(trained / "checkpoints" / "last.ckpt")
    region = distributions.Ball(CENTRE, 500.0)
    seed = torch.Generator().manual_seed(0)
    x, z = module.sample(50, within=region, return_component=True, generator=seed)
    assert bool(region.contains(x).all())
    assert z.shape == (50,)
