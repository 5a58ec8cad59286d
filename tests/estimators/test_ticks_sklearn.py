"""Every item of scikit-learn's `GaussianMixture`, ticked by name: it is here, and does as there.

The Bayesian mixture of scikit-learn is not.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import mixture as peer
from sklearn.base import clone, is_clusterer
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import get_tags

from gmm_lightning import EMResult, GMMLayer
from gmm_lightning.estimators import GaussianMixture

X, Y = load_iris(return_X_y=True)
KINDS = ("full", "tied", "diag", "spherical")
# Plain sums of products in another order, for covariances of a condition of some hundreds.
CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def start(kind: str = "full") -> dict[str, Any]:
    precisions = {"full": np.tile(np.eye(4), (3, 1, 1)), "tied": np.eye(4)}
    precisions |= {"diag": np.ones((3, 4)), "spherical": np.ones(3)}
    return {
        "weights_init": np.full(3, 1 / 3),
        "means_init": X[[0, 60, 120]],
        "precisions_init": precisions[kind],
        "covariance_type": kind,
    }


@cache
def pair(kind: str = "full") -> tuple[Any, Any]:
    """Ours and theirs, from the same start."""
    classes = GaussianMixture, peer.GaussianMixture
    return tuple(cls(3, random_state=0, **start(kind)).fit(X) for cls in classes)


def fitted(**options: Any) -> GaussianMixture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return GaussianMixture(**({"n_components": 3, "random_state": 0} | options)).fit(X)


def same(method: str) -> bool:
    """Whether a method says what theirs says, for the four types."""
    for kind in KINDS:
        ours, theirs = pair(kind)
        np.testing.assert_allclose(getattr(ours, method)(X), getattr(theirs, method)(X), **CLOSE)
    return True


def holds(attribute: str) -> bool:
    """Whether an attribute is theirs, in value, shape and dtype, for the four types."""
    for kind in KINDS:
        own, other = (np.asarray(getattr(one, attribute)) for one in pair(kind))
        assert (own.shape, own.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(own, other, **CLOSE)
    return True


def starts_there(init_params: str) -> bool:
    first, second = (fitted(init_params=init_params, max_iter=0) for _ in range(2))
    return bool((first.means_ == second.means_).all())


def goes_on() -> bool:
    model = GaussianMixture(3, warm_start=True, max_iter=1, **start())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        before = model.fit(X).lower_bound_
        return model.fit(X).lower_bound_ > before


def sampled() -> bool:
    model = fitted()
    (x, y), (again, _) = model.sample(50), model.sample(50)
    return x.shape == (50, 4) and bool((np.diff(y) >= 0).all() and (x == again).all())


def in_tensors(kind: str, init_params: str) -> bool:
    x = torch.from_numpy(X).float()
    model = GaussianMixture(3, covariance_type=kind, init_params=init_params, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        answers = (model.fit(x).means_, model.covariances_, model.predict_proba(x))
    return all(isinstance(a, torch.Tensor) and a.dtype == x.dtype for a in answers)


def frame() -> pd.DataFrame:
    return pd.DataFrame(X, columns=list("abcd"))


def far_away() -> bool:
    """Rows at 1e8: scikit-learn finds an ill-defined covariance."""
    far = GaussianMixture(2, random_state=0).fit(X + 1e8)
    near = GaussianMixture(2, random_state=0).fit((X + 1e8) - 1e8)
    np.testing.assert_allclose(far.covariances_, near.covariances_, rtol=1e-6)
    return True


def two_atoms() -> bool:
    """{9999, 0} in float32 with `reg_covar=0.1`: scikit-learn finds a variance of 112."""
    x = np.array([[9999.0], [0.0]] * 10, dtype=np.float32)
    model = GaussianMixture(2, covariance_type="spherical", reg_covar=0.1, random_state=0).fit(x)
    np.testing.assert_allclose(model.covariances_, 0.1, rtol=1e-5)
    return True


METHODS = ("predict", "predict_proba", "score_samples", "score", "aic", "bic")
VALUES = ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_")
RECORDS = ("converged_", "n_iter_", "lower_bound_", "lower_bounds_", "n_features_in_")

TICKS: dict[str, Callable[[], Any]] = {
    "fit(X, y=None)": lambda: fitted().fit(X, None).n_iter_ > 0,
    "fit_predict(X)": lambda: (fitted().fit_predict(X) == fitted().predict(X)).all(),
    **{name: lambda name=name: same(name) for name in METHODS},
    "sample(n), sorted, repeated for a seed": sampled,
    **{name: lambda name=name: holds(name) for name in (*VALUES, *RECORDS)},
    "feature_names_in_": lambda: (
        GaussianMixture().fit(frame()).feature_names_in_.tolist() == list("abcd")
    ),
    "get_params": lambda: GaussianMixture(3).get_params()["n_components"] == 3,
    "set_params": lambda: GaussianMixture().set_params(tol=1e-5).tol == 1e-5,
    "clone": lambda: clone(fitted()).get_params() == fitted().get_params(),
    "tags": lambda: (
        get_tags(GaussianMixture()).estimator_type == "density_estimator"
        and not is_clusterer(GaussianMixture())
    ),
    "metadata": lambda: "sample_weight" in GaussianMixture().get_metadata_routing().fit.requests,
    "n_components": lambda: fitted(n_components=2).means_.shape == (2, 4),
    **{
        f"covariance_type={kind}": lambda kind=kind: fitted(covariance_type=kind).score(X) < 0
        for kind in KINDS
    },
    "tol": lambda: fitted(tol=1e-1).n_iter_ < fitted(tol=1e-8, max_iter=999).n_iter_,
    "reg_covar": lambda: (
        np.linalg.eigvalsh(fitted(reg_covar=0.5, n_components=1).covariances_[0]).min() > 0.5
    ),
    "max_iter": lambda: fitted(max_iter=2, tol=0.0).n_iter_ == 2,
    "n_init": lambda: fitted(n_init=4).lower_bound_ >= fitted().lower_bound_ - 1e-9,
    **{
        f"init_params={name}": lambda name=name: starts_there(name)
        for name in ("kmeans", "k-means++", "random", "random_from_data")
    },
    "weights_init": lambda: np.allclose(fitted(max_iter=0, **start()).weights_, 1 / 3),
    "means_init": lambda: (fitted(max_iter=0, **start()).means_ == X[[0, 60, 120]]).all(),
    "precisions_init": lambda: np.allclose(fitted(max_iter=0, **start()).precisions_[0], np.eye(4)),
    "random_state": lambda: (fitted().means_ == fitted().means_).all(),
    "warm_start": goes_on,
    "verbose, verbose_interval": lambda: fitted(verbose=2, verbose_interval=2).converged_,
    **{
        f"tensors in, tensors out, {kind}, {name}": lambda kind=kind, name=name: in_tensors(
            kind, name
        )
        for kind in KINDS
        for name in ("random", "random_from_data")
    },
    "tensors and k-means": lambda: in_tensors("full", "kmeans"),
    "rows far away": far_away,
    "two atoms in float32": two_atoms,
    "beyond: tied_diag": lambda: fitted(covariance_type="tied_diag").covariances_.shape == (4,),
    "beyond: tied_spherical": lambda: fitted(covariance_type="tied_spherical").covariances_ > 0,
    "beyond: priors": lambda: len(fitted(priors="niw").layer_.all_priors) == 1,
    "beyond: sample_weight": lambda: np.isfinite(
        fitted().fit(X, sample_weight=np.ones(150)).score(X, sample_weight=np.ones(150))
    ),
    "beyond: acceleration": lambda: fitted(acceleration="squarem").converged_,
    "beyond: device": lambda: fitted(device="cpu").converged_,
    "beyond: layer_": lambda: isinstance(fitted().layer_, GMMLayer),
    "beyond: result_": lambda: isinstance(fitted().result_, EMResult),
}


@pytest.mark.parametrize("item", TICKS)
def test_is_here(item: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert TICKS[item]()


def test_arguments_and_their_order_and_defaults() -> None:
    ours, theirs = (
        inspect.signature(cls).parameters for cls in (GaussianMixture, peer.GaussianMixture)
    )
    shared = list(ours)[: len(theirs)]
    assert shared == list(theirs)
    for name in shared:
        assert (ours[name].default, ours[name].kind) == (theirs[name].default, theirs[name].kind)


def test_missing_entries() -> None:
    holed = np.where(np.random.default_rng(0).random(X.shape) < 0.1, np.nan, X)
    model = GaussianMixture(2, missing="em", random_state=0).fit(holed)
    assert model.predict_proba(holed).shape == (150, 2)
    assert np.isfinite(model.score(holed))
    # What is complete is fitted as without the option.
    whole = {"n_components": 3, **start()}
    np.testing.assert_array_equal(
        GaussianMixture(missing="em", **whole).fit(X).means_, GaussianMixture(**whole).fit(X).means_
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples"])
def test_answers_about_many_rows(kind: str, method: str) -> None:
    """They follow from products, those of few rows from differences."""
    many = np.concatenate([X + 0.01 * i for i in range(10)])
    own, other = (getattr(one, method)(many) for one in pair(kind))
    assert own.dtype == other.dtype
    np.testing.assert_allclose(own, other, rtol=1e-7, atol=1e-9)


def test_labels() -> None:
    known = np.where(np.arange(150) % 5 == 0, Y, -1)
    model = GaussianMixture(3, supervised=True, random_state=0).fit(X, known)
    # A component for each class, under its number.
    assert (model.predict(X) == Y).mean() > 0.9
    assert (GaussianMixture(3, random_state=0).fit(X, known).means_ == fitted().means_).all()
    with pytest.raises(ValueError, match=r"supervised=True.* requires y to be passed"):
        GaussianMixture(3, supervised=True).fit(X)


def test_attributes_that_a_user_assigns() -> None:
    _, theirs = pair()
    model = GaussianMixture(3)
    for name in ("weights_", "means_", "precisions_cholesky_"):
        setattr(model, name, getattr(theirs, name))
    np.testing.assert_allclose(model.score_samples(X), theirs.score_samples(X), **CLOSE)
    again = fitted()
    before = again.score(X)
    again.means_ += 1.0
    assert again.score(X) < before
    again.means_ -= 1.0
    assert again.score(X) == pytest.approx(before)
