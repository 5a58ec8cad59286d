"""The policy `reseed`: collapsed components start anew where the mixture explains rows poorly."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from helpers import FAMILIES, finite, random_layer, rows
from torch import Generator, Tensor

from gmm_lightning import EMResult, GMMLayer, fit_em
from gmm_lightning.em import Collapse
from gmm_lightning.em.reseed import POOR, TIMES, Reseeder
from gmm_lightning.em.starts import copies

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)
FREE = [family for family in FAMILIES if not family.startswith("tied")]


def three(generator: Generator, spot: int = 0) -> Tensor:
    """Three groups of 40 rows, and a number of rows on one spot."""
    x = torch.randn(120, 2, generator=generator, device=generator.device)
    x[40:80] += 9.0
    x[80:, 0] += 18.0
    return torch.cat([x, torch.full((spot, 2), 4.5)])


def fit(x: Tensor, family: str, labels: Tensor, policy: str, **options: Any) -> EMResult:
    layer = GMMLayer(2, int(labels.max()) + 1 + options.pop("spare", 0), family)
    seeded = Generator(x.device).manual_seed(4)
    options = {"max_iter": 200, "tol": 1e-7} | options
    result = fit_em(layer, x, initializer=labels, collapse=policy, generator=seeded, **options)
    assert finite(layer)
    assert result.objective == pytest.approx(layer(x).mean().item(), rel=1e-10)
    return result


@over_families
def test_a_component_without_rows_comes_back(family: str, generator: Generator) -> None:
    x = three(generator)
    # Two components hold three groups, and a third has none at all, from the very start.
    labels = (torch.arange(120) >= 40).long()
    floor, reseed = (fit(x, family, labels, policy, spare=1) for policy in ("floor", "reseed"))
    assert [event.action for event in floor.events] == ["emptied"]
    assert {event.action for event in reseed.events} == {"reseeded"}
    assert reseed.events[0].component == (2,)
    assert reseed.objective > floor.objective + 0.02


@pytest.mark.parametrize("family", FREE)
def test_a_component_on_a_spot_moves_away(family: str, generator: Generator) -> None:
    # Five equal rows in one component: at the floor it gains nats without bound, and tells
    # nothing. Moved, it serves the third group.
    x = three(generator, spot=3)
    labels = torch.cat([torch.arange(120) >= 40, torch.full((3,), 2)]).long()
    reseed = fit(x, family, labels, "reseed")
    first = reseed.events[0]
    assert (first.component, first.action, first.iteration) == ((2,), "reseeded", 0)
    assert first.count == 3.0
    assert first.smallest_eigenvalue < 1e-8
    assert str(first).startswith("component 2, iteration 0: it starts anew at a poorly explained")
    counts = Counter(event.component for event in reseed.events if event.action == "reseeded")
    assert max(counts.values()) <= TIMES


def test_it_gives_up_after_three_times() -> None:
    # Every row is on one of two spots: wherever a component goes, it is flat again.
    x = torch.eye(2).repeat_interleave(20, 0)
    result = fit(x, "full", torch.arange(40) // 20, "reseed", max_iter=30, tol=0.0)
    # An event stands for as long as it repeats itself.
    assert [(event.action, event.iteration) for event in result.events] == [
        *[("reseeded", 0)] * 2,
        *[("floored", TIMES)] * 2,
    ]


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.startswith("tied")])
def test_a_shared_covariance_at_the_floor_moves_nobody(family: str) -> None:
    x = torch.eye(2).repeat_interleave(20, 0)
    result = fit(x, family, torch.arange(40) // 20, "reseed", max_iter=5, tol=0.0)
    assert {event.action for event in result.events} == {"floored"}


def test_one_component_stays() -> None:
    x = torch.arange(10.0).unsqueeze(-1) * torch.ones(2)
    layer = GMMLayer(2, 1)
    result = fit_em(layer, x, collapse="reseed", max_iter=5)
    assert {event.action for event in result.events} == {"floored"}
    assert torch.allclose(layer.means[0], x.mean(0))


@over_families
def test_nothing_happens_where_nothing_collapses(family: str, generator: Generator) -> None:
    x, labels = rows(90, 2, generator), torch.arange(90) % 3
    floor, reseed = (fit(x, family, labels, policy) for policy in ("floor", "reseed"))
    assert floor.history == reseed.history
    assert not reseed.events


@over_families
def test_a_row_of_no_weight_is_no_place(family: str, generator: Generator) -> None:
    x = torch.cat([three(generator), torch.full((30, 2), 1e4)])
    weight = torch.cat([torch.ones(120), torch.zeros(30)])
    labels = (torch.arange(150) >= 40).long()
    layer = GMMLayer(2, 3, family)
    result = fit_em(
        layer,
        x,
        initializer=labels,
        sample_weight=weight,
        collapse="reseed",
        max_iter=50,
        generator=generator,
    )
    assert [event.action for event in result.events] == ["reseeded"]
    # It found rows that count, at the first try.
    assert (layer.weights > 0.01).all()
    assert layer.means.abs().max() < 100.0


@pytest.mark.parametrize("acceleration", [None, "squarem", "anderson"])
@pytest.mark.parametrize("restarts", [1, 5])
@over_families
def test_with_restarts_and_leaps(
    family: str, restarts: int, acceleration: str | None, generator: Generator
) -> None:
    x = three(generator, spot=30)
    layer = GMMLayer(2, 5, family)
    result = fit_em(
        layer,
        x,
        initializer="random_from_data",
        num_restarts=restarts,
        acceleration=acceleration,
        collapse="reseed",
        max_iter=40,
        generator=generator,
    )
    assert finite(layer)
    assert result.objective == pytest.approx(layer(x).mean().item(), rel=1e-9)
    assert result.num_restarts == restarts
    moved = Counter(e.component for e in result.events if e.action == "reseeded")
    assert all(count <= TIMES for count in moved.values())


@over_families
def test_a_batch_of_mixtures(family: str, generator: Generator) -> None:
    x = torch.stack([three(generator), rows(120, 2, generator)], 1)
    layer = GMMLayer(2, 3, family, batch_shape=(2,))
    result = fit_em(layer, x, initializer="kmeans", collapse="reseed", generator=generator)
    assert finite(layer)
    given = copies(layer, 1)
    reseeder = Reseeder(x, generator)
    before = given.means.detach().clone()
    event = Collapse((0, 1, 2), 0.0, 0.0, "emptied")
    said = reseeder(given, [event])
    assert [e.action for e in said] == ["reseeded"]
    changed = (given.means != before).any(-1)
    assert changed.nonzero().tolist() == [[0, 1, 2]]
    # At one of the rows, among the tenth that is explained worst.
    place = given.means[0, 1, 2].detach()
    number = int((x[:, 1] == place).all(-1).nonzero())
    rank = layer(x)[:, 1].argsort().argsort()[number]
    assert rank < POOR * 120
    assert torch.allclose(given.weights[0, 0], layer.weights[0])
    assert result.num_restarts == 1


def test_times_follow_their_start(generator: Generator) -> None:
    layer = copies(random_layer("full", generator=generator), 3)
    reseeder = Reseeder(rows(50, 2, generator), generator)
    for _ in range(TIMES):
        reseeder(layer, [Collapse((2, 0), 0.0, 0.0, "floored")])
    reseeder.chosen(torch.tensor([0, 2]))
    narrow = copies(random_layer("full", generator=generator), 2)
    said = reseeder(narrow, [Collapse((1, 0), 0.0, 0.0, "floored")])
    assert said[0].action == "floored"
    said = reseeder(narrow, [Collapse((0, 0), 0.0, 0.0, "floored")])
    assert said[0].action == "reseeded"


def test_its_state(generator: Generator) -> None:
    x = rows(50, 2, generator)
    event = Collapse((0, 1), 0.0, 0.0, "floored")
    layer = copies(random_layer("full", generator=generator), 1)
    one = Reseeder(x, Generator().manual_seed(0))
    one(layer, [event])
    saved = one.state_dict()
    other = Reseeder(x, Generator().manual_seed(9))
    other.load_state_dict(saved)
    places = []
    for reseeder in (one, other):
        layer_now = copies(random_layer("full", generator=Generator().manual_seed(3)), 1)
        reseeder(layer_now, [event])
        places.append(layer_now.means.detach())
    assert torch.equal(*places)
    assert one.state_dict()["times"] == other.state_dict()["times"] == [[[0, 1], 2]]
