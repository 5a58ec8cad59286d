"""Bad input of tgmm's door: one sentence each, and the mixture stays as it was."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.tgmm_rows import blobs, given

from gmm_lightning.errors import GMMError, InvalidArgumentError, InvalidDataError
from gmm_lightning.estimators.tgmm import (
    GaussianMixture,
    GMMInitializer,
    generate_gmm_data,
    match_predicted_to_true_labels,
)

X = blobs()
NAN = float("nan")

CONSTRUCTOR: dict[str, dict[str, Any]] = {
    "n_components must be an integer": {"n_components": 0},
    "has no family here": {"covariance_type": "VEI"},
    "covariance_type must be one of": {"covariance_type": "round"},
    "tol must be": {"tol": 0.0},
    "reg_covar must be": {"reg_covar": -1.0},
    "max_iter must be": {"max_iter": 0},
    "n_init must be": {"n_init": 1.5},
    "not available here": {"algorithm": "saem"},
    "unknown convergence": {"convergence": "gain"},
    "unknown missing": {"missing": "drop"},
    "temperature must be": {"temperature": 0.5},
    r"temperature\[0\] must be": {"temperature": (0.0, 5)},
    "step_size must be": {"step_size": "slow"},
    "batch_size must be": {"batch_size": 0},
    "give both of them or neither": {"mean_prior": [0.0, 0.0]},
    "covariance_prior and degrees_of_freedom_prior": {"degrees_of_freedom_prior": 5.0},
    "unknown prior_convention": {"prior_convention": "tgmm"},
    "random_state must be": {"random_state": "none"},
    "device must be one": {"device": "abacus"},
    "'meta' has none": {"device": "meta"},
}
FIT: dict[str, dict[str, Any]] = {
    "n_components must be a number": {"n_components": None},
    "unknown init_means": {"init_means": "farthest"},
    "unknown init_weights": {"init_weights": "heavy"},
    "unknown init_covariances": {"init_covariances": "wide"},
    "init_means must be a name or values of shape": {"init_means": torch.zeros(3, 2)},
    "init_weights must be a name or values": {"init_weights": [0.5, 0.4, 0.1]},
    "init_covariances must have shape": {"init_covariances": torch.eye(3)},
    "weights must be >= 0": {"init_weights": [-1.0, 2.0]},
    "symmetric and positive definite": {"init_covariances": -torch.eye(2)},
    "noise_init must have one entry": {"noise": True, "noise_init": [True]},
    "marks every row as noise": {"noise": True, "noise_init": torch.ones(len(X)) == 1},
    "noise_volume must be": {"noise": True, "noise_volume": "sphere"},
    "batch_size, which step_size needs": {"step_size": 0.5},
    "covariance_prior must have shape": {
        "covariance_prior": torch.eye(3),
        "degrees_of_freedom_prior": 5.0,
    },
    "loc": {"mean_prior": torch.zeros(5), "mean_precision_prior": 1.0},
    "concentration": {"weight_concentration_prior": -1.0},
    "frozen_components must be an integer": {
        "frozen_components": [0.5],
        "init_means": X[:2],
        "init_covariances": torch.eye(2, dtype=X.dtype).expand(2, 2, 2),
    },
}
USE: dict[str, Callable[[GaussianMixture], Any]] = {
    "got several": lambda m: m.sample(1, std_radius=1.0, confidence=0.5),
    "give both": lambda m: m.sample(1, center_radius=1.0),
    "increasing numbers": lambda m: m.sample(1, std_range=(2.0, 1.0)),
    "confidence must be in": lambda m: m.sample(1, confidence=1.5),
    "std_radius must be": lambda m: m.sample(1, std_radius=0.0),
    "n_samples must be": lambda m: m.sample(-1),
    "component": lambda m: m.sample(1, component=2),
    "unknown mode": lambda m: m.icl(X, mode="both"),
    "noise_proba needs": lambda m: m.noise_proba(X),
    "impute needs": lambda m: m.impute(X),
    "labels must be one integer": lambda m: m.fit(X, labels=torch.zeros(3)),
    "got Tensor|labels must be one": lambda m: m.fit(X, labels=torch.full((len(X),), 0.5)),
    "every label is -1": lambda m: m.fit(X, labels=[-1] * len(X)),
    "components_per_class makes 1": lambda m: m.fit(X, labels=[4] * len(X)),
    "predict_class needs": lambda m: m.predict_class(X),
    "sample_weight must be one number": lambda m: m.fit(X, sample_weight=torch.ones(len(X), 2)),
    r"sample_weight must be finite and >= 0; .* row\(s\) 1$": lambda m: m.fit(
        X, sample_weight=[1.0, -1.0] + [1.0] * (len(X) - 2)
    ),
    "indices must differ": lambda m: m.marginal([0, 0]),
    "a feature must be": lambda m: m.marginal(["x"]),
    "Y must have shape": lambda m: m.condition([0.0], [0]).log_prob(torch.zeros(1, 3)),
    "row must be in": lambda m: m.condition([0.0], [0]).as_gmm(1),
}
ROWS: dict[str, Any] = {
    "missing": torch.full((5, 2), NAN),
    "X has 3 features": torch.zeros(5, 3, dtype=X.dtype),
    "at least|expected|fewer": X[:1],
    "numbers": np.array([["a", "b"], ["c", "d"]]),
}


@pytest.mark.parametrize("words", CONSTRUCTOR)
def test_constructor(words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        GaussianMixture(**{"n_components": 2, **CONSTRUCTOR[words]})


def test_unknown_names() -> None:
    with pytest.raises(TypeError, match="n_clusters"):
        GaussianMixture(n_clusters=2)


@pytest.mark.parametrize("words", FIT)
def test_fit(words: str) -> None:
    model = GaussianMixture(**{"n_components": 2, "device": "cpu", **FIT[words]})
    with pytest.raises(GMMError, match=words.removeprefix("unknown ")):
        model.fit(X)
    assert not model.fitted_
    assert model.means_ is None


@pytest.mark.parametrize("words", USE)
def test_use(words: str) -> None:
    model = GaussianMixture(**given("full")).fit(X)
    with pytest.raises(GMMError, match=words):
        USE[words](model)


@pytest.mark.parametrize("words", ROWS)
def test_rows(words: str) -> None:
    model = GaussianMixture(**given("full"))
    with pytest.raises(GMMError, match=words):
        model.fit(ROWS[words])
    assert model.layer_ is None


def test_missing_everywhere() -> None:
    x = X.clone()
    x[:, 1] = NAN
    model = GaussianMixture(2, missing="em", device="cpu")
    with pytest.raises(InvalidDataError, match="observed"):
        model.fit(x)


def test_mixtures_with_noise_have_no_marginal() -> None:
    model = GaussianMixture(**given("full", noise=True)).fit(X)
    for use in (
        lambda: model.marginal([0]),
        lambda: model.condition([0.0], [0]),
        lambda: model.sample(1, confidence=0.5),
    ):
        with pytest.raises(InvalidArgumentError, match="noise=True"):
            use()


def test_before_a_fit() -> None:
    model = GaussianMixture(2, device="cpu")
    for use in (model.predict, model.score, model.partial_fit, model.bic):
        with pytest.raises(InvalidArgumentError, match="no parameters yet"):
            use(X)


def test_an_error_leaves_the_last_fit() -> None:
    model = GaussianMixture(**given("full")).fit(X)
    before = model.score(X)
    with pytest.raises(InvalidDataError):
        model.fit(torch.full((5, 2), NAN))
    assert model.score(X) == before


def test_former_names_carry_the_present_ones() -> None:
    former = {
        "init_params": ("init_means", "kpp"),
        "means_init": ("init_means", torch.zeros(2, 2)),
        "cov_init_method": ("init_covariances", "eye"),
        "covariances_init": ("init_covariances", torch.eye(2)),
        "weights_init": ("init_weights", torch.ones(2)),
    }
    for name, (present, value) in former.items():
        with pytest.warns(DeprecationWarning, match=present):
            model = GaussianMixture(2, **{name: value})
        assert getattr(model, present) is value
        with pytest.warns(DeprecationWarning, match=f"{name} is now called {present}"):
            model = GaussianMixture(2, **{name: None})
        assert isinstance(getattr(model, present), str)
    with pytest.warns(DeprecationWarning, match="algorithm='cem'"):
        assert GaussianMixture(2, cem=True).algorithm == "cem"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GaussianMixture(2)


def test_helpers() -> None:
    with pytest.raises(InvalidArgumentError, match="at most the number of rows"):
        GMMInitializer.kmeans(X[:2], 3)
    with pytest.raises(InvalidArgumentError, match="one entry for each component"):
        generate_gmm_data([[0, 0]], [np.eye(2)], [3, 4])
    with pytest.raises(InvalidArgumentError, match="semi-definite"):
        generate_gmm_data([[0, 0]], [-np.eye(2)], [3])
    with pytest.raises(InvalidArgumentError, match="one predicted label"):
        match_predicted_to_true_labels([0, 1], [0])
