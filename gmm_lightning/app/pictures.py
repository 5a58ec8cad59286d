"""The picture of `gmm-sample`: the rows, the components and the region, in one or two columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gmm_lightning._messages import unformatted
from gmm_lightning.app.drawing import conditional_mixture, position
from gmm_lightning.app.runs import FinishedRun
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting import plot_samples, save_figure

# Characters of a line of the title.
_LINE = 72


def shown_columns(asked: Any, columns: Sequence[str], given: Mapping[int, float]) -> list[int]:
    """Positions of the columns to show in a picture; empty to let the picture choose.

    Raises:
        InvalidArgumentError: no such column, one that has a given value, or not one or two.
    """
    if asked is None:
        return []
    keys = list(asked) if isinstance(asked, Sequence) and not isinstance(asked, str) else [asked]
    at = [position(key, columns) for key in keys]
    if len(at) not in (1, 2) or len(set(at)) < len(at):
        raise InvalidArgumentError(f"columns must name one or two columns to show, got {keys}")
    for i in at:
        if i in given:
            raise InvalidArgumentError(f"columns names {columns[i]}, which condition gives a value")
    return at


def save_picture(
    finished: FinishedRun,
    rows: Tensor,
    component: Tensor,
    given: Mapping[int, float],
    within: Any,
    shown: Sequence[int],
    path: str,
) -> str:
    """Draw rows over the mixture that they come from, in the units of the data.

    Args:
        finished: the run.
        rows: `(n, D)`.
        component: the component that each row was drawn from, `(n,)`.
        given: values of columns; the mixture is that of the others, and so is the region.
        within: the region, or None.
        shown: columns to show; empty for the two that separate the components best.
        path: of the picture.
    """
    mixture = conditional_mixture(finished, given)
    rest = [i for i in range(len(finished.columns)) if i not in given]
    axes = plot_samples(
        mixture,
        rows[:, rest],
        component=component,
        within=within,
        dims=[rest.index(i) for i in shown] or _most_separated_features(mixture),
        columns=[unformatted(finished.columns[i]) for i in rest],
    )
    title = [f"{finished.module.data.get('name', 'data')}: {len(rows)} draws"]
    conditions = ", ".join(f"{finished.columns[i]} = {value:g}" for i, value in given.items())
    title += [_cut(f"given {conditions}")] if given else []
    title += [] if within is None else [_cut(f"within {within}")]
    axes.set_title(unformatted("\n".join(title)), fontsize="medium")
    return str(save_figure(axes, path))


def _most_separated_features(mixture: MixtureOfGaussians) -> list[int]:
    """The two features with the largest shares of variance between the components."""
    if mixture.num_features <= 2:
        return list(range(mixture.num_features))
    within = (mixture.weights.unsqueeze(-1) * mixture.scale_tril.square().sum(-1)).sum(-2)
    share = within / mixture.variance
    return sorted(share.argsort(stable=True)[:2].tolist())


def _cut(line: str) -> str:
    """The line, cut to fit above the axes."""
    return line if len(line) <= _LINE else f"{line[: _LINE - 3]}..."
