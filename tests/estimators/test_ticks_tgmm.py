"""tgmm's `sample`, `marginal`, `condition`, `impute` and plots, ticked: where each option is here.

A row of the table names the item of tgmm, the function here, the parameter that carries the
option (None: the function itself does), and a use that must give True.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from gmm_lightning import GMMLayer, MixtureOfGaussians
from gmm_lightning.distributions import Ball, Confidence, Shell, Where, impute
from gmm_lightning.errors import InvalidArgumentError

MEANS = torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 3.0]], dtype=torch.float64)
FACTORS = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
FACTORS[1] *= 0.5
FACTORS[0, 2, 0] = 0.8
WEIGHTS = torch.tensor([0.3, 0.7], dtype=torch.float64)
MIXTURE = MixtureOfGaussians(WEIGHTS.log(), MEANS, FACTORS)
NAN = float("nan")


def radii(**options: Any) -> tuple[float, float]:
    """Least and largest Mahalanobis radius of draws, each about its own component."""
    x, z = draw(200, return_component=True, **options)
    radius = MIXTURE.mahalanobis(x).gather(1, z[:, None])
    return float(radius.min()), float(radius.max())


def draw(n: int, **options: Any) -> Any:
    return MIXTURE.sample(n, generator=torch.Generator().manual_seed(0), **options)


def within(found: tuple[float, float], low: float, high: float) -> bool:
    """Inside the bounds, and near both of finite ones, so that no draw is merely small."""
    width = min(high, low + 5.0) - low
    return low <= found[0] < low + 0.5 * width and high - 0.5 * width < found[1] <= high


def quantile(mass: float) -> float:
    return float(np.sqrt(chi2(3).ppf(mass)))


def conditional() -> MixtureOfGaussians:
    """Two rows of known first features."""
    return MIXTURE.condition([0], torch.tensor([[0.0], [9.0]], dtype=torch.float64))


def refused(action: Callable[[], Any]) -> bool:
    with pytest.raises(InvalidArgumentError):
        action()
    return True


def share_in_ball() -> bool:
    """tgmm's ball keeps the shares of the components; exact ones follow their mass in it."""
    _, z = draw(2000, within=Ball([0.0, 0.0, 0.0], radius=3.0), return_component=True)
    return bool((z == 0).all())


class Tick(NamedTuple):
    home: str
    parameter: str | None
    check: Callable[[], Any]


SAMPLE, REGIONS = "distributions.MixtureOfGaussians.sample", "distributions"
CONDITION = "distributions.MixtureOfGaussians.condition"

TICKS = {
    "sample(n_samples)": Tick(SAMPLE, "sample_shape", lambda: draw(5).shape == (5, 3)),
    "sample(0)": Tick(SAMPLE, "sample_shape", lambda: draw(0).shape == (0, 3)),
    "sample -> (X, component indices)": Tick(
        SAMPLE, "return_component", lambda: draw(5, return_component=True)[1].shape == (5,)
    ),
    "sample(component)": Tick(
        SAMPLE, "component", lambda: bool((draw(9, component=1)[:, 0] > 4).all())
    ),
    "sample(std_radius)": Tick(
        f"{REGIONS}.Shell", "high", lambda: within(radii(within=Shell(0.0, 1.5)), 0.0, 1.5)
    ),
    "sample(std_range)": Tick(
        f"{REGIONS}.Shell", "low", lambda: within(radii(within=Shell(2.0, 2.5)), 2.0, 2.5)
    ),
    "sample(std_range to infinity)": Tick(
        f"{REGIONS}.Shell", "low", lambda: radii(within=Shell(4.0, np.inf))[0] >= 4.0
    ),
    "sample(confidence)": Tick(
        f"{REGIONS}.Confidence",
        "high",
        lambda: within(radii(within=Confidence(0.0, 0.9)), 0.0, quantile(0.9)),
    ),
    "sample(confidence_range)": Tick(
        f"{REGIONS}.Confidence",
        "low",
        lambda: within(radii(within=Confidence(0.5, 0.9)), quantile(0.5), quantile(0.9)),
    ),
    "sample(confidence_range=(0.95, 1.0))": Tick(
        f"{REGIONS}.Confidence",
        "low",
        lambda: radii(within=Confidence(0.95, 1.0))[0] >= quantile(0.95),
    ),
    "sample(center_point)": Tick(f"{REGIONS}.Ball", "center", share_in_ball),
    "sample(center_radius)": Tick(
        f"{REGIONS}.Ball",
        "radius",
        lambda: bool((draw(50, within=Ball([1.0, 1.0, 1.0], 0.5)) - 1).norm(dim=-1).max() <= 0.5),
    ),
    "sample(one constraint only)": Tick(
        SAMPLE, "within", lambda: refused(lambda: draw(1, within=(Shell(), Confidence())))
    ),
    "sample(a constraint and component)": Tick(
        SAMPLE,
        "within",
        lambda: bool((draw(20, component=1, within=Shell(0.0, 1.0))[:, 0] > 8).all()),
    ),
    "sample(max_attempts_per_sample)": Tick(
        f"{REGIONS}.Where",
        "max_draws",
        lambda: draw(5, within=Where(lambda x: x[:, 0] > 0, max_draws=10_000)).shape == (5, 3),
    ),
    "sample of a model": Tick(
        "GMMLayer.sample",
        "within",
        lambda: (
            GMMLayer.from_parameters(WEIGHTS, MEANS, FACTORS @ FACTORS.mT)
            .sample(4, within=Shell(0.0, 1.0))
            .shape
            == (4, 3)
        ),
    ),
    "marginal(dims)": Tick(
        "distributions.MixtureOfGaussians.marginal",
        "indices",
        lambda: torch.equal(MIXTURE.marginal([2, 0]).means, MEANS[:, [2, 0]]),
    ),
    "condition(x_obs)": Tick(CONDITION, "values", lambda: conditional().batch_shape == (2,)),
    "condition(obs_dims)": Tick(CONDITION, "indices", lambda: conditional().num_features == 2),
    "condition.weights_": Tick(
        "distributions.MixtureOfGaussians.weights",
        None,
        lambda: torch.allclose(conditional().weights, torch.eye(2, dtype=torch.float64)),
    ),
    "condition.means_": Tick(CONDITION, None, lambda: conditional().means.shape == (2, 2, 2)),
    "condition.covariances_": Tick(
        "distributions.MixtureOfGaussians.component_covariances",
        None,
        lambda: conditional().component_covariances.shape[-3:] == (2, 2, 2),
    ),
    "condition.mean()": Tick(
        "distributions.MixtureOfGaussians.mean",
        None,
        lambda: torch.allclose(conditional().mean[1], MEANS[1, 1:], atol=1e-9),
    ),
    "condition.log_prob(Y)": Tick(
        "distributions.MixtureOfGaussians.log_prob",
        "value",
        lambda: conditional().log_prob(MEANS[:, 1:]).shape == (2,),
    ),
    "condition.sample(n_draws)": Tick(
        SAMPLE, "sample_shape", lambda: conditional().sample(7).shape == (7, 2, 2)
    ),
    "condition.as_gmm(i)": Tick(
        CONDITION,
        "values",
        lambda: torch.allclose(MIXTURE.condition([0], 9.0).means, conditional().means[1]),
    ),
    "condition.n_samples": Tick(
        CONDITION, "values", lambda: conditional().batch_shape.numel() == 2
    ),
    "impute(X)": Tick(
        "distributions.impute",
        "x",
        # The slope of the third feature is 0.8 in the first component.
        lambda: torch.allclose(
            impute(MIXTURE, torch.tensor([[1.0, 0.0, NAN]], dtype=torch.float64)),
            torch.tensor([[1.0, 0.0, 0.8]], dtype=torch.float64),
        ),
    ),
}


def found(path: str) -> Any:
    package, _, rest = path.partition(".")
    owner: Any = GMMLayer if package == "GMMLayer" else import_module(f"gmm_lightning.{package}")
    for name in rest.split("."):
        owner = getattr(owner, name)
    return owner


@pytest.mark.parametrize("item", TICKS)
def test_is_here(item: str) -> None:
    tick = TICKS[item]
    home = found(tick.home)
    if tick.parameter is not None:
        assert tick.parameter in inspect.signature(home).parameters
    assert tick.check()


# tgmm's options of pictures: the function here, and the parameters that carry them. Sizes, markers
# and opacities have no options: they follow from the number of rows and from the weights.
PLOTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "plot_gmm(X, show_points)": ("plot_mixture", ("x",)),
    "plot_gmm(gmm)": ("plot_mixture", ("mixture",)),
    "plot_gmm(color_by_cluster, true_labels, cluster_colors)": ("plot_mixture", ("labels",)),
    "plot_gmm(match_labels_to_true, show_incorrect_predictions)": (
        "plot_mixture",
        ("labels", "mismatches"),
    ),
    "plot_gmm(log_probs, colormap, colorbar_label)": (
        "plot_density",
        ("x", "quantity", "colorbar"),
    ),
    "plot_gmm(ellipse_std_devs)": ("plot_mixture", ("stds", "masses")),
    "plot_gmm(show_ellipses, ellipse_alpha, ellipse_fill)": (
        "plot_error_ellipses",
        ("stds", "alpha", "colors"),
    ),
    "plot_gmm(show_initial_means)": ("plot_mixture", ("initial_means",)),
    "plot_gmm(ax, title, xlabel, ylabel)": ("plot_mixture", ("ax", "title", "columns")),
    "plot_gmm, two features only": ("plot_mixture", ("dims",)),
    "predict_proba, drawn": ("plot_responsibilities", ("x", "kind", "component")),
    "sample, drawn": ("plot_samples", ("x", "within")),
    "condition, drawn": ("plot_regression", ("x", "dims", "stds")),
    "more than two features": ("plot_pairs", ("x", "labels", "dims")),
    "means as pictures": ("plot_images", ("images", "shape")),
    "dynamic_figsize": ("dynamic_figsize", ("rows", "cols", "base_width", "base_height")),
    "confidence_ellipse_std_devs": ("confidence_ellipse_std_devs", ("confidence_levels", "df")),
    "create_colormap": ("palette", ("num_colors",)),
}


@pytest.mark.parametrize("item", PLOTS)
def test_a_plot_is_here(item: str) -> None:
    name, parameters = PLOTS[item]
    plotting = import_module("gmm_lightning.plotting")
    assert name in plotting.__all__
    taken = inspect.signature(getattr(plotting, name)).parameters
    assert set(parameters) <= set(taken)


def test_plot_proxies() -> None:
    """`gmm_proxy` draws parameters that were never fitted: here they are a mixture already."""
    from gmm_lightning.plotting import plot_mixture

    flat = MIXTURE.marginal([0, 2])
    ax = plot_mixture(flat, draw(50)[:, [0, 2]].numpy(), stds=(1.0, 2.0, 3.0), title="truth")
    # `ensure_tensor_on_cpu`: tensors and arrays alike; `get_covariance_matrix`: any family.
    assert len(ax.patches) == 6
    assert ax.get_title() == "truth"
    layer = GMMLayer(2, 3, "tied_diag")
    assert len(plot_mixture(layer, stds=(1.0,)).patches) == 3


def test_masses_of_ellipses() -> None:
    from gmm_lightning.plotting import confidence_ellipse_std_devs

    assert confidence_ellipse_std_devs([0.5, 0.95]) == pytest.approx([1.17741, 2.44775], abs=5e-6)
    assert confidence_ellipse_std_devs([0.9], df=5) == pytest.approx([3.03914], abs=5e-6)


def test_figure_sizes() -> None:
    from gmm_lightning.plotting import dynamic_figsize

    assert tuple(dynamic_figsize(2, 3)) == (21, 9)
    assert tuple(dynamic_figsize(1, 1, base_width=4, base_height=3)) == (4, 3)


def test_synthetic_data() -> None:
    """`generate_gmm_data` draws with labels; covariances are covariances, seeds one's own."""
    before = torch.get_rng_state()
    x, labels = MIXTURE.sample(
        40_000, return_component=True, generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(
        x[labels == 1].T.cov(), FACTORS[1] @ FACTORS[1].mT, rtol=0, atol=0.02
    )


def test_pictures_of_what_tgmm_draws() -> None:
    """Options that tgmm's `plot_gmm` has, each with what it must leave on the axes."""
    from matplotlib.axes import Axes

    from gmm_lightning import plotting

    flat = MIXTURE.marginal([0, 2])
    x, labels = flat.sample(60, return_component=True, generator=torch.Generator().manual_seed(0))
    ax = plotting.plot_mixture(
        flat, x, labels=labels, mismatches=True, initial_means=flat.means - 1.0, masses=(0.9,)
    )
    assert len(ax.patches) == 2
    assert len(plotting.plot_mixture(flat, x, labels="predicted", stds=(1.0, 2.0)).patches) == 4
    assert len(plotting.plot_error_ellipses(flat, stds=(1.0,), alpha=0.5).patches) == 2
    assert isinstance(plotting.plot_density(flat, x, quantity="density", resolution=20), Axes)
    assert isinstance(plotting.plot_samples(flat, 20, within=Confidence(0.0, 0.9)), Axes)
    assert isinstance(plotting.plot_responsibilities(flat, x), Axes)
    assert isinstance(plotting.plot_regression(flat, x, resolution=20), Axes)
    assert plotting.plot_pairs(MIXTURE, draw(20)).shape == (3, 3)
    assert isinstance(plotting.plot_images(torch.rand(4, 9), shape=(3, 3)), Axes)
    assert len(plotting.palette(5)) == 5
