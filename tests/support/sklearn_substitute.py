"""A plug-in of pytest: `sklearn.mixture.GaussianMixture` is ours before a test imports it."""

from __future__ import annotations

import sklearn.mixture

from gmm_lightning.estimators import BayesianGaussianMixture, GaussianMixture

for one in (GaussianMixture, BayesianGaussianMixture):
    setattr(sklearn.mixture, one.__name__, one)
