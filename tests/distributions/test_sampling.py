"""Draws: shapes, determinism, restriction to a component, temperature, and messages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.random_layers import BATCHES, FAMILIES, random_layer

from gmm_lightning import _chunking
from gmm_lightning.distributions.density import ancestral
from gmm_lightning.errors import InvalidArgumentError

over_families = pytest.mark.parametrize("family", FAMILIES)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@over_families
def test_shapes(family: str, batch: tuple, generator: torch.Generator) -> None:
    layer = random_layer(family, batch=batch, generator=generator)
    for asked, shape in (
        ((), ()),
        (4, (4,)),
        (0, (0,)),
        ((4, 5), (4, 5)),
        (torch.Size([2]), (2,)),
        (np.int64(3), (3,)),
        ((2, 0), (2, 0)),
    ):
        x, z = layer.sample(asked, return_component=True, generator=generator)
        assert x.shape == (*shape, *batch, 2)
        assert z.shape == (*shape, *batch)
        assert z.dtype == torch.long
        assert x.dtype == layer.means.dtype
        assert not x.requires_grad


@over_families
def test_a_generator_decides(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator)
    before = torch.random.get_rng_state()
    draws = [
        layer.sample(50, generator=torch.Generator(generator.device).manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("group", [1e-9, 1e9], ids=["grouped", "one by one"])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@over_families
def test_each_row_has_the_covariance_of_its_component(
    family: str, batch: tuple, group: float, generator: torch.Generator, monkeypatch
) -> None:
    monkeypatch.setattr(ancestral, "_GROUP", group)
    layer = random_layer(family, batch=batch, generator=generator).requires_grad_(False)
    mixture = layer.distribution()
    z = torch.randint(3, (40, *batch), generator=generator)
    noise = torch.randn(40, *batch, 2, generator=generator)
    whole = mixture.means + (mixture.scale_tril @ noise[..., None, :, None]).squeeze(-1)
    expected = whole.take_along_dim(z[..., None, None], -2).squeeze(-2)
    found = ancestral.unwhiten_rows(mixture, z, noise)
    # Products of two terms of order 1 to 10.
    eps = torch.finfo(found.dtype).eps
    torch.testing.assert_close(found, expected, rtol=100 * eps, atol=100 * eps)


@pytest.mark.parametrize("u", [0.0, 0.25, 0.5, 1 - 2**-53])
def test_a_component_of_weight_zero_is_never_drawn(u: float, monkeypatch) -> None:
    monkeypatch.setattr(
        ancestral,
        "uniforms",
        lambda _, shape, __: torch.full(tuple(shape), u, dtype=torch.float64),
    )
    weights = torch.tensor([0.0, 0.25, 0.0, 0.25, 0.5, 0.0])
    z = ancestral.choose_components(weights, torch.Size([3]), None)
    # The first component whose cumulated weights exceed u.
    assert z.tolist() == [{0.0: 1, 0.25: 3}.get(u, 4)] * 3


def test_draws_are_in_random_order(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    layer.set_parameters(weights=torch.full((3,), 1 / 3))
    _, z = layer.sample(300, return_component=True, generator=generator)
    changes = int((z.diff() != 0).sum())
    # 200 expected, with a standard deviation of 8.
    assert 150 < changes < 250


@over_families
def test_asked_for_components(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, batch=(2,), generator=generator)
    x, z = layer.sample(4, component=1, return_component=True, generator=generator)
    assert torch.equal(z, torch.ones(4, 2, dtype=torch.long))
    asked = torch.tensor([[0], [1], [2], [0]])
    x, z = layer.sample(4, component=asked, return_component=True, generator=generator)
    assert torch.equal(z, asked.expand(4, 2))
    tight = random_layer(family, generator=generator)
    with torch.no_grad():
        tight.raw_scale.sub_(40.0 if tight.raw_scale.dim() < 3 else 40.0 * torch.eye(2))
        if tight.raw_scale.dim() == 3:
            tight.raw_scale.copy_(tight.raw_scale.diagonal(dim1=-2, dim2=-1).diag_embed())
    x = tight.sample(3, component=torch.tensor([2, 0, 1]), generator=generator)
    assert torch.allclose(x, tight.means[[2, 0, 1]], rtol=1e-5)


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
@over_families
def test_chunks_do_not_change_the_draws(
    family: str, batch: tuple, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = random_layer(family, batch=batch, generator=generator)
    whole = layer.sample(31, generator=torch.Generator(generator.device).manual_seed(3))
    for budget in ("MEMORY_BYTES", "CACHE_BYTES"):
        monkeypatch.setattr(_chunking, budget, 20 * 8)
    parts = layer.sample(31, generator=torch.Generator(generator.device).manual_seed(3))
    assert torch.equal(whole, parts)


@over_families
def test_batches_follow_their_own_mixture(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, batch=(2, 3), generator=generator)
    x = layer.sample(4000, generator=generator)
    mixture = layer.distribution()
    error = (mixture.variance / 4000).sqrt()
    # Five standard errors; the seed is fixed.
    assert ((x.mean(0) - mixture.mean).abs() < 5 * error).all()


def test_temperature(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    n = 20_000
    x = layer.sample(n, component=0, temperature=4.0, generator=generator)
    variance = 4 * layer.covariance_matrix[0].diagonal()
    # The variance of a variance is 2 / n of its square; five standard errors.
    assert ((x.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / n)).all()
    _, z = layer.sample(n, temperature=0.05, return_component=True, generator=generator)
    share = (layer.mixture_logits / 0.05).softmax(-1)
    found = torch.bincount(z, minlength=3) / n
    assert ((found - share).abs() < 5 * math.sqrt(0.25 / n)).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"component": 3}, r"component must be in \[0, 3\), got 3"),
        ({"component": -1}, r"component must be in \[0, 3\), got -1"),
        ({"component": 1.0}, "integer index"),
        ({"component": torch.tensor([True])}, "integer index"),
        ({"component": torch.tensor([0, 1, 2])}, r"component must broadcast to \(5,\).*\(3,\)"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0, got 0.0"),
        ({"temperature": math.inf}, "finite number > 0, got inf"),
        ({"temperature": math.nan}, "finite number > 0, got nan"),
        ({"within": object()}, "within must be a region"),
    ],
)
def test_refuses(arguments: dict[str, Any], words: str, generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    with pytest.raises(InvalidArgumentError, match=words):
        layer.sample(5, **arguments)


def test_refuses_a_negative_number(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    for wrong in (-1, (2, -3)):
        with pytest.raises(InvalidArgumentError, match="must not be negative"):
            layer.sample(wrong)
