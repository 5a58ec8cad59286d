"""Facades with the names, signatures and defaults of other libraries.

`GaussianMixture` here is scikit-learn's, with a classifier and a regressor by its rules;
`estimators.gmr` is gmr 2.0. They translate arguments and results, and leave the computation to the
other packages. What layers take as rows goes in, tables too; numpy arrays come out.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmm_lightning.estimators.scikit_learn import (
        BayesianGaussianMixture,
        GaussianMixture,
        GaussianMixtureClassifier,
        GaussianMixtureRegressor,
    )

__all__ = [
    "BayesianGaussianMixture",
    "GaussianMixture",
    "GaussianMixtureClassifier",
    "GaussianMixtureRegressor",
]


# Each by itself: an import takes as long as what it needs.
_HOMES = {
    "BayesianGaussianMixture": "bayesian",
    "GaussianMixture": "mixture",
    "GaussianMixtureClassifier": "classifier",
    "GaussianMixtureRegressor": "regressor",
}


def __getattr__(name: str) -> Any:
    """Import an estimator when it is first asked for: scikit-learn is optional."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"gmm_lightning.estimators.scikit_learn.{_HOMES[name]}"), name)
