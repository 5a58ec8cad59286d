"""Grids of images: every pixel in its place, on one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.plotting import dynamic_figsize, plot_images


def sheet(ax: Any) -> np.ma.MaskedArray:
    (image,) = ax.images
    return np.ma.asarray(image.get_array())


def test_every_digit_is_where_it_belongs() -> None:
    digits = load_digits()
    ax = plot_images(torch.as_tensor(digits.data[:7]), num_cols=3, names=digits.target[:7])
    drawn = sheet(ax)
    # 8 pixels, a gap of 1 to the right, and 1 + 2 below for the gap and the name.
    assert drawn.shape == (3 * (8 + 1 + 2) - 1, 3 * 9 - 1)
    for i in range(7):
        top, left = 2 + 11 * (i // 3), 9 * (i % 3)
        tile = drawn[top : top + 8, left : left + 8]
        assert not np.ma.is_masked(tile)
        np.testing.assert_array_equal(tile, digits.images[i])
        text = ax.texts[i]
        assert text.get_text() == str(digits.target[i])
        x, y = text.get_position()
        assert (x, top - 1.5 <= y < top) == (left + 3.5, True)
    # Nothing but images and gaps.
    assert (~np.ma.getmaskarray(drawn)).sum() == 7 * 64
    (image,) = ax.images
    assert image.get_clim() == (0.0, 16.0)
    assert not ax.axison


def test_shapes_scales_and_holes() -> None:
    flat = np.arange(24.0).reshape(2, 12)
    wide = plot_images(flat, shape=(3, 4), num_cols=2, limits=(-1.0, 30.0))
    np.testing.assert_array_equal(sheet(wide)[:, :4], flat[0].reshape(3, 4))
    np.testing.assert_array_equal(sheet(wide)[:, 5:], flat[1].reshape(3, 4))
    assert wide.images[0].get_clim() == (-1.0, 30.0)
    solid = np.ones((2, 2, 2))
    solid[0, 0, 0] = np.nan
    assert bool(np.ma.getmaskarray(sheet(plot_images(solid)))[0, 0])
    nothing = plot_images(np.full((1, 4), np.nan))
    nothing.figure.canvas.draw()  # type: ignore[union-attr]


def test_the_whole_is_about_square() -> None:
    assert sheet(plot_images(np.zeros((100, 8, 8)))).shape == (89, 89)
    rows, cols = sheet(plot_images(np.zeros((36, 4, 16)))).shape
    assert 0.5 < rows / cols < 2.0


@pytest.mark.parametrize(
    ("images", "arguments", "message"),
    [
        (np.zeros((3, 10)), {}, "expected 3 x 3 pixels for each image, got 10; pass shape="),
        (np.zeros((3, 10)), {"shape": (3, 3)}, "3 x 3 pixels for each image, got 10"),
        (np.zeros(9), {}, r"got \(9,\)"),
        (np.zeros((2, 4)), {"names": ["a"]}, "each of 2 images, got 1"),
        (np.zeros((2, 4)), {"num_cols": 0}, "num_cols must be an integer >= 1"),
        (np.zeros((2, 4)), {"limits": (1.0, 1.0)}, "low < high"),
    ],
)
def test_refuses_what_does_not_fit(
    images: np.ndarray, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        plot_images(images, **arguments)


def test_refuses_no_images_and_too_many() -> None:
    for count in (0, 2000):
        with pytest.raises(InvalidDataError, match=f"1 to 1024 images, got {count}"):
            plot_images(np.zeros((count, 4)))


def test_figure_sizes_grow_with_the_panels() -> None:
    assert dynamic_figsize(2, 3) == (21.0, 9.0)
    assert dynamic_figsize(1, 2, base_width=3, base_height=2) == (6.0, 2.0)
    for bad in ((0, 1), (1, 2.5), (1, True)):
        with pytest.raises(InvalidArgumentError, match=r"(rows|cols) must be an integer >= 1"):
            dynamic_figsize(*bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="base_width must be a finite number > 0"):
        dynamic_figsize(1, 1, base_width=0.0)
