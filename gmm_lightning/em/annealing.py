"""Deterministic annealing: EM that begins with flat responsibilities."""

from __future__ import annotations

from dataclasses import dataclass

from gmm_lightning.em.posterior import Posterior, soft, tempered
from gmm_lightning.em.posterior import hard as choice
from gmm_lightning.errors import InvalidArgumentError


@dataclass(frozen=True)
class Annealing:
    """Inverse temperatures that rise geometrically from `start` to 1 over some passes.

    Until then what rises from M-step to M-step is the free energy of each temperature, not the
    likelihood, and a fit does not stop.

    Components that merge while it is hot can stay merged, so it may end lower than plain EM from
    the same start: compare the objectives.

    Args:
        start: the first inverse temperature, in (0, 1].
        passes: until it is 1.

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
        """Of the pass after so many M-steps."""
        return self.start ** max(0.0, 1 - iteration / self.passes)

    def posterior(self, iteration: int) -> Posterior:
        """Responsibilities in the pass after so many M-steps."""
        return soft if self.finished(iteration) else tempered(self.inverse_temperature(iteration))

    def finished(self, iteration: int) -> bool:
        """Whether the pass after so many M-steps is one of plain EM."""
        return iteration >= self.passes


def posterior_at(iteration: int, annealing: Annealing | None, *, hard: bool) -> Posterior:
    """How responsibilities are taken in the pass after so many M-steps."""
    if hard:
        return choice
    return soft if annealing is None else annealing.posterior(iteration)


def as_annealing(spec: Annealing | float | None) -> Annealing | None:
    """An annealing from its first inverse temperature, or the instance itself."""
    return spec if spec is None or isinstance(spec, Annealing) else Annealing(spec)
