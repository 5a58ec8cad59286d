"""Thousands of fits and steps in one process: nothing grows, and the last is as the first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.lightning_runs import same
from support.resources import held
from torch import Tensor

from gmm_lightning import GMMLayer, StepwiseEM, fit_em, resolve_priors

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc"),
]

# Allocators keep what was freed in pieces: a few MB once, not a few kB for each of thousands.
SLACK = 8 * 2**20


def rows(seed: int, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, 3, generator=generator) + 4 * torch.randint(
        0, 3, (number, 1), generator=generator
    )


def check_constant(step: Callable[[int], None], number: int) -> None:
    """Memory, descriptors and threads after a tenth of the steps and after all of them."""
    for i in range(number // 10):
        step(i)
    early = held()
    for i in range(number // 10, number):
        step(i)
    late = held()
    print(f"{number} steps: {early} -> {late}")
    assert late.memory - early.memory < SLACK
    assert late.descriptors == early.descriptors
    assert late.threads == early.threads


@pytest.mark.parametrize("family", ["full", "diag"])
def test_twenty_thousand_partial_fits(family: str) -> None:
    batches = [rows(i, 64) for i in range(50)]
    x = torch.cat(batches)
    layer = GMMLayer(3, 3, family, priors="niw")
    resolve_priors(layer, rows(1000, 2000))
    stream = StepwiseEM(layer)

    def step(i: int) -> None:
        stream.partial_fit(batches[i % len(batches)])

    for i in range(len(batches)):
        step(i)
    early = float(layer.log_prob(x).detach().mean())
    check_constant(step, 20_000)
    assert stream.num_batches == 20_050
    # Four hundred rounds over the same rows are better than the first one.
    assert float(layer.log_prob(x).detach().mean()) > early


@pytest.mark.parametrize("priors", [None, "niw"])
def test_a_thousand_fits(priors: str | None) -> None:
    x = rows(0, 200)

    def fit() -> dict[str, Tensor]:
        layer = GMMLayer(3, 3, priors=priors)
        fit_em(layer, x, generator=torch.Generator().manual_seed(0), num_restarts=2)
        return {name: value.clone() for name, value in layer.state_dict().items()}

    first = fit()
    different = 0

    def step(i: int) -> None:
        nonlocal different
        different += not same(fit(), first)

    check_constant(step, 1000)
    assert different == 0
