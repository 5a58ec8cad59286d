"""Mixture plots: the geometry is checked against eigenvalues and densities, not by eye."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import same_color, to_rgba_array
from matplotlib.patches import Ellipse
from support.plain_mixture import Plain
from torch import Tensor

from gmm_lightning.covariances import FullCovariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting import palette, plot_mixture
from gmm_lightning.plotting._components import components, principal_plane


def make_mixture(num_components: int, num_features: int, seed: int = 0) -> MixtureOfGaussians:
    generator = torch.Generator().manual_seed(seed)
    like = {"dtype": torch.float64, "generator": generator}
    factor = torch.randn(num_components, num_features, num_features, **like)
    covariance = factor @ factor.mT + 0.1 * torch.eye(num_features, dtype=torch.float64)
    return MixtureOfGaussians(
        torch.randn(num_components, **like),
        4.0 * torch.randn(num_components, num_features, **like),
        torch.linalg.cholesky(covariance),
        FullCovariance(),
    )


def make_rows(num_rows: int, num_features: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_rows, num_features, generator=generator)


def ellipses(ax: Axes) -> list[Ellipse]:
    return [patch for patch in ax.patches if isinstance(patch, Ellipse)]


def offsets(ax: Axes, which: int) -> np.ndarray:
    return np.asarray(ax.collections[which].get_offsets())


def test_two_features_draws_points_means_and_ellipses() -> None:
    mixture, x = make_mixture(3, 2), make_rows(50, 2)
    ax = plot_mixture(mixture, x, columns=("width", "height"), title="three")
    assert len(ellipses(ax)) == 3 * 2
    assert len(ax.collections) == 2
    np.testing.assert_allclose(offsets(ax, 0), x.double())
    np.testing.assert_allclose(offsets(ax, 1), mixture.means)
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("width", "height", "three")
    assert ax.get_legend() is None


def test_ellipses_have_the_eigenvalues_and_eigenvectors_of_the_covariance() -> None:
    mixture = make_mixture(3, 2)
    stds = (3.0, 1.5)
    drawn = ellipses(plot_mixture(mixture, stds=stds))
    covariances = mixture.scale_tril @ mixture.scale_tril.mT
    for k in range(3):
        values, vectors = torch.linalg.eigh(covariances[k])
        for patch, std in zip(drawn[2 * k : 2 * k + 2], stds, strict=True):
            np.testing.assert_allclose(patch.get_center(), mixture.means[k])
            # 1e-10: an eigenvalue through a square root and back, in float64.
            assert (patch.get_width() / 2 / std) ** 2 == pytest.approx(float(values[1]), rel=1e-10)
            assert (patch.get_height() / 2 / std) ** 2 == pytest.approx(float(values[0]), rel=1e-10)
            direction = np.array([np.cos(np.radians(patch.angle)), np.sin(np.radians(patch.angle))])
            assert abs(direction @ vectors[:, 1].numpy()) == pytest.approx(1.0, rel=1e-12)


def test_the_outline_lies_at_its_mahalanobis_radius() -> None:
    mixture = make_mixture(1, 2)
    (patch,) = ellipses(plot_mixture(mixture, stds=(2.0,)))
    # The vertices of the unit circle's path that lie on the curve itself, every third one.
    circle = np.asarray(patch.get_path().vertices)[:-1:3]
    outline = torch.as_tensor(patch.get_patch_transform().transform(circle))
    solved = torch.linalg.solve_triangular(
        mixture.scale_tril[0], (outline - mixture.means[0]).T, upper=False
    )
    # Matplotlib's Bezier circle is round to 3e-5.
    np.testing.assert_allclose(solved.norm(dim=0), 2.0, rtol=1e-4)


def test_opacity_follows_the_weights() -> None:
    weights = torch.tensor([0.6, 0.3, 0.1])
    mixture = Plain(weights, torch.eye(3)[:, :2], torch.eye(2).expand(3, 2, 2))
    drawn = ellipses(plot_mixture(mixture, stds=(1.0,)))
    fill = to_rgba_array([patch.get_facecolor() for patch in drawn])[:, 3]
    np.testing.assert_allclose(fill / fill[0], weights / weights[0], rtol=1e-6)
    edges = to_rgba_array([patch.get_edgecolor() for patch in drawn])
    assert edges[0, 3] > edges[1, 3] > edges[2, 3] > 0.0
    np.testing.assert_allclose(edges[:, :3], to_rgba_array(palette(3))[:, :3])


def test_labels_colour_the_points_and_name_the_classes() -> None:
    x = make_rows(30, 2)
    labels = np.array(["b", "a", "c"])[np.arange(30) % 3]
    ax = plot_mixture(make_mixture(2, 2), x, labels=labels)
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
    color_of = dict(zip("abc", to_rgba_array(palette(3))[:, :3], strict=True))
    expected = {tuple(p): color_of[c] for p, c in zip(x.double().numpy(), labels, strict=True)}
    drawn = to_rgba_array(ax.collections[0].get_facecolor())
    for point, color in zip(offsets(ax, 0), drawn, strict=True):
        np.testing.assert_allclose(color[:3], expected[tuple(point)])
    # The colours mean classes now, so no component may carry one.
    edges = to_rgba_array([patch.get_edgecolor() for patch in ellipses(ax)])[:, :3]
    assert len(np.unique(edges, axis=0)) == 1


def test_many_classes_have_no_legend() -> None:
    labels = torch.arange(26)
    assert plot_mixture(make_mixture(2, 2), make_rows(26, 2), labels=labels).get_legend() is None


def test_points_are_thinned_evenly() -> None:
    x = torch.stack([torch.arange(1001.0), torch.zeros(1001)], dim=-1)
    drawn = offsets(plot_mixture(make_mixture(1, 2), x, max_points=11), 0)
    assert drawn[:, 0].tolist() == [100.0 * i for i in range(11)]
    none = plot_mixture(make_mixture(1, 2), x, max_points=0)
    assert len(none.collections) == 1


def test_more_features_are_projected_on_the_principal_plane() -> None:
    mixture, x = make_mixture(4, 5), make_rows(20, 5)
    origin, axes, share = principal_plane(components(mixture))
    ax = plot_mixture(mixture, x, stds=(1.0,))
    np.testing.assert_allclose(offsets(ax, 0), (x.double().numpy() - origin) @ axes)
    np.testing.assert_allclose(offsets(ax, 1), (mixture.means.numpy() - origin) @ axes)
    for k, patch in enumerate(ellipses(ax)):
        covariance = axes.T @ (mixture.scale_tril[k] @ mixture.scale_tril[k].mT).numpy() @ axes
        small, large = np.linalg.eigvalsh(covariance)
        assert patch.get_width() == pytest.approx(2 * np.sqrt(large), rel=1e-10)
        assert patch.get_height() == pytest.approx(2 * np.sqrt(small), rel=1e-10)
    assert ax.get_xlabel() == f"principal axis 1 ({100 * share[0]:.3g}% of variance)"
    assert ax.get_ylabel() == f"principal axis 2 ({100 * share[1]:.3g}% of variance)"


def test_one_feature_draws_weighted_densities_that_sum_to_the_mixture() -> None:
    mixture = make_mixture(3, 1)
    ax = plot_mixture(mixture, columns=["length"])
    *terms, total = ax.lines
    grid = torch.as_tensor(np.asarray(total.get_xdata()))[:, None]
    # 1e-10: the same density from two formulas in float64.
    np.testing.assert_allclose(
        np.asarray(total.get_ydata()), mixture.log_prob(grid).exp(), rtol=1e-10
    )
    joint = mixture.log_joint(grid).exp()
    for k, line in enumerate(terms):
        np.testing.assert_allclose(
            np.asarray(line.get_ydata()), joint[:, k], rtol=1e-9, atol=1e-300
        )
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("length", "density")


def test_the_histogram_is_a_density_of_all_rows() -> None:
    mixture, x = make_mixture(2, 1), make_rows(400, 1)
    for labels in (None, torch.arange(400) % 2):
        ax = plot_mixture(mixture, x, labels=labels, max_points=10)
        area = sum(bar.get_width() * bar.get_height() for bar in ax.patches)  # type: ignore[attr-defined]
        assert area == pytest.approx(1.0)


@pytest.mark.parametrize("num_features", [1, 2, 4])
def test_what_is_not_finite_is_left_out(num_features: int) -> None:
    means = torch.arange(5.0)[:, None].expand(5, num_features).clone()
    tril = torch.eye(num_features).repeat(5, 1, 1).double()
    weights = torch.full((5,), 0.2)
    means[0, 0], tril[1, -1, -1], weights[2], tril[3, 0, 0] = torch.nan, torch.inf, torch.nan, 1e200
    x = make_rows(10, num_features)
    x[4, 0] = torch.nan
    ax = plot_mixture(Plain(weights, means, tril), x)
    ax.figure.canvas.draw()  # type: ignore[union-attr]
    if num_features == 1:
        assert len(ax.lines) == 1 + 1
        assert same_color(ax.lines[0].get_color(), palette(5)[4])
    else:
        assert len(ellipses(ax)) == 2
        assert offsets(ax, 0).shape == (9, 2)


def test_inputs_are_not_changed_and_need_not_be_tensors() -> None:
    x = make_rows(7, 2).numpy()
    kept = x.copy()
    mixture = make_mixture(2, 2)
    means = mixture.means.clone()
    plot_mixture(mixture, x.tolist(), labels=[0, 1, 0, 1, 0, 1, 0])
    plot_mixture(mixture, x[None])
    assert np.array_equal(x, kept)
    assert torch.equal(mixture.means, means)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(2)}, r"shape \(N, 2\), got \(2,\)"),
        ({"x": torch.zeros(4, 2), "labels": [0, 1]}, "each of the 4 rows of x, got 2"),
        ({"labels": [0, 1]}, "labels alone"),
        ({"stds": (1.0, -1.0)}, "positive numbers in stds"),
    ],
)
def test_refuses_what_does_not_fit(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        plot_mixture(make_mixture(2, 2), **arguments)
