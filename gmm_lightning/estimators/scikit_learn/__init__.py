"""scikit-learn's estimators on this engine: `from gmm_lightning.estimators import GaussianMixture`.

`GaussianMixture` has the arguments, methods, attributes and rules of
`sklearn.mixture.GaussianMixture`, and options that it lacks. `GaussianMixtureClassifier` and
`GaussianMixtureRegressor` are estimators by the same rules, which fit as `fit_em` does. Numpy
arrays and tables give numpy arrays, tensors give tensors on the same device and in the same dtype.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    import sklearn.base  # noqa: F401
except ImportError:
    raise ImportError(
        "gmm_lightning.estimators needs scikit-learn: pip install 'gmm-lightning[sklearn]'"
    ) from None

if TYPE_CHECKING:
    from gmm_lightning.estimators.scikit_learn.bayesian import BayesianGaussianMixture
    from gmm_lightning.estimators.scikit_learn.classifier import GaussianMixtureClassifier
    from gmm_lightning.estimators.scikit_learn.mixture import GaussianMixture
    from gmm_lightning.estimators.scikit_learn.regressor import GaussianMixtureRegressor

__all__ = [
    "BayesianGaussianMixture",
    "GaussianMixture",
    "GaussianMixtureClassifier",
    "GaussianMixtureRegressor",
]


def __getattr__(name: str) -> Any:
    """Import an estimator when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("gmm_lightning.estimators"), name)
