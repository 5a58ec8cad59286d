"""Closed-form EM: two steps, and a loop around them."""

from __future__ import annotations

from gmm_lightning.em.collapse import Collapse
from gmm_lightning.em.fit import EMResult, fit_em
from gmm_lightning.em.start import resolve_priors
from gmm_lightning.em.steps import e_step, m_step

__all__ = ["Collapse", "EMResult", "e_step", "fit_em", "m_step", "resolve_priors"]
