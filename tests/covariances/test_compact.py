"""Covariances in the shapes of other libraries, and back."""

from __future__ import annotations

import pytest
import torch
from support.random_layers import FAMILIES, random_layer
from torch import Generator

from gmm_lightning.covariances import from_compact, to_compact

SHAPES = {
    "full": (3, 2, 2),
    "diag": (3, 2),
    "spherical": (3,),
    "tied": (2, 2),
    "tied_diag": (2,),
    "tied_spherical": (),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_covariances_come_back_from_their_compact_shape(family: str, generator: Generator) -> None:
    layer = random_layer(family, generator=generator)
    dense = layer.covariance_matrix.detach()
    compact = to_compact(dense, layer.covariance)
    assert tuple(compact.shape) == SHAPES.get(family, compact.shape)
    whole = from_compact(compact, layer.covariance, 2).expand(3, 2, 2)
    # Families that hold factors agree in them bit for bit; their products in rounding.
    torch.testing.assert_close(whole, dense, rtol=1e-6, atol=0)
