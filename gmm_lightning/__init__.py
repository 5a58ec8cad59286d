"""Gaussian mixtures as layers: fitted by EM or trained by gradient descent."""

from __future__ import annotations

from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.em import EMResult, e_step, fit_em, m_step, resolve_priors
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import SufficientStatistics

__version__ = "0.1.0"

__all__ = [
    "EMResult",
    "GMMLayer",
    "MixtureOfGaussians",
    "SufficientStatistics",
    "e_step",
    "fit_em",
    "m_step",
    "resolve_priors",
]
