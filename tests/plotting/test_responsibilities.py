"""Responsibilities: areas, colours and order against the probabilities themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from support.plain_mixture import Plain

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting import palette, plot_responsibilities


def probabilities(mixture: Any, x: np.ndarray) -> np.ndarray:
    """By torch alone."""
    parts = mixture.to_torch()
    joint = parts.component_distribution.log_prob(torch.as_tensor(x, device="cpu")[:, None])
    return (joint + parts.mixture_distribution.logits).softmax(-1).numpy()


def test_bars_are_sorted_by_component_and_certainty(make: Any) -> None:
    mixture, x = make(3, 5), 4 * np.random.default_rng(0).normal(size=(30, 5))
    ax = plot_responsibilities(mixture, x, kind="rows")
    r = probabilities(mixture, x)
    best = r.argmax(1)
    expected = r[np.lexsort((-r.max(1), best))]
    for k, area in enumerate(ax.collections):
        np.testing.assert_allclose(np.asarray(area.get_facecolor())[0, :3], to_rgb(palette(3)[k]))
        top = expected[:, : k + 1].sum(1)
        vertices = area.get_paths()[0].vertices
        for i in range(30):
            # The corners of bar i; the upper one is the sum of the probabilities so far.
            at = vertices[np.isclose(vertices[:, 0], i), 1]
            assert np.isclose(at, top[i], atol=1e-9).any()
    assert ax.get_xlim() == (0.0, 30.0)
    assert ax.get_ylim() == (0.0, 1.0)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        f"component {k}" for k in range(3)
    ]  # type: ignore[union-attr]


def test_areas_on_the_line_add_up_to_one(make: Any) -> None:
    mixture = make(3, 1)
    ax = plot_responsibilities(mixture, np.zeros((4, 1)))
    vertices = ax.collections[0].get_paths()[0].vertices
    upper = np.asarray(vertices)[np.asarray(vertices)[:, 1] > 1e-6]
    np.testing.assert_allclose(upper[:, 1], probabilities(mixture, upper[:, :1])[:, 0], atol=1e-9)
    top = np.asarray(ax.collections[-1].get_paths()[0].vertices)
    assert top[:, 1].max() == pytest.approx(1.0)
    (ticks,) = ax.lines
    assert np.asarray(ticks.get_xdata()).tolist() == [0.0] * 4


def test_rows_have_the_mixed_colour_of_their_components(make: Any) -> None:
    mixture, x = make(3, 4), 3 * np.random.default_rng(0).normal(size=(20, 4))
    ax = plot_responsibilities(mixture, x, dims=(1, 3))
    dots = ax.collections[0]
    at, colors = np.asarray(dots.get_offsets()), np.asarray(dots.get_facecolor())[:, :3]
    wanted = probabilities(mixture, x) @ np.array([to_rgb(color) for color in palette(3)])
    for row, color in zip(x, wanted, strict=True):
        (i,) = np.flatnonzero(np.isclose(at, row[[1, 3]]).all(1))
        np.testing.assert_allclose(colors[i], color, atol=1e-12)


def test_the_plane_without_rows_is_coloured_everywhere(make: Any) -> None:
    mixture = make(2, 2)
    ax = plot_responsibilities(mixture, component=1)
    (image,) = ax.images
    values = np.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    corners = np.array([[left, bottom], [right, bottom], [left, top], [right, top]])
    np.testing.assert_allclose(
        values[[0, 0, -1, -1], [0, -1, 0, -1]], probabilities(mixture, corners)[:, 1], atol=1e-9
    )
    assert ax.figure.axes[1].get_ylabel() == "p(component 1 | x)"  # type: ignore[union-attr]


def test_one_component_is_shown_on_a_scale_from_zero_to_one(make: Any) -> None:
    x = np.random.default_rng(0).normal(size=(20, 2))
    dots: Any = plot_responsibilities(make(3, 2), x, component=2).collections[0]
    assert dots.get_clim() == (0.0, 1.0)
    expected = probabilities(make(3, 2), np.asarray(dots.get_offsets()))[:, 2]
    np.testing.assert_allclose(dots.get_array(), expected, atol=1e-12)
    ax = plot_responsibilities(make(3, 2), x, component=2, kind="rows")
    assert len(ax.collections) == 1


def test_exchanged_features_keep_their_probabilities(make: Any) -> None:
    x = np.random.default_rng(0).normal(size=(20, 2))
    one, two = (plot_responsibilities(make(3, 2), x, component=0, dims=d) for d in ((0, 1), (1, 0)))
    a, b = one.collections[0], two.collections[0]
    np.testing.assert_allclose(np.asarray(a.get_offsets())[:, ::-1], b.get_offsets())
    np.testing.assert_allclose(a.get_array(), b.get_array(), rtol=1e-9)  # type: ignore[arg-type]
    one, two = (plot_responsibilities(make(3, 2), component=0, dims=d) for d in ((0, 1), (1, 0)))
    np.testing.assert_allclose(
        np.asarray(one.images[0].get_array()).T, np.asarray(two.images[0].get_array()), rtol=1e-9
    )


def test_a_line_without_a_density_is_refused() -> None:
    point = Plain(torch.ones(1), torch.zeros(1, 1), torch.full((1, 1, 1), torch.nan))
    with pytest.raises(InvalidArgumentError, match="no density to draw"):
        plot_responsibilities(point)


@pytest.mark.parametrize(
    ("num_features", "arguments", "message"),
    [
        (2, {"kind": "bars"}, "unknown kind 'bars'; known are: map, rows"),
        (2, {"kind": "rows"}, "rows x for kind='rows'"),
        (2, {"component": 3}, r"component in \[0, 3\), got 3"),
        (2, {"component": True}, "component must be an integer"),
        (4, {}, "got 4; pass dims=.*kind='rows'"),
        (4, {"dims": (0, 1)}, "rows x and two features"),
        (4, {"dims": (0,), "x": np.zeros((2, 4))}, "rows x and two features"),
    ],
)
def test_refuses_what_does_not_fit(
    make: Any, num_features: int, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        plot_responsibilities(make(3, num_features), **arguments)
