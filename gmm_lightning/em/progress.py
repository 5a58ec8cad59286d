"""Progress bars on stderr."""

from __future__ import annotations

from typing import Any, Self

from gmm_lightning.em.state import EMState


class EMProgress:
    """A bar of M-steps with the best log-likelihood so far.

    Args:
        max_iter: M-steps at most.
        num_restarts: starts that run side by side.
        enabled: False: nothing is shown.
    """

    def __init__(self, max_iter: int, num_restarts: int, *, enabled: bool) -> None:
        self._bar: Any = None
        if enabled:
            name = "EM" if num_restarts == 1 else f"EM, {num_restarts} starts"
            self._bar = _bar(max_iter, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, state: EMState) -> None:
        """Show the state after an accepted E-step."""
        if self._bar is None:
            return
        best = state.log_likelihood.nan_to_num(nan=-float("inf")).max()
        several = {"starts": len(state.active)} if state.final.num_mixtures > 1 else {}
        self._bar.set_postfix(log_likelihood=f"{float(best):.6f}", **several, refresh=False)
        self._bar.update(state.iteration - self._bar.n)


class PassProgress:
    """A bar of passes over the rows, with the best value of the objective so far.

    Args:
        name: what runs.
        total: passes at most.
        num_restarts: mixtures that run side by side.
        enabled: False: nothing is shown.
    """

    def __init__(self, name: str, total: int, num_restarts: int = 1, *, enabled: bool) -> None:
        self._several = num_restarts > 1
        self._bar = _bar(total, name) if enabled else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, iteration: int, bound: float, left: int) -> None:
        """Show a pass, the value in nats per row, and how many mixtures are left."""
        if self._bar is None:
            return
        several = {"mixtures": left} if self._several else {}
        self._bar.set_postfix(nats=f"{bound:.6f}", **several, refresh=False)
        self._bar.update(iteration - self._bar.n)


class ClassProgress:
    """A bar of the classes that are done.

    Args:
        num_classes: classes to fit.
        enabled: False: nothing is shown.
    """

    def __init__(self, num_classes: int, *, enabled: bool) -> None:
        self._bar = _bar(num_classes, "classes") if enabled else None
        self._before = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, state: EMState) -> None:
        """Count the classes of a group whose starts have all stopped."""
        if self._bar is not None:
            every = state.model.batch_shape.numel()
            done = every - len(state.model.batch_index.unique())
            self._bar.update(done - self._before)
            self._before = done % every


def _bar(total: int, name: str) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=name)
