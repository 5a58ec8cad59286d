"""From log joint densities to responsibilities: soft, hard, tempered or given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.rows import Batch

# (log joint densities, axis of the components, rows) -> (responsibilities, log density per row).
# The first argument may be overwritten, and the kernels weight what is returned in place. For tied
# families the log joint densities lack a term that all components of a row share: responsibilities
# must sum to one and may not depend on it, and the log density must move with it.
Responsibilities = Callable[[Tensor, int, Batch], tuple[Tensor, Tensor]]

# Responsibilities below exp(_MIN_LOG), negligible in any sum, are zero: subnormal numbers would
# make every later product many times slower, and infinities the exponential (15 times, measured).
# So the logarithms are clamped before the exponential, and small results set to zero after it.
_MIN_LOG = {torch.float32: -60.0, torch.float64: -600.0}

# A responsibility below this share of the component's largest adds nothing to a sum in the dtype,
# even of a row a thousand standard deviations away.
NEGLIGIBLE = {torch.float32: 2.0**-44, torch.float64: 2.0**-73}

ASSIGNMENTS = "assignments"


def softmax_responsibilities_(log_joint: Tensor, dim: int, batch: Batch) -> tuple[Tensor, Tensor]:
    """Responsibilities `p(k | x)` and log densities `log p(x)`: the E-step of EM."""
    least = _MIN_LOG[log_joint.dtype]
    top = log_joint.amax(dim, keepdim=True)
    log_joint.sub_(top).clamp_(min=least).exp_()
    torch.threshold_(log_joint, 1.01 * math.exp(least), 0.0)
    total = log_joint.sum(dim, keepdim=True)
    log_joint.div_(total)
    return log_joint, total.log_().add_(top).squeeze(dim)


def hard_responsibilities_(log_joint: Tensor, dim: int, batch: Batch) -> tuple[Tensor, Tensor]:
    """Responsibility 1 of the most probable component, and `max_k log p(x, k)`.

    References:
        G. Celeux, G. Govaert (1992), A classification EM algorithm for clustering and two
        stochastic versions, Computational Statistics and Data Analysis 14.
    """
    best = log_joint.max(dim, keepdim=True)
    log_joint.zero_().scatter_(dim, best.indices, 1.0)
    return log_joint, best.values.squeeze(dim)


def tempered_responsibilities_(inverse_temperature: float) -> Responsibilities:
    """A function to `r_k ~ p(x, k)^beta` and the free energy `log(sum_k p(x, k)^beta) / beta`.

    Responsibilities are flat at small beta; beta = 1 is the E-step of EM.

    References:
        N. Ueda, R. Nakano (1998), Deterministic annealing EM algorithm, Neural Networks 11.
    """

    def responsibilities(log_joint: Tensor, dim: int, batch: Batch) -> tuple[Tensor, Tensor]:
        log_joint.mul_(inverse_temperature)
        resp, log_prob = softmax_responsibilities_(log_joint, dim, batch)
        return resp, log_prob.div_(inverse_temperature)

    return responsibilities


def assigned_responsibilities_(log_joint: Tensor, dim: int, batch: Batch) -> tuple[Tensor, Tensor]:
    """The assignments in `batch.extra`, labels `(n, M)` or responsibilities `(n, M, K)`."""
    assert batch.extra is not None
    given = batch.extra[ASSIGNMENTS].to(log_joint.device)
    labels = not given.is_floating_point()
    if dim == -2:  # As in the component kernel, rows are the last axis.
        given = given.movedim(0, -1)
    if labels:
        log_joint.zero_().scatter_(dim, given.unsqueeze(dim), 1.0)
    else:
        log_joint.copy_(given)
    return log_joint, torch.zeros_like(log_joint.select(dim, 0))


@dataclass(frozen=True)
class Annealing:
    """Inverse temperatures that rise geometrically from `start` to 1 over some E-steps.

    Before it reaches 1, an M-step raises the free energy at its temperature, not the likelihood,
    and a fit does not stop.

    Components that merge at a small inverse temperature can stay merged, so a fit may end lower
    than plain EM from the same start: compare the objectives.

    Args:
        start: the first inverse temperature, in (0, 1].
        passes: E-steps until it is 1.

    Raises:
        InvalidArgumentError: a value out of range.

    References:
        N. Ueda, R. Nakano (1998), Deterministic annealing EM algorithm, Neural Networks 11.

    Example:
        >>> [round(Annealing(0.25, passes=2).inverse_temperature(i), 2) for i in range(4)]
        [0.25, 0.5, 1.0, 1.0]
    """

    start: float = 0.25
    passes: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.start <= 1 or self.passes < 1:
            raise InvalidArgumentError(
                f"annealing needs start in (0, 1] and passes >= 1, got {self.start} and "
                f"{self.passes}"
            )

    def inverse_temperature(self, iteration: int) -> float:
        """Inverse temperature of the E-step after `iteration` M-steps."""
        return self.start ** max(0.0, 1 - iteration / self.passes)

    def is_finished(self, iteration: int) -> bool:
        """Whether the E-step after `iteration` M-steps is that of plain EM."""
        return iteration >= self.passes


@dataclass(frozen=True)
class ResponsibilitySchedule:
    """How responsibilities are computed in each E-step of a fit.

    Args:
        hard: classification EM.
        annealing: an `Annealing`, its first inverse temperature, or None.

    Raises:
        InvalidArgumentError: both; hard responsibilities have no temperature.
    """

    hard: bool = False
    annealing: Annealing | None = None

    def __post_init__(self) -> None:
        if self.hard and self.annealing is not None:
            raise InvalidArgumentError(
                "hard=True gives every row to one component whatever the temperature, so "
                f"annealing={self.annealing.start} would do nothing: leave one of them out"
            )

    @classmethod
    def create(cls, *, hard: bool, annealing: Annealing | float | None) -> ResponsibilitySchedule:
        """A schedule from the options of a fit; a number is the first inverse temperature."""
        if annealing is not None and not isinstance(annealing, Annealing):
            is_float = isinstance(annealing, float)
            annealing = Annealing(annealing if is_float else require_number("annealing", annealing))
        return cls(hard, annealing)

    def at(self, iteration: int, max_iter: int | None = None) -> Responsibilities:
        """The function for responsibilities in the E-step after `iteration` M-steps.

        The one after `max_iter` M-steps is the last: it is of plain EM even where annealing has
        not ended, so that it evaluates the final objective.
        """
        if self.hard:
            return hard_responsibilities_
        is_last = max_iter is not None and iteration >= max_iter
        if self.annealing is None or is_last or self.annealing.is_finished(iteration):
            return softmax_responsibilities_
        return tempered_responsibilities_(self.annealing.inverse_temperature(iteration))

    def is_stationary(self, iteration: int) -> bool:
        """Whether the E-step after `iteration` M-steps and the one before are of one objective."""
        return self.annealing is None or self.annealing.is_finished(iteration - 1)
