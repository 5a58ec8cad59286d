"""Far from the origin, at weight 0, in many dimensions: where formulas lose their digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gmm_lightning import GMMLayer
from gmm_lightning.distributions import (
    MixtureOfGaussians,
    affine,
    entropy_bounds,
    impute,
    kl_divergence,
    l2_distance,
    modes,
    product,
    reduce,
    unscented,
)
from gmm_lightning.errors import InvalidArgumentError


def round_one(mean: torch.Tensor, std: float = 1.0) -> MixtureOfGaussians:
    d = mean.shape[-1]
    return MixtureOfGaussians(mean.new_zeros(1), mean[None], std * torch.eye(d).to(mean)[None])


@pytest.mark.parametrize("least", [-200.0, -math.inf])
def test_a_weight_of_zero_has_a_finite_slope(least: float) -> None:
    for function in (
        lambda m: entropy_bounds(m)[1],
        lambda m: m.moment_match().scale.sum(),
    ):
        logits = torch.tensor([0.0, least, least], dtype=torch.float32, requires_grad=True)
        means = torch.tensor([[0.0], [1.0], [2.0]])
        mixture = MixtureOfGaussians(logits, means, torch.ones(3, 1, 1))
        function(mixture).sum().backward()
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("std", [1.0, 0.1])
def test_l2_distance_in_a_hundred_dimensions(std: float) -> None:
    # |p - q|^2 = 2 N(0 | 0, 2 s^2 I) (1 - exp(-d^2 / (4 s^2))) for equal Gaussians d apart.
    for dtype in (torch.float32, torch.float64):
        mean = torch.zeros(100, dtype=dtype)
        p, q = round_one(mean, std), round_one(mean + 3, std)
        log = 0.5 * (math.log(2) - 50 * math.log(4 * math.pi * std**2))
        assert l2_distance(p, q).log().item() == pytest.approx(log, rel=1e-5)


def test_l2_distance_of_equal_densities_has_a_slope_of_zero() -> None:
    layer = GMMLayer(2, 3)
    distance = l2_distance(layer, layer)
    assert distance == 0
    distance.backward()
    assert all(not p.grad.any() for p in layer.parameters())


def test_a_divergence_broadcasts_one_against_many(generator: torch.Generator) -> None:
    p = round_one(torch.zeros(2))
    means = torch.arange(3.0)[:, None, None].expand(3, 1, 2)
    q = MixtureOfGaussians(torch.zeros(3, 1), means, torch.eye(2).expand(3, 1, 2, 2))
    estimate = kl_divergence(p, q, 20_000, generator)
    exact = means[:, 0].square().sum(-1) / 2
    assert ((estimate.value - exact).abs() <= 5 * estimate.standard_error + 1e-6).all()
    with pytest.raises(InvalidArgumentError, match=r"broadcast, got \(3,\) and \(4,\)"):
        product(q, four(q))


def four(q: MixtureOfGaussians) -> MixtureOfGaussians:
    first = MixtureOfGaussians(q.mixture_logits[0], q.means[0], q.scale[0])
    return first.expand((4,))


def test_modes_far_from_the_origin_are_the_means() -> None:
    factor = torch.tensor([[1.0, 0.0], [0.9999, 0.01414]])
    mixture = MixtureOfGaussians(torch.zeros(1), torch.full((1, 2), 1e3), factor[None])
    assert torch.equal(modes(mixture), mixture.means)


@pytest.mark.parametrize("mean", [0.0, 50.0, 1e5])
def test_the_identity_keeps_a_distribution_in_float32(mean: float) -> None:
    means = torch.full((1, 2), mean, dtype=torch.float32)
    image = unscented(round_one(means[0]), lambda x: x)
    expected = torch.eye(2, dtype=torch.float32)[None]
    torch.testing.assert_close(image.component_covariances, expected, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(image.means, means)


@pytest.mark.parametrize("apart", [1e-2, 1e-3, 1e-4])
def test_the_identity_keeps_correlated_features_in_float32(apart: float) -> None:
    factor = torch.tensor([[[1.0, 0.0], [1.0, apart]]], dtype=torch.float32)
    mixture = MixtureOfGaussians(factor.new_zeros(1), factor.new_zeros(1, 2), factor)
    image = unscented(mixture, lambda x: x)
    # In float64 the pivot `1 + apart^2 - 1` has an error of some eps / apart^2: 1e-8 of it.
    torch.testing.assert_close(image.mixture().scale_tril, factor, rtol=1e-7, atol=0.0)


def test_units_of_an_affine_map_are_arbitrary() -> None:
    mixture = round_one(torch.zeros(2))
    scaled = affine(mixture, torch.diag(torch.tensor([1.0, 1e-7])))
    assert torch.allclose(scaled.variance, torch.tensor([1.0, 1e-14]))
    for matrix in (torch.ones(2, 2), torch.full((2, 2), math.nan)):
        with pytest.raises(InvalidArgumentError, match="depend on each other"):
            affine(mixture, matrix)


def test_components_far_apart_merge_in_float32() -> None:
    means = torch.tensor([[0.0, 0.0], [1e4, 1e4], [2e4, 2e4]])
    mixture = MixtureOfGaussians(torch.zeros(3), means, torch.eye(2).repeat(3, 1, 1))
    merged, matched = reduce(mixture, 1), mixture.moment_match()
    assert torch.allclose(merged.covariance_matrix, matched.covariance_matrix, rtol=1e-5)


def test_a_product_promotes() -> None:
    p, q = round_one(torch.zeros(2)), round_one(torch.zeros(2, dtype=torch.float64))
    assert product(p, q).means.dtype == torch.float64


def test_entries_that_are_there_stay() -> None:
    x = torch.tensor([[123456789.123, math.nan]], dtype=torch.float64)
    filled = impute(round_one(torch.zeros(2)), x)
    assert filled.dtype == torch.float64
    assert filled[0, 0] == x[0, 0]
    with pytest.raises(InvalidArgumentError, match="infinite"):
        impute(round_one(torch.zeros(2)), torch.tensor([[math.inf, math.nan]]))


@pytest.mark.parametrize("temperature", [1e-320, 1e-40])
def test_the_coldest_draws_are_the_heaviest_mean(temperature: float) -> None:
    layer = GMMLayer.from_parameters(
        torch.tensor([0.2, 0.8]), torch.tensor([[0.0], [5.0]]), torch.ones(2, 1, 1)
    )
    assert torch.allclose(layer.sample(4, temperature=temperature), torch.tensor(5.0))


def test_functions_take_layers_and_arrays() -> None:
    layer = GMMLayer(2, 3)
    assert reduce(layer, 2).num_components == 2
    assert impute(layer, torch.tensor([[0.0, math.nan]])).shape == (1, 2)
    for function in (layer.log_prob, layer.distribution().log_prob, layer.predict):
        assert torch.equal(function(np.zeros((3, 2))), function(torch.zeros(3, 2)))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.marginal("a"), "indices must be integers"),
        (lambda m: m.marginal(None), "indices must be integers"),
        (lambda m: m.component(1.5), "component must be an integer, got 1.5"),
        (lambda m: m.sample(2.5), "number of rows or a tuple of numbers, got 2.5"),
        (lambda m: m.sample(None), "number of rows or a tuple of numbers, got None"),
        (lambda m: m.sample(2, component=torch.tensor([0, 1]), antithetic=True), "in pairs"),
        (lambda m: m.rsample(2, temperature=torch.ones((), requires_grad=True)), "no gradient"),
        (lambda m: m.log_prob(torch.zeros(5, 3)), "3|features"),
    ],
)
def test_wrong_arguments_are_typed(call: Callable[[Any], object], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        call(GMMLayer(2, 3).distribution())
