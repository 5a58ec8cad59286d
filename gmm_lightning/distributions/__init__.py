"""The distribution that a layer, a head or a command returns."""

from __future__ import annotations

from gmm_lightning.distributions.mixture import MixtureOfGaussians

__all__ = ["MixtureOfGaussians"]
