"""Mixtures under the transforms of `torch.func`, and in tensors without values: fake and meta."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.random_layers import FAMILIES, random_layer
from torch import Generator, Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

from gmm_lightning import GMMLayer
from gmm_lightning.covariances import as_covariance
from gmm_lightning.distributions import (
    MixtureOfGaussians,
    Shell,
    affine,
    cauchy_schwarz_divergence,
    crps,
    energy_score,
    entropy,
    entropy_bounds,
    gumbel_softmax_sample,
    kl_divergence,
    kl_variational,
    l2_distance,
    modes,
    moment_match,
    probability_integral_transform,
    product,
    quantile,
    regress,
    score_function,
    unscented,
)
from gmm_lightning.distributions.density import ancestral
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import SamplingHead
from gmm_lightning.losses import kl_to_mixture

pytestmark = pytest.mark.usefixtures("double")

over_families = pytest.mark.parametrize("family", FAMILIES)
# Products in another order.
CLOSE = {"rtol": 1e-11, "atol": 1e-11}
X, Y = torch.zeros(5, 2, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.float64)

# What a layer draws, by a seed.
DRAWS: dict[str, Callable[[GMMLayer, Generator], Tensor]] = {
    "sample": lambda layer, g: layer.sample(6, generator=g),
    "shape": lambda layer, g: layer.sample((2, 3), generator=g),
    "component": lambda layer, g: layer.sample(6, component=1, generator=g),
    "components": lambda layer, g: layer.sample(3, component=torch.arange(3), generator=g),
    "antithetic": lambda layer, g: layer.sample(6, antithetic=True, generator=g),
    "temperature": lambda layer, g: layer.sample(6, temperature=0.5, generator=g),
    "rsample": lambda layer, g: layer.rsample(6, generator=g),
    "pathwise": lambda layer, g: layer.rsample(6, component=1, generator=g),
    "relaxed": lambda layer, g: layer.rsample(6, relaxed=0.5, generator=g),
}
# Other functions of a mixture, of which some draw by torch's global source.
FUNCTIONS: dict[str, Callable[[MixtureOfGaussians], Any]] = {
    "log_prob": lambda m: m.log_prob(X),
    "grad_log_prob": lambda m: m.grad_log_prob(X),
    "covariance": lambda m: m.covariance_matrix,
    "moment_match": lambda m: moment_match(m).scale_tril,
    "marginal": lambda m: m.marginal([1]).scale_tril,
    "condition": lambda m: m.condition([0], Y).means,
    "regress": lambda m: regress(m, [0], Y),
    "affine": lambda m: affine(m, torch.ones(1, 2)).scale_tril,
    "product": lambda m: product(m, m).means,
    "unscented": lambda m: unscented(m, lambda x: x.square()).mixture().scale_tril,
    "modes": lambda m: modes(m, 5),
    "quantile": lambda m: quantile(m.marginal([0]), 0.3),
    "crps": lambda m: crps(m.marginal([0]), Y),
    "transform": lambda m: probability_integral_transform(m, X),
    "bounds": entropy_bounds,
    "kl_variational": lambda m: kl_variational(m, m.component(0)),
    "l2": lambda m: l2_distance(m, m.component(0)),
    "cauchy_schwarz": lambda m: cauchy_schwarz_divergence(m, m.component(0)),
    "kl_to_mixture": lambda m: kl_to_mixture(X, torch.ones_like(X), m),
    "full": lambda m: kl_to_mixture(X, torch.eye(2).expand(5, 2, 2), m),
    "torch": lambda m: m.to_torch().log_prob(X),
    "entropy": lambda m: entropy(m, 4),
    "kl": lambda m: kl_divergence(m, m.component(0), 4),
    "energy": lambda m: energy_score(m, X, 3),
    "gumbel": lambda m: gumbel_softmax_sample(m, torch.Size([4]), 0.5, None),
    "score": lambda m: score_function(m, lambda x: x.sum(-1), 4),
    "kl_samples": lambda m: kl_to_mixture(X, torch.ones_like(X), m, num_samples=3),
}


class Called(nn.Module):
    """A function of a layer as a forward pass, so that `functional_call` reaches it."""

    def __init__(self, layer: nn.Module, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self) -> Any:
        return self.function(self.layer)


def over_layers(function: Callable[[Any], Any], layers: list[GMMLayer], randomness: str) -> Any:
    """A function of each of several layers, by vmap over their stacked parameters."""
    calls = [Called(layer, function) for layer in layers]
    state = stack_module_state(calls)  # type: ignore[arg-type]
    call = lambda *own: functional_call(calls[0], own)  # noqa: E731
    return vmap(call, randomness=randomness)(*state)


def seeded(generator: Generator) -> Generator:
    return Generator(generator.device).manual_seed(3)


@over_families
def test_the_same_randomness_draws_what_each_layer_draws(family: str, generator: Generator) -> None:
    layers = [random_layer(family, generator=generator) for _ in range(3)]
    for name, draw in DRAWS.items():
        own = seeded(generator)
        found = over_layers(lambda layer, draw=draw, own=own: draw(layer, own), layers, "same")
        expected = torch.stack([draw(layer, seeded(generator)) for layer in layers])
        torch.testing.assert_close(found, expected, **CLOSE, msg=name)


@over_families
def test_different_randomness_has_the_distribution_of_each_layer(
    family: str, generator: Generator
) -> None:
    layers = [random_layer(family, generator=generator) for _ in range(2)]
    layers.append(layers[0])
    for draw in (
        lambda layer: layer.sample(4000),
        lambda layer: layer.rsample(4000),
        SamplingHead.forward,
    ):
        source = [SamplingHead(layer) for layer in layers]
        made = layers if draw is not SamplingHead.forward else source
        sized = draw if draw is not SamplingHead.forward else (lambda head: head(4000))
        x = over_layers(sized, made, "different")  # type: ignore[arg-type]
        assert not torch.equal(x[0], x[2])
        for mine, layer in zip(x, layers, strict=True):
            mixture = layer.distribution()
            # Six standard errors.
            error = 6 * (mixture.variance / len(mine)).sqrt()
            assert bool(((mine.mean(0) - mixture.mean).abs() < error).all())


# Torch says that it maps `log_ndtr` one by one.
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@over_families
def test_functions_of_mixtures(family: str, generator: Generator) -> None:
    layers = [random_layer(family, generator=generator) for _ in range(2)]
    for name, function in FUNCTIONS.items():
        torch.manual_seed(0)
        found = over_layers(lambda layer, f=function: f(layer.distribution()), layers, "same")
        for i, layer in enumerate(layers):
            torch.manual_seed(0)
            expected = function(layer.distribution())
            parts = expected if isinstance(expected, tuple) else (expected,)
            mine = found if isinstance(expected, tuple) else (found,)
            for a, b in zip(mine, parts, strict=True):
                torch.testing.assert_close(a[i], b, **CLOSE, msg=name)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_a_layer_that_is_made_inside(randomness: str) -> None:
    for draw in (
        lambda _: GMMLayer(3, 4).sample(2),
        lambda _: GMMLayer(3, 4, "tied", "niw").rsample(2, relaxed=0.5),
        lambda _: SamplingHead(GMMLayer(3, 4, "diag"), reparameterize=True)(2),
    ):
        x = vmap(draw, randomness=randomness)(torch.arange(3))
        assert x.shape == (3, 2, 3)
        assert torch.equal(x[0], x[1]) == (randomness == "same")


# Torch 2.13 on itself, when forward mode starts.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@over_families
def test_gradients_of_an_ensemble_are_those_of_its_members(
    family: str, generator: Generator
) -> None:
    """Inside of vmap, nothing says that parameters are differentiated outside of it."""
    layers = [random_layer(family, generator=generator) for _ in range(2)]
    stacked = [torch.stack(list(parts)) for parts in zip(*map(parameters_of, layers), strict=True)]

    def value(*own: Tensor) -> Tensor:
        x = mixture_of(family, *own).rsample(5, generator=seeded(generator))
        return x.square().sum()

    expected = [grad(value, argnums=(0, 1, 2))(*parameters_of(layer)) for layer in layers]
    inside = vmap(grad(value, argnums=(0, 1, 2)), randomness="same")(*stacked)
    mapped = vmap(value, randomness="same")
    outside = grad(lambda *own: mapped(*own).sum(), argnums=(0, 1, 2))(*stacked)
    direction = [torch.randn(p.shape, generator=generator) for p in stacked]
    slope = sum(
        (d[i] * g).sum() for i in range(2) for d, g in zip(direction, expected[i], strict=True)
    )
    for found in (inside, outside):
        for part, *own in zip(found, *expected, strict=True):
            torch.testing.assert_close(part, torch.stack(own), **CLOSE)
    tangent = jvp(lambda *own: mapped(*own).sum(), tuple(stacked), tuple(direction))[1]
    torch.testing.assert_close(tangent, slope, **CLOSE)
    # Draws without gradients have none in forward mode either.
    draw = lambda *own: mixture_of(family, *own).sample(5, generator=seeded(generator))  # noqa: E731
    own = tuple(parameters_of(layers[0]))
    assert not bool(jvp(draw, own, tuple(map(torch.ones_like, own)))[1].any())


@pytest.mark.parametrize("options", [{}, {"component": 1}, {"relaxed": 0.5}], ids=str)
@over_families
def test_forward_derivatives_of_draws_are_those_backwards(
    family: str, options: dict[str, Any], generator: Generator
) -> None:
    own = tuple(parameters_of(random_layer(family, generator=generator)))
    direction = tuple(torch.randn(p.shape, generator=generator) for p in own)

    def draw(*own: Tensor) -> Tensor:
        return mixture_of(family, *own).rsample(5, generator=seeded(generator), **options).sum()

    slopes = grad(draw, argnums=(0, 1, 2))(*own)
    expected = sum((d * slope).sum() for d, slope in zip(direction, slopes, strict=True))
    torch.testing.assert_close(jvp(draw, own, direction)[1], expected, **CLOSE)


@pytest.mark.parametrize(
    "transform", [grad, lambda f: lambda x: jvp(f, (x,), (x,))], ids=["grad", "jvp"]
)
def test_quasi_random_draws_are_refused_inside(transform: Any, generator: Generator) -> None:
    logits, *others = parameters_of(random_layer("full", generator=generator))
    draw = lambda own: mixture_of("full", own, *others).sample(4, quasi=True).sum()  # noqa: E731
    with pytest.raises(InvalidArgumentError, match=r"Sobol points .*outside of torch\.func"):
        transform(draw)(logits)


def parameters_of(layer: GMMLayer) -> list[Tensor]:
    return [p.detach() for p in (layer.mixture_logits, layer.means, layer.raw_scale)]


def mixture_of(family: str, logits: Tensor, means: Tensor, raw: Tensor) -> MixtureOfGaussians:
    return MixtureOfGaussians(logits, means, as_covariance(family).scale(raw), family)


def test_what_needs_values_says_so(generator: Generator) -> None:
    layer = random_layer("full", generator=generator)
    for draw in (
        lambda own: own.sample(3, quasi=True),
        lambda own: own.sample(3, within=Shell(0.0, 1.0)),
        lambda own: own.log_prob(X + own.means.sum(), missing="marginalize"),
    ):
        with pytest.raises(InvalidArgumentError, match="need values, which vmap and meta"):
            over_layers(draw, [layer, layer], "different")
    # Where vmap makes different random numbers, they are hidden even if the mixture is not.
    with pytest.raises(InvalidArgumentError, match="need values, which vmap and meta"):
        vmap(lambda _: layer.sample(3, quasi=True), randomness="different")(torch.arange(2))
    x = vmap(lambda _: layer.sample(3, quasi=True), randomness="same")(torch.arange(2))
    assert torch.equal(x[0], x[1])


# -- tensors without values ---------------------------------------------------------------------


@pytest.mark.parametrize("batch", [pytest.param((), marks=pytest.mark.slow), (4,)], ids=str)
@over_families
def test_shapes_are_those_of_tensors_with_values(family: str, batch: tuple[int, ...]) -> None:
    size = as_covariance(family).shape(3, 2)

    def answers(device: str | None) -> dict[str, Any]:
        def made(*shape: int) -> Tensor:
            return torch.zeros(*batch, *shape, device=device)

        scale = as_covariance(family).scale(made(*size))
        mixture = MixtureOfGaussians(made(3), 1 + made(3, 2), scale, family)
        x = torch.zeros(5, *batch, 2, device=device)
        found: dict[str, Any] = {
            "log_prob": mixture.log_prob(x),
            "condition": mixture.condition([0], x[..., :1]).means,
            "marginal": mixture.marginal([1, 0]).scale,
            "sample": mixture.sample(7),
            "antithetic": mixture.sample(7, antithetic=True),
            "component": mixture.sample(7, component=1),
            "rsample": mixture.rsample(7),
            "relaxed": mixture.rsample(7, relaxed=0.5),
            "entropy": entropy(mixture, 4).value,
            "kl": kl_to_mixture(x, torch.ones_like(x), mixture),
            "energy": energy_score(mixture, x, 3),
            "unscented": unscented(mixture, lambda x: x.square()).mixture().scale,
            "torch": mixture.to_torch().log_prob(x),
        }
        return {name: (value.shape, value.dtype) for name, value in found.items()}

    expected = answers(None)
    assert answers("meta") == expected
    with FakeTensorMode():
        assert answers(None) == expected
        with pytest.raises(InvalidArgumentError, match="need values, which"):
            GMMLayer(2, 3, family).sample(3, quasi=True)


# -- one factor for many rows -------------------------------------------------------------------


@over_families
def test_rows_of_a_component_at_once_are_the_same_rows(
    family: str, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in ((), (2,)):
        layer = random_layer(family, generator=generator, batch=batch, num_features=5)
        for options in ({}, {"within": Shell(0.0, 2.0)}, {"temperature": 0.5}):
            # Enough rows for groups of them.
            once = layer.sample(1100, **options, generator=seeded(generator))
            with monkeypatch.context() as patched:
                patched.setattr(ancestral, "values_are_readable", lambda *_: False)
                again = layer.sample(1100, **options, generator=seeded(generator))
            torch.testing.assert_close(once, again, **CLOSE)


def test_components_without_weight_are_not_drawn(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf])
    mixture = MixtureOfGaussians(logits, torch.zeros(5, 1), torch.ones(5, 1), "diag")
    _, z = mixture.sample(20_000, return_component=True, generator=generator)
    counts = z.bincount(minlength=5).double()
    assert counts[[0, 2, 4]].sum() == 0
    p = mixture.weights[3]
    # Six standard errors of a binomial share.
    assert abs(counts[3] / 20_000 - p) < 6 * (p * (1 - p) / 20_000).sqrt()
    # The ends of the unit interval belong to components with weight, too.
    monkeypatch.setattr(ancestral, "uniforms", lambda *_: torch.tensor([0.0, 1 - 2.0**-53]))
    assert ancestral.choose_components(mixture.weights, torch.Size([2]), None).tolist() == [1, 3]
