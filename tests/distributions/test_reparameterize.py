"""Draws with gradients: against closed forms, within their own standard errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.covering import covering
from support.goodness_of_fit import assert_same_distribution
from support.random_layers import BATCHES, FAMILIES, random_layer
from torch import Tensor

from gmm_lightning import MixtureOfGaussians
from gmm_lightning.distributions import Ball, gumbel_softmax_sample, score_function
from gmm_lightning.distributions.density import reparameterization
from gmm_lightning.errors import InvalidArgumentError

PARTS, ROWS = 20, 4000
double = pytest.mark.usefixtures("double")


def parameters(generator: torch.Generator) -> list[Tensor]:
    """Three components of which the farthest are 4 standard deviations apart."""
    logits = torch.tensor([0.3, -0.4, 0.2])
    means = torch.tensor([[-2.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    factor = torch.eye(2) + 0.3 * torch.randn(3, 2, 2, generator=generator).tril(-1)
    return [p.requires_grad_() for p in (logits, means, factor)]


def quadratic(x: Tensor) -> Tensor:
    matrix = torch.tensor([[1.0, 0.4], [-0.3, 0.5]])
    return ((x @ matrix) * x).sum(-1)


def quadratic_mean(weights: Tensor, m: Tensor, s: Tensor) -> Tensor:
    matrix = torch.tensor([[1.0, 0.4], [-0.3, 0.5]])
    return (weights * ((matrix * s.mT).sum((-2, -1)) + ((m @ matrix) * m).sum(-1))).sum()


def wave(x: Tensor) -> Tensor:
    return (x @ torch.tensor([0.8, -1.1])).cos()


def wave_mean(weights: Tensor, m: Tensor, s: Tensor) -> Tensor:
    """Real part of the characteristic function."""
    t = torch.tensor([0.8, -1.1])
    return (weights * (m @ t).cos() * (-0.5 * (s @ t) @ t).exp()).sum()


CLOSED = {"quadratic": (quadratic, quadratic_mean), "wave": (wave, wave_mean)}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "quasi": {"quasi": True},
    "antithetic": {"antithetic": True},
    "tempered": {"temperature": 1.7},
    "component": {"component": 2},
    "score": {},
}


def expectation(
    own: list[Tensor], closed: Callable[..., Tensor], temperature: float, component: int | None
) -> Tensor:
    logits, means, factor = own
    s = temperature * factor.tril() @ factor.tril().mT
    weights = (logits / temperature).softmax(-1)
    if component is not None:
        weights = torch.nn.functional.one_hot(torch.tensor(component), 3) + 0 * logits
    return closed(weights, means, s)


@double
@pytest.mark.parametrize(("how", "function"), covering(OPTIONS, CLOSED, strength=1))
def test_against_closed_forms(how: str, function: str, generator: torch.Generator) -> None:
    """Value and gradient, weights included, from twenty independent parts."""
    own, options = parameters(generator), OPTIONS[how]
    of, closed = CLOSED[function]
    value = expectation(own, closed, options.get("temperature", 1.0), options.get("component"))
    expected = [value, *torch.autograd.grad(value, own)]
    parts = []
    for _ in range(PARTS):
        mixture = MixtureOfGaussians(own[0], own[1], own[2].tril())
        if how == "score":
            mean = score_function(mixture, of, ROWS, generator)
        else:
            mean = of(mixture.rsample(ROWS, generator=generator, **options)).mean()
        grads = torch.autograd.grad(mean, own, materialize_grads=True)
        parts.append(torch.cat([g.detach().flatten() for g in (mean, *grads)]))
    estimates = torch.stack(parts)
    error = estimates.std(0) / PARTS**0.5
    # The upper triangle of the factors has no gradient and no error.
    gap = (estimates.mean(0) - torch.cat([g.detach().flatten() for g in expected])).abs()
    assert (gap <= 5 * error + 1e-12).all(), (gap / error, how)
    # Able to fail: the standard errors are small beside what they measure.
    assert error.max() < 0.2


@pytest.mark.parametrize(("family", "batch"), covering(FAMILIES, BATCHES, strength=1))
def test_they_are_the_draws_of_sample(
    family: str, batch: tuple, generator: torch.Generator
) -> None:
    layer = random_layer(family, batch=batch, generator=generator)
    assert layer.distribution().has_rsample
    which = torch.zeros(batch, dtype=torch.long, device=generator.device)
    for options in ({}, {"quasi": True}, {"component": 1}, {"component": which}):
        for shape in ((), 0, 5, (2, 3)):
            seeds = (torch.Generator(generator.device).manual_seed(7) for _ in range(2))
            x = layer.sample(shape, generator=next(seeds), **options)
            moving = layer.rsample(shape, generator=next(seeds), **options)
            torch.testing.assert_close(moving.detach(), x)
            assert moving.requires_grad
            used = [layer.means, layer.raw_scale]
            used += [] if "component" in options else [layer.mixture_logits]
            for parameter, grad in zip(used, torch.autograd.grad(moving.sum(), used), strict=True):
                assert torch.isfinite(grad).all(), parameter.shape


@double
def test_gradients_of_given_components_go_to_them(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    z = torch.tensor([0, 2, 2, 0])
    x = layer.rsample(4, component=z, generator=generator)
    x.sum().backward()
    assert layer.means.grad.tolist() == [[2.0, 2.0], [0.0, 0.0], [2.0, 2.0]]


@double
def test_soft_choices_become_choices(generator: torch.Generator) -> None:
    own = parameters(generator)
    mixture = MixtureOfGaussians(own[0], own[1], own[2].tril())
    soft = gumbel_softmax_sample(mixture, torch.Size([20_000]), 1e-3, generator)
    assert_same_distribution(soft.detach(), mixture.sample(20_000, generator=generator))
    grads = torch.autograd.grad(mixture.rsample(100, relaxed=0.5, generator=generator).sum(), own)
    assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in grads)


def test_relaxed_draws_are_finite_where_a_uniform_number_is_zero(monkeypatch) -> None:
    monkeypatch.setattr(
        reparameterization, "uniforms", lambda like, shape, _: like.new_zeros(shape)
    )
    mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
    assert bool(mixture.rsample(3, relaxed=0.5).isfinite().all())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"relaxed": 0}, "relaxed must be a finite number > 0, got 0"),
        ({"relaxed": float("nan")}, "relaxed must be a finite number > 0, got nan"),
        ({"relaxed": True}, "relaxed must be a finite number > 0, got True"),
        ({"relaxed": 0.5, "component": 1}, "they take no component"),
        ({"relaxed": 0.5, "quasi": True}, "they take no component, quasi or antithetic"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0"),
        ({"component": 3}, r"component must be in \[0, 3\), got 3"),
        ({"quasi": True, "antithetic": True}, "choose one"),
    ],
)
def test_refuses(options: dict[str, Any], words: str, generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    with pytest.raises(InvalidArgumentError, match=words):
        layer.rsample(5, **options)


def test_regions_are_not_for_gradients(generator: torch.Generator) -> None:
    with pytest.raises(TypeError, match="within"):
        random_layer("full", generator=generator).rsample(5, within=Ball([0.0, 0.0], 1.0))
