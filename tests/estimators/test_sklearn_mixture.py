"""scikit-learn's GaussianMixture on this engine: its rules to the letter, and what it lacks."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn import mixture as peer
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from gmm_lightning.covariances import registry as covariances
from gmm_lightning.estimators import GaussianMixture

X = load_iris().data
THEIRS = ("full", "tied", "diag", "spherical")
ATTRIBUTES = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")


def start(kind: str, k: int = 3, x: np.ndarray = X) -> dict[str, Any]:
    """Parameters to start from, in scikit-learn's shapes."""
    d = x.shape[1]
    shapes = {
        "full": np.tile(np.eye(d), (k, 1, 1)),
        "tied": np.eye(d),
        "diag": np.ones((k, d)),
        "spherical": np.ones(k),
    }
    return {
        "weights_init": np.full(k, 1 / k),
        "means_init": x[:: len(x) // k][:k].copy(),
        "precisions_init": shapes[kind],
    }


def pair(kind: str, x: np.ndarray = X, **options: Any) -> tuple[Any, Any]:
    given = start(kind, x=x) | options
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return tuple(
            cls(3, covariance_type=kind, **given).fit(x)
            for cls in (GaussianMixture, peer.GaussianMixture)
        )


@pytest.mark.parametrize("kind", THEIRS)
@pytest.mark.parametrize("options", [{}, {"reg_covar": 1e-2, "max_iter": 7}, {"max_iter": 1}])
def test_equals_scikit_learn_from_the_same_start(kind: str, options: dict[str, Any]) -> None:
    ours, theirs = pair(kind, **options)
    assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
    for name in ATTRIBUTES:
        own, other = getattr(ours, name), getattr(theirs, name)
        assert own.shape == other.shape
        assert own.dtype == other.dtype
        # eps times the condition of the covariances (some hundreds) times steps (tens) and rows.
        np.testing.assert_allclose(own, other, rtol=1e-8, atol=1e-10, err_msg=name)
    np.testing.assert_allclose(ours.lower_bounds_, theirs.lower_bounds_, rtol=1e-10)
    assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-10)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-7)
    np.testing.assert_allclose(ours.score_samples(X), theirs.score_samples(X), rtol=1e-8)
    for name in ("score", "aic", "bic"):
        assert getattr(ours, name)(X) == pytest.approx(getattr(theirs, name)(X), rel=1e-9)


def test_warm_starts_go_on_as_in_scikit_learn() -> None:
    pairs = [
        cls(3, warm_start=True, max_iter=3, **start("full"))
        for cls in (GaussianMixture, peer.GaussianMixture)
    ]
    for _ in range(9):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            ours, theirs = (each.fit(X) for each in pairs)
        assert (ours.n_iter_, ours.converged_) == (theirs.n_iter_, theirs.converged_)
        assert ours.lower_bound_ == pytest.approx(theirs.lower_bound_, rel=1e-10)


def test_check_estimator() -> None:
    with warnings.catch_warnings():
        # Of checks that need scipy's array API switched on.
        warnings.simplefilter("ignore")
        check_estimator(GaussianMixture(random_state=0))


def test_every_family() -> None:
    for name in (*covariances.names, *covariances.aliases):
        fitted = GaussianMixture(3, covariance_type=name, random_state=0).fit(X)
        assert fitted.predict(X).shape == (150,)
        assert clone(fitted).get_params()["covariance_type"] == name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_give_tensors(dtype: type) -> None:
    x = torch.tensor(X, dtype=getattr(torch, dtype.__name__))
    options = {"random_state": 0}
    ours, of_arrays = (GaussianMixture(3, **options).fit(v) for v in (x, x.numpy()))
    for name in ATTRIBUTES:
        own = getattr(ours, name)
        assert isinstance(own, torch.Tensor)
        assert own.dtype == x.dtype
        np.testing.assert_array_equal(own.numpy(), getattr(of_arrays, name))
    assert isinstance(ours.predict_proba(x), torch.Tensor)
    assert isinstance(ours.sample(3)[0], torch.Tensor)
    assert isinstance(ours.predict(x.numpy()), np.ndarray)
    assert ours.predict_proba(x).dtype == x.dtype


def test_random_states() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = (GaussianMixture(3, random_state=7, n_init=2).fit(X) for _ in range(2))
    np.testing.assert_array_equal(first.means_, second.means_)
    np.testing.assert_array_equal(first.sample(9)[0], first.sample(9)[0])
    moving = GaussianMixture(3, random_state=np.random.RandomState(0)).fit(X)
    assert not np.array_equal(moving.sample(9)[0], moving.sample(9)[0])
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_draws_are_sorted_by_component() -> None:
    fitted = GaussianMixture(3, random_state=0).fit(X)
    x, component = fitted.sample(300)
    assert x.shape == (300, 4)
    assert (np.diff(component) >= 0).all()
    with pytest.raises(ValueError, match="at least one sample"):
        fitted.sample(0)


def test_the_best_of_several_starts() -> None:
    many = GaussianMixture(
        3, n_init=5, init_params="random", random_state=0, tol=1e-6, max_iter=999
    )
    one = clone(many).set_params(n_init=1)
    assert many.fit(X).lower_bound_ >= one.fit(X).lower_bound_


def test_parts_of_scikit_learn() -> None:
    """Pipelines, grid search, clones, pickles, names of columns."""
    names = list("abcd")
    for frame in (pd.DataFrame(X, columns=names), pl.DataFrame(X, schema=names)):
        fitted = GaussianMixture(2, random_state=0).fit(frame)
        assert fitted.feature_names_in_.tolist() == names
        with pytest.raises(ValueError, match="feature names"):
            fitted.predict(frame[names[::-1]])
    model = make_pipeline(StandardScaler(), GaussianMixture(random_state=0))
    search = GridSearchCV(model, {"gaussianmixture__n_components": [1, 2, 3]}, cv=3).fit(X)
    own = search.best_estimator_[-1]
    assert own.n_components == search.best_params_["gaussianmixture__n_components"]
    again = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(again.predict(X), search.best_estimator_.predict(X))
    with pytest.raises(NotFittedError):
        clone(search.best_estimator_[-1]).predict(X)


def test_sample_weights_count_rows() -> None:
    counts = np.arange(150) % 3
    given = start("full")
    weighted = GaussianMixture(3, **given).fit(X, sample_weight=counts)
    repeated = GaussianMixture(3, **given).fit(X.repeat(counts, axis=0))
    np.testing.assert_allclose(weighted.means_, repeated.means_, rtol=1e-9)
    assert weighted.score(X, sample_weight=counts) == pytest.approx(
        repeated.score(X.repeat(counts, axis=0)), rel=1e-10
    )


def test_beyond_scikit_learn() -> None:
    plain = GaussianMixture(3, random_state=0, tol=1e-8, max_iter=2000).fit(X)
    faster = clone(plain).set_params(acceleration="squarem").fit(X)
    assert faster.score(X) == pytest.approx(plain.score(X), abs=1e-5)
    prior = clone(plain).set_params(priors="niw").fit(X)
    assert [p.name for p in prior.layer_.all_priors] == ["niw"]
    assert prior.lower_bound_ == pytest.approx(prior.result_.history[-2])
    # A column with one value is like any other here: its variance is reg_covar.
    constant = np.column_stack([X, np.ones(150)])
    ours, theirs = pair("full", constant, reg_covar=1e-3)
    assert ours.score(constant) == pytest.approx(theirs.score(constant), rel=1e-9)
    assert ours.bic(constant) == pytest.approx(theirs.bic(constant), rel=1e-9)


def test_what_scikit_learn_says(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(ConvergenceWarning, match="did not converge"):
        GaussianMixture(3, max_iter=1, random_state=0).fit(X)
    for options, match in (
        ({"weights_init": [0.5, 0.6, 0.1]}, "normalized"),
        ({"weights_init": [0.5, 0.5]}, r"should have the shape of \(3,\), but got \(2,\)"),
        ({"means_init": X[:3, :2]}, r"should have the shape of \(3, 4\)"),
        ({"precisions_init": -np.tile(np.eye(4), (3, 1, 1))}, "positive-definite"),
        ({"covariance_type": "round"}, "covariance_type"),
        ({"init_params": "best"}, "init_params"),
        ({"n_components": 0}, "n_components"),
        ({"n_components": 151}, "Expected n_samples >= n_components"),
    ):
        with pytest.raises(ValueError, match=match):
            GaussianMixture(**({"n_components": 3} | options)).fit(X)
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        GaussianMixture(2, reg_covar=0).fit(np.repeat([[0.0, 1.0], [1.0, 0.0]], 5, axis=0))
    with pytest.raises(ValueError, match="NaN"):
        GaussianMixture(2).fit(np.where(X > 7, np.nan, X))
    GaussianMixture(2, verbose=1, verbose_interval=1, random_state=0).fit(X)
    said = capsys.readouterr().out
    assert said.startswith("Initialization 0\n  Iteration 1\n")
    assert said.endswith("Initialization converged.\n")


def test_no_steps_keep_the_start() -> None:
    given = start("full")
    fitted = GaussianMixture(3, max_iter=0, **given).fit(X)
    np.testing.assert_array_equal(fitted.means_, given["means_init"])
    assert (fitted.n_iter_, fitted.converged_, fitted.lower_bounds_) == (0, False, [])


def test_warm_starts_take_the_present_options() -> None:
    pairs = [
        cls(3, warm_start=True, max_iter=200, **start("full"))
        for cls in (GaussianMixture, peer.GaussianMixture)
    ]
    for regularisation in (1e-6, 1.0):
        ours, theirs = (each.set_params(reg_covar=regularisation).fit(X) for each in pairs)
        np.testing.assert_allclose(ours.covariances_, theirs.covariances_, rtol=1e-8, atol=1e-10)
    prior = ours.set_params(priors="niw").fit(X)
    assert [p.name for p in prior.layer_.all_priors] == ["niw"]
    with pytest.raises(ValueError, match="warm_start goes on from a fit with"):
        ours.set_params(covariance_type="diag", precisions_init=None).fit(X)


def test_warm_starts_without_labels() -> None:
    mixture = GaussianMixture(3, supervised=True, warm_start=True, random_state=0)
    mixture.fit(X, np.arange(150) // 50)
    plain = mixture.set_params(supervised=False).fit(X)
    assert plain.layer_.evidence is None


@pytest.mark.parametrize(
    ("options", "arguments", "match"),
    [
        ({"device": "abacus"}, {"X": X}, "device must be one"),
        ({"device": "meta"}, {"X": X}, "'meta' has none"),
        ({}, {"X": torch.empty(150, 4, device="meta")}, "'meta' has none"),
        ({}, {"X": torch.ones(150, 4, dtype=torch.complex64)}, "Complex data not supported"),
        ({"supervised": True}, {"X": X}, "requires y to be passed"),
    ],
)
def test_what_no_fit_takes(options: Any, arguments: Any, match: str) -> None:
    mixture = GaussianMixture(3, **options)
    with pytest.raises(ValueError, match=match):
        mixture.fit(**arguments)
    with pytest.raises(NotFittedError):
        mixture.predict(X)


@pytest.mark.parametrize(
    ("weight", "match"),
    [(np.ones(3), "broadcast"), (-np.ones(150), ">= 0"), (np.zeros(150), "is zero")],
)
def test_weights_of_a_score(weight: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        GaussianMixture(2, random_state=0).fit(X).score(X, sample_weight=weight)


def test_labels_in_a_column() -> None:
    y = np.arange(150) // 50
    mixture = GaussianMixture(3, supervised=True, random_state=0)
    with pytest.warns(DataConversionWarning):
        column = clone(mixture).fit(X, y[:, np.newaxis])
    np.testing.assert_array_equal(column.means_, mixture.fit(X, y).means_)


def test_what_a_mask_hides_is_missing() -> None:
    holes = np.random.default_rng(0).random(X.shape) < 0.1
    masked = np.ma.masked_array(np.where(holes, 999.0, X), holes)
    mixture = GaussianMixture(3, missing="em", random_state=0)
    expected = clone(mixture).fit(np.where(holes, np.nan, X))
    np.testing.assert_array_equal(mixture.fit(masked).means_, expected.means_)
    np.testing.assert_array_equal(mixture.predict(masked), expected.predict(masked))
