"""Times of contenders that take turns, so that a slow moment of the machine meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

Action = Callable[[], Any]
CUBE = 1024


@dataclass(frozen=True)
class Contender:
    """Something to be timed.

    Attributes:
        name: what the table calls it.
        run: is timed; what it gives is kept.
        reset: before every run, not timed.
        warm: once, before everything, instead of `run`.
    """

    name: str
    run: Action
    reset: Action | None = None
    warm: Action | None = None


@dataclass
class Timing:
    """Seconds of every run of one contender, and what its last run gave."""

    seconds: list[float] = field(default_factory=list)
    value: Any = None

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def cpu_seconds(action: Action) -> tuple[float, Any]:
    """CPU time of all threads of this process."""
    start = time.process_time()
    value = action()
    return time.process_time() - start, value


def wall_seconds(action: Action) -> tuple[float, Any]:
    """Time on the clock, until a GPU is done as well."""
    synchronise()
    start = time.perf_counter()
    value = action()
    synchronise()
    return time.perf_counter() - start, value


def synchronise() -> None:
    """Wait for a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def clock_for(device: str) -> Callable[[Action], tuple[float, Any]]:
    """CPU time on a CPU, which other load disturbs least; the clock on a GPU."""
    return cpu_seconds if device == "cpu" else wall_seconds


def interleaved(
    contenders: Sequence[Contender],
    runs: int,
    clock: Callable[[Action], tuple[float, Any]] = cpu_seconds,
    budget: float = float("inf"),
) -> dict[str, Timing]:
    """Every contender once for warmth, then all of them in turn.

    Args:
        contenders: in the order of their turns.
        runs: of each.
        clock: gives seconds and value of an action.
        budget: seconds after which a contender takes part in no further round.
    """
    timings = {contender.name: Timing() for contender in contenders}
    for contender in contenders:
        if contender.reset is not None:
            contender.reset()
        (contender.warm or contender.run)()
    for _ in range(runs):
        for contender in contenders:
            timing = timings[contender.name]
            if sum(timing.seconds) > budget:
                continue
            if contender.reset is not None:
                contender.reset()
            timing.value = None
            spent, timing.value = clock(contender.run)
            timing.seconds.append(spent)
    return timings


def matrix_product(dtype: torch.dtype, device: str) -> Contender:
    """A product of two square matrices: the machine's own rate."""
    a = torch.randn(CUBE, CUBE, dtype=dtype, device=device)
    out = torch.empty_like(a)
    return Contender("matrix product", lambda: torch.mm(a, a, out=out))


def product_rate(timing: Timing) -> float:
    """Operations per second."""
    return 2 * CUBE**3 / timing.median
