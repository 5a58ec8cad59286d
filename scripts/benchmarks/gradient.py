"""One gradient of the mean log density of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    constraints,
    transform_to,
)

from benchmarks import rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, clock_for, interleaved
from benchmarks.report import Report, times
from benchmarks.settings import Settings
from gmm_lightning import GMMLayer

OURS, TORCH = "gmm_lightning", "MixtureSameFamily"


def run(settings: Settings, report: Report) -> None:
    """Forward and backward, from the same unconstrained parameters."""
    n = settings.pick(4_096, 4_096, 64)
    d, k = settings.pick((16, 16), (16, 16), (4, 3))
    table = report.table(
        f"Forward and backward of a batch, N = {n:,}, D = {d}, K = {k}, {settings.device} "
        "(milliseconds, one thread, medians)",
        *("family", "dtype", OURS, TORCH, "against torch", "largest difference"),
    )
    data = rows.clusters(n, d, k)
    for family in ("full", "diag"):
        start = rows.start(family, data)
        for dtype in rows.DTYPES:
            x = data.rows(dtype, settings.device)
            layer = rows.in_dtype(start, dtype, settings.device)
            made = [
                Contender(OURS, steps(layer, lambda layer=layer, x=x: layer.log_prob(x))),
                Contender(TORCH, steps(layer, density_in_torch(family, layer, x))),
            ]
            with threads(1):
                timings = interleaved(made, settings.times(15, 7), clock_for(settings.device))
            ours, theirs = timings[OURS], timings[TORCH]
            apart = max(
                float((a - b).abs().max() / a.abs().max())
                for a, b in zip(ours.value, theirs.value, strict=True)
            )
            table.row(
                *(family, dtype, 1e3 * ours.median, 1e3 * theirs.median),
                *(times(theirs.median / ours.median), apart),
                seconds={name: timing.seconds for name, timing in timings.items()},
                difference=apart,
            )
            report.bar("a gradient", f"{family} {dtype}", theirs.median / ours.median)
    table.note(
        "Torch's distributions are made anew from the same three parameters in every step, as in "
        "a training loop, unvalidated: MultivariateNormal for full, Independent(Normal) for diag. "
        "The largest difference is between gradients, relative to the largest of each parameter."
    )


def steps(layer: GMMLayer, density: Callable[[], Tensor]) -> Callable[[], list[Tensor]]:
    """What gives the gradients of all parameters."""
    own = [layer.mixture_logits, layer.means, layer.raw_scale]

    def step() -> list[Tensor]:
        for parameter in own:
            parameter.grad = None
        (-density().mean()).backward()
        return [parameter.grad for parameter in own if parameter.grad is not None]

    return step


def density_in_torch(family: str, layer: GMMLayer, x: Tensor) -> Callable[[], Tensor]:
    """The log densities by torch's own distributions, from the layer's parameters."""

    def components() -> Distribution:
        raw = layer.raw_scale
        if family == "diag":
            return Independent(
                Normal(layer.means, raw.exp(), validate_args=False), 1, validate_args=False
            )
        factor = transform_to(constraints.lower_cholesky)(raw)
        return MultivariateNormal(layer.means, scale_tril=factor, validate_args=False)

    def density() -> Tensor:
        weights = Categorical(logits=layer.mixture_logits, validate_args=False)
        return MixtureSameFamily(weights, components(), validate_args=False).log_prob(x)

    assert torch.is_grad_enabled()
    return density
