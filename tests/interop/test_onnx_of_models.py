"""ONNX of models that contain layers and heads, as they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support.random_layers import FAMILIES, random_layer, rounding, rows
from torch import Generator, Tensor, nn

from gmm_lightning import DensityHead, GMMLayer
from gmm_lightning.linalg import invert_tril, solve_rows

# Another order of some 100 operations on numbers of order 10 in float32, and the functions of
# onnxruntime, which are good to some units in the last place.
ONNX = {"rtol": 1e-4, "atol": 1e-4}


class Parts(nn.Module):
    """What some modules say of the rows of a network, as one graph."""

    def __init__(self, parts: list[nn.Module], answer: Callable[[nn.Module, Tensor], list[Tensor]]):
        super().__init__()
        self.first, self.parts, self.answer = nn.Linear(5, 2), nn.ModuleList(parts), answer

    def forward(self, x: Tensor) -> list[Tensor]:
        h = self.first(x)
        return [value for part in self.parts for value in self.answer(part, h)]


def assert_exports(module: nn.Module) -> None:
    from support.onnx_sessions import answers

    module = module.float().eval()
    few, many = torch.randn(4, 5, dtype=torch.float32), torch.randn(9, 5, dtype=torch.float32)
    for found, expected in zip(answers(module, (few,), (many,)), module(many), strict=True):
        torch.testing.assert_close(found, expected.detach(), **ONNX)


def test_layers_of_every_family(generator: Generator) -> None:
    layers = [random_layer(family, generator=generator) for family in FAMILIES]
    assert_exports(Parts(layers, lambda layer, h: [layer(h)]))


def test_heads(generator: Generator) -> None:
    def answer(head: nn.Module, h: Tensor) -> list[Tensor]:
        assert isinstance(head, DensityHead)
        return [head.log_prob(h, torch.cat([h, h[:, :1]], -1)), head(h).mean]

    assert_exports(Parts([DensityHead(2, 3, 2)], answer))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_answer(family: str, batch: tuple[int, ...], generator: Generator) -> None:
    def answer(layer: nn.Module, h: Tensor) -> list[Tensor]:
        assert isinstance(layer, GMMLayer)
        x = h[:, None].expand(-1, *batch, -1) if batch else h
        answers = [layer(x), layer.responsibilities(x), layer.predict(x), layer.grad_log_prob(x)]
        y, mixture = torch.cat([h, h[:, :1]], -1), head(h)
        moments = [mixture.mean, mixture.variance, mixture.scale_tril, mixture.covariance_matrix]
        return [*answers, head.log_prob(h, y), mixture.log_prob(y), mixture.weights, *moments]

    head = DensityHead(2, 3, 2, family, dtype=torch.float32)
    assert_exports(Parts([random_layer(family, generator=generator, batch=batch)], answer))


@pytest.mark.parametrize("d", [1, 2, 3, 7, 32])
def test_products_solve_what_solves_do(
    d: int, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    factor = torch.randn(2, d, d, generator=generator).tril(-1) * 0.3 + torch.eye(d)
    x = rows(6, d, generator, (2,))
    answers = []
    for asked in (False, True):
        monkeypatch.setattr("gmm_lightning.linalg._is_for_onnx", lambda asked=asked: asked)
        answers.append(
            (invert_tril(factor), solve_rows(factor, x), solve_rows(factor, x, transposed=True))
        )
    # Condition numbers of some tens, up to 1e4 for 32 features.
    close = {"rtol": rounding(1e-11), "atol": rounding(1e-11)}
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, **close)
