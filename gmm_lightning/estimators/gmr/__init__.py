"""The names of gmr 2.0: `from gmm_lightning.estimators import gmr` instead of `import gmr`.

Arguments are arrays, results float64 arrays. Errors of gmr are corrected: k-means++ weights by
the nearest seed, confidence regions have as many degrees of freedom as features, determinants
have no floor, nothing is cached, and arrays of the caller are not overwritten.

Samples follow from seeds, but are not those of gmr.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gmm_lightning.estimators.gmr import gmm, mvn, utils
from gmm_lightning.estimators.gmr.ellipses import plot_error_ellipse, plot_error_ellipses
from gmm_lightning.estimators.gmr.functions import (
    condition,
    invert_indices,
    regression_coefficients,
)
from gmm_lightning.estimators.gmr.gmm import GMM
from gmm_lightning.estimators.gmr.initialization import (
    covariance_initialization,
    kmeansplusplus_initialization,
)
from gmm_lightning.estimators.gmr.mvn import MVN

if TYPE_CHECKING:
    from gmm_lightning.estimators.gmr.sklearn import GaussianMixtureRegressor

__all__ = [
    "GMM",
    "MVN",
    "GaussianMixtureRegressor",
    "condition",
    "covariance_initialization",
    "gmm",
    "invert_indices",
    "kmeansplusplus_initialization",
    "mvn",
    "plot_error_ellipse",
    "plot_error_ellipses",
    "regression_coefficients",
    "utils",
]


def __getattr__(name: str) -> Any:
    """Import the regressor when it is first asked for: scikit-learn is optional."""
    if name != "GaussianMixtureRegressor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gmm_lightning.estimators.gmr.sklearn import GaussianMixtureRegressor

    return GaussianMixtureRegressor
