"""`torch.func` on layers and heads: the number of rows decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.covering import covering
from support.random_layers import FAMILIES, random_layer
from torch import Generator, Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vjp,
    vmap,
)

from gmm_lightning import DensityHead, GMMLayer
from gmm_lightning.layers import _row_chunks, keep_constant
from gmm_lightning.losses import negative_log_likelihood

pytestmark = [
    pytest.mark.usefixtures("double"),
    # Forward derivatives of torch itself use what torch 2.13 deprecates.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
]
IN, D, K = 3, 2, 2
CHUNK = 2
# Five rows are three chunks, two are one.
NUM_ROWS = (CHUNK, 5)
# The same float64 operations in another order, some 100 terms of order 10: eps times 1e4.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_row_chunks, "_rows_per_chunk", lambda *_: CHUNK)


class Called(nn.Module):
    """A method of a module as a forward pass, so that `functional_call` reaches it."""

    def __init__(self, module: nn.Module, method: Callable[..., Tensor]) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.method(self.module, *inputs)


METHODS: dict[str, tuple[type, Callable[..., Tensor]]] = {
    "head.log_prob": (DensityHead, DensityHead.log_prob),
    "head.loss": (DensityHead, DensityHead.loss),
    "layer.log_prob": (GMMLayer, GMMLayer.log_prob),
    "layer.nll": (GMMLayer, negative_log_likelihood),
}
LOSSES = ("head.loss", "layer.nll")


def called(method: str, family: str = "full", **options: Any) -> tuple[Called, dict[str, Tensor]]:
    """A method of a module away from its defaults, and the parameters."""
    kind, call = METHODS[method]
    sizes = (IN, D, K) if kind is DensityHead else (D, K)
    module = kind(*sizes, family, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    wrapped = Called(module, call)
    return wrapped, dict(wrapped.named_parameters())


def inputs(method: str, n: int, batch: tuple[int, ...] = ()) -> tuple[Tensor, ...]:
    y = torch.randn(n, *batch, D)
    return (torch.randn(n, IN), y) if METHODS[method][0] is DensityHead else (y,)


def plain_gradient(module: nn.Module, *given: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    module(*given).sum().backward()
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def assert_close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, **CLOSE)


over_sizes = pytest.mark.parametrize("n", NUM_ROWS)
over_methods = pytest.mark.parametrize("method", METHODS)
method_and_family = pytest.mark.parametrize(
    ("method", "family", "n"), covering(METHODS, FAMILIES, NUM_ROWS)
)


@method_and_family
def test_first_derivatives(method: str, family: str, n: int) -> None:
    module, parameters = called(method, family)
    given = inputs(method, n)
    expected = plain_gradient(module, *given)

    def value(parameters: dict[str, Tensor]) -> Tensor:
        return functional_call(module, parameters, given)

    values, pull = vjp(value, parameters)
    assert_close(values, module(*given))
    assert_close(pull(torch.ones_like(values))[0], expected)
    assert_close(grad(lambda p: value(p).sum())(parameters), expected)
    by_row = jacrev(value)(parameters)
    assert_close(jacfwd(value)(parameters), by_row)
    assert_close(
        {k: j.reshape(-1, *parameters[k].shape).sum(0) for k, j in by_row.items()}, expected
    )
    direction = {name: torch.randn_like(p) for name, p in parameters.items()}
    along = sum((expected[name] * direction[name]).sum() for name in parameters)
    assert_close(jvp(value, (parameters,), (direction,))[1].sum(), along)


@method_and_family
def test_second_derivatives(method: str, family: str, n: int) -> None:
    module, _ = called(method, family)
    *features, y = inputs(method, n)

    def value(y: Tensor) -> Tensor:
        return module(*features, y).sum()

    expected = torch.autograd.functional.hessian(value, y)
    assert expected.abs().max() > 1e-3
    assert_close(hessian(value)(y), expected)
    assert_close(jacrev(jacrev(value))(y), expected)
    assert_close(jacfwd(jacfwd(value))(y), expected)
    assert_close(jacrev(jacfwd(value))(y), expected)


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
def test_numerical_derivatives_of_a_head(batch: tuple[int, ...], shared: bool) -> None:
    module, parameters = called("head.log_prob", "full", batch_shape=batch, shared_scale=shared)
    given = tuple(each.requires_grad_() for each in inputs("head.log_prob", 3, batch))

    def value(h: Tensor, y: Tensor, *values: Tensor) -> Tensor:
        return functional_call(module, dict(zip(parameters, values, strict=True)), (h, y))

    leaves = (*given, *(p.detach().clone().requires_grad_() for p in parameters.values()))
    assert gradcheck(value, leaves, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(value, leaves, check_fwd_over_rev=True, fast_mode=True)


@over_sizes
@over_methods
def test_forward_derivatives_of_tensors_that_require_gradients(method: str, n: int) -> None:
    module, _ = called(method)
    *features, y = inputs(method, n)
    direction = torch.randn_like(y)
    y.requires_grad_()
    expected = (torch.autograd.grad(module(*features, y).sum(), y)[0] * direction).sum()
    with forward_ad.dual_level():
        out = module(*features, forward_ad.make_dual(y, direction))
        assert_close(forward_ad.unpack_dual(out).tangent.sum(), expected)


@over_sizes
@over_methods
def test_batched_gradients_of_autograd(method: str, n: int) -> None:
    module, _ = called(method)
    *features, y = inputs(method, n)

    def value(y: Tensor) -> Tensor:
        return module(*features, y)

    rows = torch.autograd.functional.jacobian(value, y)
    assert_close(torch.autograd.functional.jacobian(value, y, vectorize=True), rows)


@over_sizes
@over_methods
def test_vmap_over_inputs(method: str, n: int) -> None:
    module, _ = called(method)
    given = tuple(
        torch.stack(each) for each in zip(*(inputs(method, n) for _ in range(3)), strict=True)
    )
    expected = torch.stack([module(*(each[i] for each in given)) for i in range(3)])
    assert_close(vmap(module)(*given), expected)
    moved = tuple(each.movedim(0, 1) for each in given)
    assert_close(vmap(module, in_dims=1)(*moved), expected)


@over_sizes
@over_methods
def test_vmap_over_parameters(method: str, n: int) -> None:
    modules = [called(method)[0] for _ in range(3)]
    if isinstance(modules[0].module, DensityHead):
        for number, module in enumerate(modules):
            # Buffers differ too.
            module.module.parametrization.unit.fill_(1.0 + number)
    state = stack_module_state(modules)
    given = inputs(method, n)

    def value(parameters: Any, buffers: Any) -> Tensor:
        return functional_call(modules[0], (parameters, buffers), given)

    assert_close(vmap(value)(*state), torch.stack([module(*given) for module in modules]))
    found = vmap(grad(lambda p, b: value(p, b).sum()))(*state)
    for number, module in enumerate(modules):
        for name, expected in plain_gradient(module, *given).items():
            assert_close(found[name][number], expected)


@pytest.mark.parametrize("randomness", ["error", "same", "different"])
@pytest.mark.parametrize("rows", [(), (1,), (3,)], ids=str)
@pytest.mark.parametrize("method", LOSSES)
def test_gradients_per_sample(method: str, rows: tuple[int, ...], randomness: str) -> None:
    module, parameters = called(method)
    given = tuple(each.reshape(4, *rows, -1) for each in inputs(method, 4 * (rows or (1,))[0]))
    per_sample = grad(lambda p, *row: functional_call(module, p, row))
    axes = (None, *[0] * len(given))
    found = vmap(per_sample, in_dims=axes, randomness=randomness)(parameters, *given)
    for i in range(4):
        expected = plain_gradient(module, *(each[i] for each in given))
        assert_close({name: values[i] for name, values in found.items()}, expected)


@over_sizes
def test_priors_weights_and_masks_are_transformed_too(n: int, generator: Generator) -> None:
    head = DensityHead(IN, D, K, "full", ["dirichlet", "niw"])
    head.initialize_from(random_layer("full", generator=generator, num_components=K))
    h, y = inputs("head.loss", n)
    weight, mask = torch.rand(n), torch.arange(n) > 0
    y[0] = torch.nan
    module = Called(head, lambda head, *given: head.loss(h, *given, mask=mask, skip_nonfinite=True))
    expected = plain_gradient(module, y)
    parameters = dict(module.named_parameters())
    assert_close(grad(lambda p: functional_call(module, p, (y,)))(parameters), expected)
    many = vmap(lambda w: head.loss(h, y, weight=w, mask=mask))(torch.stack([weight, 2 * weight]))
    assert_close(many[0], head.loss(h, y, weight=weight, mask=mask))
    assert head.num_skipped == 0


def test_constant_features_of_draws() -> None:
    drawn, means = torch.randn(3, 5, D), torch.randn(3, K, D)
    constant = torch.tensor([[False, True], [False, False], [True, False]])
    component = torch.zeros(3, 5)
    found, others = vmap(keep_constant)((drawn, component), means, constant)
    expected = torch.where(constant[:, None], means.mean(1, keepdim=True), drawn)
    assert torch.equal(found, expected)
    assert torch.equal(others, component)
