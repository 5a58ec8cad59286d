"""Densities and labels of many rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from benchmarks import peers, rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, clock_for, interleaved
from benchmarks.report import Report, times
from benchmarks.settings import Settings
from gmm_lightning import GMMLayer

SKLEARN, TORCH = "scikit-learn", "MixtureSameFamily"
# A mixture in torch makes arrays of rows x K x D: so many rows at a time.
PORTION = {"cpu": 1 << 13, "cuda": 1 << 16}
# Seconds after which a contender is not asked again.
BUDGET = 3.0


def run(settings: Settings, report: Report) -> None:
    """`log_prob` and `predict` without gradients."""
    n = settings.pick(1_000_000, 100_000, 1_000)
    d, k = settings.pick((16, 16), (16, 16), (4, 3))
    table = report.table(
        f"Densities and labels, N = {n:,}, D = {d}, K = {k}, {settings.device} "
        "(million rows per second, one thread)",
        *("family", "dtype", "what", "gmm_lightning", SKLEARN, TORCH),
        *("against scikit-learn", "against torch", "largest difference"),
    )
    data = rows.clusters(n, d, k)
    for family in ("full", "diag", "tied"):
        start = rows.start(family, data)
        for dtype in rows.DTYPES if family != "tied" else ("float32",):
            x = data.rows(dtype, settings.device)
            layer = rows.in_dtype(start, dtype, settings.device)
            for what, made in contenders(settings, family, layer, start, x).items():
                with threads(1), torch.no_grad():
                    timings = interleaved(
                        made, settings.times(3, 2), clock_for(settings.device), BUDGET
                    )
                seconds = {name: timing.median for name, timing in timings.items()}
                ours = seconds["gmm_lightning"]
                ratios = {name: s / ours for name, s in seconds.items()}
                values = [torch.as_tensor(timing.value).cpu() for timing in timings.values()]
                apart = max((difference(what, values[0], v) for v in values[1:]), default=0.0)
                rates = {name: n / s / 1e6 for name, s in seconds.items()}
                table.row(
                    *(family, dtype, what, rates["gmm_lightning"]),
                    *(rates.get(SKLEARN), rates.get(TORCH)),
                    *(times(ratios.get(SKLEARN)), times(ratios.get(TORCH)), apart),
                    seconds={name: timing.seconds for name, timing in timings.items()},
                    difference=apart,
                )
                for name in (SKLEARN, TORCH):
                    if name in ratios:
                        label = f"{what} {family} {dtype} against {name}"
                        report.bar("densities", label, ratios[name])
    table.note(
        "The largest difference is in nats for log_prob, and the share of rows with another label "
        f"for predict. {TORCH} works on {PORTION[settings.device]:,} rows at a time."
    )


def contenders(
    settings: Settings, family: str, layer: GMMLayer, start: GMMLayer, x: Tensor
) -> dict[str, list[Contender]]:
    """Of the two questions."""
    mixture, portion = in_torch(family, layer), PORTION[settings.device]

    def asked(name: str, function: Callable[[Tensor], Any]) -> Contender:
        return Contender(name, lambda: function(x), warm=lambda: function(x[:portion]))

    def parted(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.cat([function(part) for part in x.split(portion)])

    def label(part: Tensor) -> Tensor:
        components: Any = mixture.component_distribution
        joint = components.log_prob(part.unsqueeze(-2))
        return (joint + mixture.mixture_distribution.logits).argmax(-1)

    made = {
        "log_prob": [
            asked("gmm_lightning", layer.log_prob),
            asked(TORCH, parted(mixture.log_prob)),
        ],
        "predict": [asked("gmm_lightning", layer.predict), asked(TORCH, parted(label))],
    }
    if settings.device == "cpu" and peers.missing(SKLEARN) is None:
        array = x.numpy()
        peer = peers.scikit_learn(family, start, str(array.dtype))
        peer._initialize(array, None)
        made["log_prob"].append(asked(SKLEARN, lambda x: peer.score_samples(x.numpy())))
        made["predict"].append(asked(SKLEARN, lambda x: peer.predict(x.numpy())))
    return made


def in_torch(family: str, layer: GMMLayer) -> MixtureSameFamily:
    """The same mixture of torch's own distributions, unvalidated."""
    means = layer.means.detach()
    components: Distribution
    if family == "diag":
        variance = layer.covariance_matrix.detach().diagonal(dim1=-2, dim2=-1)
        components = Independent(
            Normal(means, variance.sqrt(), validate_args=False), 1, validate_args=False
        )
    else:
        factor = layer.scale_tril.detach()
        components = MultivariateNormal(means, scale_tril=factor, validate_args=False)
    logits = layer.mixture_logits.detach()
    return MixtureSameFamily(
        Categorical(logits=logits, validate_args=False), components, validate_args=False
    )


def difference(what: str, ours: Tensor, theirs: Tensor) -> float:
    """In nats, or as a share of the rows."""
    if what == "predict":
        return float((ours != theirs).double().mean())
    return float((ours.double() - theirs.double()).abs().max())
