"""Every item of gmr 2.0.3's public surface, ticked by name: it is here, with gmr's options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from support.gmr_mixtures import case

from gmm_lightning.estimators import gmr
from gmm_lightning.estimators.gmr import GMM, MVN

C = case(11, k=2, d=2, n=30)
FACTORS = tuple(np.linspace(0.25, 2.0, 8))


def mvn() -> MVN:
    return MVN(C.means[0], C.covariances[0], random_state=0)


def gmm() -> GMM:
    return GMM(2, C.priors, C.means, C.covariances, random_state=0)


def shrunk() -> GMM:
    model = gmm()
    model.apply_oracle_approximating_shrinkage(n_samples_eff=10.0)
    return model


def drawn(plot: Callable[..., None], subject: Any, **options: Any) -> int:
    ax = Figure().add_subplot()
    plot(ax, subject, alpha=0.5, factors=[1.0], **options)
    return len(ax.patches)


class Tick(NamedTuple):
    """Names of the options with their defaults, and a use that must give True."""

    options: dict[str, Any]
    check: Callable[[], Any]


REQUIRED = inspect.Parameter.empty
PARTS = {"priors": None, "means": None, "covariances": None, "verbose": 0, "random_state": None}
UNSCENTED = {"alpha": 1e-3, "beta": 2.0, "kappa": 0.0, "random_state": None}
X = {"X": REQUIRED}

TICKS = {
    "MVN": Tick(
        {"mean": None, "covariance": None, "verbose": 0, "random_state": None},
        lambda: MVN().mean is None,
    ),
    "MVN.from_samples": Tick(
        X | {"bessels_correction": True}, lambda: MVN().from_samples(C.x).mean.shape == (2,)
    ),
    "MVN.sample": Tick({"n_samples": REQUIRED}, lambda: mvn().sample(3).shape == (3, 2)),
    "MVN.sample_confidence_region": Tick(
        {"n_samples": REQUIRED, "alpha": REQUIRED},
        lambda: mvn().is_in_confidence_region(mvn().sample_confidence_region(9, 0.4), 0.4).all(),
    ),
    "MVN.is_in_confidence_region": Tick(
        {"x": REQUIRED, "alpha": REQUIRED},
        lambda: mvn().is_in_confidence_region(C.means[0], 0.01) is True,
    ),
    "MVN.to_norm_factor_and_exponents": Tick(
        X, lambda: (mvn().to_norm_factor_and_exponents(C.x)[1] < 0).all()
    ),
    "MVN.to_probability_density": Tick(
        X, lambda: mvn().to_probability_density(C.x).shape == (len(C.x),)
    ),
    "MVN.marginalize": Tick(
        {"indices": REQUIRED}, lambda: mvn().marginalize(np.array([1])).mean == C.means[0, 1]
    ),
    "MVN.condition": Tick(
        {"indices": REQUIRED, "x": REQUIRED},
        lambda: mvn().condition(np.array([1]), np.array([0.0])).mean.shape == (1,),
    ),
    "MVN.predict": Tick(
        {"indices": REQUIRED, "X": REQUIRED},
        lambda: [v.shape for v in mvn().predict([0], C.x[:, :1])] == [(len(C.x), 1), (1, 1)],
    ),
    "MVN.squared_mahalanobis_distance": Tick(
        {"x": REQUIRED}, lambda: mvn().squared_mahalanobis_distance(C.means[0]) == 0
    ),
    "MVN.to_ellipse": Tick({"factor": 1.0}, lambda: len(mvn().to_ellipse(factor=2.0)) == 3),
    "MVN.sigma_points": Tick(
        {"alpha": 1e-3, "kappa": 0.0}, lambda: mvn().sigma_points().shape == (5, 2)
    ),
    "MVN.estimate_from_sigma_points": Tick(
        {"transformed_sigma_points": REQUIRED} | UNSCENTED,
        lambda: np.allclose(
            mvn().estimate_from_sigma_points(mvn().sigma_points()).covariance, C.covariances[0]
        ),
    ),
    "GMM": Tick({"n_components": REQUIRED} | PARTS, lambda: GMM(3).n_components == 3),
    "GMM.from_samples": Tick(
        X
        | {"R_diff": 1e-4, "n_iter": 100, "init_params": "random"}
        | {"oracle_approximating_shrinkage": False},
        lambda: GMM(2, random_state=0).from_samples(C.x, init_params="kmeans++").priors.sum() > 0.9,
    ),
    "GMM.apply_oracle_approximating_shrinkage": Tick(
        {"n_samples_eff": REQUIRED},
        lambda: (
            np.linalg.cond(shrunk().covariances[0]) < np.linalg.cond(C.covariances[0])
            and np.isclose(np.trace(shrunk().covariances[0]), np.trace(C.covariances[0]))
        ),
    ),
    "GMM.sample": Tick({"n_samples": REQUIRED}, lambda: gmm().sample(5).shape == (5, 2)),
    "GMM.sample_confidence_region": Tick(
        {"n_samples": REQUIRED, "alpha": REQUIRED},
        lambda: gmm().is_in_confidence_region(gmm().sample_confidence_region(9, 0.4), 0.4).all(),
    ),
    "GMM.is_in_confidence_region": Tick(
        {"x": REQUIRED, "alpha": REQUIRED},
        lambda: gmm().is_in_confidence_region(C.means[1], 0.01) is True,
    ),
    "GMM.to_responsibilities": Tick(
        X, lambda: np.allclose(gmm().to_responsibilities(C.x).sum(axis=1), 1)
    ),
    "GMM.to_probability_density": Tick(X, lambda: (gmm().to_probability_density(C.x) > 0).all()),
    "GMM.condition": Tick(
        {"indices": REQUIRED, "x": REQUIRED},
        lambda: gmm().condition(np.array([0]), np.array([1.0])).covariances.shape == (2, 1, 1),
    ),
    "GMM.predict": Tick(
        {"indices": REQUIRED, "X": REQUIRED},
        lambda: gmm().predict(np.array([0]), C.x[:, :1]).shape == (len(C.x), 1),
    ),
    "GMM.to_ellipses": Tick({"factor": 1.0}, lambda: len(gmm().to_ellipses()) == 2),
    "GMM.to_mvn": Tick({}, lambda: isinstance(gmm().to_mvn(), MVN)),
    "GMM.extract_mvn": Tick(
        {"component_idx": REQUIRED}, lambda: (gmm().extract_mvn(1).mean == C.means[1]).all()
    ),
    "kmeansplusplus_initialization": Tick(
        X | {"n_components": REQUIRED, "random_state": None},
        lambda: gmr.kmeansplusplus_initialization(C.x, 4, random_state=0).shape == (4, 2),
    ),
    "covariance_initialization": Tick(
        X | {"n_components": REQUIRED},
        lambda: gmr.covariance_initialization(C.x, 4).shape == (4, 2, 2),
    ),
    "plot_error_ellipse": Tick(
        {"ax": REQUIRED, "mvn": REQUIRED, "color": None, "alpha": 0.25, "factors": FACTORS},
        lambda: drawn(gmr.plot_error_ellipse, mvn(), color="r") == 1,
    ),
    "plot_error_ellipses": Tick(
        {"ax": REQUIRED, "gmm": REQUIRED, "colors": None, "alpha": 0.25, "factors": FACTORS},
        lambda: drawn(gmr.plot_error_ellipses, gmm(), colors=["r", "g"]) == 2,
    ),
    "mvn.invert_indices": Tick(
        {"n_features": REQUIRED, "indices": REQUIRED},
        lambda: gmr.mvn.invert_indices(3, np.array([1])).tolist() == [0, 2],
    ),
    "mvn.regression_coefficients": Tick(
        {"covariance": REQUIRED, "i_out": REQUIRED, "i_in": REQUIRED, "cov_12": None},
        lambda: gmr.mvn.regression_coefficients(np.diag([1.0, 2.0]), [0], [1]).tolist() == [[0.0]],
    ),
    "mvn.condition": Tick(
        {name: REQUIRED for name in ("mean", "covariance", "i_out", "i_in", "X")},
        lambda: gmr.mvn.condition(C.means[0], C.covariances[0], [0], [1], C.x[:, 1:])[1] > 0,
    ),
    "sklearn.GaussianMixtureRegressor": Tick(
        {"n_components": REQUIRED}
        | PARTS
        | {"R_diff": 1e-4, "n_iter": 500, "init_params": "random"},
        lambda: gmr.GaussianMixtureRegressor(2).get_params()["n_iter"] == 500,
    ),
    "sklearn.GaussianMixtureRegressor.fit": Tick(
        X | {"y": REQUIRED},
        lambda: gmr.GaussianMixtureRegressor(1).fit(C.x[:, :1], C.x[:, 1]).gmm_.n_components == 1,
    ),
    "sklearn.GaussianMixtureRegressor.predict": Tick(
        X,
        lambda: (
            gmr.GaussianMixtureRegressor(1).fit(C.x, C.x[:, :1]).predict(C.x).shape == (len(C.x), 1)
        ),
    ),
    "sklearn.GaussianMixtureRegressor.score": Tick(
        X | {"y": REQUIRED, "sample_weight": None},
        lambda: (
            gmr.GaussianMixtureRegressor(1).fit(C.x[:, :1], C.x[:, 1]).score(C.x[:, :1], C.x[:, 1])
            >= 0
        ),
    ),
    "utils.check_random_state": Tick(
        {"seed": REQUIRED}, lambda: gmr.utils.check_random_state(3).randint(9) >= 0
    ),
}


@pytest.mark.parametrize("item", TICKS)
def test_is_here(item: str) -> None:
    tick = TICKS[item]
    found = gmr
    for name in item.removeprefix("sklearn.").split("."):
        found = getattr(found, name)
    parameters = inspect.signature(found).parameters.values()
    asked = {p.name: p.default for p in parameters if p.name != "self"}
    assert list(asked) == list(tick.options)
    assert asked == tick.options
    assert tick.check()


@pytest.mark.parametrize("name", ["priors", "means", "covariances"])
def test_attributes_of_a_mixture(name: str) -> None:
    model = gmm()
    assert_allclose(getattr(model, name), getattr(C, name))
    setattr(model, name, getattr(C, name)[::-1].tolist())
    assert getattr(model, name).dtype == np.float64
    assert_allclose(getattr(model, name), getattr(C, name)[::-1])
    assert model.n_components == 2
    assert isinstance(model.random_state, np.random.RandomState)
    assert model.verbose == 0
