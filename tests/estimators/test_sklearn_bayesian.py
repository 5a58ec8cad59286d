"""`BayesianGaussianMixture` beside scikit-learn's, and what is more than that."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import sklearn.mixture
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from gmm_lightning import GMMLayer, VBResult, fit_vb
from gmm_lightning.estimators import (
    BayesianGaussianMixture,
    GaussianMixture,
    GaussianMixtureClassifier,
    GaussianMixtureRegressor,
)
from gmm_lightning.priors import Dirichlet, NormalInverseWishart

pytestmark = pytest.mark.usefixtures("double")

RNG = np.random.default_rng(0)
X = np.concatenate(
    [RNG.normal(size=(60, 2)) @ RNG.normal(size=(2, 2)) + s for s in ([0, 0], [9, 1], [0, 12])]
)
TYPES = ("full", "tied", "diag", "spherical")
ATTRIBUTES = ("means_", "covariances_", "precisions_", "weights_", "mean_precision_")


@parametrize_with_checks([BayesianGaussianMixture()])
def test_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def sorted_by_mean(fitted: Any, name: str) -> np.ndarray:
    value = np.asarray(getattr(fitted, name))
    order = np.argsort(fitted.means_[:, 0])
    whole = name in ("covariances_", "precisions_") and fitted.covariance_type == "tied"
    return value if whole else value[order]


@pytest.mark.parametrize("kind", ["dirichlet_process", "dirichlet_distribution"])
@pytest.mark.parametrize("name", TYPES)
def test_the_posterior_is_that_of_scikit_learn(name: str, kind: str) -> None:
    options = {
        "n_components": 3,
        "covariance_type": name,
        "weight_concentration_prior_type": kind,
        "random_state": 0,
        "tol": 1e-10,
        "max_iter": 1000,
    }
    ours = BayesianGaussianMixture(**options).fit(X)
    theirs = sklearn.mixture.BayesianGaussianMixture(**options).fit(X)
    assert ours.converged_
    assert ours.lower_bound_ == pytest.approx(float(np.ravel(theirs.lower_bound_)[0]), rel=1e-9)
    for attribute in ATTRIBUTES:
        one, other = (sorted_by_mean(fitted, attribute) for fitted in (ours, theirs))
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    # Both stop within the tolerance of one bound: distances to the end are its square root.
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), atol=1e-4)
    assert np.shape(ours.degrees_of_freedom_) == np.shape(theirs.degrees_of_freedom_)
    assert len(ours.weight_concentration_) == len(theirs.weight_concentration_)
    assert np.all(np.diff(ours.lower_bounds_) >= -1e-9)
    np.testing.assert_allclose(ours.covariance_prior_, theirs.covariance_prior_)


def test_the_exact_convention_is_fit_vb() -> None:
    mixture = BayesianGaussianMixture(
        n_components=3,
        covariance_type="diag",
        weight_concentration_prior_type="dirichlet_distribution",
        convention="exact",
        tol=1e-9,
        max_iter=1000,
        random_state=0,
        reg_covar=0.0,
    ).fit(X)
    # A number of degrees of freedom counts for the matrix there, and for each feature here.
    niw = NormalInverseWishart(
        loc=X.mean(0),
        mean_precision=1.0,
        df=2.0,
        scale_matrix=np.diag(X.var(0, ddof=1)),
        convention="expected_precision",
    )
    layer = GMMLayer(2, 3, "diag", priors=[Dirichlet(1 / 3), niw])
    result = fit_vb(layer, X, initializer=mixture.predict(X), tol=1e-12)
    assert mixture.lower_bound_ == pytest.approx(result.bound * len(X), rel=1e-9)


def test_a_process_leaves_superfluous_components_empty() -> None:
    mixture = BayesianGaussianMixture(
        n_components=10, weight_concentration_prior=1e-3, max_iter=2000, random_state=0
    ).fit(X)
    assert int((mixture.weights_ > 0.01).sum()) == 3
    assert len(np.unique(mixture.predict(X))) == 3


def test_tensors_and_float32_stay_what_they_are() -> None:
    mixture = BayesianGaussianMixture(n_components=3, random_state=0)
    rows = torch.from_numpy(X).float()
    fitted = clone(mixture).fit(rows)
    assert isinstance(fitted.means_, torch.Tensor)
    assert fitted.means_.dtype == fitted.score_samples(rows).dtype == torch.float32
    table = clone(mixture).fit(X.astype(np.float32))
    assert table.means_.dtype == table.covariances_.dtype == np.float32
    again = pickle.loads(pickle.dumps(table))
    np.testing.assert_array_equal(again.predict_proba(X), table.predict_proba(X))
    drawn, component = table.sample(20)
    assert drawn.shape == (20, 2)
    assert len(component) == 20


def test_missing_entries_and_weights() -> None:
    holed = X.copy()
    holed[::9, 1] = np.nan
    mixture = BayesianGaussianMixture(n_components=3, missing="em", random_state=0, max_iter=500)
    assert mixture.fit(holed).converged_
    assert set(mixture.predict(holed)) == {0, 1, 2}
    plain = BayesianGaussianMixture(
        n_components=3, covariance_prior=np.eye(2), tol=1e-9, max_iter=500, random_state=0
    )
    one = clone(plain).fit(X, sample_weight=np.full(len(X), 2.0))
    other = clone(plain).fit(np.concatenate([X, X]))
    np.testing.assert_allclose(one.lower_bound_, other.lower_bound_, rtol=1e-6)


def test_warm_start_goes_on() -> None:
    options = {"n_components": 3, "random_state": 0, "tol": 0.0}
    whole = BayesianGaussianMixture(max_iter=6, **options)
    parts = BayesianGaussianMixture(max_iter=3, warm_start=True, **options)
    with pytest.warns(ConvergenceWarning):
        whole.fit(X)
    for _ in range(2):
        with pytest.warns(ConvergenceWarning):
            parts.fit(X)
    np.testing.assert_array_equal(parts.means_, whole.means_)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"degrees_of_freedom_prior": 0.5}, "should be greater than 1"),
        ({"mean_prior": [0.0]}, r"shape of \(2,\)"),
        ({"covariance_prior": np.eye(3)}, "full covariance_prior"),
        ({"covariance_prior": -np.eye(2)}, "positive-definite"),
        ({"covariance_prior": [-1.0, 1.0], "covariance_type": "diag"}, "should be positive"),
        ({"n_components": 500}, "n_samples >= n_components"),
        ({"convention": "other"}, "convention"),
    ],
)
def test_bad_priors_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BayesianGaussianMixture(**options).fit(X)


@pytest.mark.parametrize("kind", [GaussianMixture, GaussianMixtureRegressor])
def test_posteriors_of_the_other_estimators(kind: Any) -> None:
    model = kind(n_components=3, inference="vb", random_state=0, max_iter=500, tol=1e-7)
    fitted = model.fit(X) if kind is GaussianMixture else model.fit(X[:, :1], X[:, 1])
    assert isinstance(fitted.result_, VBResult)
    assert fitted.result_.converged
    layer = GMMLayer(2, 3)
    result = fit_vb(layer, X, initializer=fitted.layer_.predict(X), tol=1e-9)
    assert fitted.result_.bound == pytest.approx(result.bound, rel=1e-5)


def test_posteriors_of_classes() -> None:
    y = np.repeat(["a", "b", "c"], 60)
    model = GaussianMixtureClassifier(n_components=2, inference="vb", random_state=0, tol=1e-9)
    fitted = model.fit(X, y)
    assert fitted.score(X, y) > 0.97
    # Each class by itself.
    alone = GMMLayer(2, 1)
    one = GaussianMixtureClassifier(inference="vb", random_state=0).fit(X, y)
    fit_vb(alone, X[:60])
    torch.testing.assert_close(one.classifier_.layer.means[0], alone.means)
    torch.testing.assert_close(one.classifier_.layer.covariance_matrix[0], alone.covariance_matrix)
