"""Every item of tgmm 0.4.3's mixture that is here, ticked by name, with tgmm's options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support.covering import covering
from support.tgmm_rows import TYPES, blobs, given

from gmm_lightning.estimators.tgmm import GaussianMixture

X = blobs()
REQUIRED = inspect.Parameter.empty

# tgmm's arguments, in its order and with its defaults.
CONSTRUCTOR = {
    "n_components": None,
    "n_features": None,
    "covariance_type": "full",
    "max_iter": 1000,
    "tol": 1e-4,
    "reg_covar": 1e-6,
    "n_init": 1,
    "gpcm_tol": 1e-6,
    "gpcm_max_iter": 20,
    "init_means": "kmeans",
    "init_weights": "uniform",
    "init_covariances": "empirical",
    "random_state": None,
    "warm_start": False,
    "algorithm": "em",
    "cem": False,
    "batch_size": None,
    "convergence": "relative",
    "temperature": None,
    "step_size": None,
    "sem_burn_in": None,
    "sem_estimate": "best",
    "components_per_class": 1,
    "unlabeled_weight": 1.0,
    "label_confidence": 1.0,
    "noise": False,
    "noise_volume": "bbox",
    "noise_prior": 0.05,
    "noise_init": None,
    "missing": "error",
    "frozen_components": (),
    "weight_concentration_prior": None,
    "mean_prior": None,
    "mean_precision_prior": None,
    "covariance_prior": None,
    "degrees_of_freedom_prior": None,
    "max_components": 20,
    "alpha": 1.0,
    "burn_in": None,
    "weight_threshold": None,
    "init_k": None,
    "verbose": False,
    "verbose_interval": 10,
    "device": None,
    "weight_bounds": None,
    "fixed_weights": None,
    "mean_bounds": None,
    "covariance_bounds": None,
    "frozen_means": (),
    "frozen_covariances": (),
}
# Arguments of this door alone come last, by name.
OWN = ["prior_convention"]
FORMER = ["init_params", "means_init", "cov_init_method", "covariances_init", "weights_init"]


def test_constructor() -> None:
    found = inspect.signature(GaussianMixture).parameters.values()
    assert {p.name: p.default for p in list(found)[: len(CONSTRUCTOR)]} == CONSTRUCTOR
    assert [p.name for p in found] == [*CONSTRUCTOR, *OWN, *FORMER]
    assert [p.name for p in found if p.kind is p.KEYWORD_ONLY] == OWN + FORMER


def fitted(**options: Any) -> GaussianMixture:
    return GaussianMixture(**given("full", **options)).fit(X)


def fitted_with(**options: Any) -> GaussianMixture:
    return GaussianMixture(**given("full")).fit(X, **options)


MODEL = fitted()
NOISY = fitted(noise=True)
HOLES = torch.where(torch.arange(len(X))[:, None] % 5 == torch.arange(2), torch.nan, X)


class Tick(NamedTuple):
    """Names of the options with their defaults, and a use that must give True."""

    options: dict[str, Any]
    check: Callable[[], Any]


ROWS = {"X": REQUIRED}
FIT = {
    "labels": None,
    "max_iter": None,
    "tol": None,
    "random_state": None,
    "warm_start": None,
    "sample_weight": None,
}
SAMPLE = {
    "n_samples": 1,
    "component": None,
    "std_radius": None,
    "std_range": None,
    "confidence": None,
    "confidence_range": None,
    "center_point": None,
    "center_radius": None,
    "max_attempts_per_sample": 1000,
}

METHODS = {
    "fit": Tick(ROWS | FIT, lambda: MODEL.fitted_ and MODEL.converged_),
    "partial_fit": Tick(
        {"X_batch": REQUIRED}, lambda: fitted().partial_fit(X[:20]).weights_.sum() > 0.99
    ),
    "predict": Tick(ROWS, lambda: set(MODEL.predict(X).tolist()) == {0, 1}),
    "predict_proba": Tick(ROWS, lambda: NOISY.predict_proba(X).shape == (len(X), 3)),
    "predict_class": Tick(
        ROWS,
        lambda: (
            set(fitted_with(labels=[7] * 80 + [-1] * 20 + [9] * 20).predict_class(X).tolist())
            == {7, 9}
        ),
    ),
    "noise_proba": Tick(ROWS, lambda: bool((NOISY.noise_proba(X) >= 0).all())),
    "score_samples": Tick(ROWS, lambda: MODEL.score_samples(X).shape == (len(X),)),
    "score": Tick(ROWS, lambda: isinstance(MODEL.score(X), float)),
    "bic": Tick(ROWS, lambda: MODEL.bic(X) > MODEL.aic(X)),
    "aic": Tick(ROWS, lambda: MODEL.aic(X) > -2 * len(X) * MODEL.score(X)),
    "icl": Tick(ROWS | {"mode": "hard"}, lambda: MODEL.icl(X, mode="soft") > MODEL.bic(X)),
    "impute": Tick(ROWS, lambda: not bool(torch.isnan(fitted(missing="em").impute(HOLES)).any())),
    "marginal": Tick({"dims": REQUIRED}, lambda: MODEL.marginal([1]).means_.shape == (2, 1)),
    "condition": Tick(
        {"x_obs": REQUIRED, "obs_dims": REQUIRED},
        lambda: MODEL.condition(X[:3, :1], [0]).weights_.shape == (3, 2),
    ),
    "sample": Tick(SAMPLE, lambda: MODEL.sample(4, component=1)[1].tolist() == [1] * 4),
    "suggest_priors": Tick(
        ROWS | {"n_components": REQUIRED, "covariance_type": "full", "random_state": None},
        lambda: [np.shape(v) for v in MODEL.suggest_priors(X, 2)] == [(2,), (), (2, 2), ()],
    ),
    "save": Tick({"filepath": REQUIRED}, lambda: True),
    "load": Tick({"filepath": REQUIRED, "device": None}, lambda: True),
    "save_state_dict": Tick({}, lambda: "means_" in MODEL.save_state_dict()),
    "load_state_dict": Tick({"state_dict": REQUIRED}, lambda: True),
    "to_dict": Tick({}, lambda: len(MODEL.to_dict()) >= 72),
}


def options_of(function: Any) -> dict[str, Any]:
    found = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in found if p.name != "self"}


@pytest.mark.parametrize("name", METHODS)
def test_method(name: str) -> None:
    tick = METHODS[name]
    assert options_of(getattr(GaussianMixture, name)) == tick.options
    assert list(options_of(getattr(GaussianMixture, name))) == list(tick.options)
    assert tick.check()


def test_files(tmp_path: Path) -> None:
    MODEL.save(tmp_path / "m.pth")
    assert GaussianMixture.load(tmp_path / "m.pth", device="cpu").score(X) == MODEL.score(X)


ATTRIBUTES: dict[str, Callable[[Any], bool]] = {
    "weights_": lambda v: v.shape == (2,),
    "means_": lambda v: v.shape == (2, 2),
    "covariances_": lambda v: v.shape == (2, 2, 2),
    "initial_weights_": lambda v: v.tolist() == [0.5, 0.5],
    "initial_means_": lambda v: v.shape == (2, 2),
    "initial_covariances_": lambda v: v.shape == (2, 2, 2),
    "fitted_": lambda v: v is True,
    "converged_": lambda v: v is True,
    "n_iter_": lambda v: v == len(MODEL.log_likelihood_history_) - 1,
    "lower_bound_": lambda v: abs(v - MODEL.score(X)) < 1e-12,
    "best_random_state_": lambda v: v is None,
    "n_components_": lambda v: v == 2,
    "active_": lambda v: v.tolist() == [True, True],
    "classes_": lambda v: v is None,
    "class_of_component_": lambda v: v is None,
    "log_likelihood_history_": lambda v: v.dim() == 1,
    "annealing_schedule_": lambda v: v is None,
    "n_empty_components_": lambda v: v == 0,
    "n_components_history_": lambda v: v is None,
    "covariance_type_": lambda v: v == "VVV",
    "volume_": lambda v: v is None,
    "shape_": lambda v: v is None,
    "orientation_": lambda v: v is None,
    "noise_weight_": lambda v: v is None,
    "noise_bounds_": lambda v: v is None,
    "dtype": lambda v: v == torch.float64,
    "device": lambda v: v == torch.device("cpu"),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attribute(name: str) -> None:
    assert ATTRIBUTES[name](getattr(MODEL, name))


NAMES = {"tied": "tied_full", "isotropic": "spherical", "vvi": "diag", "EEE": "tied_full"}
NAMES |= {"VVV": "full", "VII": "spherical", "EEI": "tied_diag", "eii": "tied_spherical"}


@pytest.mark.parametrize("name", [*TYPES, *NAMES])
def test_covariance_type(name: str) -> None:
    kind = NAMES.get(name, name)
    model = GaussianMixture(2, covariance_type=name, random_state=0, device="cpu").fit(X)
    assert model.covariance_type == kind
    expected = {"full": (2, 2), "diag": (2,), "spherical": ()}[kind.split("_")[-1]]
    assert model.covariances_.shape == (expected if kind.startswith("tied") else (2, *expected))
    x, component = model.sample(5)
    assert (x.shape, component.shape) == ((5, 2), (5,))
    assert model.marginal([0]).covariance_type == kind
    assert torch.isfinite(model.marginal([0]).score_samples(X[:, :1])).all()


@pytest.mark.parametrize(
    ("means", "weights", "covariances"),
    covering(
        ["kmeans", "kpp", "points", "random", "maxdist", X[:2]],
        ["uniform", "random", "kmeans", torch.tensor([1.0, 3.0])],
        ["empirical", "eye", "random", "global", torch.eye(2)],
    ),
)
def test_initialisation(means: Any, weights: Any, covariances: Any) -> None:
    model = GaussianMixture(
        2,
        init_means=means,
        init_weights=weights,
        init_covariances=covariances,
        random_state=1,
        device="cpu",
    ).fit(X)
    assert float(model.initial_weights_.sum()) == pytest.approx(1.0)
    assert np.isfinite(model.score(X))
    if not isinstance(means, str):
        torch.testing.assert_close(model.initial_means_, means)
    if not isinstance(weights, str):
        torch.testing.assert_close(model.initial_weights_, weights.to(X) / 4)


REGIONS: dict[str, tuple[dict[str, Any], float, float]] = {
    "std_radius": ({"std_radius": 1.0}, 0.0, 1.0),
    "std_range": ({"std_range": (1.0, 2.0)}, 1.0, 2.0),
    "std_range to infinity": ({"std_range": (3.0, float("inf"))}, 3.0, np.inf),
    # In the plane, radii of masses 0.5 and 0.9 are sqrt(-2 log(1 - mass)).
    "confidence": ({"confidence": 0.5}, 0.0, 1.17741),
    "confidence_range": ({"confidence_range": (0.5, 0.9)}, 1.17741, 2.14597),
    "with a component": ({"component": 0, "std_radius": 0.5}, 0.0, 0.5),
}


@pytest.mark.parametrize("name", REGIONS)
def test_sample_within(name: str) -> None:
    options, low, high = REGIONS[name]
    x, component = MODEL.sample(100, **options)
    distance = MODEL.mixture.mahalanobis(x).gather(1, component[:, None])
    assert low - 1e-5 <= float(distance.min())
    assert float(distance.max()) <= high + 1e-5


def test_sample_in_a_ball() -> None:
    x, _ = MODEL.sample(100, center_point=torch.ones(2), center_radius=0.5)
    assert float((x - 1).norm(dim=-1).max()) <= 0.5 + 1e-6


def test_conditional_mixtures() -> None:
    given_first = MODEL.condition(X[:3, :1], [0])
    assert (given_first.n_samples, given_first.n_components, given_first.n_features) == (3, 2, 1)
    assert (given_first.obs_dims, given_first.missing_dims) == ([0], [1])
    assert given_first.means_.shape == (3, 2, 1)
    assert given_first.covariances_.shape == (2, 1, 1)
    # Bayes: p(x, y) = p(x) p(y | x).
    joint = MODEL.marginal([0]).score_samples(X[:3, :1]) + given_first.log_prob(X[:3, 1:])
    torch.testing.assert_close(joint, MODEL.score_samples(X[:3]))
    average = (given_first.weights_[..., None] * given_first.means_).sum(1)
    torch.testing.assert_close(given_first.mean(), average)
    assert given_first.sample(7).shape == (3, 7, 1)
    one = given_first.as_gmm(1)
    torch.testing.assert_close(one.score_samples(X[1:2, 1:]), given_first.log_prob(X[:3, 1:])[1:2])
    grid = MODEL.condition(X[0, :1], [0]).log_prob(torch.zeros(9, 1))
    assert grid.shape == (9,)
