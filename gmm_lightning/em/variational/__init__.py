"""Variational Bayes: posterior distributions of the parameters, by the passes of EM."""

from __future__ import annotations

from gmm_lightning.em.variational.components import ComponentsPosterior
from gmm_lightning.em.variational.fit import fit_vb
from gmm_lightning.em.variational.posterior import MixturePosterior
from gmm_lightning.em.variational.prior import (
    conjugate_prior,
    counted_statistics,
    with_default_prior,
)
from gmm_lightning.em.variational.result import VBResult
from gmm_lightning.em.variational.stochastic import StochasticVB
from gmm_lightning.em.variational.weights import (
    DirichletPosterior,
    StickBreakingPosterior,
    WeightsPosterior,
)

__all__ = [
    "ComponentsPosterior",
    "DirichletPosterior",
    "MixturePosterior",
    "StickBreakingPosterior",
    "StochasticVB",
    "VBResult",
    "WeightsPosterior",
    "conjugate_prior",
    "counted_statistics",
    "fit_vb",
    "with_default_prior",
]
