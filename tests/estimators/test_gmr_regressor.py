"""Gaussian mixture regression as a scikit-learn estimator."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support.gmr_mixtures import case, em, regression

from gmm_lightning.estimators import gmr
from gmm_lightning.estimators.gmr import GaussianMixtureRegressor

C = case(7, n=80)
X, Y = C.x[:, :2], C.x[:, 2]


def test_is_the_regression_of_the_joint_mixture() -> None:
    model = GaussianMixtureRegressor(3, C.priors, C.means, C.covariances, R_diff=0.0, n_iter=3)
    found = model.fit(X, Y).predict(X)
    # A target of one column comes back as it came (gmr: always with two axes).
    assert found.shape == (80,)
    column = model.fit(X, Y[:, np.newaxis]).predict(X)
    assert_allclose(column, regression(em(C, C.x, 3), [0, 1], X), rtol=1e-7)
    assert_allclose(found, column[:, 0], rtol=1e-12)
    assert model.indices_.tolist() == [0, 1]
    assert model.n_features_in_ == 2


def test_several_outputs() -> None:
    model = GaussianMixtureRegressor(2, random_state=0, n_iter=20).fit(X[:, :1], C.x[:, 1:])
    assert model.predict(X[:, :1]).shape == (80, 2)
    assert np.isfinite(model.score(X[:, :1], C.x[:, 1:]))


def test_parameters_of_the_user_stay_and_clones_are_equal() -> None:
    covariances = C.covariances.copy()
    model = GaussianMixtureRegressor(3, C.priors, C.means, covariances, n_iter=3)
    first = model.fit(X, Y).predict(X)
    assert (covariances == C.covariances).all()
    assert_allclose(clone(model).fit(X, Y).predict(X), first)


def test_searches_and_pipelines() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, size=(150, 1))
    y = np.abs(x[:, 0]) + 0.05 * rng.normal(size=150)
    model = GaussianMixtureRegressor(1, random_state=0, n_iter=50, init_params="kmeans++")
    search = GridSearchCV(
        make_pipeline(StandardScaler(), model),
        {"gaussianmixtureregressor__n_components": [1, 4]},
        cv=3,
    )
    search.fit(x, y)
    assert search.best_params_ == {"gaussianmixtureregressor__n_components": 4}
    # A line explains nothing of a V.
    assert search.best_score_ > 0.9


def test_refuses() -> None:
    model = GaussianMixtureRegressor(2)
    with pytest.raises(NotFittedError):
        model.predict(X)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full((3, 1), np.nan), [0.0, 1.0, 2.0])


def test_the_rest_does_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "gmm_lightning.estimators.gmr"
    for module in [m for m in sys.modules if f"{m}.".startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    for module in [m for m in sys.modules if f"{m}.".startswith("sklearn.")]:
        monkeypatch.setitem(sys.modules, module, None)
    # The import sets it.
    monkeypatch.setattr("gmm_lightning.estimators.gmr", gmr)
    again = importlib.import_module(name)
    assert again is not gmr
    assert again.GMM(1, [1.0], [[0.0]], [[[1.0]]]).sample(2).shape == (2, 1)
    with pytest.raises(ImportError, match="GaussianMixtureRegressor needs scikit-learn"):
        _ = again.GaussianMixtureRegressor


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'best'"):
        _ = gmr.best
