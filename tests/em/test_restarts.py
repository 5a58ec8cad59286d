"""Starts side by side: a loop of single fits, and which of them are followed to their end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import BATCHES, FAMILIES, finite, make_priors, parameters, rows, served
from torch import Generator, Tensor, nn

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.covariances import Covariance, registry
from gmm_lightning.em.pruning import hopeless
from gmm_lightning.em.starts import chosen, copies, packed, unpack
from gmm_lightning.errors import CollapseError
from gmm_lightning.statistics import Moments

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)
STARTS = 4


class Halves(nn.Module):
    """Evidence: rows on the left are unlikely to be of the last component."""

    def forward(self, x: Tensor) -> Tensor:
        against = torch.zeros(3).to(x)
        against[2] = -3.0
        return torch.where(x[..., :1] < 2.0, against, 0.0)


class Anchored(nn.Module):
    """A projection: the first component's mean stays where it is told to."""

    def forward(self, moments: Moments, covariance: Covariance) -> Moments:
        means = moments.means.clone()
        means[..., 0, :] = torch.tensor([1.0, 2.0]).to(means)
        return Moments(moments.counts, moments.mass, means, moments.scatter, moments.dof)


def layer_of(family: str, prior: str, extras: str, batch: tuple[int, ...] = ()) -> GMMLayer:
    layer = GMMLayer(2, 3, family, make_priors(prior), batch_shape=batch)
    if "evidence" in extras:
        layer.evidence = Halves()
    if "projection" in extras:
        layer.projections.append(Anchored())
    return layer


def looped(
    make: Any, x: Tensor, generator: Generator, **options: Any
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Objectives of single fits one after the other; the best of each mixture; its parameters."""
    finals, found = [], []
    for _ in range(STARTS):
        layer = make()
        result = fit_em(layer, x, generator=generator, **options)
        finals.append(torch.as_tensor(result.objective))
        found.append(packed(layer))
    top = torch.stack(finals).argmax(0)
    index = top[None, ..., None].expand(1, *found[0].shape)
    return finals, torch.stack(finals).amax(0), torch.stack(found).gather(0, index)[0]


def assert_as_a_loop(make: Any, x: Tensor, **options: Any) -> None:
    options = {"initializer": "random_from_data", "max_iter": 12, "tol": 1e-4} | options
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
        assert torch.allclose(packed(layer), place, rtol=1e-6, atol=1e-6)


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


def test_a_batch_keeps_what_is_good_for_any_mixture() -> None:
    objective = torch.tensor([[0.0, 9.0], [1.0, 0.0], [2.0, 1.0], [3.0, 2.0]])
    # Better halves: starts 2 and 3 of the first mixture, starts 0 and 3 of the second.
    assert hopeless(objective, 5).tolist() == [False, True, False, False]
    assert not hopeless(objective, 0).any()
    assert not hopeless(objective, 4).any()
    assert not hopeless(objective[:1], 5).any()
    assert hopeless(objective[:, 0], 10).tolist() == [True, True, False, False]
    assert hopeless(objective[:3, 0], 10).tolist() == [True, False, False]


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


# -- the layer of all starts ----------------------------------------------------------------------


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@over_families
def test_copies_and_choices(family: str, batch: tuple[int, ...], generator: Generator) -> None:
    layer = layer_of(family, "niw", "evidence+projection", batch)
    x = rows(20, 2, generator, batch)
    fit_em(layer, x, initializer="random", max_iter=1, generator=generator)
    wide = copies(layer, 5)
    assert wide.batch_shape == (5, *batch)
    assert wide.all_priors[0] is not layer.all_priors[0]
    value = wide.log_prior()
    assert torch.allclose(value, layer.log_prior().expand(5, *batch), rtol=1e-12)
    joint = wide.log_joint(x.unsqueeze(1))
    assert torch.allclose(joint, layer.log_joint(x).unsqueeze(1).expand_as(joint), rtol=1e-12)
    with torch.no_grad():
        wide.means += torch.arange(5.0).reshape(5, *[1] * (len(batch) + 2))
    narrow = chosen(wide, torch.tensor([3, 1]))
    assert torch.equal(narrow.means, wide.means[[3, 1]])
    assert torch.equal(packed(narrow), packed(wide)[[3, 1]])
    assert torch.allclose(narrow.log_prior(), wide.log_prior()[[3, 1]], rtol=1e-12)
    flat = packed(wide)
    unpack(wide, torch.zeros_like(flat))
    assert not packed(wide).any()
    unpack(wide, flat)
    assert torch.equal(packed(wide), flat)
    # The layer itself was not touched.
    assert torch.equal(copies(layer, 1).means[0], layer.means)
