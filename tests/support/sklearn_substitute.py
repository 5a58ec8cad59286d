"""A plug-in of pytest: `sklearn.mixture.GaussianMixture` is ours before a test imports it."""

from __future__ import annotations

import sklearn.mixture

from gmm_lightning.estimators import GaussianMixture

setattr(sklearn.mixture, "GaussianMixture", GaussianMixture)  # noqa: B010 (its type is another)
