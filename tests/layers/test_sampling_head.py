"""Draws as a module: every option, its gradients, its state, and its messages."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.goodness_of_fit import assert_same_distribution
from support.random_layers import BATCHES, FAMILIES, random_layer
from torch import Tensor, nn

from gmm_lightning import GMMLayer, MixtureOfGaussians, SamplingHead
from gmm_lightning.distributions import Ball, Box, Confidence, HalfSpace, Shell, Where
from gmm_lightning.errors import InvalidArgumentError

over_families = pytest.mark.parametrize("family", FAMILIES)


class Conditional(nn.Module):
    """A mixture of two components per row of h."""

    def __init__(self) -> None:
        super().__init__()
        self.to_means = nn.Linear(3, 4)

    def forward(self, h: Tensor, shift: float = 0.0) -> MixtureOfGaussians:
        means = self.to_means(h).unflatten(-1, (2, 2)) + shift
        scale = torch.eye(2).to(means).expand(*means.shape, 2)
        return MixtureOfGaussians(means.new_zeros(means.shape[:-1]), means, scale)


@pytest.mark.parametrize("reparameterize", [False, "implicit", "relaxed"])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@over_families
def test_shapes_and_gradients(
    family: str, batch: tuple, reparameterize: Any, generator: torch.Generator
) -> None:
    layer = random_layer(family, batch=batch, generator=generator)
    sampler = SamplingHead(layer, reparameterize=reparameterize)
    for asked, shape in (((), ()), (0, (0,)), (5, (5,)), ((2, 3), (2, 3))):
        x = sampler(asked)
        assert x.shape == (*shape, *batch, 2)
        assert x.requires_grad == bool(reparameterize)
    if reparameterize:
        sampler(50).square().sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in layer.parameters())


OPTIONS = {
    "component": {"component": 2},
    "components": {"component": torch.tensor([0, 1] * 20)},
    "shell": {"within": Shell(1.0, 2.0)},
    "confidence": {"within": Confidence(0.9, 1.0)},
    "ball": {"within": Ball([0.0, 0.0], 2.0)},
    "box": {"within": Box(-2.0, 2.0)},
    "half_space": {"within": HalfSpace([1.0, 1.0], 0.0)},
    "where": {"within": Where(lambda x: x[:, 0] > 0)},
    "ball_of_one": {"within": Ball([0.0, 0.0], 2.0), "component": 1},
    "temperature": {"temperature": 0.5},
    "quasi": {"quasi": True},
    "antithetic": {"antithetic": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_those_of_sample(name: str, generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    sampler = SamplingHead(layer, seed=5, **OPTIONS[name])
    source = torch.Generator(generator.device).manual_seed(5)
    # One call after the other: the sequence goes on.
    for _ in range(2):
        assert torch.equal(sampler(40), layer.sample(40, generator=source, **OPTIONS[name]))
    if "within" in OPTIONS[name]:
        return
    for reparameterize in ("implicit", "relaxed"):
        if reparameterize == "relaxed" and name != "temperature":
            continue
        moving = SamplingHead(
            layer, seed=5, reparameterize=reparameterize, relaxation=0.3, **OPTIONS[name]
        )
        relaxed = 0.3 if reparameterize == "relaxed" else None
        source.manual_seed(5)
        expected = layer.rsample(40, relaxed=relaxed, generator=source, **OPTIONS[name])
        assert torch.equal(moving(40), expected)


@pytest.mark.parametrize("reparameterize", ["implicit", "relaxed"])
def test_moments_are_learnt_through_the_draws(
    reparameterize: str, generator: torch.Generator
) -> None:
    """From N(0, I) components to given first and second moments, by gradient descent alone."""
    torch.manual_seed(0)
    layer = GMMLayer.from_parameters(
        torch.ones(2), torch.tensor([[-0.5, 0.0], [0.5, 0.0]]), torch.eye(2).repeat(2, 1, 1)
    )
    sampler = SamplingHead(layer, reparameterize=reparameterize, seed=1)
    mean, second = torch.tensor([1.0, -1.0]), torch.tensor([[3.0, -0.5], [-0.5, 2.5]])
    optimizer = torch.optim.Adam(sampler.parameters(), lr=0.03)

    def loss(x: Tensor) -> Tensor:
        return (x.mean(0) - mean).square().sum() + (x.mT @ x / len(x) - second).square().sum()

    first = loss(sampler(10_000)).item()
    before = [p.detach().clone() for p in layer.parameters()]
    for _ in range(150):
        optimizer.zero_grad()
        loss(sampler(1000)).backward()
        optimizer.step()
    assert loss(sampler(10_000)).item() < 0.05 * first
    assert all(not torch.equal(*pair) for pair in zip(before, layer.parameters(), strict=True))
    # The draws without a soft choice have the moments that were asked for.
    if reparameterize == "implicit":
        mixture = layer.distribution()
        assert (mixture.mean - mean).abs().max() < 0.2


def test_a_conditional_mixture(generator: torch.Generator) -> None:
    source = Conditional()
    sampler = SamplingHead(source, reparameterize="implicit")
    h = torch.randn(6, 3, generator=generator, requires_grad=True)
    x = sampler(10, h)
    assert x.shape == (10, 6, 2)
    assert sampler((), h).shape == (6, 2)
    x.sum().backward()
    assert h.grad is not None
    assert source.to_means.weight.grad is not None
    plain = SamplingHead(source)
    assert plain(2000, h, shift=50.0).mean() > 40
    assert plain.distribution(h).batch_shape == (6,)


def test_functions_and_whatever_has_a_distribution(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    assert SamplingHead(layer.distribution)(3).shape == (3, 2)
    assert SamplingHead(lambda: layer.distribution().component(0))(3).shape == (3, 2)
    assert SamplingHead(SamplingHead(layer))(3).shape == (3, 2)
    sampler = SamplingHead(lambda h: h)
    with pytest.raises(InvalidArgumentError, match="must return a MixtureOfGaussians, got Tensor"):
        sampler(3, torch.zeros(2))
    with pytest.raises(TypeError):
        SamplingHead(layer)(3, torch.zeros(2))


def test_state_travels(generator: torch.Generator) -> None:
    layer = random_layer("tied", generator=generator)
    network = nn.Sequential(SamplingHead(layer, seed=3), nn.Linear(2, 4))
    assert {name for name, _ in network.named_parameters()} >= {
        "0.source.mixture_logits",
        "0.source.means",
        "0.source.raw_scale",
    }
    other = nn.Sequential(SamplingHead(GMMLayer(2, 3, "tied"), seed=3), nn.Linear(2, 4))
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    expected = network(8)
    assert torch.equal(other(8), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_goes_on_where_it_was(copied: Any, generator: torch.Generator) -> None:
    sampler = SamplingHead(random_layer("full", generator=generator), seed=3)
    first = sampler(4)
    twin = copied(sampler)
    second = sampler(4)
    assert torch.equal(twin(4), second)
    assert not torch.equal(first, second)


def test_other_devices_and_dtypes(generator: torch.Generator) -> None:
    sampler = SamplingHead(random_layer("full", generator=generator), seed=3)
    assert sampler.to(torch.float32)(4).dtype == torch.float32
    device = "cuda" if torch.cuda.is_available() else "meta"
    moved = sampler.to(device)
    assert all(p.device.type == device for p in moved.parameters())
    if device == "cuda":
        assert moved(4).device.type == device


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of this process alone."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_wrapped_for_several_processes(generator: torch.Generator) -> None:
    sampler = SamplingHead(random_layer("full", generator=generator), reparameterize="implicit")
    wrapped = nn.parallel.DistributedDataParallel(nn.Sequential(sampler, nn.Linear(2, 1)))
    # Every parameter takes part, or the second pass would be refused.
    for _ in range(2):
        wrapped(16).square().mean().backward()
    assert all(p.grad is not None for p in wrapped.parameters())


def test_without_a_seed_torch_decides(generator: torch.Generator) -> None:
    sampler = SamplingHead(random_layer("full", generator=generator))
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(sampler(5))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    torch.manual_seed(1)
    seeded = SamplingHead(sampler.source, seed=0)
    state = torch.random.get_rng_state()
    seeded(5)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_temperature_near_zero_of_the_soft_choice_gives_the_law(
    generator: torch.Generator,
) -> None:
    layer = random_layer("full", generator=generator)
    sampler = SamplingHead(layer, reparameterize="relaxed", relaxation=1e-3, seed=2)
    assert_same_distribution(sampler(5000).detach(), layer.sample(5000, generator=generator))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"component": 3}, r"component must be in \[0, 3\), got 3"),
        ({"component": -1}, r"component must be in \[0, 3\), got -1"),
        ({"component": 0.5}, "integer index"),
        ({"component": "two"}, "integer index, got 'two'"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0, got 0.0"),
        ({"temperature": math.inf}, "got inf"),
        ({"temperature": "warm"}, "got 'warm'"),
        ({"temperature": True}, "got True"),
        ({"within": "ball"}, "within must be a region"),
        ({"within": Ball}, "within must be a region"),
        ({"within": Ball([0.0], 1.0)}, "must have 2 entries, got 1"),
        ({"within": Shell(), "quasi": True}, "within a region are independent"),
        ({"quasi": True, "antithetic": True}, "choose one"),
        ({"quasi": "yes"}, "quasi must be True or False, got 'yes'"),
        ({"antithetic": 1}, "antithetic must be True or False, got 1"),
        ({"reparameterize": "soft"}, "must be False, 'implicit' or 'relaxed', got 'soft'"),
        ({"reparameterize": "gumbel"}, "'implicit' or 'relaxed', got 'gumbel'"),
        ({"reparameterize": "implicit", "within": Shell()}, "within a region have no gradients"),
        (
            {"reparameterize": "relaxed", "relaxation": 0.0},
            "relaxed must be a finite number > 0, got 0.0",
        ),
        ({"reparameterize": "relaxed", "component": 1}, "take no component"),
        ({"reparameterize": "relaxed", "antithetic": True}, "take no component, quasi or anti"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"seed": 1.0}, "seed must be an integer >= 0, got 1.0"),
    ],
)
def test_refuses_when_it_is_made(
    options: dict[str, Any], words: str, generator: torch.Generator
) -> None:
    layer = random_layer("full", generator=generator)
    with pytest.raises(InvalidArgumentError, match=words):
        SamplingHead(layer, **options)


@pytest.mark.parametrize("source", [None, 3, "layer", torch.zeros(2)])
def test_refuses_what_is_no_source(source: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a layer, or a module or function"):
        SamplingHead(source)


def test_says_what_it_does(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    said = repr(SamplingHead(layer, component=1, quasi=True, reparameterize="implicit"))
    assert "component=1, quasi=True, reparameterize='implicit'" in said
    assert "(source): GMMLayer(" in said
    assert SamplingHead(layer).extra_repr() == ""
