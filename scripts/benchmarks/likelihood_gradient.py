"""The log-likelihood of all rows and its gradient: one E-step against autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks import rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report, Table, times
from benchmarks.settings import Settings
from gmm_lightning import GMMLayer
from gmm_lightning.em import LikelihoodGradient, MixtureParameters

OURS, AUTOGRAD = "one E-step", "autograd"


def run(settings: Settings, report: Report) -> None:
    """Few rows, as samplers meet them, and many."""
    table = report.table(
        "Log-likelihood and gradient by all raw parameters (CPU milliseconds, one thread, medians)",
        *("N", "D", "K", "family", "dtype", OURS, AUTOGRAD, "against autograd"),
        "largest difference",
    )
    sizes = ((500, 2, 8), (100_000, 16, 16))
    for n, d, k in settings.pick(sizes, sizes, ((64, 2, 3),)):
        data = rows.clusters(n, d, k)
        for family in settings.pick(("full", "diag", "tied"), ("full",), ("full",)):
            start = rows.start(family, data)
            for dtype in rows.DTYPES:
                one_row(settings, table, rows.in_dtype(start, dtype), data.rows(dtype), dtype)
    table.note(
        "Autograd goes through `layer.log_prob(x).sum()`. The rows of both are prepared once. The "
        "largest difference is between gradients, relative to the largest of each parameter."
    )


def one_row(settings: Settings, table: Table, layer: GMMLayer, x: Tensor, dtype: str) -> None:
    """A row of the table."""
    likelihood = LikelihoodGradient(layer, x)

    def ours() -> list[Tensor]:
        gradient = likelihood(MixtureParameters.from_layer(layer))[1]
        return [value.squeeze(0) for value in gradient[:3]]

    made = [Contender(OURS, ours), Contender(AUTOGRAD, through_density(layer, x))]
    with threads(1):
        timings = interleaved(made, settings.times(9, 3))
    own, theirs = timings[OURS], timings[AUTOGRAD]
    apart = max(
        float((a - b).abs().max() / b.abs().max())
        for a, b in zip(own.value, theirs.value, strict=True)
    )
    table.row(
        *(len(x), x.shape[1], layer.num_components, layer.covariance.name, dtype),
        *(1e3 * own.median, 1e3 * theirs.median, times(theirs.median / own.median), apart),
        seconds={name: timing.seconds for name, timing in timings.items()},
        difference=apart,
    )


def through_density(layer: GMMLayer, x: Tensor) -> Callable[[], list[Tensor]]:
    """What gives the gradients of all parameters by autograd."""
    own = [layer.mixture_logits, layer.means, layer.raw_scale]

    def step() -> list[Tensor]:
        return list(torch.autograd.grad(layer.log_prob(x).sum(), own))

    return step
