"""Gaussian mixture regression by scikit-learn's rules: closed forms, its checks, its words."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from gmm_lightning.estimators import GaussianMixtureRegressor

RNG = np.random.default_rng(0)
X = RNG.uniform(-2, 2, size=(300, 2))
Y = np.stack([np.abs(X[:, 0]), X @ [1.0, -2.0]], 1) + 0.1 * RNG.normal(size=(300, 2))


def fitted(y: Any = Y, **options: Any) -> GaussianMixtureRegressor:
    return GaussianMixtureRegressor(**({"n_components": 4, "random_state": 0} | options)).fit(X, y)


def test_check_estimator() -> None:
    with warnings.catch_warnings():
        # Of checks that need scipy's array API switched on.
        warnings.simplefilter("ignore")
        check_estimator(GaussianMixtureRegressor(random_state=0))


def test_one_component_is_linear_regression() -> None:
    weight = np.arange(300) % 3 + 1.0
    model = GaussianMixtureRegressor().fit(X, Y, sample_weight=weight)
    line = LinearRegression().fit(X, Y, sample_weight=weight)
    mean, covariance = model.predict(X, return_cov=True)
    np.testing.assert_allclose(mean, line.predict(X), rtol=0, atol=1e-10)
    residual = Y - line.predict(X)
    expected = (weight[:, None] * residual).T @ residual / weight.sum()
    np.testing.assert_allclose(covariance, np.broadcast_to(expected, (300, 2, 2)), atol=1e-10)


def test_moments_are_those_of_the_conditional_mixture() -> None:
    model = fitted()
    mean, covariance = model.predict(X[:5], return_cov=True)
    given = model.layer_.distribution().condition([0, 1], torch.from_numpy(X[:5]))
    weights, means = given.weights.detach().numpy(), given.means.detach().numpy()
    parts = given.component_covariances.detach().numpy()
    for i in range(5):
        centre = weights[i] @ means[i]
        gap = means[i] - centre
        spread = np.einsum("k,kij->ij", weights[i], parts[i] + gap[:, :, None] * gap[:, None, :])
        np.testing.assert_allclose(mean[i], centre, rtol=1e-9)
        np.testing.assert_allclose(covariance[i], spread, rtol=1e-8)
    _, deviation = model.predict(X[:5], return_std=True)
    variances = np.diagonal(covariance, axis1=1, axis2=2)
    np.testing.assert_allclose(deviation, np.sqrt(variances), rtol=1e-12)


def test_draws_have_these_moments() -> None:
    model, number = fitted(), 20_000
    drawn = model.sample_y(X[:3], number, random_state=1)
    assert drawn.shape == (3, 2, number)
    mean, deviation = model.predict(X[:3], return_std=True)
    # Five standard errors.
    np.testing.assert_array_less(np.abs(drawn.mean(-1) - mean), 5 * deviation / number**0.5)
    np.testing.assert_array_equal(drawn, model.sample_y(X[:3], number, random_state=1))
    assert not np.array_equal(drawn, model.sample_y(X[:3], number, random_state=2))


def test_outputs_with_one_axis() -> None:
    model = fitted(Y[:, 0])
    mean, deviation = model.predict(X, return_std=True)
    assert mean.shape == deviation.shape == (300,)
    assert model.predict(X, return_cov=True)[1].shape == (300, 1, 1)
    assert model.sample_y(X, 7).shape == (300, 7)
    # Two components bend where one is a line.
    assert model.score(X, Y[:, 0]) > 0.9 > 0.2 > fitted(Y[:, 0], n_components=1).score(X, Y[:, 0])


def test_an_output_that_is_constant() -> None:
    model = fitted(np.stack([Y[:, 0], np.full(300, 3.0)], 1))
    mean, deviation = model.predict(X, return_std=True)
    np.testing.assert_allclose(mean[:, 1], 3.0)
    assert (deviation[:, 1] == 0).all()
    assert (deviation[:, 0] > 0).all()
    np.testing.assert_allclose(model.sample_y(X, 4)[:, 1], 3.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_give_tensors(dtype: torch.dtype) -> None:
    x, y = torch.tensor(X, dtype=dtype), torch.tensor(Y, dtype=dtype)
    before = torch.get_rng_state()
    model = GaussianMixtureRegressor(2, random_state=0).fit(x, y)
    answers = (*model.predict(x, return_std=True), model.sample_y(x, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(isinstance(answer, torch.Tensor) and answer.dtype == dtype for answer in answers)
    assert isinstance(model.predict(X), np.ndarray)


def test_parts_of_scikit_learn() -> None:
    model = GaussianMixtureRegressor(4, random_state=0)
    assert cross_val_score(model, X, Y[:, 0], cv=3).min() > 0.8
    again = pickle.loads(pickle.dumps(model.fit(X, Y)))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    with pytest.raises(NotFittedError):
        clone(model).sample_y(X)


@pytest.mark.parametrize(
    ("options", "y", "match"),
    [
        ({"n_components": 0}, Y, "n_components"),
        ({"n_components": 301}, Y, "num_components=301 needs at least 301"),
        ({"covariance_type": "round"}, Y, "covariance_type"),
        ({"init_params": "given"}, Y, "init_params"),
        ({"max_iter": 0}, Y, "max_iter"),
        ({}, Y[:-1], "inconsistent numbers of samples"),
        ({}, np.where(Y > 2, np.inf, Y), "infinity"),
        ({}, np.full(300, "word"), "y must hold numbers"),
        ({}, None, "requires y"),
    ],
)
def test_refusals(options: dict[str, Any], y: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        GaussianMixtureRegressor(**options).fit(X, y)


def test_refusals_after_a_fit() -> None:
    model = fitted()
    with pytest.raises(ValueError, match="at most one of return_std and return_cov"):
        model.predict(X, return_std=True, return_cov=True)
    with pytest.raises(ValueError, match="expecting 2 features"):
        model.predict(X[:, :1])
    with pytest.raises(ValueError, match="every sample_weight is zero"):
        GaussianMixtureRegressor().fit(X, Y, sample_weight=np.zeros(300))


def test_a_fit_that_fails_leaves_the_last_one() -> None:
    fresh = GaussianMixtureRegressor(301)
    with pytest.raises(ValueError, match="num_components=301"):
        fresh.fit(X, Y)
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    model = fitted()
    before = model.predict(X)
    with pytest.raises(ValueError, match="num_components=301"):
        model.set_params(n_components=301).fit(X, Y[:, 0])
    np.testing.assert_array_equal(model.predict(X), before)
