"""What all pictures of mixtures have in common: inputs, refusals, and no traces left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from support.covering import covering
from support.plain_mixture import Plain
from torch import Tensor

import gmm_lightning.plotting as pictures
from gmm_lightning import GMMLayer, MixtureOfGaussians
from gmm_lightning.distributions import Ball
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError

Plot = Callable[..., Any]


def samples_within(mixture: Any, *x: Any, **options: Any) -> Any:
    return pictures.plot_samples(mixture, *x, within=Ball([0.0, 0.0], 9.0), **options)


def bars(mixture: Any, *x: Any, **options: Any) -> Any:
    return pictures.plot_responsibilities(mixture, *(x or [ROWS]), kind="rows", **options)


def gradient(mixture: Any, *x: Any, **options: Any) -> Any:
    return pictures.plot_density(mixture, *x, quantity="gradient_norm", resolution=20, **options)


ROWS = np.random.default_rng(0).normal(size=(40, 2))
PLOTS: dict[str, Plot] = {
    "mixture": pictures.plot_mixture,
    "density": lambda *a, **k: pictures.plot_density(*a, resolution=20, **k),
    "gradient": gradient,
    "responsibilities": pictures.plot_responsibilities,
    "bars": bars,
    "samples": samples_within,
    "regression": pictures.plot_regression,
    "ellipses": pictures.plot_error_ellipses,
    "pairs": pictures.plot_pairs,
}
WITH_ROWS = {name: plot for name, plot in PLOTS.items() if name != "ellipses"}
every_plot = pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
every_plot_of_rows = pytest.mark.parametrize("plot", WITH_ROWS.values(), ids=WITH_ROWS)
IN_THE_PLANE = {
    name: plot
    for name, plot in PLOTS.items()
    if name not in ("mixture", "pairs", "bars", "samples")
}


def first(drawn: Any) -> Any:
    return drawn.flat[0] if isinstance(drawn, np.ndarray) else drawn


def render(drawn: Any, *, layout: bool = True) -> np.ndarray:
    """The pixels: lazy problems of layout and of colour show only here.

    Without a layout it is three times as fast, and as good to compare pictures by.
    """
    figure = first(drawn).figure
    figure.set_dpi(30)
    if not layout:
        figure.set_layout_engine("none")
    canvas = figure.canvas
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


@every_plot
def test_a_layer_and_its_distribution_give_the_same_pixels(plot: Plot) -> None:
    layer = GMMLayer(2, 3)
    one, same = (render(plot(of), layout=False) for of in (layer, layer.distribution()))
    assert np.array_equal(one, same)


SAME_ROWS: dict[str, Callable[[Tensor], Any]] = {
    "half with a graph": lambda x: x.half().requires_grad_(),
    "list": lambda x: x.tolist(),
    "holes": lambda x: np.insert(x.numpy(), [0, 7, 40], [[np.nan, 0.0]] * 3, axis=0)[None],
}


@pytest.mark.parametrize(("name", "rows"), covering(WITH_ROWS, SAME_ROWS, strength=1))
def test_dtypes_containers_and_rows_with_nan_change_no_pixel(
    name: str, rows: str, make: Any
) -> None:
    plot, mixture = WITH_ROWS[name], make(2, 2)
    x = torch.as_tensor(ROWS, device="cpu").half().double()
    one, same = (render(plot(mixture, of), layout=False) for of in (x, SAME_ROWS[rows](x)))
    assert np.array_equal(one, same)


@every_plot
def test_a_figure_of_its_own_and_no_traces(plot: Plot, make: Any) -> None:
    style, figures = copy.deepcopy(dict(mpl.rcParams)), plt.get_fignums()
    random, np_random = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    drawn = plot(make(2, 2))
    assert isinstance(first(drawn).figure.canvas, FigureCanvasAgg)
    assert dict(mpl.rcParams) == style
    assert plt.get_fignums() == figures
    assert torch.equal(torch.get_rng_state(), random)
    assert np.array_equal(np.random.get_state()[1], np_random)  # noqa: NPY002


@every_plot
def test_draws_on_given_axes(plot: Plot, make: Any) -> None:
    if plot is pictures.plot_pairs:
        axes = Figure().subplots(2, 2)
        assert plot(make(2, 2), axes=axes, title="T") is axes
        assert axes[0, 0].figure.get_suptitle() == "T"
    else:
        ax = Figure().add_subplot()
        assert plot(make(2, 2), ax=ax, title="T") is ax
        assert ax.get_title() == "T"


@every_plot
def test_refuses_a_batch_and_says_what_to_do(plot: Plot) -> None:
    batch = MixtureOfGaussians(
        torch.zeros(3, 2), torch.zeros(3, 2, 2), torch.eye(2).expand(3, 2, 2, 2)
    )
    with pytest.raises(InvalidArgumentError, match=r"batch shape \(3,\); plot one mixture"):
        plot(batch)


@pytest.mark.parametrize("plot", IN_THE_PLANE.values(), ids=IN_THE_PLANE)
def test_many_features_need_a_choice_and_names_serve_for_it(plot: Plot, make: Any) -> None:
    x = np.random.default_rng(0).normal(size=(5, 4))
    rows = () if plot is pictures.plot_error_ellipses else (x,)
    with pytest.raises(InvalidArgumentError, match=r"got 4; pass dims=\(0, 1\), say, or \w+"):
        plot(make(2, 4), *rows)
    ax = plot(make(2, 4), *rows, dims=("c", -4), columns=("a", "b", "c", "d"))
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("c", "a")


@every_plot
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ["a"]}, "expected 2 column names, got 1"),
        ({"columns": 3}, "expected 2 column names, got 3"),
        ({"dims": 2.5}, r"integers in \[0, 2\) or column names, got 2.5"),
        ({"dims": (0, 2)}, r"integers in \[0, 2\) or column names, got 2"),
        ({"dims": (1, 1)}, r"different features in dims, got \(1, 1\)"),
        ({"dims": (0, 1.0)}, "got 1.0"),
        ({"dims": ("mass", 0)}, "unknown feature 'mass' in dims; known are: none, pass columns="),
        ({"dims": ("mass", 0), "columns": ("a", "b")}, "known are: a, b"),
        ({"dims": ()}, "features? in dims, got 0|at least one"),
    ],
)
def test_refuses_wrong_names_and_choices(
    plot: Plot, make: Any, arguments: dict[str, Any], message: str
) -> None:
    if plot is bars and "dims" in arguments:
        return  # no features are shown
    with pytest.raises(InvalidArgumentError, match=message):
        plot(make(2, 2), **arguments)


@every_plot_of_rows
def test_refuses_rows_that_do_not_fit(plot: Plot, make: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"shape \(N, 2\), got \(4, 3\)"):
        plot(make(2, 2), torch.zeros(4, 3))
    with pytest.raises(InvalidDataError, match="must hold numbers"):
        plot(make(2, 2), [["a", "b"]])
    with pytest.raises(InvalidArgumentError, match="max_points must be an integer >= 0, got -1"):
        plot(make(2, 2), ROWS, max_points=-1)


@every_plot
@pytest.mark.parametrize("nothing", ["a", None, 3.0])
def test_refuses_what_is_no_mixture_and_what_are_no_axes(
    plot: Plot, make: Any, nothing: Any
) -> None:
    with pytest.raises(InvalidArgumentError, match="expected a mixture, or a layer with one, got"):
        plot(nothing)
    if nothing is not None:
        where = "axes" if plot is pictures.plot_pairs else "ax"
        with pytest.raises(InvalidArgumentError, match="axes"):
            plot(make(2, 2), **{where: nothing})


@every_plot_of_rows
def test_no_rows_at_all(plot: Plot, make: Any) -> None:
    empty, missing, some = (
        render(plot(make(2, 2), x)) for x in (ROWS[:0], np.full((3, 2), np.nan), ROWS)
    )
    assert np.array_equal(empty, missing)
    assert not np.array_equal(empty, some)


@every_plot
def test_components_of_weight_zero_flat_ones_and_points_are_no_obstacle(plot: Plot) -> None:
    tril = torch.eye(2).repeat(4, 1, 1)
    tril[2], tril[3] = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.zeros(2, 2)
    means = torch.tensor([[0.0, 0.0], [5.0, 5.0], [3.0, 0.0], [-2.0, 3.0]])
    drawn = plot(Plain(torch.tensor([0.5, 0.0, 0.3, 0.2]), means, tril))
    assert np.ptp(render(drawn)) > 0
    for ax in np.ravel(drawn):
        assert np.isfinite([ax.get_xlim(), ax.get_ylim()]).all()


@pytest.mark.parametrize(
    "plot",
    [
        pictures.plot_density,
        pictures.plot_regression,
        pictures.plot_responsibilities,
        samples_within,
        bars,
    ],
)
def test_a_mixture_without_a_density_is_refused_where_one_is_needed(plot: Plot) -> None:
    unknown = torch.full((2, 2, 2), torch.nan)
    for tril in (torch.zeros(2, 2, 2), unknown):
        with pytest.raises(InvalidArgumentError, match="no density to draw"):
            plot(Plain(torch.ones(2) / 2, torch.zeros(2, 2), tril))


@every_plot
def test_nothing_overlaps(plot: Plot, make: Any) -> None:
    """Labels, titles, legends and colour bars of one figure keep out of each other's way."""
    rows = () if plot is pictures.plot_error_ellipses else (ROWS,)
    drawn = plot(make(3, 2), *rows, title="A title")
    figure = first(drawn).figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    boxes = [ax.get_tightbbox(renderer) for ax in figure.axes if ax.axison]
    inside = figure.bbox.expanded(1.001, 1.001)
    for i, box in enumerate(boxes):
        assert inside.x0 <= box.x0
        assert box.x1 <= inside.x1
        assert inside.y0 <= box.y0
        assert box.y1 <= inside.y1
        # Half a pixel: neighbours may touch.
        assert not any(box.padded(-0.5).overlaps(other) for other in boxes[i + 1 :])
