"""Old Faithful and iris against the golden tables: trajectories, fixed points, and maxima."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_iris
from torch import Tensor

from gmm_lightning import GMMLayer, e_step, fit_em, m_step
from gmm_lightning.datasets import load

pytestmark = pytest.mark.usefixtures("double")

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/golden_iris_faithful.json").read_text())
STARTS = ("kmeans", "kmeans_plus_plus", "random_from_data", "maxdist", "random")


def name(row: dict[str, Any]) -> str:
    column = f"-column{row['sort_column']}" if "sort_column" in row else ""
    return f"{row['data']}-{row['type']}-{row['K']}{column}"


@cache
def data(which: str) -> Tensor:
    found = load("faithful").x if which == "faithful" else load_iris().data
    return torch.as_tensor(found, dtype=torch.float64)


def total(layer: GMMLayer, x: Tensor) -> float:
    """Log-likelihood of all rows."""
    return float(e_step(layer, x).log_likelihood)


def stored(row: dict[str, Any], x: Tensor) -> GMMLayer:
    """A layer with the parameters of a row of the table, whose compact forms vary by family."""
    k, d = row["K"], x.shape[1]
    dense = torch.tensor(row["covariances"])
    shape = tuple(dense.shape)
    if shape == (d, d) and row["type"] == "tied":
        dense = dense.expand(k, d, d)
    elif row["type"].endswith("diag"):
        dense = dense.expand(k, d).diag_embed()
    elif row["type"].endswith("spherical"):
        dense = dense.reshape(-1).expand(k)[:, None, None] * torch.eye(d)
    else:
        assert shape == (k, d, d)
    return GMMLayer.from_parameters(
        torch.tensor(row["weights"]), torch.tensor(row["means"]), dense, row["type"]
    )


@pytest.mark.parametrize("row", [r for r in GOLDEN["best"] if r["K"] == 1], ids=name)
def test_the_data_are_those_of_the_table(row: dict[str, Any]) -> None:
    x = data(row["data"])
    assert x.shape == (row["n"], row["d"])
    layer = GMMLayer(row["d"], 1, row["type"])
    fit_em(layer, x)
    # One component has a closed form; the table carries all digits of float64.
    assert total(layer, x) == pytest.approx(row["loglik"], rel=1e-12)
    assert layer.num_free_parameters == row["df"]


@pytest.mark.parametrize("row", GOLDEN["fixed_start"], ids=name)
def test_follows_a_trajectory(row: dict[str, Any]) -> None:
    x, k = data(row["data"]), row["K"]
    rank = x[:, row["sort_column"]].argsort(stable=True).argsort(stable=True)
    labels = rank * k // len(x)
    layer = GMMLayer(x.shape[1], k, row["type"])
    fit_em(layer, x, initializer=labels, max_iter=0)
    assert layer.num_free_parameters == row["df"]
    steps = max(map(int, row["ll_at"])) + 1
    followed = {}
    for step in range(max(steps, row["iterations"] + 1)):
        stats = e_step(layer, x)
        followed[str(step)] = float(stats.log_likelihood)
        m_step(layer, stats)
    for step, expected in row["ll_at"].items():
        # Two implementations of the same float64 steps.
        assert followed[step] == pytest.approx(expected, rel=1e-8), step
    if row["converged"]:
        # The table stopped at a small gain; what was left to gain is below its last digits.
        assert total(layer, x) >= row["ll_converged"] - 1e-6


@pytest.mark.parametrize("row", GOLDEN["best"], ids=name)
def test_stored_maxima_are_fixed_points(row: dict[str, Any]) -> None:
    x = data(row["data"])
    layer = stored(row, x)
    before = total(layer, x)
    assert before == pytest.approx(row["loglik"], rel=1e-9)
    events = m_step(layer, e_step(layer, x))
    assert not events
    after = total(layer, x)
    # The table went on until the gain was below 1e-15 relative, and prints all digits.
    assert after == pytest.approx(before, rel=1e-8)
    assert after >= before - 1e-9 * abs(before)


REACHABLE = [row for row in GOLDEN["best"] if row["hits"] >= 40]
QUICK = [
    row
    for row in REACHABLE
    if name(row)
    in ("iris-full-3", "iris-diag-2", "faithful-full-2", "faithful-tied-2", "iris-tied_diag-3")
]


def best_of(row: dict[str, Any], num_restarts: int) -> float:
    """The best total over restarts of every shipped initializer, one seed for all."""
    x = data(row["data"])
    generator = torch.Generator(torch.get_default_device()).manual_seed(0)
    found = []
    for start in STARTS:
        layer = GMMLayer(row["d"], row["K"], row["type"])
        result = fit_em(
            layer, x, initializer=start, num_restarts=num_restarts, tol=1e-10, max_iter=2000,
            generator=generator,
        )  # fmt: skip
        found.append(row["n"] * result.log_likelihood)
        if found[-1] > row["loglik"] - 1e-4:
            break
    return max(found)


@pytest.mark.parametrize("row", QUICK, ids=name)
def test_reaches_the_maximum(row: dict[str, Any]) -> None:
    # A gain of 1e-10 nats per row ends a fit; contraction leaves a multiple of it, times n.
    assert best_of(row, 4) > row["loglik"] - 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("row", REACHABLE, ids=name)
def test_reaches_every_maximum(row: dict[str, Any]) -> None:
    # As above.
    assert best_of(row, 10) > row["loglik"] - 1e-4


def test_gradient_descent_reaches_the_same_maximum() -> None:
    row = next(r for r in GOLDEN["best"] if name(r) == "iris-full-3")
    x = data("iris")
    rank = x[:, 2].argsort(stable=True).argsort(stable=True)
    layer = GMMLayer(4, 3, "full")
    fit_em(layer, x, initializer=rank * 3 // 150, max_iter=0)
    start = total(layer, x)
    optimizer = torch.optim.LBFGS(
        layer.parameters(), lr=0.5, max_iter=300, history_size=30, line_search_fn="strong_wolfe",
        tolerance_grad=1e-9, tolerance_change=1e-12,
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -layer.objective(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    # Half a nat in total: the two climb the same hill by different paths.
    assert total(layer, x) == pytest.approx(row["loglik"], abs=0.5)
    assert total(layer, x) > start + 1
