"""Closed-form EM: two steps, and a loop around them."""

from __future__ import annotations

from gmm_lightning.em.acceleration import Accelerator, Anderson, Squarem
from gmm_lightning.em.annealing import Annealing
from gmm_lightning.em.classes import ClassifierResult, fit_classifier
from gmm_lightning.em.collapse import Collapse
from gmm_lightning.em.fit import EMResult, fit_em
from gmm_lightning.em.start import resolve_priors
from gmm_lightning.em.steps import e_step, m_step
from gmm_lightning.em.stepwise import StepwiseEM

__all__ = [
    "Accelerator",
    "Anderson",
    "Annealing",
    "ClassifierResult",
    "Collapse",
    "EMResult",
    "Squarem",
    "StepwiseEM",
    "e_step",
    "fit_classifier",
    "fit_em",
    "m_step",
    "resolve_priors",
]
