"""What every kind of noise promises with every family and batch shape."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from support.covering import covering
from support.random_layers import FAMILIES, random_layer, rows
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal
from torch.func import functional_call

from gmm_lightning import GMMLayer, SufficientStatistics, e_step, fit_em, m_step, resolve_priors
from gmm_lightning.em import (
    hard_responsibilities_,
    softmax_responsibilities_,
    tempered_responsibilities_,
)
from gmm_lightning.noise import Noise, Uniform, registry

pytestmark = pytest.mark.usefixtures("double")

BATCHES = ((), (2, 3))
KINDS = {
    "soft": softmax_responsibilities_,
    "hard": hard_responsibilities_,
    "tempered": tempered_responsibilities_(0.3),
}
# Away from the defaults, where there are choices.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "uniform": [{}, {"volume": 900.0}, {"low": [-9.0, -8.0], "high": [12.0, 11.0]}],
    "gaussian": [{}, {"mean": [1.0, 0.0], "covariance": [[9.0, 2.0], [2.0, 7.0]]}],
}
NOISES = [(name, options) for name in registry.names for options in OPTIONS.get(name, [{}])]


def names(noise: tuple[str, dict[str, Any]]) -> str:
    return "-".join([noise[0], *noise[1]])


over_noises = pytest.mark.parametrize("noise", NOISES, ids=names)
over_families = pytest.mark.parametrize("family", FAMILIES)


def make(noise: tuple[str, dict[str, Any]], **options: Any) -> Noise:
    return registry.get(noise[0])(**noise[1], **options)


def scattered(n: int, generator: Generator, batch: tuple[int, ...] = ()) -> Tensor:
    """Rows of three clusters, a fifth of them anywhere."""
    x = rows(n, 2, generator, batch)
    x[::5] = 24 * torch.rand(x[::5].shape, generator=generator) - 10
    return x


def noisy_layer(
    noise: tuple[str, dict[str, Any]],
    x: Tensor,
    generator: Generator,
    family: str = "full",
    batch: tuple[int, ...] = (),
    **options: Any,
) -> GMMLayer:
    """A layer with parameters at random and noise that has its values."""
    plain = random_layer(family, batch=batch, generator=generator)
    layer = GMMLayer(2, 3, family, noise=make(noise, **options), batch_shape=batch)
    with torch.no_grad():
        for name, value in plain.named_parameters():
            layer.get_parameter(name).copy_(value)
    resolve_priors(layer, x)
    return layer


def log_joint_of(layer: GMMLayer, x: Tensor) -> Tensor:
    """Log joint densities by torch's distributions, the noise as the last column."""
    assert layer.noise is not None
    p0 = layer.noise.weight.unsqueeze(-1)
    dense = MultivariateNormal(layer.means, layer.covariance_matrix)
    joint = ((1 - p0) * layer.weights).log() + dense.log_prob(x.unsqueeze(-2))
    u = layer.noise.log_density(x).unsqueeze(-1) + p0.log()
    return torch.cat([joint, u], -1).detach()


@over_noises
@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_the_density_is_that_of_a_mixture_of_one_component_more(
    noise: tuple[str, dict[str, Any]], batch: tuple[int, ...], generator: Generator
) -> None:
    x = scattered(40, generator, batch)
    layer = noisy_layer(noise, x, generator, batch=batch, weight=0.2)
    joint = log_joint_of(layer, x)
    # The same float64 operations in another order, on numbers of order ten.
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(layer(x), joint.logsumexp(-1), **close)
    torch.testing.assert_close(layer.log_joint(x), joint[..., :-1], **close)
    torch.testing.assert_close(layer.log_joint_with_noise(x), joint, **close)
    shares = joint.softmax(-1)
    torch.testing.assert_close(layer.responsibilities(x), shares[..., :-1], **close)
    torch.testing.assert_close(layer.log_responsibilities(x).exp(), shares[..., :-1], **close)
    torch.testing.assert_close(layer.noise_probability(x), shares[..., -1], **close)
    best = joint.argmax(-1)
    assert torch.equal(layer.predict(x), torch.where(best == 3, -1, best))
    assert bool((layer.predict(x) == -1).any())


@pytest.mark.parametrize(
    ("family", "noise", "kind", "batch", "kernel"),
    covering(FAMILIES, NOISES, KINDS, BATCHES, ("differences", "products")),
)
def test_statistics_are_those_of_a_loop(
    family: str,
    noise: tuple[str, dict[str, Any]],
    kind: str,
    batch: tuple[int, ...],
    kernel: str,
    generator: Generator,
) -> None:
    # With so few rows differences are taken, with so many products.
    x = scattered(30 if kernel == "differences" else 2000, generator, batch)
    layer = noisy_layer(noise, x, generator, family, batch, weight=0.2)
    weight = torch.rand(len(x), *batch, generator=generator)
    stats = e_step(layer, x, weight, responsibilities=KINDS[kind])
    joint = log_joint_of(layer, x)
    if kind == "hard":
        log_prob, best = joint.max(-1)
        resp = torch.nn.functional.one_hot(best, 4).double()
    else:
        beta = 0.3 if kind == "tempered" else 1.0
        log_prob, resp = (beta * joint).logsumexp(-1) / beta, (beta * joint).softmax(-1)
    resp = resp * weight.unsqueeze(-1)
    diff = x.unsqueeze(-2) - layer.means.detach()
    second = torch.einsum("n...k,n...ki,n...kj->...kij", resp[..., :3], diff, diff)
    if layer.covariance.tied:
        second = second.sum(-3, keepdim=True)
    expected = {
        "counts": resp[..., :3].sum(0),
        "noise": resp[..., 3].sum(0),
        "first": torch.einsum("n...k,n...ki->...ki", resp[..., :3], diff),
        "second": layer.covariance.project(second),
        "log_likelihood": (weight * log_prob).sum(0),
        "total_weight": weight.sum(0),
    }
    for name, value in expected.items():
        found = getattr(stats, name)
        assert found.shape == value.shape, name
        # As for the kernels without noise.
        assert (found - value).abs().max() <= 1e-11 * value.abs().max(), name


def assert_same(a: SufficientStatistics, b: SufficientStatistics) -> None:
    for name in ("counts", "first", "second", "log_likelihood", "noise"):
        one, other = getattr(a, name), getattr(b, name)
        # Another order of a few hundred additions.
        assert (one - other).abs().max() <= 1e-12 * other.abs().max(), name


@over_noises
@over_families
def test_parts_add_up_and_weights_count_rows(
    family: str, noise: tuple[str, dict[str, Any]], generator: Generator
) -> None:
    x = scattered(60, generator)
    layer = noisy_layer(noise, x, generator, family)
    whole = e_step(layer, x)
    assert_same(e_step(layer, x[:17]) + e_step(layer, x[17:]), whole)
    assert_same(e_step(layer, x, chunk_size=7), whole)
    weight = torch.ones(60)
    weight[:20] = 2.0
    assert_same(e_step(layer, torch.cat([x, x[:20]])), e_step(layer, x, weight))
    assert torch.equal(whole.unpack(whole.pack()).noise, whole.noise)
    twice = whole.scaled(torch.tensor(2.0))
    assert torch.equal(twice.total_weight, 2 * whole.total_weight)
    assert float(whole.normalized().total_weight) == pytest.approx(1, rel=1e-15)


@over_noises
@over_families
def test_em_is_monotone_and_ends_where_every_gradient_is_zero(
    family: str, noise: tuple[str, dict[str, Any]], generator: Generator
) -> None:
    x = scattered(200, generator)
    layer = GMMLayer(2, 2, family, noise=make(noise, weight=0.1, concentration=[3.0, 2.0]))
    result = fit_em(layer, x, tol=1e-13, max_iter=3000, generator=1)
    history = torch.tensor(result.history)
    # Rounding of a sum of 200 terms of order ten.
    assert float(history.diff().min()) > -1e-12
    objective = layer.objective(x)
    assert float(objective.detach()) == pytest.approx(result.objective, rel=1e-12)
    objective.backward()
    assert layer.noise is not None
    # What remains to be gained is quadratic in the gradient: 1e-13 nats leave about its root.
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) < 1e-5, name
    assert 0.02 < float(layer.noise.weight.detach()) < 0.6


@over_noises
def test_one_step_is_the_closed_form(
    noise: tuple[str, dict[str, Any]], generator: Generator
) -> None:
    x = scattered(80, generator)
    layer = noisy_layer(noise, x, generator, concentration=[4.0, 2.5])
    stats = e_step(layer, x)
    m_step(layer, stats)
    assert layer.noise is not None
    expected = (stats.noise + 3.0) / (80 + 3.0 + 1.5)
    assert float(layer.noise.weight.detach()) == pytest.approx(float(expected), rel=1e-13)
    weights = stats.counts / stats.counts.sum()
    torch.testing.assert_close(layer.weights.detach(), weights, rtol=1e-13, atol=0)


@over_noises
def test_a_fixed_weight_stays_bit_for_bit(
    noise: tuple[str, dict[str, Any]], generator: Generator
) -> None:
    x = scattered(200, generator)
    layer = GMMLayer(2, 2, noise=make(noise, weight=0.15, fixed=True))
    assert layer.noise is not None
    before = layer.noise.logit.clone()
    fit_em(layer, x, generator=0, num_restarts=2, max_iter=60)
    assert torch.equal(layer.noise.logit, before)
    assert float(layer.noise.weight) == pytest.approx(0.15, rel=1e-15)
    assert [name for name, _ in layer.named_parameters()] == [
        "mixture_logits",
        "means",
        "raw_scale",
    ]


@over_noises
def test_a_batch_is_a_loop_and_restarts_are_its_best(
    noise: tuple[str, dict[str, Any]], generator: Generator
) -> None:
    x = scattered(150, generator, (2,))
    labels = torch.arange(150) % 2
    batch = GMMLayer(2, 2, noise=make(noise), batch_shape=(2,))
    together = fit_em(batch, x, initializer=labels, max_iter=40, tol=0, acceleration=None)
    for b in range(2):
        single = GMMLayer(2, 2, noise=make(noise))
        alone = fit_em(single, x[:, b], initializer=labels, max_iter=40, tol=0, acceleration=None)
        assert batch.noise is not None
        assert single.noise is not None
        # Forty steps that carry the rounding of another order of sums on.
        assert float(together.objective[b]) == pytest.approx(alone.objective, rel=1e-10)
        torch.testing.assert_close(batch.noise.weight[b], single.noise.weight, rtol=1e-8, atol=0)
    several = GMMLayer(2, 2, noise=make(noise))
    found = fit_em(several, x[:, 0], num_restarts=3, generator=2)
    assert found.objective == pytest.approx(max(found.restart_objectives), rel=1e-12)
    assert float(several.objective(x[:, 0]).detach()) == pytest.approx(found.objective, rel=1e-12)


@over_noises
def test_gradcheck(noise: tuple[str, dict[str, Any]], generator: Generator) -> None:
    x = scattered(4, generator)
    layer = noisy_layer(noise, scattered(50, generator), generator, concentration=2.0)
    known = [name for name, _ in layer.named_parameters()]
    assert "noise.logit" in known

    def log_prob(*values: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(known, values, strict=True)), (x,))

    inputs = tuple(p.detach().clone().requires_grad_() for p in layer.parameters())
    assert torch.autograd.gradcheck(log_prob, inputs, fast_mode=True)
    layer.log_prior().backward()
    assert layer.noise is not None
    # d/dl [(a - 1) log p0] = (a - 1) (1 - p0).
    expected = 1 - layer.noise.weight
    torch.testing.assert_close(layer.noise.logit.grad, expected.detach(), rtol=1e-12, atol=0)


@over_noises
def test_copies_are_bit_identical(
    noise: tuple[str, dict[str, Any]], generator: Generator, tmp_path: Any
) -> None:
    x = scattered(50, generator)
    layer = noisy_layer(noise, x.unsqueeze(1), generator, batch=(2,), concentration=[2.0, 3.0])
    read = GMMLayer.from_config(layer.to_config())
    read.load_state_dict(layer.state_dict())
    layer.save_pretrained(tmp_path)
    for twin in (read, copy.deepcopy(layer), GMMLayer.from_pretrained(tmp_path)):
        rows_of_both = x.unsqueeze(1)
        assert torch.equal(twin(rows_of_both), layer(rows_of_both))
        assert torch.equal(twin.log_prior(), layer.log_prior())
        assert twin.to_config() == layer.to_config()
    layer.reset_parameters()
    assert layer.noise is not None
    assert bool((layer.noise.weight == layer.noise.weight[0]).all())
    assert layer.noise.resolved == ({"volume", "low", "mean"} & noise[1].keys() != set())


@over_noises
def test_missing_entries_have_the_density_of_the_others(
    noise: tuple[str, dict[str, Any]], generator: Generator
) -> None:
    x = scattered(50, generator)
    layer = noisy_layer(noise, x, generator)
    own = layer.noise
    assert own is not None
    part = x.clone()
    part[:10, 0], part[5:15, 1] = math.nan, math.nan
    found = own.log_density(part, "marginalize")
    assert torch.equal(found[15:], own.log_density(x)[15:])
    assert torch.equal(found[5:10], torch.zeros(5))
    if isinstance(own, Uniform) and own.volume is not None:
        expected = torch.full((5,), -0.5 * math.log(own.volume))
    elif isinstance(own, Uniform):
        inside = (x[:5, 1] >= own.low[1]) & (x[:5, 1] <= own.high[1])
        expected = torch.where(inside, -(own.high[1] - own.low[1]).log(), -torch.inf)
    else:
        covariance: Tensor = own.scale_tril @ own.scale_tril.mT  # pyright: ignore
        mean: Any = own.mean
        normal = torch.distributions.Normal(mean[1], covariance[1, 1].sqrt())
        expected = normal.log_prob(x[:5, 1])
    torch.testing.assert_close(found[:5], expected, rtol=1e-13, atol=1e-13)
    assert bool(torch.isfinite(layer.log_prob(part, "marginalize")).all())
