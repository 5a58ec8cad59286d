"""Answers to large inputs, chunk by chunk: the same numbers, and graphs left whole."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from support.random_layers import BATCHES, FAMILIES, random_layer, rows
from torch import Generator, Tensor, nn

from gmm_lightning import GMMLayer, _chunking
from gmm_lightning._chunking import map_chunks
from gmm_lightning.rows import Batch

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)

ANSWERS: dict[str, Callable[[GMMLayer, Tensor], Tensor]] = {
    "log_prob": lambda layer, x: layer.log_prob(x),
    "responsibilities": lambda layer, x: layer.responsibilities(x),
    "log_responsibilities": lambda layer, x: layer.log_responsibilities(x),
    "predict": lambda layer, x: layer.predict(x),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Chunks of a few rows; notes how many rows each call sees."""
    monkeypatch.setattr(_chunking, "CACHE_BYTES", 50 * 8)
    seen: list[int] = []
    whole = GMMLayer.log_joint

    def log_joint(layer: GMMLayer, x: Tensor, missing: str | None = None) -> Tensor:
        seen.append(x.shape[0] if x.dim() else 0)
        return whole(layer, x, missing)

    monkeypatch.setattr(GMMLayer, "log_joint", log_joint)
    return seen


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@over_families
def test_chunks_are_the_whole(
    family: str, batch: tuple[int, ...], answer: str, generator: Generator, small: list[int]
) -> None:
    layer = random_layer(family, batch=batch, generator=generator)
    ask = ANSWERS[answer]
    ones = tuple(1 for _ in batch)
    for x in (
        rows(41, 2, generator, batch),
        rows(42, 2, generator, batch).reshape(6, 7, *batch, 2),
        rows(41, 2, generator, ones),
        rows(1, 2, generator, batch),
        rows(0, 2, generator, batch),
        rows(1, 2, generator, batch)[0],
        torch.randn(2),
        rows(82, 2, generator, batch)[::2],
    ):
        expected = ask(layer, x)
        small.clear()
        with torch.no_grad():
            found = ask(layer, x)
        assert found.shape == expected.shape
        assert found.dtype == expected.dtype
        # A solve for fewer right-hand sides may round otherwise.
        assert torch.allclose(found.double(), expected.double(), rtol=1e-13, atol=1e-13)
        if x.dim() > 1 + len(batch) and x.shape[:-1].numel() >= 41:
            assert len(small) > 1
            assert max(small) * layer.means.numel() <= max(50, layer.means.numel())


@over_families
def test_gradients_see_one_graph(family: str, generator: Generator, small: list[int]) -> None:
    layer = random_layer(family, generator=generator)
    x = rows(60, 2, generator).requires_grad_()
    for needs, given in ((True, x), (True, x.detach()), (False, x), (False, x.detach())):
        for parameter in layer.parameters():
            parameter.requires_grad_(needs)
        small.clear()
        out = layer(given)
        tracked = needs or given.requires_grad
        assert out.requires_grad == tracked
        assert len(small) == (1 if tracked else 8)
    for parameter in layer.parameters():
        parameter.requires_grad_(requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    (slope,) = torch.autograd.grad(layer.distribution().log_prob(x).sum(), x)
    assert torch.allclose(x.grad, slope, rtol=1e-12, atol=1e-13)


class Sign(nn.Module):
    """Evidence by row."""

    def forward(self, batch: Batch) -> Tensor:
        return torch.where(batch.x[..., :1] > 1, 0.0, torch.tensor([0.0, -2.0, -math.inf]))


def test_evidence_goes_with_its_rows(generator: Generator, small: list[int]) -> None:
    layer = random_layer("full", generator=generator)
    layer.evidence = Sign()
    x = rows(57, 2, generator)
    expected = layer.log_joint(x).logsumexp(-1)
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, rtol=1e-13)
        assert torch.equal(layer.predict(x), layer.log_joint(x).argmax(-1))
    assert len(small) > 3


@over_families
def test_what_is_compiled_or_exported_is_whole(
    family: str, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = random_layer(family, generator=generator)
    x = rows(60, 2, generator)
    expected = layer(x).detach()
    monkeypatch.setattr(_chunking, "CACHE_BYTES", 50 * 8)
    with torch.no_grad():
        compiled = torch.compile(layer, fullgraph=True, backend="eager", dynamic=True)
        assert torch.allclose(compiled(x), expected, rtol=1e-13)
        assert torch.allclose(compiled(x[:33]), expected[:33], rtol=1e-13)
        names = {"x": {0: torch.export.Dim("rows")}}
        program = torch.export.export(layer, (x,), dynamic_shapes=names)
        assert torch.allclose(program.module()(x[:17]), expected[:17], rtol=1e-13)
        assert not any("split" in str(node.target) for node in program.graph.nodes)


def test_vectorised_maps_pass_through(generator: Generator, small: list[int]) -> None:
    layer = random_layer("full", generator=generator)
    x = rows(60, 2, generator).reshape(5, 12, 2)
    with torch.no_grad():
        assert torch.allclose(torch.vmap(layer)(x), layer(x), rtol=1e-13)


def test_a_chunk_has_at_least_one_row(generator: Generator) -> None:
    layer, calls = nn.Linear(1, 1), []

    def answer(part: Tensor) -> Tensor:
        calls.append(len(part))
        return part[:, 0]

    x = torch.arange(12.0).reshape(6, 2)
    with torch.no_grad():
        found = map_chunks(
            answer, x, batch_dims=0, numbers_per_row=_chunking.CACHE_BYTES, module=layer
        )
    assert torch.equal(found, x[:, 0])
    assert calls == [1] * 6
