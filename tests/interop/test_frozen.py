"""Frozen mixtures: the layer's own answers, in every form that torch exports to."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from support.random_layers import FAMILIES, random_layer, rows
from torch import Tensor, nn

from gmm_lightning import GMMLayer, MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.interop import export_module
from gmm_lightning.rows import Batch

pytestmark = pytest.mark.usefixtures("double")

OUTPUTS = ("log_prob", "responsibilities", "predict")
DYNAMIC = {0: torch.export.Dim("rows")}
over_families = pytest.mark.parametrize("family", FAMILIES)
over_batches = pytest.mark.parametrize("batch", [(), (3,)], ids=str)
# Products instead of solves in float64: D eps times condition numbers below 1e2, for squares of
# up to 1e2.
CLOSE = {"rtol": 1e-13, "atol": 1e-13}
# onnxruntime's functions are good to some 1e-11 in float64; in float32 a log density is the sum
# of some 10 terms of its size.
ONNX = {torch.float64: 1e-8, torch.float32: 1e-5}


def exported(module: nn.Module, x: Tensor) -> Any:
    return torch.export.export(module, (x,), dynamic_shapes=(DYNAMIC,)).module()


@over_batches
@over_families
def test_the_same_answers_as_the_layer(
    family: str, batch: tuple[int, ...], generator: torch.Generator
) -> None:
    layer = random_layer(family, generator=generator, batch=batch, num_features=3)
    x = rows(40, 3, generator, batch).reshape(8, 5, *batch, 3)
    for output in OUTPUTS:
        module = export_module(layer, output)
        expected = getattr(layer, output)(x)
        assert not list(module.parameters())
        torch.testing.assert_close(module(x), expected, **CLOSE)
        torch.testing.assert_close(getattr(module, output)(x), module(x), rtol=0, atol=0)
        mixture = export_module(layer.distribution(), output)
        torch.testing.assert_close(mixture(x), module(x), rtol=0, atol=0)
        assert module(x[:0]).shape == expected[:0].shape
        torch.testing.assert_close(module(x[0, 0]), expected[0, 0], **CLOSE)


def float32_bound(layer: GMMLayer, x: Tensor) -> Tensor:
    """Bound `(N,)` on the error of a frozen float32 module of a float64 layer, for float32 rows.

    Forward error analysis (N. J. Higham, Accuracy and Stability of Numerical Algorithms, 3.5), in
    units u = eps / 2: an entry of z = W (x - mu) has 1 from rounding W, 1 from the difference and
    D from products and sums, each times |W| |x - mu|, and 2 |z| from the rounded shift. The sum of
    squares has D + 1, adding the constant, itself rounded, 2 of what is added, and the sum over
    components some K + 5, with the exponential and the logarithm good to 2. |W| |x - mu| is up to
    the square root of the condition number times |z|: what rounding the rows costs.
    """
    u = torch.finfo(torch.float32).eps / 2
    k, d = layer.num_components, layer.num_features
    inverse = torch.linalg.inv(layer.scale_tril.detach()).expand(k, d, d)
    diff = x.double().unsqueeze(-2) - layer.means.detach()
    white = torch.einsum("kij,nkj->nki", inverse, diff)
    sizes = torch.einsum("kij,nkj->nki", inverse.abs(), diff.abs())
    entries = u * ((d + 2) * sizes + 2 * white.abs())
    squares = 0.5 * white.square().sum(-1)
    log_joint = layer.log_joint(x.double()).detach()
    bound = (white.abs() * entries + 0.5 * entries.square()).sum(-1)
    bound = bound + u * ((d + 3) * squares + 3 * (log_joint + squares).abs())
    # The logarithm of the sum moves by no more than the mean of the changes; 1 % for u^2.
    bound = (log_joint.softmax(-1) * bound).sum(-1)
    return 1.01 * (bound + (k + 5) * u * (1 + log_joint.logsumexp(-1).abs()))


@over_families
def test_float32_keeps_the_digits_of_rows_far_from_the_origin(
    family: str, generator: torch.Generator
) -> None:
    """Rows that float32 holds, of a float64 mixture whose means it does not hold."""
    layer = random_layer(family, generator=generator, num_features=3)
    layer.set_parameters(means=layer.means + 12345.678)
    x = (rows(200, 3, generator) + 12345.678).float()
    expected = layer(x.double()).detach()
    module = export_module(layer, dtype=torch.float32)
    answer = module(x)
    assert answer.dtype == torch.float32
    bound = float32_bound(layer, x)
    assert bool(((answer.double() - expected).abs() <= bound).all())
    # Without centring in two steps, the digits that float32 has left there are 1e-3.
    module.shift = None
    assert bool(((module(x).double() - expected).abs() > 10 * bound).any())


def test_float32_keeps_the_digits_of_a_flat_covariance(generator: torch.Generator) -> None:
    """A condition number of 1e8: inverses of float32 matrices would have no digit left."""
    angle = torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
    spread = torch.logspace(-4, 4, 4)
    matrix = angle @ torch.diag(spread) @ angle.T
    layer = GMMLayer.from_parameters(
        torch.ones(1), torch.zeros(1, 4), 0.5 * (matrix + matrix.T)[None]
    )
    x = (torch.randn(100, 4, generator=generator) * spread.sqrt() @ angle.T).float()
    error = (export_module(layer, dtype=torch.float32)(x).double() - layer(x.double())).abs()
    bound = float32_bound(layer, x)
    assert bool((error <= bound).all())
    # The bound says something: the inverse of the float32 matrix is off by eps times 1e8.
    assert float(bound.max()) < 0.02


class Linear(nn.Linear):
    """Evidence of the values of a row."""

    def forward(self, batch: Batch) -> Tensor:
        return super().forward(batch.x)


def test_evidence_goes_with_the_module(generator: torch.Generator) -> None:
    layer = random_layer("diag", generator=generator)
    layer.evidence = Linear(2, 3)
    x = rows(5, 2, generator)
    module = export_module(layer)
    torch.testing.assert_close(module(x), layer(x), **CLOSE)
    nn.init.zeros_(layer.evidence.weight)
    assert not torch.allclose(module(x), layer(x))


def test_autocast_does_not_reach_the_product(generator: torch.Generator) -> None:
    module = export_module(random_layer("full", generator=generator), dtype=torch.float32)
    x = rows(5, 2, generator).float()
    with torch.autocast(x.device.type, torch.bfloat16):
        inside = module(x)
    assert torch.equal(inside, module(x))


def test_the_state_loads_as_plain_tensors(generator: torch.Generator) -> None:
    first, second = (export_module(random_layer("full", generator=generator)) for _ in range(2))
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    x = rows(5, 2, generator)
    assert torch.equal(first(x), second(x))


def test_one_component_of_one_feature() -> None:
    mixture = MixtureOfGaussians(torch.zeros(1), torch.ones(1, 1), 2 * torch.ones(1, 1, 1))
    x = torch.linspace(-3, 3, 7)[:, None]
    found = export_module(mixture)(x)
    torch.testing.assert_close(found, mixture.log_prob(x), rtol=1e-14, atol=1e-14)


def test_bad_arguments_say_what_was_expected() -> None:
    layer = GMMLayer(2, 3)
    with pytest.raises(
        InvalidArgumentError,
        match="unknown output 'score'; known are: log_prob, responsibilities, predict",
    ):
        export_module(layer, "score")
    with pytest.raises(InvalidArgumentError, match="MixtureOfGaussians, got Linear"):
        export_module(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="2 features"):
        export_module(layer)(torch.zeros(5, 3))
    assert "output='predict'" in repr(export_module(layer, "predict"))


# -- torch.export and torch.compile ---------------------------------------------------------------


class Everything(nn.Module):
    """All answers of several mixtures as one graph."""

    def __init__(self, parts: list[Any]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [answer for part in self.parts for answer in every_answer(part, x)]


def every_answer(part: Any, x: Tensor) -> list[Tensor]:
    return [getattr(part, output)(x) for output in OUTPUTS]


@pytest.mark.parametrize("batch", [(), pytest.param((3,), marks=pytest.mark.slow)], ids=str)
def test_torch_export_with_any_number_of_rows(
    batch: tuple[int, ...], generator: torch.Generator
) -> None:
    class Densities(nn.Module):
        """Layers of every family as one graph; frozen ones are exported to ONNX below."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(layers)

        def forward(self, x: Tensor) -> list[Tensor]:
            return [part(x) for part in self.parts]

    layers = [random_layer(f, generator=generator, batch=batch) for f in FAMILIES]
    few, many = rows(4, 2, generator, batch), rows(30, 2, generator, batch)
    expected = [layer(many) for layer in layers]
    for found, wanted in zip(exported(Densities(), few)(many), expected, strict=True):
        torch.testing.assert_close(found, wanted, **CLOSE)


def test_torch_export_of_every_output(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    few, many = rows(4, 2, generator), rows(30, 2, generator)
    program = exported(Everything([layer]), few)
    modules = [exported(export_module(layer, output), few) for output in OUTPUTS]
    found = [*program(many), *(module(many) for module in modules)]
    for value, wanted in zip(found, 2 * every_answer(layer, many), strict=True):
        torch.testing.assert_close(value, wanted, **CLOSE)


def test_an_exported_program_is_a_file(generator: torch.Generator) -> None:
    module = export_module(random_layer("full", generator=generator))
    few, many = rows(4, 2, generator), rows(30, 2, generator)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, (few,), dynamic_shapes=(DYNAMIC,)), buffer)
    buffer.seek(0)
    program: Any = torch.export.load(buffer).module()
    torch.testing.assert_close(program(many), module(many), rtol=0, atol=0)


def test_one_graph_for_torch_compile(generator: torch.Generator) -> None:
    torch.compiler.reset()
    layers = [random_layer(family, generator=generator) for family in FAMILIES]
    x = rows(9, 2, generator)
    both = Everything([*layers, *map(export_module, layers)])
    compiled = torch.compile(both, fullgraph=True, backend="eager")
    for found, wanted in zip(compiled(x), both(x), strict=True):
        torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.slow
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT",
    reason="inductor of torch 2.13 compiles nothing for processors without vector instructions",
)
# Torch 2.13 on itself: script_method, _prims_common.check.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("output", OUTPUTS)
def test_inductor(output: str, generator: torch.Generator) -> None:
    torch.compiler.reset()
    layer = random_layer("full", generator=generator)
    x = rows(9, 2, generator)
    expected = getattr(layer, output)(x)
    for answer in (getattr(layer, output), export_module(layer, output)):
        compiled = torch.compile(answer, fullgraph=True)
        torch.testing.assert_close(compiled(x), expected, **CLOSE)


# -- ONNX -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "dtype"),
    [((), torch.float64), pytest.param((3,), torch.float32, marks=pytest.mark.slow)],
    ids=str,
)
def test_onnx_of_every_family(
    batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    from support.onnx_sessions import answers

    class Answers(nn.Module):
        """Every output of every module, their common part once."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(export_module(layer, dtype=dtype) for layer in layers)

        def forward(self, x: Tensor) -> list[Tensor]:
            joints = [part.log_joint(x) for part in self.parts]
            outputs = (Tensor.logsumexp, Tensor.softmax, Tensor.argmax)
            return [output(joint, -1) for joint in joints for output in outputs]

    layers = [random_layer(f, generator=generator, batch=batch) for f in FAMILIES]
    few, many = rows(4, 2, generator, batch), rows(200, 2, generator, batch)
    many[:5] *= 1000  # Densities that exp alone would round to zero.
    found = answers(Answers().eval(), (few.to(dtype),), (many.to(dtype),))
    for value, wanted in zip(found, Everything(layers)(many), strict=True):
        assert value.shape == wanted.shape
        close = {"rtol": ONNX[dtype], "atol": ONNX[dtype]}
        torch.testing.assert_close(value.to(wanted.dtype), wanted.cpu(), **close)


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
@over_batches
@over_families
def test_onnx_of_every_output(
    family: str, batch: tuple[int, ...], output: str, generator: torch.Generator
) -> None:
    from support.onnx_sessions import answers

    layer = random_layer(family, generator=generator, batch=batch)
    few, many = rows(4, 2, generator, batch), rows(200, 2, generator, batch)
    (found,) = answers(export_module(layer, output), (few,), (many,))
    close = {"rtol": ONNX[torch.float64], "atol": ONNX[torch.float64]}
    torch.testing.assert_close(found, getattr(layer, output)(many).cpu(), **close)
