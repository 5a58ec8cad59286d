"""300 random data sets that break other libraries: numbers always, and a history that rises."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from support.random_layers import FAMILIES, finite
from torch import Generator, Tensor

from gmm_lightning import EMResult, GMMLayer, e_step, fit_em, resolve_priors
from gmm_lightning.errors import CollapseError, InvalidDataError

pytestmark = pytest.mark.usefixtures("double")
SETS = 300


def nasty(seed: int) -> tuple[Tensor, int]:
    """Rows of odd shape and scale with a few things wrong, and a number of components."""
    g = Generator().manual_seed(seed)

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=g))

    n, d = (2, 3, 5, 8, 20, 40)[draw(6)], 1 + draw(5)
    k = min(n, 1 + draw(5))
    x = torch.randn(n, d, generator=g)
    wrong = {
        "duplicates": lambda: x.copy_(x[torch.randint(max(1, n // 3), (n,), generator=g)]),
        "collinear": lambda: x[:, -1].copy_(x[:, 0] * 2 + 1),
        "constant": lambda: x[:, 0].fill_(7.3),
        "outlier": lambda: x[draw(n)].mul_(1e10),
        "far": lambda: x[: n // 2].add_(1e6),
        "integers": lambda: x.round_(),
        "zeros": lambda: x[: n // 2].zero_(),
        "nearly constant": lambda: x[:, -1].mul_(1e-9).add_(1.0),
        "heavy tails": lambda: x.copy_(x.pow(5)),
        "nothing": lambda: None,
    }
    for _ in range(1 + draw(2)):
        list(wrong.values())[draw(len(wrong))]()
    scale = (1.0, 1.0, 1.0, 1e-8, 1e8, 1e-15, 1e12)[draw(7)]
    offset = (0.0, 0.0, 1e3, -1e5)[draw(4)] if scale == 1.0 else 0.0
    return scale * (x + offset), (n if draw(4) == 0 and n <= 8 else k)


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"acceleration": "squarem"},
    {"acceleration": "anderson"},
    {"num_restarts": 2},
    {"hard": True},
    {"annealing": 0.3},
)
INITIALIZERS = ("kmeans", "random_from_data", "random", "maxdist")


def rises(x: Tensor, dtype: torch.dtype, options: dict[str, Any], result: EMResult) -> bool:
    """Whether the history may be held to rise, but for rounding."""
    moved = any(event.action == "reseeded" for event in result.events)
    # Rows at an offset of 1e5 and more deviations have no digits left in float32. A constant
    # column counts as 1e-6 wide: beside one of 1e8, its products are lost in rounding.
    lost = bool((x.amax(0) == x.amin(0)).any()) and float(x.abs().max()) > 1e6
    # A row further away than 1e8 times the others leaves no digits to what they have in common.
    lost |= float(x.abs().max()) > 1e8 * float(x.abs().median())
    return dtype == torch.float64 and not (moved or lost or "annealing" in options)


def check(family: str, seed: int, dtype: torch.dtype, collapse: str) -> None:
    """One fit of a few steps; leaps, restarts, and other responsibilities in turn."""
    x, k = nasty(seed)
    options, initializer = OPTIONS[seed % 6], INITIALIZERS[seed % 4]
    layer = GMMLayer(x.shape[1], k, family, dtype=dtype)
    what = f"seed {seed}: {tuple(x.shape)}, K = {k}, {dtype}, {collapse}, {options}, {initializer}"
    try:
        result = fit_em(
            layer,
            x,
            initializer=initializer,
            collapse=collapse,
            max_iter=6,
            tol=0.0,
            generator=Generator().manual_seed(seed),
            **options,
        )
    except InvalidDataError as error:
        # float32 has no numbers for some of these, and says so.
        said = str(error)
        if dtype == torch.float64 or not re.search("too large|has steps of", said):
            raise AssertionError(what) from error
        return
    except CollapseError as error:
        raise AssertionError(what) from error
    assert finite(layer), what
    history = torch.tensor(result.history)
    assert torch.isfinite(history).all(), what
    assert torch.isfinite(torch.as_tensor(result.restart_objectives)).all(), what
    if rises(x, dtype, options, result):
        # At the floor covariances have condition numbers of up to 1e8, and densities round at
        # that times eps in each of up to five features.
        assert (history.diff() > -1e-6).all(), what


@pytest.mark.parametrize("family", FAMILIES)
def test_nasty_rows_give_numbers(family: str) -> None:
    # Every set meets two families, in one dtype and under one policy each.
    number = FAMILIES.index(family)
    for seed in range(number // 2, SETS, len(FAMILIES) // 2):
        turn = (seed // 6 + number) % 4
        dtype = (torch.float32, torch.float64)[turn % 2]
        check(family, seed, dtype, ("floor", "reseed")[turn // 2])


@pytest.mark.slow
@pytest.mark.parametrize("collapse", ["floor", "reseed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_nasty_rows_in_every_way(family: str, dtype: torch.dtype, collapse: str) -> None:
    for seed in range(SETS):
        check(family, seed, dtype, collapse)


@pytest.mark.parametrize("name", ["niw", "inverse_wishart", "normal"])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float64, 1e200), (torch.float64, -1e160), (torch.float32, 1e30), (torch.float32, 1e90)],
    ids=str,
)
def test_one_entry_whose_square_overflows(
    name: str, dtype: torch.dtype, size: float, generator: Generator
) -> None:
    x = torch.randn(50, 2, generator=generator, device=generator.device)
    x[3, 1] = size
    # The mean of one component follows every row; the centre of several is a median, which fits.
    k = 1 if name == "normal" else 2
    layer = GMMLayer(2, k, priors=name, dtype=dtype)
    if name == "normal" and abs(size) != 1e90:
        resolve_priors(layer, x)
        assert all(bool(torch.isfinite(buffer).all()) for buffer in layer.priors.buffers())
        return
    remedies = "divide them by a constant"
    if dtype == torch.float32:
        remedies += ", or use float64"
    said = re.escape(f"too large for {dtype}; {remedies}")
    for use in (resolve_priors, fit_em):
        with pytest.raises(InvalidDataError, match=f"{said}$"):
            use(layer, x)
        assert not any(bool(torch.isinf(buffer).any()) for buffer in layer.priors.buffers())
        assert not all(prior.resolved for prior in layer.all_priors)
    resolve_priors(layer, x / size)
    if dtype == torch.float32:
        resolve_priors(GMMLayer(2, k, priors=name, dtype=torch.float64), x)


def test_rows_too_large_for_any_sum(generator: Generator) -> None:
    x = torch.randn(50, 2, generator=generator, device=generator.device)
    x[3, 1] = 1e200
    for use in (fit_em, e_step):
        with pytest.raises(InvalidDataError, match=r"too large for torch.float64; divide .*nt$"):
            use(GMMLayer(2, 2), x)
