"""Gradients by Fisher's identity against autograd through the log density."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gmm_lightning import GMMLayer
from gmm_lightning.covariances import registry
from gmm_lightning.em import (
    LikelihoodGradient,
    MixtureParameters,
    log_likelihood_and_gradient,
)
from gmm_lightning.errors import InvalidArgumentError


def drawn_layer(family: str, d: int = 3, k: int = 4, **options) -> GMMLayer:
    torch.manual_seed(3)
    options = {"dtype": torch.float64} | options
    layer = GMMLayer(d, k, family, **options)
    with torch.no_grad():
        for parameter in (layer.mixture_logits, layer.raw_scale):
            parameter.copy_(0.4 * torch.randn(parameter.shape))
    return layer


def by_autograd(layer: GMMLayer, x: Tensor, weight: Tensor | None = None, **how):
    log_prob = layer.log_prob(x, **how)
    total = log_prob if weight is None else weight * log_prob
    total = total.reshape(len(x), *layer.batch_shape).sum(0)
    own = dict(layer.named_parameters())
    found = torch.autograd.grad(total.sum(), list(own.values()))
    return total.detach(), dict(zip(own, found, strict=True))


def agree(layer: GMMLayer, x: Tensor, weight: Tensor | None = None, tolerance: float = 1e-9):
    log_likelihood, gradient = log_likelihood_and_gradient(layer, x, weight)
    expected, by_name = by_autograd(layer, x, weight)
    torch.testing.assert_close(
        log_likelihood, expected.to(log_likelihood), rtol=tolerance, atol=0.0
    )
    assert set(gradient) == set(by_name)
    for name, value in gradient.items():
        assert value.dtype == layer.means.dtype
        assert float((value - by_name[name]).abs().max() / by_name[name].abs().max()) < tolerance


@pytest.mark.parametrize("rows", [1, 40, 3000])
@pytest.mark.parametrize("family", registry.names)
def test_it_is_the_gradient_of_autograd(family: str, rows: int) -> None:
    layer = drawn_layer(family)
    agree(layer, 2 * torch.randn(rows, 3, dtype=torch.float64))


@pytest.mark.parametrize("family", registry.names)
def test_weights_count_rows(family: str) -> None:
    layer = drawn_layer(family)
    agree(layer, torch.randn(700, 3, dtype=torch.float64), torch.rand(700, dtype=torch.float64))


@pytest.mark.parametrize("family", ["full", "tied_diag"])
@pytest.mark.parametrize("batch", [(2,), (2, 3)])
def test_mixtures_of_a_batch_have_their_own(family: str, batch: tuple[int, ...]) -> None:
    layer = drawn_layer(family, batch_shape=batch)
    agree(layer, torch.randn(90, *batch, 3, dtype=torch.float64))


@pytest.mark.parametrize("noise", ["uniform", "gaussian"])
@pytest.mark.parametrize("family", ["full", "tied"])
def test_the_weight_of_noise_has_one(family: str, noise: str) -> None:
    from gmm_lightning import resolve_priors

    layer = drawn_layer(family, noise=noise)
    x = torch.randn(300, 3, dtype=torch.float64)
    resolve_priors(layer, x)
    agree(layer, x)


def test_float32_is_as_exact_as_it_can_be() -> None:
    agree(drawn_layer("full", dtype=torch.float32), torch.randn(3000, 3), tolerance=1e-4)


def test_missing_entries_are_integrated_over() -> None:
    layer = drawn_layer("full")
    x = torch.randn(300, 3, dtype=torch.float64)
    x[::3, 1] = torch.nan
    _, gradient = log_likelihood_and_gradient(layer, x, missing="em")
    _, expected = by_autograd(layer, x, missing="marginalize")
    for name, value in gradient.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", registry.names)
def test_many_parameters_at_once(family: str) -> None:
    layer = drawn_layer(family)
    x = torch.randn(900, 3, dtype=torch.float64)
    likelihood = LikelihoodGradient(layer, x)
    start = MixtureParameters.from_layer(layer, 3)
    many = start.from_vector(start.to_vector() + 0.1 * torch.randn_like(start.to_vector()))
    together = likelihood(many)
    for m in range(3):
        alone = likelihood(many.select(torch.tensor([m])))
        torch.testing.assert_close(together[0][m : m + 1], alone[0])
        for a, b in zip(together[1], alone[1], strict=True):
            torch.testing.assert_close(a[m : m + 1], b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("family", registry.names)
def test_it_stands_in_a_graph(family: str) -> None:
    layer = drawn_layer(family, d=2, k=2)
    likelihood = LikelihoodGradient(layer, torch.randn(30, 2))
    start = MixtureParameters.from_layer(layer)

    def log_likelihood(vector: Tensor) -> Tensor:
        return likelihood.log_likelihood(start.from_vector(vector))

    assert torch.autograd.gradcheck(log_likelihood, start.to_vector().requires_grad_())


def test_the_number_of_mixtures_is_that_of_the_layer() -> None:
    layer = drawn_layer("full", batch_shape=(2,))
    likelihood = LikelihoodGradient(layer, torch.randn(30, 2, 3))
    one = MixtureParameters.from_layer(layer).select(torch.tensor([0]))
    with pytest.raises(InvalidArgumentError, match="a multiple of 2 mixtures"):
        likelihood(one)
