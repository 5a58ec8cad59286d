"""The linear map of a head is a module that is called, whatever stands there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gmm_lightning import DensityHead, GMMLayer
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError

IN, D, K, N = 4, 2, 3, 6


class Adapter(nn.Module):
    """A frozen map, and a trained one of low rank that is added to it."""

    def __init__(self, base: nn.Module, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(requires_grad=False)
        self.down = nn.Linear(IN, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    @property
    def weight(self) -> Any:
        """The frozen weight, as adapters show it."""
        return self.base.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def lazy(linear: nn.Linear) -> nn.Module:
    return nn.LazyLinear(linear.out_features)


REPLACED: dict[str, Callable[[Any], nn.Module]] = {
    "adapter": Adapter,
    "sequence": lambda linear: nn.Sequential(nn.Linear(IN, IN), nn.Tanh(), linear),
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "lazy": lazy,
}
over_replaced = pytest.mark.parametrize("replaced", REPLACED)


def rows() -> tuple[Tensor, Tensor]:
    return torch.randn(N, IN), torch.randn(N, D)


@over_replaced
@pytest.mark.parametrize("half", [False, True], ids=["full", "bf16"])
def test_what_stands_there_is_called(replaced: str, half: bool) -> None:
    head = DensityHead(IN, D, K, dtype=torch.float32)
    h, y = (each.float() for each in rows())
    linear = head.linear = REPLACED[replaced](head.linear).float()
    outputs = linear(h)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.mul_(1.5)
    for module in linear.modules():
        # Spectral norms would take a step with every call.
        module.eval()
    assert not torch.allclose(linear(h), outputs)
    reference = head.parametrization(linear(h))
    # The same float32 operations, or the rounding of parameters to 8 bits.
    assert torch.allclose(head(h).means, reference.means, rtol=1e-5)
    if half:
        head.bfloat16()
    assert torch.allclose(head(h).log_prob(y), head.log_prob(h, y), rtol=1e-4, atol=1e-4)
    loss = head.loss(h, y)
    assert loss.dtype == torch.float32
    loss.backward()
    trained = [p for p in linear.parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and bool(p.grad.any()) for p in trained)


@over_replaced
@pytest.mark.parametrize("method", ["initialize_from", "reset_parameters"])
def test_it_is_written_only_where_it_is_an_nn_linear(replaced: str, method: str) -> None:
    head = DensityHead(IN, D, K)
    arguments = [GMMLayer(D, K)] if method == "initialize_from" else []
    getattr(head, method)(*arguments)
    head.linear = REPLACED[replaced](head.linear)
    before = copy.deepcopy(head.parametrization.state_dict())
    with pytest.raises(InvalidArgumentError, match=rf"{method} writes .* head.linear is a"):
        getattr(head, method)(*arguments)
    for name, value in head.parametrization.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("lead", [(), (3,), (2, 5000)], ids=str)
def test_hooks_see_each_call_once_and_whole(lead: tuple[int, ...]) -> None:
    head = DensityHead(IN, D, K)
    seen: list[tuple[Any, ...]] = []
    head.linear.register_forward_hook(lambda _, i, o: seen.append((*i[0].shape, *o.shape)))
    grads: list[Any] = []
    head.linear.register_full_backward_hook(lambda *args: grads.append(args[2][0].shape))
    h, y = torch.randn(*lead, IN, requires_grad=True), torch.randn(*lead, D)
    head.loss(h, y).backward()
    head.log_prob(h, y)
    head(h)
    assert seen == 3 * [(*h.shape, *lead, head.linear.out_features)]
    assert grads == [(*lead, head.linear.out_features)]


def test_per_sample_gradients_by_hooks() -> None:
    """As of libraries for differential privacy: activations and gradients of an `nn.Linear`."""
    head, (h, y) = DensityHead(IN, D, K), rows()
    h.requires_grad_()
    kept: dict[str, Tensor] = {}
    head.linear.register_forward_hook(lambda _, i, __: kept.update(h=i[0].detach()))
    head.linear.register_full_backward_hook(lambda *args: kept.update(grad=args[2][0]))
    (N * head.loss(h, y)).backward()
    found = torch.einsum("no,ni->noi", kept["grad"], kept["h"])
    for i in range(N):
        head.zero_grad()
        head.loss(h[i], y[i]).backward()
        # Ten products in another order.
        torch.testing.assert_close(found[i], head.linear.weight.grad)


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
def test_it_may_be_quantised() -> None:
    model = nn.Sequential(nn.Linear(IN, 8), nn.Tanh(), DensityHead(8, D, K)).float()
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    h, y = (each.float() for each in rows())
    head = quantised[2]
    assert not isinstance(head.linear, nn.Linear)
    # Eight bits of numbers up to 1.
    assert torch.allclose(quantised(h).means, model(h).means, atol=0.1)
    assert torch.isfinite(head.loss(quantised[:2](h), y))
    assert head.to_config()["dtype"] == "float32"


def test_words() -> None:
    head, (h, y) = DensityHead(IN, D, K), rows()
    with torch.no_grad():
        head.linear.bias[0] = torch.nan
    with pytest.raises(InvalidDataError, match="linear map of the head returns numbers that are"):
        head.loss(h, y)
    head.linear = nn.Linear(IN, 5)
    with pytest.raises(InvalidArgumentError, match=r"must return 18 numbers .* shape \(6, 5\)"):
        head(h)
