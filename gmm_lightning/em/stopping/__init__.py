"""Rules that say when EM has converged, one module each; a new module here is a new rule."""

from __future__ import annotations

from gmm_lightning._plugins import Registry
from gmm_lightning.em.stopping.aitken import Aitken
from gmm_lightning.em.stopping.base import StoppingRule
from gmm_lightning.em.stopping.gain import Gain
from gmm_lightning.em.stopping.relative import Relative
from gmm_lightning.em.stopping.responsibilities import ResponsibilityChange

registry: Registry[StoppingRule] = Registry(__name__, StoppingRule, "stopping rule")

__all__ = [
    "Aitken",
    "Gain",
    "Relative",
    "ResponsibilityChange",
    "StoppingRule",
    "registry",
]
