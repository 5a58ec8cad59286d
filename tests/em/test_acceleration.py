"""Extrapolated steps: fewer E-steps, never a lower objective, the same fixed point."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from support.random_layers import FAMILIES, cases, finite, parameters, random_layer, rows
from torch import Generator, Tensor

from gmm_lightning import GMMLayer, e_step, fit_em
from gmm_lightning.em import (
    Accelerator,
    Anderson,
    MixtureModel,
    MixtureParameters,
    MonotoneUpdater,
    Squarem,
    maximize,
)
from gmm_lightning.errors import InvalidArgumentError

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)
over_kinds = pytest.mark.parametrize("kind", ["squarem", "anderson"])
# Additions of a pass round at 1e-15 of an objective of order ten.
ROUNDING = 1e-12
SOME = [case for case in cases() if case[1] in ("none", "dirichlet+niw")]


def slow() -> Tensor:
    """Three components that overlap: EM creeps."""
    x = torch.randn(150, 2, generator=Generator().manual_seed(11))
    x[:50, 0] += 2.6
    x[50:100, 1] += 2.86
    return x


LABELS = torch.arange(150) // 50


# -- the promise ----------------------------------------------------------------------------------


@over_kinds
@pytest.mark.parametrize(("family", "prior"), cases())
def test_the_objective_never_falls(
    family: str, prior: str, kind: str, generator: Generator
) -> None:
    x = rows(70, 2, generator)
    layer = random_layer(family, prior, generator=generator)
    result = fit_em(layer, x, acceleration=kind, max_iter=20, tol=0.0, generator=generator)
    history = torch.tensor(result.history)
    assert (history.diff() > -ROUNDING).all()
    assert finite(layer)
    assert layer.objective(x).item() == pytest.approx(result.objective, abs=1e-11)
    assert result.num_e_steps >= result.num_iterations + 1


@over_kinds
@pytest.mark.parametrize("family", ["full", "tied_diag"])
@pytest.mark.parametrize("hard", ["one hot", "far"])
def test_the_objective_never_falls_in_float32(
    hard: str, family: str, kind: str, generator: Generator
) -> None:
    # Singular in one direction; and clusters of 1e-6 at 0 and 1e4.
    near = 1e-6 * rows(60, 2, generator)
    near[::2] += 1e4
    x = torch.eye(3).repeat(30, 1) if hard == "one hot" else near
    layer = GMMLayer(x.shape[1], 4, family, "niw", dtype=torch.float32)
    options: dict[str, Any] = {"initializer": "maxdist", "acceleration": kind, "tol": 0.0}
    result = fit_em(layer, x.float(), max_iter=40, generator=generator, **options)
    objective = torch.tensor(result.history)
    # Parameters of a step are rounded to float32; the quadratic forms are of the order of D.
    slack = 8 * torch.finfo(torch.float32).eps * (objective.abs() + x.shape[1])
    assert (objective.diff() > -slack[:-1]).all()


@over_kinds
@pytest.mark.parametrize("batch", [(3,), (2, 3)], ids=str)
@over_families
def test_each_mixture_of_a_batch_rises(
    family: str, batch: tuple[int, ...], kind: str, generator: Generator
) -> None:
    x = rows(50, 2, generator, batch)
    layer = GMMLayer(2, 3, family, "niw", batch_shape=batch)
    result = fit_em(layer, x, acceleration=kind, max_iter=25, tol=0.0, generator=generator)
    assert (torch.stack([torch.as_tensor(v) for v in result.history]).diff(dim=0) > -ROUNDING).all()


@over_families
def test_fewer_passes_to_the_same_place(family: str) -> None:
    x = slow()
    fits = {}
    for kind in (None, "squarem", "anderson"):
        layer = GMMLayer(2, 3, family)
        options = {"initializer": LABELS, "tol": 1e-10, "max_iter": 1000}
        fits[kind] = fit_em(layer, x, acceleration=kind, **options)
        assert fits[kind].converged
        slope = torch.autograd.grad(layer(x).mean(), list(layer.parameters()))
        # Where a step gains 1e-10, the slope is about the root of that.
        assert max(float(part.abs().max()) for part in slope) < 1e-5
    plain = fits.pop(None)
    assert plain.num_e_steps == plain.num_iterations + 1
    gains = torch.tensor(plain.history).diff()
    # Passes until plain EM would have stopped at 1e-8.
    enough = int((gains < 1e-8).nonzero()[0]) + 2
    for kind, fast in fits.items():
        # Plain EM stops short by as many gains of 1e-10 as it would take from there.
        assert fast.objective == pytest.approx(plain.objective, abs=1e-8)
        # The first ten steps are plain.
        assert fast.num_e_steps - 10 < 0.6 * (plain.num_e_steps - 10)
        layer = GMMLayer(2, 3, family)
        coarse = fit_em(layer, x, acceleration=kind, initializer=LABELS, tol=1e-8, max_iter=1000)
        assert coarse.converged
        assert coarse.num_e_steps - 10 < 0.7 * max(enough - 10, 10)


@over_kinds
@pytest.mark.parametrize(("family", "prior"), SOME)
def test_keystone_after_extrapolations(
    family: str, prior: str, kind: str, generator: Generator
) -> None:
    x = rows(100, 2, generator)
    layer = GMMLayer(2, 2, family, None if prior == "none" else prior.split("+"))
    result = fit_em(layer, x, acceleration=kind, max_iter=300, tol=1e-14, generator=generator)
    assert not result.events
    slope = torch.autograd.grad(layer.objective(x), list(layer.parameters()))
    # The objective is flat to its last digit, so the slope is the root of that.
    assert max(float(part.abs().max()) for part in slope) < 1e-6


@over_kinds
def test_starts_extrapolate_side_by_side(kind: str) -> None:
    x = slow()
    options = {"initializer": "random_from_data", "tol": 1e-6, "max_iter": 200}
    layer = GMMLayer(2, 3, "diag")
    result = fit_em(
        layer,
        x,
        num_restarts=4,
        prune=False,
        acceleration=kind,
        generator=Generator().manual_seed(5),
        **options,
    )
    assert (torch.tensor(result.history).diff() > -ROUNDING).all()
    singles, seeded = [], Generator().manual_seed(5)
    for _ in range(4):
        one = GMMLayer(2, 3, "diag")
        single = fit_em(one, x, acceleration=kind, generator=seeded, **options)
        singles.append(single.objective)
    # Each start is accelerated by itself.
    assert result.objective == pytest.approx(max(singles), abs=1e-3)


class Scripted(Accelerator):
    """Proposes a given change of the parameters, after every step."""

    name = "scripted"

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change = change

    def propose(self, before: Tensor, after: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        return self.change(after), torch.ones(len(after), dtype=torch.bool)


def walk(layer: GMMLayer, x: Tensor, updater: MonotoneUpdater, passes: int) -> list[Tensor]:
    """E-steps and M-steps of a layer as a callback does them; where each pass was rejected."""
    said = []
    for _ in range(passes):
        model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
        stats = e_step(layer, x).reshape((parameters.num_mixtures,))
        objective = model.objective(parameters, stats)
        rejected = updater.rejected(objective)
        said.append(rejected)
        if bool(rejected.any()):
            updater.restore(parameters, rejected).write_to(layer)
            continue
        updater.accept(objective)
        step = maximize(model, parameters, stats)
        updater.extrapolate(model, parameters, step.parameters, None).write_to(layer)
    return said


def test_the_gain_of_an_extrapolation_is_no_convergence(generator: Generator) -> None:
    # The first mixture takes the proposal; that of the second is taken back.
    x = rows(60, 2, generator, (2,))
    layer = GMMLayer(2, 3, batch_shape=(2,))
    fit_em(layer, x, initializer="random", max_iter=1, generator=generator)
    shift = torch.tensor([[0.0], [100.0]])
    updater = MonotoneUpdater(Scripted(lambda after: after + shift), num_mixtures=2)
    updater._state["cooldown"].zero_()  # The first steps are plain ones.
    said = []
    for _ in range(4):
        (rejected,) = walk(layer, x, updater, 1)
        said.append((rejected.tolist(), updater.from_m_step.tolist()))
    start, failed, again, plain = said
    assert start == ([False, False], [True, True])
    assert failed[0] == [False, True]
    # The same parameters again: of the first mixture still an extrapolation.
    assert again == ([False, False], [False, True])
    assert plain[0] == [False, False]
    assert plain[1][1]


# -- steps that go wrong --------------------------------------------------------------------------


CHANGES = {
    "nan": lambda p: p * torch.nan,
    "infinite": lambda p: p + torch.inf,
    "one entry": lambda p: p.index_fill(-1, torch.tensor([0]), torch.nan),
    "huge": lambda p: p * 1e6,
    "far": lambda p: p + 1e200,
    "tiny scales": lambda p: p - 800.0,
    "noise": lambda p: p + 3.0 * torch.randn_like(p),
    "nothing": lambda p: p.clone(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("family", "prior"), SOME)
def test_steps_into_nowhere_are_taken_back(
    family: str, prior: str, change: str, generator: Generator
) -> None:
    x = rows(40, 2, generator)
    fits = []
    for acceleration in (None, Scripted(CHANGES[change])):
        layer = GMMLayer(2, 3, family, None if prior == "none" else prior.split("+"))
        result = fit_em(
            layer,
            x,
            initializer=torch.arange(40) % 3,
            acceleration=acceleration,
            max_iter=12,
            tol=0.0,
        )
        assert finite(layer)
        assert (torch.tensor(result.history).diff() > -ROUNDING).all()
        fits.append((parameters(layer), result))
    (plain, one), (wild, other) = fits
    if change != "noise":
        # No extrapolation paid, so the path is that of plain EM, bit for bit.
        assert all(torch.equal(a, b) for a, b in zip(plain, wild, strict=True))
        assert other.history == one.history
        assert other.num_iterations == 12
        # Failures make the pauses longer: 12 steps see four of them.
        assert one.num_e_steps == 13
        assert other.num_e_steps <= 13 + (
            4 if change not in ("nan", "infinite", "one entry") else 0
        )


def test_one_bad_mixture_does_not_hold_back_the_others(generator: Generator) -> None:
    x = rows(60, 2, generator, (2,))

    def half(after: Tensor) -> Tensor:
        change = after.clone()
        change[..., 1, :] = change[..., 1, :] + 50.0
        return change

    layers = []
    for acceleration in (None, Scripted(half)):
        layer = GMMLayer(2, 3, batch_shape=(2,))
        fit_em(
            layer,
            x,
            initializer=torch.arange(60) % 3,
            acceleration=acceleration,
            max_iter=8,
            tol=0.0,
        )
        layers.append(layer)
    for a, b in zip(*(parameters(layer) for layer in layers), strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


# -- its memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [Squarem, Anderson])
def test_an_instance_serves_many_fits(make: type[Accelerator]) -> None:
    x, one = slow(), make()
    for k, restarts, collapse in (
        (3, 1, "floor"),
        (4, 3, "floor"),
        (2, 3, "raise"),
        (3, 1, "floor"),
    ):
        options: dict[str, Any] = {"max_iter": 6, "tol": 0.0, "collapse": collapse}
        results = []
        for acceleration in (one, make()):
            layer = GMMLayer(2, k, "diag")
            seeded = Generator().manual_seed(0)
            results.append(
                fit_em(
                    layer,
                    x,
                    acceleration=acceleration,
                    num_restarts=restarts,
                    generator=seeded,
                    **options,
                )
            )
        assert results[0].history == results[1].history


@pytest.mark.parametrize("kind", ["squarem", "anderson", None])
@over_families
def test_going_on_from_a_state_dict_is_not_having_stopped(family: str, kind: str | None) -> None:
    x = slow()
    whole = GMMLayer(2, 3, family, "niw")
    fit_em(whole, x, initializer=LABELS, max_iter=0)
    state = {k: v.clone() for k, v in whole.state_dict().items()}

    for stop in range(1, 7):
        first, again = GMMLayer(2, 3, family, "niw"), GMMLayer(2, 3, family, "niw")
        first.load_state_dict(state)
        updater = MonotoneUpdater(kind)
        walk(first, x, updater, stop)
        kept = {k: v.clone() for k, v in first.state_dict().items()}
        saved = updater.state_dict()
        walk(first, x, updater, 6)
        again.load_state_dict(kept)
        other = MonotoneUpdater(kind)
        other.load_state_dict(saved)
        walk(again, x, other, 6)
        assert all(
            torch.equal(a, b) for a, b in zip(parameters(first), parameters(again), strict=True)
        )
        assert torch.equal(other.from_m_step, updater.from_m_step)


def test_squarem_is_exact_for_a_straight_path() -> None:
    # x -> 0.9 x: the fixed point 0 is one change away.
    start = torch.tensor([[4.0, -2.0]])
    one = Squarem()
    assert one.propose(start, 0.9 * start, torch.ones_like(start)) is None
    found = one.propose(0.9 * start, 0.81 * start, torch.ones_like(start))
    assert found is not None
    assert torch.allclose(found[0], torch.zeros(1, 2), atol=1e-12)


def test_anderson_is_exact_for_an_affine_map() -> None:
    matrix = torch.tensor([[0.8, 0.1], [0.0, 0.5]])
    x, one = torch.tensor([[3.0, -1.0]]), Anderson(memory=2, ridge=1e-14)
    for _ in range(4):
        after = x @ matrix.mT + 1.0
        found = one.propose(x, after, torch.ones_like(x))
        x = after if found is None else found[0]
    fixed = torch.linalg.solve(torch.eye(2) - matrix, torch.ones(2, 1)).mT
    assert torch.allclose(x, fixed, atol=1e-8)


@pytest.mark.parametrize("make", [Squarem, Anderson])
def test_standing_still_proposes_nothing_new(make: type[Accelerator]) -> None:
    accelerator, place = make(), torch.randn(2, 7)
    for _ in range(5):
        found = accelerator.propose(place, place.clone(), torch.ones_like(place))
        assert found is None or torch.equal(found[0], place)


@pytest.mark.parametrize("make", [Squarem, Anderson])
def test_a_disturbed_mixture_begins_anew(make: type[Accelerator], generator: Generator) -> None:
    # As if it were alone: what the other mixture keeps has no part in it.
    path = torch.randn(9, 2, 5, generator=generator).cumsum(0)
    both, alone, unit = make(), make(), torch.ones(2, 5)
    for i, (before, after) in enumerate(pairwise(path)):
        found = both.propose(before, after, unit)
        if i == 3:
            both.restart(torch.tensor([True, False]))
        if i > 3:
            expected = alone.propose(before[:1], after[:1], unit[:1])
            valid = found is not None and bool(found[1][0])
            assert valid == (expected is not None and bool(expected[1][0]))
            if valid:
                torch.testing.assert_close(found[0][0], expected[0][0])


@pytest.mark.parametrize("given", [{"memory": 0}, {"ridge": 0.0}, {"ridge": float("nan")}])
def test_refuses(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="anderson needs memory >= 1 and ridge > 0"):
        Anderson(**given)


@over_kinds
def test_at_the_floor_it_does_not_extrapolate(kind: str, generator: Generator) -> None:
    x = torch.cat([torch.zeros(10, 2), rows(40, 2, generator) + 9])
    for family in FAMILIES:
        layer = GMMLayer(2, 3, family)
        labels = torch.cat([torch.zeros(10), 1 + torch.arange(40) % 2]).long()
        result = fit_em(layer, x, initializer=labels, acceleration=kind, max_iter=30, tol=0.0)
        # The floor allows condition numbers of 1e8: densities round at 1e8 eps per feature.
        assert (torch.tensor(result.history).diff() > -1e-7).all()
        assert finite(layer)


@over_kinds
@over_families
def test_extrapolations_do_not_depend_on_units(family: str, kind: str) -> None:
    x, passes, places = slow(), [], []
    # Powers of two change no digit of the rows; one feature in millimetres, one in miles.
    for unit in (torch.ones(2), torch.tensor([2.0**10, 2.0**-20])):
        if "spherical" in family:
            unit = unit[:1]
        layer = GMMLayer(2, 3, family)
        data = unit * x
        result = fit_em(layer, data, initializer=LABELS, acceleration=kind, max_iter=9, tol=0.0)
        passes.append(result.num_e_steps)
        places.append(layer.means.detach() / unit)
    assert passes[0] == passes[1]
    assert torch.allclose(*places, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [Squarem, Anderson])
def test_what_was_read_from_a_file_goes_to_the_device_of_the_layer(
    make: type[Accelerator],
) -> None:
    stored, again = make(), make()
    before, after = torch.randn(2, 7, device="cpu"), torch.randn(2, 7, device="cpu")
    stored.propose(before, after, torch.ones_like(before))
    again.load_state_dict(stored.state_dict())
    # Nothing refuses parameters of another dtype, as it would those of another device.
    wide = [value.to(torch.float32) for value in (before, after, torch.ones_like(before))]
    found = again.propose(*wide)
    assert found is not None
    assert found[0].dtype == torch.float32
