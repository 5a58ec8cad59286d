"""Gaussian mixtures as layers: fitted by EM or trained by gradient descent."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmm_lightning.distributions import MixtureOfGaussians
    from gmm_lightning.em import (
        Annealing,
        ClassifierResult,
        EMResult,
        StepwiseEM,
        VBResult,
        e_step,
        fit_classifier,
        fit_em,
        fit_vb,
        m_step,
        resolve_priors,
    )
    from gmm_lightning.layers import DensityHead, GMMLayer, MixtureClassifier, SamplingHead
    from gmm_lightning.statistics import SufficientStatistics
    from gmm_lightning.training import ArrayDataModule, EMCallback, GMMModule, InitializeCallback

__version__ = "0.1.0"

__all__ = [
    "Annealing",
    "ArrayDataModule",
    "ClassifierResult",
    "DensityHead",
    "EMCallback",
    "EMResult",
    "GMMLayer",
    "GMMModule",
    "InitializeCallback",
    "MixtureClassifier",
    "MixtureOfGaussians",
    "SamplingHead",
    "StepwiseEM",
    "SufficientStatistics",
    "VBResult",
    "e_step",
    "fit_classifier",
    "fit_em",
    "fit_vb",
    "m_step",
    "resolve_priors",
]

_HOMES = {
    "Annealing": "em",
    "ArrayDataModule": "training",
    "ClassifierResult": "em",
    "DensityHead": "layers",
    "EMCallback": "training",
    "EMResult": "em",
    "GMMLayer": "layers",
    "GMMModule": "training",
    "InitializeCallback": "training",
    "MixtureClassifier": "layers",
    "MixtureOfGaussians": "distributions",
    "SamplingHead": "layers",
    "StepwiseEM": "em",
    "SufficientStatistics": "statistics",
    "VBResult": "em",
    "e_step": "em",
    "fit_classifier": "em",
    "fit_em": "em",
    "fit_vb": "em",
    "m_step": "em",
    "resolve_priors": "em",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for.

    `gmm-train --help` does without torch, and `fit_em` without Lightning.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
