"""Stepwise EM: an M-step after every batch, from statistics that forget slowly."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import pytest
import torch
from support.random_layers import FAMILIES, cases, finite, parameters, random_layer, rows
from torch import Generator, Tensor

from gmm_lightning import GMMLayer, e_step, fit_em, m_step, resolve_priors
from gmm_lightning.em import StepwiseEM, hard_responsibilities_
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.statistics import SufficientStatistics

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)


def running(stream: StepwiseEM) -> SufficientStatistics:
    """What the stream remembers."""
    state = stream.state_dict()["running"]
    assert state is not None
    return SufficientStatistics(**state)


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
@pytest.mark.parametrize(("family", "prior"), cases())
def test_the_first_batch_is_an_em_step(
    family: str, prior: str, batch: tuple[int, ...], generator: Generator
) -> None:
    x = rows(50, 2, generator, batch)
    layer = random_layer(family, prior, batch=batch, generator=generator)
    resolve_priors(layer, x)
    twin = copy.deepcopy(layer)
    stream = StepwiseEM(layer)
    assert torch.isnan(stream.log_likelihood).all()
    assert stream.partial_fit(x) == []
    stats = e_step(twin, x)
    m_step(twin, stats)
    for a, b in zip(parameters(layer), parameters(twin), strict=True):
        # Divided by the number of rows and multiplied again.
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
    assert torch.allclose(stream.log_likelihood, stats.log_likelihood / 50, rtol=1e-13)
    assert stream.num_batches == 1


@over_families
def test_the_whole_again_and_again_is_em_in_the_limit(family: str, generator: Generator) -> None:
    x = rows(60, 2, generator)
    layer = random_layer(family, generator=generator)
    # The tied family stands on a saddle for some 400 passes before it moves on.
    result = fit_em(layer, x, initializer=None, max_iter=2000, tol=1e-14, acceleration="squarem")
    assert result.converged
    before = parameters(layer)
    stream = StepwiseEM(layer)
    for _ in range(20):
        stream.partial_fit(x)
    # A fixed point of EM is one of every step size.
    for a, b in zip(before, parameters(layer), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@over_families
def test_mass_is_conserved_to_one_rounding(family: str, generator: Generator) -> None:
    layer = random_layer(family, generator=generator)
    stream = StepwiseEM(layer, exponent=0.51, offset=1.0)
    for size in [7, 1, 300, 2, 1, 50] * 12:
        stream.partial_fit(rows(size, 2, generator))
        total = float(running(stream).total_weight)
        assert abs(total - 1.0) <= 2.3e-16
    assert finite(layer)


@over_families
def test_statistics_move_with_the_means(family: str, generator: Generator) -> None:
    # What is remembered equals the statistics of all rows so far about the present means, with
    # the responsibilities and the share that each batch had.
    layer = random_layer(family, generator=generator)
    stream = StepwiseEM(layer, exponent=0.8, offset=1.5)
    seen: list[tuple[Tensor, Tensor]] = []
    for t in range(6):
        x = rows(20 + t, 2, generator)
        share = 1.0 if t == 0 else (t + 1.5) ** -0.8
        seen = [(old, (1 - share) * resp) for old, resp in seen]
        resp = layer.responsibilities(x).detach()
        seen.append((x, share * resp / len(x)))
        shift = layer.means.detach().clone()
        stream.partial_fit(x)
        remembered = running(stream)
        assert torch.equal(remembered.shift, shift)
        every, weights = (torch.cat(parts) for parts in zip(*seen, strict=True))
        diff = every.unsqueeze(1) - shift
        close = {"rtol": 1e-10, "atol": 1e-12}
        assert torch.allclose(remembered.counts, weights.sum(0), **close)
        first = (weights.unsqueeze(-1) * diff).sum(0)
        assert torch.allclose(remembered.first, first, **close)
        second = layer.covariance.outer(weights, diff)
        assert torch.allclose(remembered.second, second, **close)


def test_an_offset_costs_no_digits(generator: Generator) -> None:
    found = []
    for offset in (0.0, 1e6):
        seeded = Generator().manual_seed(1)
        layer = GMMLayer(2, 3)
        start = rows(90, 2, seeded)
        fit_em(layer, start + offset, initializer=torch.arange(90) % 3, max_iter=0)
        stream = StepwiseEM(layer)
        for _ in range(30):
            stream.partial_fit(rows(40, 2, seeded) + offset)
        found.append((layer.means - offset, layer.covariance_matrix))
    for a, b in zip(*found, strict=True):
        # Rows at 1e6 keep ten digits.
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prior", ["none", "niw"])
@over_families
def test_going_on_from_a_state_dict(family: str, prior: str, generator: Generator) -> None:
    layer = random_layer(family, prior, generator=generator)
    batches = [rows(12, 2, generator) for _ in range(9)]
    stream = StepwiseEM(layer, num_samples=500)
    fresh = stream.state_dict()
    assert fresh == {"num_batches": 0, "seen": None, "running": None}
    for x in batches[:4]:
        stream.partial_fit(x)
    saved, twin = copy.deepcopy(stream.state_dict()), copy.deepcopy(layer)
    for x in batches[4:]:
        stream.partial_fit(x)
    other = StepwiseEM(twin, num_samples=500)
    other.load_state_dict(saved)
    for x in batches[4:]:
        other.partial_fit(x)
    assert all(torch.equal(a, b) for a, b in zip(parameters(layer), parameters(twin), strict=True))
    assert other.num_batches == 9
    other.load_state_dict(fresh)
    assert torch.isnan(other.log_likelihood)


@pytest.mark.parametrize("family", ["full", "diag", "tied"])
def test_a_few_passes_come_near_the_optimum(family: str, generator: Generator) -> None:
    x = rows(50_000, 2, generator)
    exact = GMMLayer(2, 3, family)
    fit_em(exact, x, initializer="kmeans", max_iter=100, tol=1e-6, generator=generator)
    layer = GMMLayer(2, 3, family)
    fit_em(layer, x[:300], initializer="kmeans", max_iter=0, generator=generator)
    stream = StepwiseEM(layer)
    for _ in range(2):
        order = torch.randperm(50_000, generator=generator)
        for part in order.split(500):
            stream.partial_fit(x[part])
    assert stream.num_batches == 200
    with torch.no_grad():
        gap = exact(x).mean() - layer(x).mean()
    # A fit to the last 5,000 rows or so: 12 parameters cost about 12 / (2 * 5000) nats.
    assert gap < 5e-3


@over_families
def test_weights_count_rows(family: str, generator: Generator) -> None:
    batches = [rows(10, 2, generator) for _ in range(4)]
    layer = random_layer(family, generator=generator)
    twin = copy.deepcopy(layer)
    one, other = StepwiseEM(layer), StepwiseEM(twin)
    for x in batches:
        weight = torch.ones(10)
        weight[2], weight[5] = 3.0, 0.0
        one.partial_fit(x, weight)
        other.partial_fit(x[[0, 1, 2, 2, 2, 3, 4, 6, 7, 8, 9]])
    for a, b in zip(parameters(layer), parameters(twin), strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-11)


@over_families
def test_a_prior_is_weighed_against_the_whole(family: str, generator: Generator) -> None:
    x = rows(40, 2, generator)
    found = {}
    for num_samples in (40, 4_000, None):
        layer = random_layer(family, "niw", generator=Generator().manual_seed(0))
        resolve_priors(layer, x)
        stream = StepwiseEM(layer, num_samples=num_samples)
        stream.partial_fit(x)
        found[num_samples] = parameters(layer)
        twin = random_layer(family, "niw", generator=Generator().manual_seed(0))
        resolve_priors(twin, x)
        stats = e_step(twin, x, 1.0 if num_samples is None else num_samples / 40)
        m_step(twin, stats)
        for a, b in zip(parameters(layer), parameters(twin), strict=True):
            assert torch.allclose(a, b, rtol=1e-11, atol=1e-12)
    assert all(torch.allclose(a, b) for a, b in zip(found[40], found[None], strict=True))
    assert not torch.allclose(found[40][2], found[4_000][2], rtol=1e-3)


@over_families
def test_one_row_at_a_time_and_none(family: str, generator: Generator) -> None:
    layer = random_layer(family, generator=generator)
    stream = StepwiseEM(layer)
    before = parameters(layer)
    assert stream.partial_fit(torch.zeros(0, 2)) == []
    assert stream.partial_fit(torch.zeros(3, 2), torch.zeros(3)) == []
    assert stream.num_batches == 0
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(layer), strict=True))
    x = rows(40, 2, generator)
    stream.partial_fit(x)
    for row in x:
        stream.partial_fit(row[None])
        stream.partial_fit(torch.zeros(0, 2))
        assert finite(layer)
    assert stream.num_batches == 41
    assert torch.isfinite(layer(x)).all()


@over_families
def test_a_batch_without_rows_for_one_mixture(family: str, generator: Generator) -> None:
    # One mixture per class: a mini-batch may hold no row of a class, and loses none of the others.
    x = rows(60, 2, generator)
    hot = torch.zeros(60, 2)
    hot[:30, 0] = hot[30:50, 1] = 1.0
    layer = random_layer(family, batch=(2,), generator=generator)
    stream, before = StepwiseEM(layer), parameters(layer)
    # Until every mixture has seen a row, nothing moves, and nothing is forgotten.
    assert stream.partial_fit(x[:30, None], hot[:30]) == []
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(layer), strict=True))
    stream.partial_fit(x[30:50, None], hot[30:50])
    twin = random_layer(family, batch=(2,), generator=generator)
    for mine, theirs in zip(twin.parameters(), before, strict=True):
        mine.data.copy_(theirs)
    m_step(twin, e_step(twin, x[:, None], hot))
    for a, b in zip(parameters(layer), parameters(twin), strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)
    still = parameters(layer)
    stream.partial_fit(x[:10, None], hot[:10])
    for a, b in zip(still, parameters(layer), strict=True):
        assert not torch.allclose(a[0], b[0], rtol=1e-3, atol=1e-3)
        assert torch.allclose(a[1], b[1], rtol=1e-12, atol=1e-12)


def test_events_and_other_responsibilities(generator: Generator) -> None:
    layer = GMMLayer(2, 2)
    stream = StepwiseEM(layer)
    with torch.no_grad():
        layer.means[1] = 1e9
    events = stream.partial_fit(rows(30, 2, generator))
    assert [(event.component, event.action) for event in events] == [((1,), "emptied")]
    stream = StepwiseEM(random_layer("full", generator=generator))
    x = rows(30, 2, generator)
    stream.update(e_step(stream.layer, x, responsibilities=hard_responsibilities_))
    assert running(stream).counts.mul(30).round(decimals=9).frac().abs().max() < 1e-9
    assert {f.name for f in fields(running(stream))} == set(stream.state_dict()["running"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"exponent": 0.5}, r"exponent must be in \(0.5, 1\], got 0.5"),
        ({"exponent": 1.1}, "exponent"),
        ({"exponent": float("nan")}, "exponent"),
        ({"offset": 0.5}, "offset must be >= 1, got 0.5"),
        ({"num_samples": 0}, "num_samples must be > 0, got 0"),
    ],
)
def test_refuses(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        StepwiseEM(GMMLayer(2, 2), **given)


def test_refuses_rows_and_stays_as_it_was(generator: Generator) -> None:
    layer = random_layer("full", generator=generator)
    stream = StepwiseEM(layer)
    stream.partial_fit(rows(20, 2, generator))
    before, state = parameters(layer), copy.deepcopy(stream.state_dict())
    with pytest.raises(InvalidDataError, match=r"row\(s\) 1"):
        stream.partial_fit([[0.0, 1.0], [float("nan"), 0.0]])
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(layer), strict=True))
    assert stream.num_batches == state["num_batches"]
    assert torch.equal(running(stream).counts, state["running"]["counts"])


def test_what_was_read_from_a_file_goes_to_the_device_of_the_layer(generator: Generator) -> None:
    layer = random_layer("full", generator=generator)
    stream = StepwiseEM(layer)
    stream.partial_fit(rows(20, 2, generator))
    again = StepwiseEM(GMMLayer(2, 3, device="meta"))
    again.load_state_dict(stream.state_dict())
    state = again.state_dict()
    assert {value.device.type for value in (state["seen"], *state["running"].values())} == {"meta"}
    assert {value.dtype for value in state["running"].values()} == {torch.float64}
