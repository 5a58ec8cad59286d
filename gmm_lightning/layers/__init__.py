"""Layers: the mixture, its density and sampling heads, its classifier, standardisation."""

from __future__ import annotations

from gmm_lightning.layers._most_probable import most_probable, require_found
from gmm_lightning.layers._state import require_state
from gmm_lightning.layers.classifier import Calibration, MixtureClassifier
from gmm_lightning.layers.density_head import DensityHead
from gmm_lightning.layers.gmm import GMMLayer
from gmm_lightning.layers.mixture import keep_constant
from gmm_lightning.layers.sampling_head import SamplingHead
from gmm_lightning.layers.standardize import Standardize
from gmm_lightning.linalg import mixture_logits

__all__ = [
    "Calibration",
    "DensityHead",
    "GMMLayer",
    "MixtureClassifier",
    "SamplingHead",
    "Standardize",
    "keep_constant",
    "mixture_logits",
    "most_probable",
    "require_found",
    "require_state",
]
