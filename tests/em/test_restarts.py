"""Starts side by side: a loop of single fits, and which of them are followed to their end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from support.random_layers import BATCHES, FAMILIES, finite, make_priors, parameters, rows, served
from torch import Generator, Tensor, nn

from gmm_lightning import GMMLayer, e_step, fit_em
from gmm_lightning.covariances import Covariance, registry
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.em import MixtureModel, MixtureParameters
from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.plan import MAX_CANCELLATION, group_by_precision
from gmm_lightning.em.restarts import coinciding_starts, losing_starts
from gmm_lightning.errors import CollapseError
from gmm_lightning.projections import Projection
from gmm_lightning.rows import Batch, as_source
from gmm_lightning.statistics import Moments

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)
STARTS = 4


class Halves(nn.Module):
    """Evidence: rows on the left are unlikely to be of the last component."""

    def forward(self, batch: Batch) -> Tensor:
        x = batch.x
        against = torch.zeros(3).to(x)
        against[2] = -3.0
        return torch.where(x[..., :1] < 2.0, against, 0.0)


class Anchored(Projection):
    """A projection: the first component's mean stays where it is told to."""

    def forward(self, moments: Moments, covariance: Covariance, present: MixtureDensity) -> Moments:
        means = moments.means.clone()
        means[..., 0, :] = torch.tensor([1.0, 2.0]).to(means)
        return replace(moments, means=means)


def layer_of(family: str, prior: str, extras: str, batch: tuple[int, ...] = ()) -> GMMLayer:
    layer = GMMLayer(2, 3, family, make_priors(prior), batch_shape=batch)
    if "evidence" in extras:
        layer.evidence = Halves()
    if "projection" in extras:
        layer.projections.append(Anchored())
    return layer


def vector(layer: GMMLayer) -> Tensor:
    """All parameters of each mixture in one row, `(*B, V)`."""
    return MixtureParameters.from_layer(layer).to_vector().reshape((*layer.batch_shape, -1))


def looped(
    make: Any, x: Tensor, generator: Generator, **options: Any
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Objectives of single fits one after the other; the best of each mixture; its parameters."""
    finals, ranks, found = [], [], []
    for _ in range(STARTS):
        layer = make()
        result = fit_em(layer, x, generator=generator, **options)
        finals.append(torch.as_tensor(result.objective))
        # A start with a degenerate component comes after those without.
        rank = finals[-1].clone()
        for component in result.degenerate:
            rank[component[:-1]] -= 1e6
        ranks.append(rank)
        found.append(vector(layer))
    top = torch.stack(ranks).argmax(0)
    index = top[None, ..., None].expand(1, *found[0].shape)
    best = torch.stack(finals).gather(0, top.unsqueeze(0))[0]
    return finals, best, torch.stack(found).gather(0, index)[0]


def assert_as_a_loop(make: Any, x: Tensor, **options: Any) -> None:
    options = {"initializer": "random_from_data", "max_iter": 12, "tol": 0.0} | options
    finals, best, place = looped(make, x, Generator(x.device).manual_seed(7), **options)
    layer = make()
    result = fit_em(
        layer,
        x,
        num_restarts=STARTS,
        prune=False,
        generator=Generator(x.device).manual_seed(7),
        **options,
    )
    assert result.num_restarts == STARTS
    side_by_side = torch.stack([torch.as_tensor(v) for v in result.restart_objectives])
    # The same products in another order, over at most 12 steps.
    assert torch.allclose(side_by_side, torch.stack(finals), rtol=0, atol=1e-9)
    assert torch.allclose(torch.as_tensor(result.objective), best, rtol=0, atol=1e-9)
    assert torch.allclose(layer.objective(x), best, rtol=0, atol=1e-9) or "hard" in options
    distinct = torch.stack(finals).sort(0).values
    if bool((distinct[-1] - distinct[-2] > 1e-7).all()):
        assert torch.allclose(vector(layer), place, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("extras", ["", "evidence+projection"])
@pytest.mark.parametrize("prior", ["none", "dirichlet+niw"])
@over_families
def test_starts_side_by_side_are_a_loop(
    family: str, prior: str, extras: str, generator: Generator
) -> None:
    if not served(family, prior):
        pytest.fail(f"{prior} does not serve {family}")
    x = rows(60, 2, generator)
    assert_as_a_loop(lambda: layer_of(family, prior, extras), x)


@pytest.mark.parametrize("options", [{"hard": True}, {"annealing": 0.4}], ids=str)
@over_families
def test_other_responsibilities_are_a_loop(
    family: str, options: dict[str, Any], generator: Generator
) -> None:
    x = rows(60, 2, generator)
    assert_as_a_loop(lambda: layer_of(family, "niw", ""), x, **options)


@over_families
def test_weights_and_chunks_are_a_loop(family: str, generator: Generator) -> None:
    x = rows(60, 2, generator)
    make = lambda: layer_of(family, "none", "")  # noqa: E731
    options = {"initializer": "random_from_data", "max_iter": 10, "tol": 0.0, "chunk_size": 13}
    weight = torch.rand(60)
    weight[::7] = 0.0
    finals, best, _ = looped(make, x, Generator().manual_seed(3), sample_weight=weight, **options)
    result = fit_em(
        make(),
        x,
        num_restarts=STARTS,
        prune=False,
        sample_weight=weight,
        generator=Generator().manual_seed(3),
        **options,
    )
    assert result.restart_objectives == pytest.approx([float(f) for f in finals], abs=1e-9)
    assert result.objective == pytest.approx(float(best), abs=1e-9)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("batch", [(2,), (2, 3)], ids=str)
@over_families
def test_batches_of_mixtures_restart_too(
    family: str, batch: tuple[int, ...], own: bool, generator: Generator
) -> None:
    x = rows(40, 2, generator, batch if own else tuple(1 for _ in batch))
    layer = layer_of(family, "niw", "", batch)
    # Every mixture keeps its own best start: none is worse than in any start alone.
    result = fit_em(
        layer,
        x,
        initializer="random_from_data",
        num_restarts=3,
        prune=False,
        max_iter=10,
        generator=generator,
    )
    finals = torch.stack([torch.as_tensor(v) for v in result.restart_objectives])
    assert finals.shape == (3, *batch)
    assert torch.equal(torch.as_tensor(result.objective), finals.amax(0))
    assert torch.allclose(layer.objective(x.expand(40, *batch, 2)), finals.amax(0), rtol=1e-11)


@pytest.mark.parametrize("initializer", ["kmeans", "kmeans_plus_plus", "maxdist", "random"])
def test_every_initializer_draws_as_in_a_loop(initializer: str, generator: Generator) -> None:
    x = rows(50, 2, generator)
    assert_as_a_loop(lambda: layer_of("diag", "none", ""), x, initializer=initializer, max_iter=4)


# -- pruning ------------------------------------------------------------------------------------


def three_far_blobs(generator: Generator) -> Tensor:
    x = torch.randn(150, 2, generator=generator, device=generator.device)
    x[50:100] += 12.0
    x[100:, 0] += 24.0
    return x


@over_families
def test_pruning_keeps_the_best_where_that_is_easy(family: str, generator: Generator) -> None:
    x = three_far_blobs(generator)
    results = []
    for prune in (False, True):
        layer = GMMLayer(2, 3, family)
        results.append(
            fit_em(
                layer,
                x,
                initializer="random_from_data",
                num_restarts=12,
                prune=prune,
                tol=1e-6,
                max_iter=60,
                generator=Generator(x.device).manual_seed(1),
            )
        )
    kept, pruned = results
    assert pruned.objective == pytest.approx(kept.objective, abs=1e-4)
    assert pruned.num_restarts == len(pruned.restart_objectives) == 12
    # What is given up stands below what is kept, and never above where it would have ended.
    assert max(pruned.restart_objectives) == pruned.objective
    for early, late in zip(pruned.restart_objectives, kept.restart_objectives, strict=True):
        assert early <= late + 1e-9
    assert len(pruned.history) == pruned.num_iterations + 1


def test_each_mixture_keeps_the_starts_that_may_still_win() -> None:
    objective = torch.tensor([[0.0, 9.0], [1.0, 0.0], [2.9, 1.0], [3.0, 2.0]])
    remaining = torch.tensor([[torch.inf, 0.0], [0.5, 0.1], [0.1, 0.1], [0.0, 3.0]])
    batch_index, proper = torch.arange(2).repeat(4), torch.zeros(4, 2, dtype=torch.bool)

    def lost(degenerate: Tensor, iteration: int = 10) -> list[list[bool]]:
        flat = objective.flatten(), remaining.flatten(), degenerate.flatten()
        return losing_starts(*flat, batch_index, iteration, 10).view(4, 2).tolist()

    # Of the first mixture start 0 may gain anything; of the second, start 3 three times 3.
    assert lost(proper) == [[False, False], [True, True], [False, True], [False, False]]
    assert not torch.tensor(lost(proper, 9)).any()
    # The best start of the second mixture is degenerate: the others are measured by 2.
    spike = proper.clone()
    spike[0, 1] = True
    assert lost(spike) == [[False, False], [True, True], [False, True], [False, False]]
    alone = torch.tensor([0])
    assert not losing_starts(objective[0, :1], remaining[:1, 1], proper[0, :1], alone, 12, 1).any()


def test_starts_that_coincide_are_followed_once() -> None:
    means = torch.tensor([[[0.0, 0.0], [5.0, 1.0]]]).repeat(4, 1, 1)
    means[1] = means[1].flip(0)
    means[3, 0, 0] = 2.0
    model = MixtureModel.from_layer(GMMLayer(2, 2), 4)
    same = MixtureParameters(torch.zeros(4, 2), means, torch.zeros(4, 2, 2, 2), torch.zeros(4, 0))
    objective, remaining = torch.tensor([-1.0, -1.0 + 1e-9, -1.1, -1.0]), torch.full((4,), 1e-8)
    # Start 1 is a hair better than start 0; start 2 is not as high, start 3 is elsewhere.
    found = coinciding_starts(model, same, objective, remaining, 10)
    assert found.tolist() == [True, False, False, False]
    assert not coinciding_starts(model, same, objective, remaining, 7).any()


def test_pruning_and_annealing_do_not_meet(generator: Generator) -> None:
    # While it anneals, the free energy of one start says nothing about another's likelihood.
    x = rows(80, 2, generator)
    result = fit_em(
        GMMLayer(2, 4),
        x,
        initializer="random_from_data",
        num_restarts=6,
        annealing=0.2,
        max_iter=20,
        tol=0.0,
        generator=generator,
    )
    assert len(set(result.restart_objectives)) > 1
    assert result.num_iterations == 20


# -- starts that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("floor", [0.0, 1e-8])
def test_starts_fail_on_their_own(floor: float, generator: Generator) -> None:
    x = torch.cat([torch.zeros(6, 2), torch.randn(40, 2, generator=generator) + 4])
    layer = GMMLayer(2, 2, registry.get("full")(relative_floor=floor))
    policy = "floor" if floor == 0 else "raise"
    options = {"initializer": "random_from_data", "collapse": policy, "max_iter": 15}
    result = fit_em(layer, x, num_restarts=20, generator=generator, **options)
    assert finite(layer)
    assert 1 <= result.num_restarts < 20
    assert len(result.restart_objectives) == result.num_restarts
    assert layer.objective(x).item() == pytest.approx(result.objective)
    before = parameters(layer)
    with pytest.raises(CollapseError):
        fit_em(layer, torch.eye(2).repeat(5, 1), num_restarts=3, generator=generator, **options)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(layer), strict=True))


# -- mixtures of a batch -------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"acceleration": "squarem"}, {"num_restarts": 3}], ids=str)
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@over_families
def test_a_batch_is_one_fit_per_mixture(
    family: str, own: bool, options: dict[str, Any], generator: Generator
) -> None:
    # Each mixture stops by itself: none goes on for the sake of the others.
    x = rows(60, 2, generator, (4,)) if own else rows(60, 2, generator, (1,))
    options = {"initializer": "random_from_data", "tol": 1e-5, "max_iter": 60} | options
    layer = layer_of(family, "dirichlet+niw", "evidence", (4,))
    result = fit_em(layer, x, generator=generator.manual_seed(5), **options)
    generator.manual_seed(5)
    steps = []
    for c in range(4):
        alone = layer_of(family, "dirichlet+niw", "evidence")
        expected = fit_em(alone, x[:, c if own else 0], generator=generator, **options)
        assert float(result.objective[c]) == pytest.approx(expected.objective, rel=1e-10)
        torch.testing.assert_close(vector(layer)[c], vector(alone), rtol=1e-7, atol=1e-7)
        steps.append(expected.num_iterations)
        history = torch.stack(result.history)[:, c]
        tail = torch.full((len(history) - len(expected.history),), expected.history[-1])
        torch.testing.assert_close(history, torch.cat([torch.tensor(expected.history), tail]))
    assert result.num_iterations == max(steps)
    assert len(set(steps)) > 1


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_a_demanding_mixture_leaves_the_others_in_their_precision(
    own: bool, generator: Generator
) -> None:
    x = torch.cat([rows(600, 2, generator), torch.randn(600, 2, generator=generator) * 1e-3 + 50])
    layer = GMMLayer(2, 2, batch_shape=(2,), dtype=torch.float32)
    layer.set_parameters(
        means=torch.tensor([[[0.0, 0.0], [3.0, 3.0]], [[0.0, 0.0], [50.0, 50.0]]]),
        covariance_matrix=torch.eye(2) * torch.tensor([[4.0, 4.0], [4.0, 1e-6]])[..., None, None],
    )
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    groups = group_by_precision(model, parameters)
    assert [group.tolist() for group in groups] == [[0], [1]]
    x = x[:, None].repeat(1, 2, 1) if own else x[:, None]
    both = EStep(as_source(x, num_features=2, batch_shape=(2,)), model, None)
    together = both(model, parameters)
    for c in range(2):
        index = torch.tensor([c])
        alone = both(model.select(index), parameters.select(index))
        if own:
            assert torch.equal(together.select(index).pack(), alone.pack())
        else:
            # Mixtures of the same rows share their coordinates; the error is that of densities.
            error = MAX_CANCELLATION[torch.float32] * torch.finfo(torch.float32).eps
            close = {"rtol": 0, "atol": error * float(alone.second.abs().max())}
            torch.testing.assert_close(together.select(index).second, alone.second, **close)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@over_families
def test_values_are_the_layer(family: str, batch: tuple[int, ...], generator: Generator) -> None:
    layer = layer_of(family, "dirichlet+niw", "evidence+projection", batch)
    x = rows(20, 2, generator, batch)
    fit_em(layer, x, initializer="random", max_iter=1, generator=generator)
    model, wide = MixtureModel.from_layer(layer, 5), MixtureParameters.from_layer(layer, 5)
    size = layer.batch_shape.numel()
    assert wide.num_mixtures == 5 * size
    stats = e_step(layer, x).reshape((size,))
    expected = layer.objective(x).flatten()
    for index in (torch.arange(size), torch.arange(size).flip(0) + 2 * size):
        some, values = model.select(index), wide.select(index)
        objective = some.objective(values, stats.select(index % size))
        assert torch.allclose(objective, expected[index % size], rtol=1e-12)
        rows_again = values.from_vector(values.to_vector())
        assert all(torch.equal(a, b) for a, b in zip(rows_again, values, strict=True))
    twin = layer_of(family, "none", "", batch)
    wide.select(torch.arange(size) + size).write_to(twin)
    assert all(torch.equal(a, b) for a, b in zip(parameters(twin), parameters(layer), strict=True))


class SharedMeans(Projection):
    """A projection that ties the mixtures of a batch: they have the same means."""

    couples_batch = True

    def forward(self, moments: Moments, covariance: Covariance, present: MixtureDensity) -> Moments:
        share = moments.counts / moments.counts.sum(0)
        means = (share.unsqueeze(-1) * moments.means).sum(0).expand_as(moments.means)
        return replace(moments, means=means)


@pytest.mark.parametrize("collapse", ["floor", "raise"])
def test_mixtures_that_a_projection_ties_come_from_one_restart(collapse: str) -> None:
    """Also where one of them was given up, and with it the other."""
    generator = Generator().manual_seed(0)
    x = torch.randn(60, 2, 2, generator=generator, dtype=torch.float64)
    if collapse == "raise":
        # A duplicate that a component of the first mixture alone can hold.
        x[:9, 0] = x[0, 0] + 8
    for seed in range(8):
        layer = GMMLayer(2, 3, "diag", batch_shape=(2,))
        layer.projections.append(SharedMeans())
        try:
            result = fit_em(
                layer,
                x,
                initializer="random_from_data",
                num_restarts=5,
                collapse=collapse,
                generator=Generator().manual_seed(seed),
            )
        except CollapseError:
            continue
        assert torch.allclose(layer.means[0], layer.means[1], rtol=0, atol=1e-12)
        finals = torch.stack([torch.as_tensor(v) for v in result.restart_objectives])
        assert bool(torch.isfinite(finals).all())
        # Of the proper starts the best; where there is none, of all.
        own = (finals == torch.as_tensor(result.objective)).all(-1)
        assert bool(own.any())
        assert result.degenerate or len(own) == result.num_restarts
