"""tgmm's initial values, pictures and data, ticked by name, with tgmm's options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support.tgmm_rows import blobs

from gmm_lightning.estimators import tgmm
from gmm_lightning.estimators.tgmm import GMMInitializer

X = blobs()
REQUIRED = inspect.Parameter.empty


class Tick(NamedTuple):
    """Names of the options with their defaults, and a use that must give True."""

    options: dict[str, Any]
    check: Callable[[], Any]


def options_of(function: Any) -> dict[str, Any]:
    return {p.name: p.default for p in inspect.signature(function).parameters.values()}


MEANS = {"data": REQUIRED, "k": REQUIRED, "random_state": None}
SIZES = {"n_components": REQUIRED, "device": None, "dtype": torch.float32}
COVARIANCES = {"n_components": REQUIRED, "n_features": REQUIRED, "covariance_type": REQUIRED}
KIND = {"device": None, "dtype": torch.float32}
INITIALIZER = {
    "random": Tick(MEANS, lambda: GMMInitializer.random(X, 3).shape == (3, 2)),
    "points": Tick(MEANS, lambda: len(GMMInitializer.points(X, 9).unique(dim=0)) == 9),
    "kpp": Tick(MEANS, lambda: GMMInitializer.kpp(X, 3).shape == (3, 2)),
    "kmeans": Tick(
        {"data": REQUIRED, "k": REQUIRED, "max_iter": 1000, "atol": 1e-4, "random_state": None},
        lambda: torch.allclose(GMMInitializer.kmeans(X, 1)[0], X.mean(0)),
    ),
    "maxdist": Tick(MEANS, lambda: len(GMMInitializer.maxdist(X, 4).unique(dim=0)) == 4),
    "init_weights_uniform": Tick(
        SIZES, lambda: GMMInitializer.init_weights_uniform(4).tolist() == [0.25] * 4
    ),
    "init_weights_random": Tick(
        SIZES | {"random_state": None},
        lambda: abs(float(GMMInitializer.init_weights_random(4).sum()) - 1) < 1e-6,
    ),
    "init_weights_from_clusters": Tick(
        {"data": REQUIRED, "means": REQUIRED},
        lambda: (
            GMMInitializer.init_weights_from_clusters(
                torch.tensor([[0.0], [0.1], [0.2], [9.0]]), torch.tensor([[0.0], [9.0]])
            ).tolist()
            == [0.75, 0.25]
        ),
    ),
    "init_covariances_eye": Tick(
        COVARIANCES | {"reg_covar": 0.0} | KIND,
        lambda: GMMInitializer.init_covariances_eye(2, 3, "diag").tolist() == [[1.0] * 3] * 2,
    ),
    "init_covariances_random": Tick(
        COVARIANCES | {"reg_covar": 0.0} | KIND | {"random_state": None},
        lambda: (
            torch.linalg.eigvalsh(GMMInitializer.init_covariances_random(2, 3, "full")).min() > 0
        ),
    ),
    "init_covariances_global": Tick(
        {"data": REQUIRED, "n_components": REQUIRED}
        | {"covariance_type": REQUIRED, "reg_covar": 0.0},
        lambda: torch.allclose(
            GMMInitializer.init_covariances_global(X, 2, "tied_full"), torch.cov(X.T)
        ),
    ),
    "init_covariances_empirical": Tick(
        {"data": REQUIRED, "means": REQUIRED, "covariance_type": REQUIRED, "reg_covar": 0.0},
        lambda: torch.allclose(
            GMMInitializer.init_covariances_empirical(X, X[:1], "full")[0],
            torch.cov(X.T, correction=0),
        ),
    ),
}


@pytest.mark.parametrize("name", INITIALIZER)
def test_initializer(name: str) -> None:
    tick = INITIALIZER[name]
    assert options_of(getattr(GMMInitializer, name)) == tick.options
    assert tick.check()


PLOT_OPTIONS = """
    X gmm show_points point_size point_alpha point_color color_by_cluster true_labels
    match_labels_to_true cluster_colors show_incorrect_predictions incorrect_color log_probs
    colormap colorbar_label show_ellipses ellipse_std_devs ellipse_alpha ellipse_colors
    ellipse_fill ellipse_line_style ellipse_line_width ellipse_line_color ellipse_line_alpha
    show_means mean_marker mean_size mean_color show_initial_means initial_mean_marker
    initial_mean_size initial_mean_color scale_alpha_by_weight scale_size_by_weight ax title
    xlabel ylabel legend legend_labels
"""


def test_plot_gmm_has_the_options_of_tgmm() -> None:
    asked = PLOT_OPTIONS.split()
    assert list(inspect.signature(tgmm.plot_gmm).parameters) == asked


def test_other_names() -> None:
    assert tuple(tgmm.dynamic_figsize(2, 3)) == (21, 9)
    assert tgmm.confidence_ellipse_std_devs(0.95) == pytest.approx([2.44775], abs=5e-6)
    matched = tgmm.match_predicted_to_true_labels(torch.tensor([0, 0, 1, 2]), [2, 2, 0, 1])
    assert matched.tolist() == [0, 0, 1, 2]
    options = {"device": "cpu", "random_state": None, "noise_ratio": 0.0, "noise_scale": 1.5}
    asked = {name: REQUIRED for name in ("centers", "covs", "n_samples")} | options
    assert options_of(tgmm.generate_gmm_data) == asked
    before = np.random.get_state()[1].copy()  # noqa: NPY002 (tgmm seeds it)
    covariance = np.array([[2.0, 0.5], [0.5, 1.0]])
    x, labels = tgmm.generate_gmm_data([[0, 0], [9, 9]], [covariance] * 2, [20_000, 5], "cpu", 0)
    np.testing.assert_allclose(x[labels == 0].T.cov(), covariance, atol=0.05)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert x.dtype == torch.float32
