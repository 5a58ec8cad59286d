"""The calls of two published texts of tgmm, its README and an older one, by the changed import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from gmm_lightning.estimators.tgmm import GaussianMixture, GMMInitializer, plot_gmm

pytestmark = pytest.mark.filterwarnings("ignore:.*has not converged")


def rows() -> torch.Tensor:
    """Three clusters, as the texts draw them, but from a generator of their own."""
    draw = np.random.default_rng(42).multivariate_normal
    x = np.vstack(
        [
            draw([0, 0], [[1, 0.5], [0.5, 1]], 300),
            draw([3, 3], [[1, -0.3], [-0.3, 1]], 300),
            draw([-2, 2], [[0.5, 0], [0, 2]], 200),
        ]
    )
    return torch.tensor(x, dtype=torch.float32)


X = rows()
TRUTH = torch.arange(3).repeat_interleave(torch.tensor([300, 300, 200]))


def test_the_present_text() -> None:
    gmm = GaussianMixture(n_components=3, random_state=42)
    gmm.fit(X)
    labels = gmm.predict(X)
    assert labels.shape == (800,)
    assert f"Converged: {gmm.converged_}, Iterations: {gmm.n_iter_}".startswith("Converged: True")


def old_style() -> GaussianMixture:
    """Every argument of the older text."""
    with pytest.warns(DeprecationWarning, match="is now called") as caught:
        gmm = GaussianMixture(
            n_components=3,
            n_features=None,
            covariance_type="full",
            tol=1e-6,
            max_iter=1000,
            reg_covar=1e-6,
            init_params="kmeans",
            cov_init_method="eye",
            weights_init=None,
            means_init=None,
            covariances_init=None,
            n_init=2,
            random_state=42,
            warm_start=False,
            verbose=True,
            verbose_interval=10,
            cem=False,
            weight_concentration_prior=None,
            mean_prior=None,
            mean_precision_prior=None,
            covariance_prior=None,
            degrees_of_freedom_prior=None,
            device="cpu",
        )
    messages = [str(one.message) for one in caught]
    assert messages == [
        "init_params is now called init_means",
        "means_init is now called init_means",
        "cov_init_method is now called init_covariances",
        "covariances_init is now called init_covariances",
        "weights_init is now called init_weights",
    ]
    assert all(Path(one.filename).name == Path(__file__).name for one in caught)
    return gmm


def test_the_older_text(capsys: pytest.CaptureFixture[str]) -> None:
    gmm = old_style().fit(X)
    capsys.readouterr()
    assert gmm.init_covariances == "eye"
    assert gmm.converged_
    assert np.isfinite([gmm.score(X), gmm.lower_bound_]).all()
    assert (gmm.weights_.shape, gmm.means_.shape) == ((3,), (3, 2))
    assert (gmm.covariances_.shape, gmm.initial_weights_.shape) == ((3, 2, 2), (3,))
    assert gmm.predict(X).shape == gmm.score_samples(X).shape == (800,)
    torch.testing.assert_close(gmm.predict_proba(X).sum(-1), torch.ones(800).to(X))
    samples, labels = gmm.sample(100)
    assert (samples.shape, labels[:10].shape) == ((100, 2), (10,))
    assert gmm.sample(50, component=1)[0].shape == (50, 2)


@pytest.mark.parametrize("method", ["kpp", "kmeans", "random", "points", "maxdist"])
def test_initial_values_of_the_older_text(method: str) -> None:
    initializer = GMMInitializer(init_method=method, random_state=42)
    with pytest.warns(DeprecationWarning, match="init_means"):
        weights, means, covariances = initializer.initialize(
            X, n_components=3, covariance_type="full"
        )
    with pytest.warns(DeprecationWarning, match="is now called"):
        gmm = GaussianMixture(
            n_components=3,
            weights_init=weights,
            means_init=means,
            covariances_init=covariances,
            device="cpu",
        )
    gmm.fit(X)
    torch.testing.assert_close(gmm.initial_means_, means)
    torch.testing.assert_close(gmm.initial_covariances_, covariances)


def test_priors_of_the_older_text() -> None:
    free = GaussianMixture(n_components=3, random_state=42, device="cpu").fit(X)
    means = torch.tensor([[0.0, 0.0], [2.0, 2.0], [-1.0, 1.0]])
    priors = [
        {"weight_concentration_prior": torch.tensor([1.0, 1.0, 1.0])},
        {"mean_prior": means, "mean_precision_prior": 0.1},
        {"covariance_prior": torch.eye(2) * 0.5, "degrees_of_freedom_prior": 3},
        {
            "weight_concentration_prior": torch.tensor([2.0, 2.0, 2.0]),
            "mean_prior": means,
            "mean_precision_prior": 0.1,
            "covariance_prior": torch.eye(2),
            "degrees_of_freedom_prior": 3.0,
        },
    ]
    for prior in priors:
        gmm = GaussianMixture(n_components=3, random_state=42, device="cpu", **prior).fit(X)
        # Weak priors beside 800 rows.
        assert gmm.score(X) == pytest.approx(free.score(X), abs=0.05)


def test_files_of_the_older_text(tmp_path: Path) -> None:
    gmm = GaussianMixture(n_components=3, random_state=42, device="cpu").fit(X)
    gmm.save(str(tmp_path / "my_gmm_model.pth"))
    loaded = GaussianMixture.load(str(tmp_path / "my_gmm_model.pth"), device="cpu")
    fresh = GaussianMixture()
    fresh.load_state_dict(gmm.save_state_dict())
    assert loaded.score(X) == fresh.score(X) == gmm.score(X)


def test_pictures_of_the_older_text() -> None:
    gmm = GaussianMixture(n_components=3, random_state=42, device="cpu").fit(X)
    figure = Figure(figsize=(15, 12))
    axes = figure.subplots(2, 2)
    x = X.numpy()
    plot_gmm(
        x,
        gmm,
        ax=axes[0, 0],
        color_by_cluster=True,
        show_ellipses=True,
        ellipse_std_devs=[1, 2],
        title="Colored by Cluster",
    )
    assert len(axes[0, 0].patches) == 6
    log_probs = gmm.score_samples(X).cpu().numpy()
    plot_gmm(x, gmm, ax=axes[0, 1], log_probs=log_probs, colormap="viridis", show_ellipses=False)
    assert len(axes[0, 1].patches) == 0
    assert len(figure.axes) == 5
    plot_gmm(
        x,
        gmm,
        ax=axes[1, 0],
        true_labels=TRUTH,
        color_by_cluster=True,
        match_labels_to_true=True,
        show_incorrect_predictions=True,
        title="Predictions vs Truth",
    )
    assert "incorrect" in [text.get_text() for text in axes[1, 0].get_legend().get_texts()]
    plot_gmm(x, gmm, ax=axes[1, 1], show_initial_means=True, show_means=True, ellipse_std_devs=[1])
    ax = plot_gmm(
        x,
        gmm,
        point_size=8,
        point_alpha=0.7,
        ellipse_std_devs=[1, 2, 3],
        ellipse_alpha=0.3,
        ellipse_fill=True,
        ellipse_line_style="--",
        mean_marker="*",
        mean_size=100,
        mean_color="red",
        scale_alpha_by_weight=True,
        scale_size_by_weight=True,
        title="Custom Styled GMM",
    )
    assert ax.get_title() == "Custom Styled GMM"
    assert {patch.get_linestyle() for patch in ax.patches} == {"--"}
