"""What a mixture does by itself is what the functions do, and comes back as a mixture."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from support.random_layers import BATCHES, FAMILIES, random_layer, rounding, rows

from gmm_lightning import GMMLayer, MixtureOfGaussians, distributions, losses
from gmm_lightning.distributions import (
    affine,
    convolve,
    log_prob_observed,
    moment_match,
    product,
    prune,
    reduce,
    squared_mahalanobis,
)
from gmm_lightning.errors import InvalidArgumentError

over_families = pytest.mark.parametrize("family", FAMILIES)
over_batches = pytest.mark.parametrize("batch", BATCHES, ids=str)


class Named(MixtureOfGaussians):
    """A type of one's own."""


def mixture_of(
    family: str, generator: torch.Generator, batch: tuple[int, ...] = (), d: int = 3
) -> Named:
    own = random_layer(family, generator=generator, batch=batch, num_features=d).distribution()
    return Named(own.mixture_logits, own.means, own.scale, own.covariance)


def test_a_mixture_comes_back_as_what_it_was(generator: torch.Generator) -> None:
    p = mixture_of("diag", generator)
    made = [
        p.marginal([0, 2]),
        p.condition([1], 0.5),
        p.moment_match(),
        p.component(1),
        p.expand((2,)),
        affine(p, torch.eye(3)[:2]),
        convolve(p, p),
        product(p, p),
        prune(p, 0.1),
        reduce(p, 2),
    ]
    assert {type(mixture) for mixture in made} == {Named}
    assert p.marginal([0, 2]).covariance is p.condition([1], 0.5).covariance is p.covariance
    assert repr(p).startswith("Named(num_components=3")


@over_batches
@over_families
def test_one_gaussian_of_the_same_moments(
    family: str, batch: tuple, generator: torch.Generator
) -> None:
    mixture = mixture_of(family, generator, batch)
    one = mixture.moment_match()
    assert one.num_components == 1
    assert one.batch_shape == batch
    for name in ("mean", "variance", "covariance_matrix"):
        found, expected = getattr(one, name), getattr(mixture, name)
        torch.testing.assert_close(found, expected, rtol=rounding(1e-12), atol=rounding(1e-12))
    assert torch.equal(moment_match(mixture).means, one.means)


@pytest.mark.usefixtures("double")
def test_moment_matching_differentiates(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    own = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def density(logits: torch.Tensor, means: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        family = layer.covariance
        mixture = MixtureOfGaussians(logits, means, family.scale(raw), family)
        return mixture.moment_match().log_prob(torch.ones(2))

    assert torch.autograd.gradcheck(density, own)


@over_batches
@over_families
def test_mahalanobis(family: str, batch: tuple, generator: torch.Generator) -> None:
    mixture = mixture_of(family, generator, batch)
    x = rows(5, 3, generator, batch)
    gap = (x.unsqueeze(-2) - mixture.means).unsqueeze(-1)
    square = (gap.mT @ mixture.component_covariances.inverse() @ gap).squeeze((-2, -1))
    found = mixture.mahalanobis(x)
    tolerance = rounding(1e-11)
    torch.testing.assert_close(found, square.sqrt(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(squared_mahalanobis(mixture, x), square, rtol=tolerance, atol=1e-9)
    # On a mean the root has no infinite slope.
    x = mixture.means[..., 0, :].detach().clone().requires_grad_()
    assert torch.isfinite(torch.autograd.grad(mixture.mahalanobis(x).sum(), x)[0]).all()
    with pytest.raises(InvalidArgumentError, match="3 features in the last axis"):
        mixture.mahalanobis(torch.zeros(2))


@over_batches
@over_families
def test_the_score_is_the_gradient(family: str, batch: tuple, generator: torch.Generator) -> None:
    mixture = mixture_of(family, generator, batch)
    x = rows(5, 3, generator, batch).requires_grad_()
    (expected,) = torch.autograd.grad(mixture.log_prob(x).sum(), x)
    tolerance = rounding(1e-11)
    torch.testing.assert_close(mixture.grad_log_prob(x), expected, rtol=tolerance, atol=tolerance)


# -- rows with missing entries ------------------------------------------------------------------


@over_batches
@over_families
def test_missing_entries_are_integrated_out(
    family: str, batch: tuple, generator: torch.Generator
) -> None:
    mixture = mixture_of(family, generator, batch)
    x = rows(12, 3, generator, batch)
    gone = torch.rand(x.shape, generator=generator, device=x.device) < 0.4
    x[gone] = torch.nan
    found = mixture.log_prob(x, missing="marginalize")
    assert torch.equal(found, log_prob_observed(mixture, x))
    assert found.shape == x.shape[:-1]
    # Row by row with the marginal of its own mixture.
    for cell in torch.cartesian_prod(*(torch.arange(n) for n in x.shape[:-1])).view(
        -1, x.dim() - 1
    ):
        at = tuple(cell.tolist())
        kept = (~gone[at]).nonzero().flatten()
        expected = mixture.mean.new_zeros(())
        if len(kept):
            alone = mixture.marginal(kept).log_prob(x[at][kept])
            expected = alone[at[1:]]
        tolerance = rounding(1e-12)
        torch.testing.assert_close(found[at], expected, rtol=tolerance, atol=tolerance)
    # By default nobody looks: a NaN stays one.
    assert torch.equal(mixture.log_prob(x).isnan(), gone.any(-1))


@pytest.mark.usefixtures("double")
def test_gradients_of_rows_with_missing_entries(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator, num_features=3)
    x = torch.tensor([[0.3, math.nan, 1.0], [math.nan, math.nan, math.nan], [1.0, 2.0, 3.0]])
    own = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def density(logits: torch.Tensor, means: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        family = layer.covariance
        mixture = MixtureOfGaussians(logits, means, family.scale(raw), family)
        return mixture.log_prob(x, missing="marginalize")

    assert torch.autograd.gradcheck(density, own)


def test_missing_is_asked_for_by_its_word(generator: torch.Generator) -> None:
    mixture = mixture_of("full", generator)
    assert mixture.log_prob(torch.zeros(0, 3), missing="marginalize").shape == (0,)
    for wrong in ("ignore", True):
        with pytest.raises(InvalidArgumentError, match="missing must be None or 'marginalize'"):
            mixture.log_prob(torch.zeros(2, 3), missing=wrong)
    with pytest.raises(InvalidArgumentError, match="3 features in the last axis"):
        mixture.log_prob(torch.zeros(2), missing="marginalize")


# -- layers and what is no mixture --------------------------------------------------------------

# What layers and commands draw by has its options checked, and is given a mixture.
GIVEN = ("draw_samples", "draw_reparameterized")
OF_MIXTURES = {
    name: call
    for module in (distributions, losses)
    for name in module.__all__
    if name not in GIVEN and inspect.isfunction(call := getattr(module, name))
    if {"mixture", "q"} & {*inspect.signature(call).parameters}
}


@pytest.mark.parametrize("name", OF_MIXTURES)
def test_a_function_takes_a_layer_and_names_what_is_no_mixture(name: str) -> None:
    """Before anything else: no other argument is looked at."""
    call = OF_MIXTURES[name]
    needed = [p.name for p in inspect.signature(call).parameters.values() if p.default is p.empty]
    mixtures = {"p", "q"} if "q" in needed else {"mixture"}
    given: dict[str, Any] = {n: GMMLayer(2, 3) if n in mixtures else None for n in needed}
    for wrong in mixtures:
        with pytest.raises(InvalidArgumentError, match=f"^{wrong} must be a mixture or a layer"):
            call(**(given | {wrong: "a"}))


# -- the layer passes on ------------------------------------------------------------------------


def test_a_layer_says_the_same(generator: torch.Generator) -> None:
    layer = random_layer("tied", generator=generator, num_features=3)
    mixture, x = layer.distribution(), rows(6, 3, generator)
    assert torch.equal(layer.grad_log_prob(x), mixture.grad_log_prob(x))
    x[0, 1] = torch.nan
    expected = mixture.log_prob(x, missing="marginalize")
    assert torch.equal(layer.log_prob(x, missing="marginalize"), expected)
    assert torch.equal(layer.log_prob(x).isnan(), x.isnan().any(-1))
    for options in ({"quasi": True}, {"antithetic": True}, {"temperature": 2.0}, {"component": 1}):
        for draw in ("sample", "rsample"):
            drawn = [
                getattr(of, draw)((2, 3), generator=torch.Generator().manual_seed(1), **options)
                for of in (layer, mixture)
            ]
            assert torch.equal(*drawn)
            assert drawn[0].shape == (2, 3, 3)


def test_a_layer_with_evidence_marginalizes_too(generator: torch.Generator) -> None:
    layer = GMMLayer(2, 2)
    before = layer.log_joint(torch.tensor([1.0, math.nan]), missing="marginalize")

    class Known(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([0.0, -5.0])

    layer.evidence = Known()
    after = layer.log_joint(torch.tensor([1.0, math.nan]), missing="marginalize")
    assert torch.equal(after, before + torch.tensor([0.0, -5.0]))
