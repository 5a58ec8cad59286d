"""The classifier by scikit-learn's rules: its answers, its checks, its words."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from gmm_lightning import GMMLayer, MixtureClassifier, fit_classifier
from gmm_lightning.covariances import FullCovariance
from gmm_lightning.estimators import GaussianMixtureClassifier

X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[Y]


def test_check_estimator() -> None:
    with warnings.catch_warnings():
        # Of checks that need scipy's array API switched on.
        warnings.simplefilter("ignore")
        check_estimator(GaussianMixtureClassifier(random_state=0))


def test_one_component_per_class_is_quadratic_discriminant_analysis() -> None:
    # That one divides scatters by n - 1: covariances of copies of the rows differ by 1 / n.
    many, labels = np.tile(X, (2000, 1)), np.tile(NAMES, 2000)
    ours = GaussianMixtureClassifier().fit(many, labels)
    theirs = QuadraticDiscriminantAnalysis().fit(many, labels)
    assert ours.classes_.tolist() == theirs.classes_.tolist()
    # 1 / n is 1e-5, times the largest squared distance, some hundreds.
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-2)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


def test_is_the_classifier_of_the_engine() -> None:
    model = GaussianMixtureClassifier(2, covariance_type="diag", random_state=0, n_init=2)
    model.fit(X, Y, sample_weight=np.arange(150) % 4 + 1)
    assert isinstance(model.classifier_, MixtureClassifier)
    np.testing.assert_allclose(model.predict_proba(X), model.classifier_.posterior(X).detach())
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X))
    assert model.n_iter_ == max(r.num_iterations for r in model.result_.classes.values())
    layer = GMMLayer(4, 1, batch_shape=(3,), dtype=torch.float64)
    fit_classifier(MixtureClassifier(layer), X, Y)
    one = GaussianMixtureClassifier().fit(X, Y)
    np.testing.assert_allclose(one.classifier_.layer.means.detach(), layer.means.detach())
    family = GaussianMixtureClassifier(covariance_type=FullCovariance()).fit(X, Y)
    np.testing.assert_array_equal(family.predict_proba(X), one.predict_proba(X))
    # A row like no class has a low density.
    assert one.score_samples([[99.0] * 4])[0] < one.score_samples(X).min()


def test_class_priors() -> None:
    given = GaussianMixtureClassifier(class_priors=[0.98, 0.01, 0.01]).fit(X, Y)
    found = given.classifier_.class_priors.detach().numpy()
    np.testing.assert_allclose(found, [0.98, 0.01, 0.01])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_give_tensors(dtype: torch.dtype) -> None:
    x = torch.tensor(X, dtype=dtype)
    before = torch.get_rng_state()
    model = GaussianMixtureClassifier(random_state=0).fit(x, torch.from_numpy(Y))
    assert torch.equal(torch.get_rng_state(), before)
    for method in ("predict_proba", "predict_log_proba", "score_samples"):
        assert getattr(model, method)(x).dtype == dtype
    assert torch.equal(model.predict(x).unique(), torch.tensor([0, 1, 2]))
    assert isinstance(model.predict(X), np.ndarray)
    # Words are no tensors.
    named = GaussianMixtureClassifier().fit(x, NAMES)
    assert set(named.predict(x)) == set(NAMES)


def test_parts_of_scikit_learn() -> None:
    model = make_pipeline(StandardScaler(), GaussianMixtureClassifier(2, random_state=0))
    assert cross_val_score(model, X, NAMES, cv=3).min() > 0.9
    again = pickle.loads(pickle.dumps(model.fit(X, NAMES)))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    with pytest.raises(NotFittedError):
        clone(model[-1]).predict(X)


@pytest.mark.parametrize(
    ("options", "y", "match"),
    [
        ({"n_components": 0}, Y, "n_components"),
        ({"n_components": 51}, Y, "fewer than num_components=51"),
        ({"init_params": "best"}, Y, "init_params"),
        ({"covariance_type": "round"}, Y, "covariance_type"),
        ({"class_priors": [0.5, 0.5]}, Y, "class priors must be 3 finite numbers"),
        ({"tol": -1.0}, Y, "tol"),
        ({}, Y[:-1], "inconsistent numbers of samples"),
        ({}, X[:, 0], "Unknown label type"),
        ({}, np.where(Y == 1, np.nan, Y), "NaN"),
    ],
)
def test_refusals(options: dict[str, object], y: np.ndarray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        GaussianMixtureClassifier(**options).fit(X, y)
    with pytest.raises(ValueError, match="sample_weight"):
        GaussianMixtureClassifier().fit(X, Y, sample_weight=np.zeros(150))


def test_a_fit_that_fails_leaves_the_last_one() -> None:
    fresh = GaussianMixtureClassifier(60, random_state=0)
    with pytest.raises(ValueError, match="fewer than num_components=60"):
        fresh.fit(X, Y)
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    model = GaussianMixtureClassifier(random_state=0).fit(X, NAMES)
    before = model.predict_proba(X)
    with pytest.raises(ValueError, match="fewer than num_components=60"):
        model.set_params(n_components=60).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert model.predict(X)[0] == "setosa"
