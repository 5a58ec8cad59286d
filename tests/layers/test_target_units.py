"""A first batch far outside the units of a head is noticed, once."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from support.covering import covering
from support.random_layers import FAMILIES
from torch import Tensor

from gmm_lightning import DensityHead, GMMLayer, fit_em
from gmm_lightning.layers._target_units import LEAST_ROWS

IN, D, K, N = 4, 2, 3, 64
DRAWS = {
    "normal": torch.randn,
    "uniform": torch.rand,
    "sparse": lambda *size: torch.randn(*size) * (torch.rand(*size) < 0.05),
    "cubes": lambda *size: torch.randn(*size) ** 3,
    "steps": lambda *size: torch.randint(2, size).to(torch.get_default_dtype()),
}
# Centre and spread of targets that are out of reach of units of 1.
FAR = {"far": (1e4, 1.0), "wide": (0.0, 1e4), "narrow": (0.0, 1e-4), "narrow and off": (0.3, 1e-4)}


def standardised(draw: str) -> Tensor:
    y = DRAWS[draw](2000, D)
    return (y - y.mean(0)) / y.std(0)


def warned(head: DensityHead, y: Tensor, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        head.loss(
            torch.randn(*y.shape[:-1][: y.dim() - 1 - len(head.batch_shape)], IN), y, **options
        )
    assert all(each.filename == __file__ for each in found)
    return [str(each.message) for each in found]


@pytest.mark.parametrize(("family", "far"), covering(FAMILIES, FAR, strength=1))
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
def test_it_is_said_once_and_names_the_remedy(family: str, far: str, batch: Any) -> None:
    centre, spread = FAR[far]
    head = DensityHead(IN, D, K, family, batch_shape=batch)
    y = centre + spread * torch.randn(N, *batch, D)
    (message,) = warned(head, y)
    assert "call initialize_from" in message
    assert warned(head, y) == []
    layer = GMMLayer(D, K, family)
    fit_em(layer, y.reshape(-1, D), max_iter=3, tol=0.0)
    head.initialize_from(layer)
    assert warned(head, y) == []
    head.reset_parameters()
    assert len(warned(head, y)) == 1


@pytest.mark.parametrize(("family", "draw", "rows"), covering(FAMILIES, DRAWS, [1, 2, 5, N, 2000]))
def test_there_is_no_false_alarm(family: str, draw: str, rows: int) -> None:
    y = standardised(draw)
    for _ in range(5):
        part = y[torch.randperm(len(y))[:rows]]
        assert warned(DensityHead(IN, D, K, family), part) == []


def test_a_head_that_was_trained_to_reach_them_is_right() -> None:
    """As one that was loaded: the units are 1, and the parameters do without."""
    for centre, spread in FAR.values():
        head = DensityHead(IN, D, K, "diag", scale_range=1e6)
        y = centre + spread * torch.randn(N, D)
        with torch.no_grad():
            head.linear.weight.zero_()
            means = centre + spread * torch.randn(K, D)
            logs = torch.full((K, D), float(torch.tensor(spread).log()))
            head.linear.bias.copy_(torch.cat([torch.zeros(K), means.flatten(), logs.flatten()]))
        assert warned(head, y) == []


def test_what_does_not_count_is_not_judged() -> None:
    y = torch.randn(N, D)
    y[10:] = 1e6
    mask = torch.arange(N) < 10
    assert warned(DensityHead(IN, D, K), y, mask=mask) == []
    # A few outliers are no units.
    y[40:] = torch.randn(N - 40, D)
    assert warned(DensityHead(IN, D, K), y) == []
    assert warned(DensityHead(IN, D, K), y, mask=~mask & (torch.arange(N) < 40)) != []
    assert warned(DensityHead(IN, D, K), torch.full((N, D), 0.1)) == []
    assert warned(DensityHead(IN, D, K), y[:0]) == []
    # Nor are a few rows that lie close together.
    assert warned(DensityHead(IN, D, K), 0.3 + 1e-5 * torch.randn(LEAST_ROWS - 1, D)) == []
    assert warned(DensityHead(IN, D, K), 0.3 + 1e-5 * torch.randn(LEAST_ROWS, D)) != []


def test_only_where_values_are_those_of_a_first_batch() -> None:
    head, h, y = DensityHead(IN, D, K), torch.randn(N, IN), torch.full((N, D), 1e4)
    torch.func.grad(lambda y: head.loss(h, y))(y)
    torch.func.vmap(head.loss)(h, y)
    torch.compile(head.loss, fullgraph=True, backend="eager")(h, y)
    assert len(warned(head, y)) == 1
