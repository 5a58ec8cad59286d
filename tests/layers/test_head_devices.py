"""Heads compute the same on every device, and leave their results there."""

from __future__ import annotations

import copy

import pytest
import torch
from support.random_layers import FAMILIES

from gmm_lightning import DensityHead, GMMLayer, SamplingHead

ON_GPU = True
pytestmark = pytest.mark.usefixtures("double")
# float64 sums in another order: some hundred terms of order 10.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_density_head_gives_the_same_on_every_device(family: str, device: str) -> None:
    generator = torch.Generator("cpu").manual_seed(1)
    with torch.device("cpu"):
        head = DensityHead(4, 2, 3, family)
        h = torch.randn(900, 4, generator=generator)
        y = torch.randn(900, 2, generator=generator)
    there = copy.deepcopy(head).to(device)
    assert there(h.to(device)).means.device.type == device
    for one, rows in ((head, (h, y)), (there, (h.to(device), y.to(device)))):
        one.loss(*rows).backward()
    torch.testing.assert_close(
        there.log_prob(h.to(device), y.to(device)).cpu(), head.log_prob(h, y), **CLOSE
    )
    for (name, theirs), ours in zip(there.named_parameters(), head.parameters(), strict=True):
        assert theirs.grad is not None, name
        assert theirs.grad.device.type == device
        assert ours.grad is not None, name
        torch.testing.assert_close(theirs.grad.cpu(), ours.grad, msg=name, **CLOSE)
    drawn = there(h[:5].to(device)).rsample((7,))
    assert drawn.shape == (7, 5, 2)
    assert drawn.device.type == device


def test_a_sampling_head_draws_where_its_layer_is(device: str) -> None:
    layer = GMMLayer(2, 3, device=device)
    head = SamplingHead(layer, reparameterize="implicit")
    drawn = head(9)
    assert drawn.device.type == device
    drawn.square().mean().backward()
    assert layer.means.grad is not None
