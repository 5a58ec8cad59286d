"""Degenerate mixtures and the projection, on parameters that no fit would return."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.patches import Ellipse
from support.plain_mixture import Plain

from gmm_lightning.plotting import plot_mixture
from gmm_lightning.plotting._components import components, principal_plane


def test_principal_plane_is_that_of_the_mixture_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(4, 5, dtype=torch.float64, generator=generator)
    tril = torch.randn(4, 5, 5, dtype=torch.float64, generator=generator).tril()
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    # E[x x'] - m m', another route to the covariance than between + within.
    second = torch.einsum("k,kij->ij", weights, tril @ tril.mT + means[:, :, None] * means[:, None])
    mean = weights @ means
    covariance = (second - torch.outer(mean, mean)).numpy()

    origin, axes, share = principal_plane(components(Plain(weights, means, tril)))
    np.testing.assert_allclose(origin, mean, rtol=1e-12)
    np.testing.assert_allclose(axes.T @ axes, np.eye(2), atol=1e-12)
    variances = np.linalg.eigvalsh(covariance)[[-1, -2]]
    np.testing.assert_allclose(covariance @ axes, axes * variances, atol=1e-10)
    np.testing.assert_allclose(share, variances / np.trace(covariance), rtol=1e-10)
    largest = np.abs(axes).argmax(axis=0)
    assert (axes[largest, [0, 1]] > 0).all()


def test_principal_plane_without_variance_or_without_finite_covariance() -> None:
    point = Plain(torch.ones(1), torch.ones(1, 3), torch.zeros(1, 3, 3))
    assert principal_plane(components(point))[2].tolist() == [0.0, 0.0]
    far = Plain(
        torch.ones(2) / 2,
        torch.tensor([[-1e200] * 3, [1e200] * 3], dtype=torch.float64),
        torch.eye(3).expand(2, 3, 3),
    )
    origin, axes, share = principal_plane(components(far))
    assert origin.tolist() == [0.0, 0.0, 0.0]
    assert axes.tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    assert share.tolist() == [0.0, 0.0]


def test_a_narrow_component_is_not_missed_by_the_grid() -> None:
    mixture = Plain(
        torch.tensor([0.5, 0.5]),
        torch.tensor([[0.0], [1.23456]]),
        torch.tensor([[[100.0]], [[1e-4]]]),
    )
    total = np.asarray(plot_mixture(mixture).lines[-1].get_ydata())
    peak = 0.5 / (1e-4 * np.sqrt(2 * np.pi))
    assert total.max() == pytest.approx(peak, rel=1e-5)  # the parameters are float32


@pytest.mark.parametrize("num_features", [1, 2, 4])
def test_a_mixture_with_nothing_finite_still_gives_a_picture(num_features: int) -> None:
    shape = (2, num_features)
    mixture = Plain(torch.ones(2) / 2, torch.full(shape, torch.nan), torch.ones(*shape, shape[1]))
    ax = plot_mixture(mixture, torch.ones(10, num_features))
    ax.figure.canvas.draw()  # type: ignore[union-attr]
    assert not any(isinstance(patch, Ellipse) for patch in ax.patches)
    assert not ax.lines


def test_flat_components_and_float16_and_gradients_are_drawn() -> None:
    mixture = Plain(
        torch.ones(1, requires_grad=True),
        torch.zeros(1, 2, dtype=torch.float16),
        torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]),
    )
    (patch,) = plot_mixture(mixture, stds=(1.0,)).patches
    assert isinstance(patch, Ellipse)
    assert (patch.get_width(), patch.get_height()) == (4.0, 0.0)
