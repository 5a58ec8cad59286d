"""The policy `reseed`: collapsed components start anew where the mixture explains rows poorly."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from support.random_layers import FAMILIES, finite, random_layer, rows
from torch import Generator, Tensor

from gmm_lightning import EMResult, GMMLayer, fit_em
from gmm_lightning.em import Candidates, Collapsed, MixtureModel, MixtureParameters, Reseed
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.rows import Batch

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)
MAX_RESEEDS = Reseed().max_reseeds
FREE = [family for family in FAMILIES if not family.startswith("tied")]


def three(generator: Generator, spot: int = 0) -> Tensor:
    """Three groups of 40 rows, and a number of rows on one spot."""
    x = torch.randn(120, 2, generator=generator, device=generator.device)
    x[40:80] += 9.0
    x[80:, 0] += 18.0
    return torch.cat([x, torch.full((spot, 2), 4.5)])


def fit(x: Tensor, family: str, labels: Tensor, policy: Any, **options: Any) -> EMResult:
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
    assert max(counts.values()) <= MAX_RESEEDS


def test_it_gives_up_after_three_times() -> None:
    # Every row is on one of two spots: wherever a component goes, it is flat again.
    x = torch.eye(2).repeat_interleave(20, 0)
    result = fit(x, "full", torch.arange(40) // 20, "reseed", max_iter=30, tol=0.0)
    # An event stands for as long as it repeats itself.
    assert [(event.action, event.iteration) for event in result.events] == [
        *[("reseeded", 0)] * 2,
        *[("floored", MAX_RESEEDS)] * 2,
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
def test_with_restarts_and_extrapolations(
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
    assert all(count <= MAX_RESEEDS for count in moved.values())


@over_families
def test_a_batch_of_mixtures(family: str, generator: Generator) -> None:
    x = torch.stack([three(generator), rows(120, 2, generator)], 1)
    layer = GMMLayer(2, 3, family, batch_shape=(2,))
    result = fit_em(layer, x, initializer="kmeans", collapse="reseed", generator=generator)
    assert finite(layer)
    assert result.num_restarts == 1
    before = MixtureParameters.from_layer(layer)
    repair = handle(layer, x, {(1, 2): "emptied"}, generator)
    changed = (repair.parameters.means != before.means).any(-1)
    assert changed.nonzero().tolist() == repair.reseeded.nonzero().tolist() == [[1, 2]]
    # At one of the rows, among the tenth that is explained worst.
    place = repair.parameters.means[1, 2]
    number = int((x[:, 1] == place).all(-1).nonzero())
    rank = layer(x)[:, 1].argsort().argsort()[number]
    assert rank < Reseed().poor_fraction * 120
    weights = repair.parameters.mixture_logits.softmax(-1)
    assert torch.allclose(weights[0], layer.weights[0])


def handle(
    layer: GMMLayer,
    x: Tensor,
    marked: dict[tuple[int, int], str],
    generator: Generator,
    num_reseeds: Tensor | None = None,
    policy: Reseed | None = None,
) -> Any:
    """What the policy does with some components of a layer's batch."""
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    counts = torch.zeros_like(parameters.mixture_logits)
    masks = {kind: counts.bool() for kind in ("floored", "emptied")}
    for place, kind in marked.items():
        masks[kind][place] = True
    collapsed = Collapsed(masks["floored"], masks["emptied"], counts, counts, counts.bool())
    return (policy or Reseed()).handle(
        model,
        parameters,
        collapsed,
        counts.long() if num_reseeds is None else num_reseeds,
        Candidates(Batch(x), generator),
    )


def test_two_components_move_to_two_rows(generator: Generator) -> None:
    # Of ten candidates one alone is poorly explained; two components at one row never part.
    layer, x = random_layer("full", generator=generator, batch=(1,)), rows(10, 2, generator, (1,))
    repair = handle(layer, x, {(0, 0): "emptied", (0, 2): "emptied"}, generator)
    assert repair.reseeded.tolist() == [[True, False, True]]
    assert not torch.equal(repair.parameters.means[0, 0], repair.parameters.means[0, 2])


def test_a_shared_covariance_at_the_floor_was_not_moved() -> None:
    layer = GMMLayer(2, 2, "tied")
    yes, numbers = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 2)
    moved = torch.tensor([[True, False]])
    collapsed = Collapsed(yes, moved, numbers, numbers[:, :1], moved)
    found = [event for _, event in collapsed.events(MixtureModel.from_layer(layer), 0)]
    assert [event.action for event in found] == ["floored", "reseeded"]


def test_each_component_has_its_own_count(generator: Generator) -> None:
    layer = random_layer("full", generator=generator, batch=(3,))
    x = rows(50, 2, generator, (3,))
    num_reseeds = torch.zeros(3, 3, dtype=torch.long)
    num_reseeds[2, 0] = MAX_RESEEDS
    marked = {(2, 0): "floored", (1, 0): "floored"}
    repair = handle(layer, x, marked, generator, num_reseeds)
    assert repair.reseeded.nonzero().tolist() == [[1, 0]]
    assert not repair.failed.any()
    wider = Reseed(max_reseeds=MAX_RESEEDS + 1)
    repair = handle(layer, x, marked, generator, num_reseeds, wider)
    assert repair.reseeded.nonzero().tolist() == [[1, 0], [2, 0]]


def test_an_instance_and_its_name_are_the_same(generator: Generator) -> None:
    x, labels = three(generator), (torch.arange(120) >= 40).long()
    by_name, by_instance = (fit(x, "full", labels, p, spare=1) for p in ("reseed", Reseed()))
    assert by_name.history == by_instance.history
    never = fit(x, "full", labels, Reseed(max_reseeds=1, poor_fraction=1e-9), spare=1)
    assert never.events[0].is_reseed


@pytest.mark.parametrize("given", [{"max_reseeds": 0}, {"candidates": 0}, {"poor_fraction": 2.0}])
def test_refuses(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(given))):
        Reseed(**given)
