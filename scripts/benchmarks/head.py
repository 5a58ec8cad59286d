"""The log density of a density head, forwards and backwards, against its linear map alone."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from benchmarks import peers
from benchmarks.machine import threads
from benchmarks.measure import Contender, clock_for, interleaved
from benchmarks.report import Report, times
from benchmarks.settings import Settings
from gmm_lightning import DensityHead

ALONE, OURS, MIXTURE, TORCH, ZUKO = (
    "nn.Linear alone",
    "head.log_prob(h, y)",
    "head(h).log_prob(y)",
    "MixtureSameFamily",
    "zuko",
)


def run(settings: Settings, report: Report) -> None:
    """Gradients of the mean by features and parameters."""
    n = settings.pick(100_000, 20_000, 64)
    d, k = settings.pick((8, 8), (8, 8), (3, 2))
    table = report.table(
        f"A head of {k} components, {d} features, full, N = {n:,}, forwards and backwards, "
        f"{settings.device} (seconds, one thread, medians)",
        *("in_features", "dtype", "contender", "seconds", "against nn.Linear"),
    )
    for width in settings.pick((64, 256), (64,), (5,)):
        for dtype in (torch.float32, torch.float64):
            made = contenders(n, width, d, k, dtype, settings.device)
            with threads(1):
                timings = interleaved(made, settings.times(5, 3), clock_for(settings.device))
            linear = timings[ALONE].median
            for contender in made:
                timing = timings[contender.name]
                ratio = timing.median / linear
                table.row(
                    *(width, str(dtype).removeprefix("torch."), contender.name),
                    *(timing.median, times(ratio)),
                    seconds=timing.seconds,
                    ratio=ratio,
                )
    table.note(
        "Every contender is one linear map from h to all parameters of a mixture per row, and "
        "gives the gradients of the mean log density by h and by that map. MixtureSameFamily is "
        "given Cholesky factors with exponentials on their diagonals, unvalidated."
    )
    why = peers.missing("zuko")
    if why is not None:
        table.note(f"Not there: zuko ({why})")


def contenders(
    n: int, width: int, d: int, k: int, dtype: torch.dtype, device: str
) -> list[Contender]:
    """Steps that give the gradient by the weights of the linear map."""
    made: dict[str, Any] = {"dtype": dtype, "device": device}
    head = DensityHead(width, d, k, **made)
    h = torch.randn(n, width, **made).requires_grad_()
    y = torch.randn(n, d, **made)
    linear = nn.Linear(width, head.linear.out_features, **made)
    by_result = torch.randn(n, head.linear.out_features, **made)
    own, theirs = head.linear.weight, linear.weight
    found = [
        Contender(ALONE, step(theirs, h, lambda: linear(h), by_result)),
        Contender(OURS, step(own, h, lambda: head.log_prob(h, y))),
        Contender(MIXTURE, step(own, h, lambda: head(h).log_prob(y))),
        Contender(TORCH, step(theirs, h, lambda: in_torch(linear(h), k, d).log_prob(y))),
    ]
    if peers.missing("zuko") is None:
        mixtures = importlib.import_module("zuko.mixtures")
        # No hidden layers: one linear map, as here.
        peer = mixtures.GMM(d, width, components=k, hidden_features=()).to(**made)
        weight, _ = peer.hyper.parameters()
        found.append(Contender(ZUKO, step(weight, h, lambda: peer(h).log_prob(y))))
    return found


def step(
    weight: Tensor, h: Tensor, values: Callable[[], Tensor], by_value: Tensor | None = None
) -> Callable[[], Tensor]:
    """One gradient of a mean, or of values with a given gradient."""

    def run() -> Tensor:
        weight.grad = h.grad = None
        value = values()
        if by_value is None:
            value.mean().backward()
        else:
            value.backward(by_value)
        assert weight.grad is not None
        return weight.grad

    return run


def in_torch(result: Tensor, k: int, d: int) -> MixtureSameFamily:
    """The mixtures that the outputs of a linear map stand for, by torch's own distributions."""
    logits, means, logs, below = result.split([k, k * d, k * d, k * d * (d - 1) // 2], -1)
    factor = logs.view(-1, k, d).exp().diag_embed()
    rows, columns = torch.tril_indices(d, d, -1)
    factor[..., rows, columns] = below.view(-1, k, len(rows))
    return MixtureSameFamily(
        Categorical(logits=logits, validate_args=False),
        MultivariateNormal(means.view(-1, k, d), scale_tril=factor, validate_args=False),
        validate_args=False,
    )
