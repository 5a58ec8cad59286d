"""Mixtures to draw: overlapping components of different shape and weight."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gmm_lightning.distributions import MixtureOfGaussians

Make = Callable[[int, int], MixtureOfGaussians]


@pytest.fixture
def make() -> Make:
    """A mixture of so many components and features, in float64."""

    def made(num_components: int, num_features: int) -> MixtureOfGaussians:
        generator = torch.Generator().manual_seed(0)
        like = {"dtype": torch.float64, "generator": generator, "device": "cpu"}
        factor = torch.randn(num_components, num_features, num_features, **like)
        unit = torch.eye(num_features, dtype=torch.float64, device="cpu")
        return MixtureOfGaussians(
            torch.randn(num_components, **like),
            4.0 * torch.randn(num_components, num_features, **like),
            torch.linalg.cholesky(factor @ factor.mT + 0.1 * unit),
        )

    return made
