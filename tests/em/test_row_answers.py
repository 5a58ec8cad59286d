"""Densities and labels of many rows, by the products of an E-step."""

from __future__ import annotations

import pytest
import torch

from gmm_lightning import GMMLayer
from gmm_lightning.covariances import registry as covariances
from gmm_lightning.em import reduce_log_joint

ON_GPU = True

# Cancellation that a plan admits, 2^20 eps in float64 and 2^10 eps in float32.
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-3}


def layer_of(family: str, dtype: torch.dtype, k: int = 4, d: int = 5) -> GMMLayer:
    factor = torch.randn(k, d, d, dtype=torch.float64) + 2 * torch.eye(d, dtype=torch.float64)
    weights = torch.rand(k, dtype=torch.float64) + 0.1
    means = 3 * torch.randn(k, d, dtype=torch.float64)
    return GMMLayer.from_parameters(weights, means, factor @ factor.mT, family).to(dtype)


@pytest.mark.parametrize("family", covariances.names)
@pytest.mark.parametrize("dtype", CLOSE)
@torch.no_grad()
def test_is_the_log_joint_of_the_layer(family: str, dtype: torch.dtype, device: str) -> None:
    layer = layer_of(family, dtype).to(device)
    x = 4 * torch.randn(2500, 5, dtype=dtype, device=device)
    found = reduce_log_joint(layer, x, lambda log_joint: log_joint.T)
    assert found is not None
    assert found.dtype == dtype
    expected = layer.double().log_joint(x.double())
    # Relative for rows far away, whose densities are large.
    gap = (found.double() - expected).abs() / (1 + expected.abs())
    assert float(gap.max()) < CLOSE[dtype]


def test_tight_components_far_apart_keep_their_digits() -> None:
    means = torch.tensor([[0.0, 0.0], [1e4, 0.0]], dtype=torch.float64)
    layer = GMMLayer.from_parameters(
        torch.full((2,), 0.5), means, 1e-4 * torch.eye(2, dtype=torch.float64).repeat(2, 1, 1)
    )
    x = means.repeat(600, 1) + 0.01 * torch.randn(1200, 2, dtype=torch.float64)
    found = reduce_log_joint(layer, x, lambda log_joint: log_joint.logsumexp(0))
    assert found is not None
    # The rows themselves have eps 1e4 / 1e-2 of a deviation.
    torch.testing.assert_close(found, layer.log_prob(x).detach(), rtol=0, atol=1e-8)


def test_where_the_layer_is_asked() -> None:
    layer = layer_of("full", torch.float64)
    many = torch.randn(2500, 5, dtype=torch.float64)

    def labels(log_joint: torch.Tensor) -> torch.Tensor:
        return log_joint.max(0).indices

    assert reduce_log_joint(layer, many, labels) is not None
    assert reduce_log_joint(layer, many[:20], labels) is None
    assert reduce_log_joint(GMMLayer(5, 4, batch_shape=(2,)), many, labels) is None
    assert reduce_log_joint(GMMLayer(5, 4, noise="uniform"), many, labels) is None
    many[7] = 1e200
    assert reduce_log_joint(layer, many, labels) is None
