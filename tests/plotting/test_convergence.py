"""Convergence plots: what is drawn, from every form a history may have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.plotting import palette, plot_convergence, save_figure

HISTORY = [-4.8, -4.3, -4.2, -4.19]


@pytest.mark.parametrize(
    "history",
    [
        HISTORY,
        tuple(HISTORY),
        np.array(HISTORY),
        torch.tensor(HISTORY, dtype=torch.float64, requires_grad=True),
        [torch.tensor(value, dtype=torch.float64) for value in HISTORY],
    ],
    ids=["list", "tuple", "array", "tensor", "list of tensors"],
)
def test_draws_the_values_and_marks_the_last(history: object) -> None:
    ax = plot_convergence(history)  # type: ignore[arg-type]
    curve, dot = ax.lines
    assert np.asarray(curve.get_xdata()).tolist() == [1, 2, 3, 4]
    assert np.asarray(curve.get_ydata()).tolist() == HISTORY
    assert (np.asarray(dot.get_xdata()).tolist(), np.asarray(dot.get_ydata()).tolist()) == (
        [4],
        [-4.19],
    )
    assert [text.get_text() for text in ax.texts] == ["-4.19"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("iteration", "objective (nats per row)")


def test_one_line_per_restart() -> None:
    ax = plot_convergence(torch.tensor([[-5.0, -6.0], [-4.0, -4.5], [-3.5, -4.4]]))
    assert len(ax.lines) == 4
    assert [line.get_color() for line in ax.lines[::2]] == list(palette(2))
    assert not ax.texts


def test_draws_on_given_axes_with_given_label() -> None:
    own = Figure().add_subplot()
    assert plot_convergence(HISTORY, ax=own, ylabel="bound") is own
    assert own.get_ylabel() == "bound"


def test_values_that_are_not_finite_leave_a_gap() -> None:
    ax = plot_convergence([float("-inf"), -4.0, -3.0, float("nan")])
    assert np.asarray(ax.lines[1].get_xdata()).tolist() == [3]
    save_to_buffer(ax)


@pytest.mark.parametrize("history", [[], torch.empty(0), [float("nan")]])
def test_nothing_to_draw_gives_empty_axes(history: object) -> None:
    ax = plot_convergence(history)  # type: ignore[arg-type]
    assert not ax.texts
    save_to_buffer(ax)


def test_refuses_other_shapes() -> None:
    with pytest.raises(InvalidArgumentError, match=r"\(2, 2, 2\)"):
        plot_convergence(torch.zeros(2, 2, 2))
    with pytest.raises(InvalidArgumentError, match=r"got \(\)"):
        plot_convergence(torch.tensor(1.0))


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_save_makes_folders_and_takes_axes_or_figures(tmp_path: Path, suffix: str) -> None:
    ax = plot_convergence(HISTORY)
    path = tmp_path / "new" / f"fit{suffix}"
    assert save_figure(ax, path) == path
    assert path.stat().st_size > 0
    assert save_figure(ax.get_figure(root=True), str(path)) == path  # type: ignore[arg-type]


def test_save_refuses_axes_without_a_figure(tmp_path: Path) -> None:
    ax = plot_convergence(HISTORY)
    ax.remove()
    with pytest.raises(InvalidArgumentError, match="removed"):
        save_figure(ax, tmp_path / "fit.png")
    for path, dpi, said in (("fit.foo", 150, "ends in one of .*png"), ("fit.png", -1, "dpi")):
        with pytest.raises(InvalidArgumentError, match=said):
            save_figure(plot_convergence(HISTORY), tmp_path / path, dpi=dpi)
    with pytest.raises(InvalidArgumentError, match="belong to a figure"):
        save_figure("a", tmp_path / "fit.png")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("history", ["a", None, 3.0])
def test_refuses_what_is_no_history(history: Any) -> None:
    with pytest.raises((InvalidArgumentError, InvalidDataError)):
        plot_convergence(history)


def test_palette_is_distinct_then_cycles() -> None:
    colors = palette(20)
    assert len(set(colors[:18])) == 18
    assert colors[18:] == colors[:2]
    assert palette(0) == ()
    with pytest.raises(InvalidArgumentError, match="-1"):
        palette(-1)


def save_to_buffer(ax: Axes) -> None:
    """Render completely: lazy layout problems show only here."""
    ax.figure.canvas.draw()  # type: ignore[union-attr]
