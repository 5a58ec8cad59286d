"""scikit-learn's estimators on this engine: `from gmm_lightning.estimators import GaussianMixture`.

`GaussianMixture` has the arguments, methods, attributes and rules of
`sklearn.mixture.GaussianMixture`, and options that it lacks. `GaussianMixtureClassifier` and
`GaussianMixtureRegressor` are estimators by the same rules, which fit as `fit_em` does. Numpy
arrays and tables give numpy arrays, tensors give tensors on the same device and in the same dtype.
"""

from __future__ import annotations

try:
    import sklearn.base  # noqa: F401
except ImportError:
    raise ImportError(
        "gmm_lightning.estimators needs scikit-learn: pip install 'gmm-lightning[sklearn]'"
    ) from None

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
