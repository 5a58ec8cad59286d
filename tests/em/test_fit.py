"""The loop: when it stops, what it reports, restarts, and reference values."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from support.random_layers import FAMILIES, INITIALIZERS, cases, finite, parameters, rows

from gmm_lightning import GMMLayer, e_step, fit_em, m_step
from gmm_lightning.covariances import registry
from gmm_lightning.errors import InvalidArgumentError

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)


@pytest.mark.parametrize("initializer", [n for n in INITIALIZERS if n != "maxdist"])
def test_six_points(initializer: str) -> None:
    # "Six points" of tests/golden/README.md, without the floor, since scikit-learn's
    # regularisation does its work. In standard units the split along the second feature is a
    # local optimum, hence the restarts; maxdist finds the same two corners from every start.
    x = [[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]]
    layer = GMMLayer(2, 2, registry.get("full")(reg_covar=1e-6, relative_floor=0.0))
    generator = torch.Generator(layer.means.device).manual_seed(1)
    result = fit_em(
        layer, x, initializer=initializer, num_restarts=10, tol=1e-8, generator=generator
    )
    order = layer.means[:, 0].argsort()
    assert result.log_likelihood == pytest.approx(3.38631641, abs=1e-8)
    assert torch.allclose(layer.means[order], torch.tensor([[1.0, 2.0], [10.0, 2.0]]))
    assert torch.allclose(layer.weights, torch.tensor([0.5, 0.5]))
    expected = torch.tensor([1e-6, 8 / 3 + 1e-6]).diag_embed()
    # The vanishing variance beside one of order one: absolute rounding of the latter.
    assert torch.allclose(layer.covariance_matrix, expected.expand(2, 2, 2), atol=1e-13)
    first, second = layer.predict(torch.tensor([[0.0, 0.0], [12.0, 3.0]])).tolist()
    assert first != second


# "Iris optima" of tests/golden/README.md: best totals, to the four decimals given.
IRIS = {
    ("full", 3): -180.1855,
    ("full", 2): -214.3547,
    ("tied", 3): -256.354,
    ("spherical", 3): -384.3141,
}


@pytest.mark.parametrize(("family", "k"), IRIS)
def test_iris(family: str, k: int, generator: torch.Generator) -> None:
    x = load_iris().data
    layer = GMMLayer(4, k, family)
    result = fit_em(layer, x, num_restarts=8, tol=1e-8, max_iter=1000, generator=generator)
    assert 150 * result.log_likelihood == pytest.approx(IRIS[family, k], abs=2e-4)


@over_families
def test_what_a_result_says(family: str, generator: torch.Generator) -> None:
    x = rows(60, 2, generator)
    layer = GMMLayer(2, 3, family, "niw")
    result = fit_em(layer, x, tol=1e-6, max_iter=500, generator=generator)
    assert result.converged
    assert 1 <= result.num_iterations < 500
    assert len(result.history) == result.num_iterations + 1
    assert result.history[-1] - result.history[-2] < 1e-6 <= result.history[1] - result.history[0]
    with torch.no_grad():
        assert result.objective == result.history[-1]
        assert result.objective == pytest.approx(float(layer.objective(x)), rel=1e-13)
        assert result.log_likelihood == pytest.approx(float(layer(x).mean()), rel=1e-13)
    assert result.num_restarts == 1
    assert result.restart_objectives == [result.objective]
    assert isinstance(result.objective, float)


@pytest.mark.parametrize("batch", [(3,), (2, 3)], ids=str)
def test_what_a_result_says_of_a_batch(batch: tuple, generator: torch.Generator) -> None:
    x = rows(60, 2, generator, batch)
    layer = GMMLayer(2, 3, batch_shape=batch)
    result = fit_em(layer, x, num_restarts=2, generator=generator)
    assert result.objective.shape == result.log_likelihood.shape == batch
    assert {value.shape for value in result.history} == {torch.Size(batch)}
    assert torch.allclose(result.objective, layer.objective(x), rtol=1e-12)
    assert torch.allclose(result.log_likelihood, layer(x).mean(0), rtol=1e-12)


@over_families
def test_a_fit_is_its_steps(family: str, generator: torch.Generator) -> None:
    x, start = rows(40, 2, generator), torch.arange(40) % 3
    layer, twin = GMMLayer(2, 3, family), GMMLayer(2, 3, family)
    fit_em(layer, x, initializer=start, max_iter=6, tol=0.0)
    fit_em(twin, x, initializer=start, max_iter=0)
    for _ in range(6):
        m_step(twin, e_step(twin, x))
    # A fit of a tied family sums the moments of all rows once, a step on its own each time.
    alike = partial(torch.allclose, rtol=1e-12) if layer.covariance.tied else torch.equal
    assert all(alike(a, b) for a, b in zip(parameters(layer), parameters(twin), strict=True))
    # Going on is the same as not having stopped.
    halves = GMMLayer(2, 3, family)
    fit_em(halves, x, initializer=start, max_iter=2, tol=0.0)
    fit_em(halves, x, initializer=None, max_iter=4, tol=0.0)
    assert all(
        torch.equal(a, b) for a, b in zip(parameters(layer), parameters(halves), strict=True)
    )


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
@over_families
def test_the_best_of_many_starts_is_kept(
    family: str, batch: tuple, generator: torch.Generator
) -> None:
    x = rows(50, 2, generator, batch)
    layer = GMMLayer(2, 4, family, "niw", batch_shape=batch)
    result = fit_em(
        layer, x, initializer="random_from_data", num_restarts=5, max_iter=15, generator=generator
    )
    finals = torch.stack([torch.as_tensor(value) for value in result.restart_objectives])
    assert finals.shape == (5, *batch)
    assert (finals.std(0) > 0).all()
    assert torch.equal(torch.as_tensor(result.objective), finals.amax(0))
    assert torch.allclose(layer.objective(x), finals.amax(0), rtol=1e-12)


def test_restarts_can_only_help(generator: torch.Generator) -> None:
    x = load_iris().data
    totals = []
    for restarts in (1, 4):
        layer = GMMLayer(4, 4, "diag")
        seeded = torch.Generator(layer.means.device).manual_seed(3)
        result = fit_em(layer, x, num_restarts=restarts, generator=seeded)
        totals.append(result.objective)
        assert result.num_restarts == restarts
    assert totals[1] >= totals[0]


@pytest.mark.parametrize(("family", "prior"), cases())
def test_a_fit_of_float32(family: str, prior: str, generator: torch.Generator) -> None:
    x = rows(80, 2, generator)
    layer = GMMLayer(
        2, 3, family, None if prior == "none" else prior.split("+"), dtype=torch.float32
    )
    result = fit_em(layer, x, max_iter=50, generator=generator)
    assert {t.dtype for t in layer.state_dict().values()} == {torch.float32}
    # float32 densities of 80 rows round at 1e-7 each.
    assert (torch.tensor(result.history).diff() > -1e-5).all()


def test_progress_shows_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    fit_em(GMMLayer(2, 2), torch.randn(30, 2), max_iter=3, tol=0.0, progress=True)
    assert "log_likelihood=" in capsys.readouterr().err
    fit_em(GMMLayer(2, 2), torch.randn(30, 2), max_iter=3, tol=0.0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_iter": -1}, "max_iter must be an integer >= 0, got -1"),
        ({"tol": -1e-3}, "tol must be a finite number >= 0, got -0.001"),
        ({"tol": math.nan}, "tol must be a finite number >= 0, got nan"),
        ({"num_restarts": 0}, "num_restarts must be an integer >= 1, got 0"),
        ({"chunk_size": 0}, "chunk_size must be >= 1, got 0"),
        ({"acceleration": "newton"}, "unknown acceleration 'newton'; known are: squarem, anderson"),
        (
            {"collapse": "ignore"},
            "unknown collapse policy 'ignore'; known are: floor, reseed, raise",
        ),
        ({"initializer": "kmean"}, "unknown initializer 'kmean'; known are"),
        ({"initializer": None, "num_restarts": 2}, "num_restarts=2 needs an initializer"),
        ({"initializer": [0, 1] * 5, "num_restarts": 2}, "num_restarts=2 needs an initializer"),
    ],
)
def test_refuses_options(options: dict[str, Any], words: str) -> None:
    layer = GMMLayer(2, 2)
    before = parameters(layer)
    with pytest.raises(InvalidArgumentError, match=words):
        fit_em(layer, torch.randn(10, 2), **options)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(layer), strict=True))


NASTY = {
    "two points": np.array([[0.0, 1.0], [2.0, 3.0]]),
    "N equals K": np.array([[0.0, 1.0, 2.0], [2.0, 3.0, 0.0], [1.0, 7.0, 1.0], [4.0, 4.0, 4.0]]),
    "far outlier": np.r_[np.arange(40.0).reshape(20, 2) % 7, [[1e10, 1e10]]],
    "wide and short": np.random.default_rng(1).normal(size=(8, 20)),
    "mixed scales": np.random.default_rng(2).normal(size=(30, 3)) * [1e-8, 1.0, 1e12],
    "binary": (np.random.default_rng(3).random((40, 5)) > 0.5).astype(float),
    "heavy tails": np.random.default_rng(4).standard_cauchy((60, 2)) ** 3,
    "tiny": np.random.default_rng(5).normal(size=(30, 2)) * 1e-150,
}


@pytest.mark.parametrize("data", NASTY)
@pytest.mark.parametrize(("family", "prior"), cases())
def test_nasty_rows(family: str, prior: str, data: str, generator: torch.Generator) -> None:
    x = NASTY[data]
    k = min(4, len(x))
    layer = GMMLayer(x.shape[1], k, family, None if prior == "none" else prior.split("+"))
    weight = torch.ones(len(x))
    if len(x) > k:
        weight[::5] = 0.0
    result = fit_em(layer, x, sample_weight=weight, max_iter=8, tol=0.0, generator=generator)
    assert finite(layer)
    history = torch.tensor(result.history)
    # At the floor densities round at 1e8 eps per feature.
    assert (history.diff() > -1e-7).all()
    assert torch.isfinite(layer.sample(5, generator=generator)).all()
