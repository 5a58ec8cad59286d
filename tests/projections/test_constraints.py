"""What every projection promises with every family."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from support.projections import constrained_cases, gain_within, make_projection, tensors
from support.random_layers import random_layer, rows
from torch import Generator, Tensor

from gmm_lightning import GMMLayer, e_step, fit_em, m_step
from gmm_lightning.covariances import registry as covariances
from gmm_lightning.layers import require_state
from gmm_lightning.projections import Frozen
from gmm_lightning.projections import registry as projections

pytestmark = pytest.mark.usefixtures("double")
over_cases = pytest.mark.parametrize(("family", "name"), constrained_cases())
PRIORS = ("none", "dirichlet+niw")
# Every family with every projection, under one of the priors; the others are slow.
PRIOR_CASES = [
    pytest.param(*case, prior, marks=[pytest.mark.slow] if (i + j) % 2 else [])
    for i, case in enumerate(constrained_cases())
    for j, prior in enumerate(PRIORS)
]
# Every projection with two families and every family with some projections; the others are slow.
RESTART_CASES = [
    pytest.param(family, name, marks=[pytest.mark.slow] if number % 3 else [])
    for family, name in constrained_cases()
    for number in (covariances.names.index(family) + projections.names.index(name),)
]


def constrained_layer(
    family: str, name: str, generator: Generator, prior: str = "none", batch: tuple[int, ...] = ()
) -> GMMLayer:
    """A layer at random that satisfies one projection."""
    layer = random_layer(family, prior, generator=generator, batch=batch)
    layer.projections.append(make_projection(name))
    if layer.projections.frozen is not None:
        layer.projections.frozen.capture(layer)
    layer.constrain_()
    return layer


def assert_satisfied(layer: GMMLayer) -> None:
    """To bring the parameters to the constraint changes nothing."""
    before = tensors(layer)
    layer.constrain_()
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(layer), strict=True))


@pytest.mark.parametrize(("family", "name", "prior"), PRIOR_CASES)
def test_em_rises_to_a_maximum_under_the_constraint(
    family: str, name: str, prior: str, generator: Generator
) -> None:
    x = rows(100, 2, generator)
    layer = constrained_layer(family, name, generator, prior)
    options = {"initializer": "random_from_data", "max_iter": 60, "generator": generator}
    result = fit_em(layer, x, tol=0.0, **options)
    assert_satisfied(layer)
    if not projections.get(name).is_maximum:
        return
    # Rounding of a mean over the rows.
    assert min(torch.tensor(result.history).diff().tolist(), default=0.0) > -1e-13
    if result.converged:
        # No direction rises: along steps of 1e-4, by more than their square.
        assert gain_within(layer, x, 1e-4, generator) < 1e-6


@over_cases
def test_an_m_step_from_anywhere_rises(family: str, name: str, generator: Generator) -> None:
    x = rows(60, 2, generator)
    layer = constrained_layer(family, name, generator)
    before = float(layer.objective(x).detach())
    m_step(layer, e_step(layer, x))
    if projections.get(name).is_maximum:
        assert float(layer.objective(x).detach()) >= before - 1e-13
    assert_satisfied(layer)


@over_cases
def test_copies_and_files_hold_the_constraint(
    family: str, name: str, tmp_path: Path, generator: Generator
) -> None:
    layer = constrained_layer(family, name, generator)
    rebuilt = GMMLayer.from_config(layer.to_config())
    state = layer.state_dict()
    require_state(rebuilt, state, "the state")
    rebuilt.load_state_dict(state)
    layer.save_pretrained(tmp_path)
    twins = (
        rebuilt,
        GMMLayer.from_pretrained(tmp_path),
        pickle.loads(pickle.dumps(layer)),
        copy.deepcopy(layer),
    )
    x = rows(30, 2, generator)
    m_step(layer, e_step(layer, x))
    for twin in twins:
        assert twin.to_config() == layer.to_config()
        assert twin.num_free_parameters == layer.num_free_parameters
        m_step(twin, e_step(twin, x))
        for own, other in zip(twin.parameters(), layer.parameters(), strict=True):
            assert torch.equal(own, other)


@over_cases
def test_a_batch_is_a_loop(family: str, name: str, generator: Generator) -> None:
    x = rows(40, 2, generator, (2,))
    layer = constrained_layer(family, name, generator, batch=(2,))
    singles = []
    for m in range(2):
        one = random_layer(family, generator=generator)
        with torch.no_grad():
            for own, whole in zip(one.parameters(), layer.parameters(), strict=True):
                own.copy_(whole[m])
        one.projections.append(make_projection(name))
        if one.projections.frozen is not None:
            one.projections.frozen.capture(one)
        singles.append(one)
    m_step(layer, e_step(layer, x))
    for m, one in enumerate(singles):
        m_step(one, e_step(one, x[:, m]))
        for own, whole in zip(one.parameters(), layer.parameters(), strict=True):
            # The same operations in another order.
            torch.testing.assert_close(own.detach(), whole[m].detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("family", "name"), RESTART_CASES)
def test_restarts_are_a_loop(family: str, name: str, generator: Generator) -> None:
    """Side by side, each with its own parameters, mixtures that stop leave the others alone."""
    x = rows(40, 2, generator)
    layer = constrained_layer(family, name, generator)
    options: dict[str, Any] = {"initializer": "random_from_data", "tol": 1e-4, "max_iter": 20}
    alone = []
    draws = Generator().manual_seed(3)
    for _ in range(3):
        one = copy.deepcopy(layer)
        alone.append(float(fit_em(one, x, generator=draws, **options).objective))
    draws = Generator().manual_seed(3)
    result = fit_em(layer, x, generator=draws, num_restarts=3, prune=False, **options)
    assert_satisfied(layer)
    # The best one is followed a hundred times farther.
    found = torch.tensor([float(v) for v in result.restart_objectives])
    assert bool((found >= torch.tensor(alone) - 1e-4).all())


@over_cases
def test_gradient_steps_come_back(family: str, name: str, generator: Generator) -> None:
    layer = constrained_layer(family, name, generator)
    x = rows(50, 2, generator)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.05, weight_decay=0.1)
    before = float(layer.objective(x).detach())
    for _ in range(12):
        optimizer.zero_grad()
        (-layer.objective(x)).backward()
        optimizer.step()
        layer.constrain_()
    assert_satisfied(layer)
    assert float(layer.objective(x).detach()) > before


@over_cases
def test_float32_keeps_to_the_constraint(family: str, name: str, generator: Generator) -> None:
    x = rows(60, 2, generator)
    layer = constrained_layer(family, name, generator).float()
    fit_em(layer, x.float(), initializer=None, max_iter=5)
    assert_satisfied(layer)
    assert all(p.dtype == torch.float32 for p in layer.parameters())


def test_a_tied_order_of_components_takes_projections_along(generator: Generator) -> None:
    layer = random_layer("full", generator=generator)
    layer.projections.append(make_projection("weight_bounds"))
    layer.projections.append(make_projection("linear_means"))
    x, order = rows(40, 2, generator), torch.tensor([2, 0, 1])
    layer.constrain_()
    twin = copy.deepcopy(layer)
    twin.reorder_components(order)
    for one in (layer, twin):
        m_step(one, e_step(one, x))

    def same(a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=1e-12, atol=1e-12)

    assert same(twin.weights, layer.weights[order])
    assert same(twin.means, layer.means[order])


def test_frozen_is_the_only_one_that_waits_for_values() -> None:
    for name in projections.names:
        layer = GMMLayer(2, 3, projections=make_projection(name))
        if not isinstance(layer.projections[0], Frozen):
            layer.require_constrained()
