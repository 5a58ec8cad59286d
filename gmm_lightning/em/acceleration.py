"""Extrapolation along the path of EM: fewer E-steps to the same fixed point."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from gmm_lightning._validation import require_choice
from gmm_lightning.errors import InvalidArgumentError


class Accelerator(ABC):
    """Base class: proposes parameters from the last EM steps of each mixture separately.

    Parameters are rows `(M, V)`: mixture logits, means, raw scales. Steps are measured in the
    scale of the mixture, so that the units of the data do not matter. `MonotoneUpdater` decides
    by the objective whether a proposal is taken.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._age: Tensor | None = None

    @abstractmethod
    def propose(self, before: Tensor, after: Tensor, unit: Tensor) -> tuple[Tensor, Tensor] | None:
        """Proposals `(M, V)` and a mask `(M,)` of the valid ones, after one EM step; or None.

        Args:
            before: the parameters, `(M, V)`.
            after: the parameters after one EM step from them.
            unit: scale of each entry, `(M, V)`.
        """

    def restart(self, disturbed: Tensor) -> None:
        """Forget the past steps of the mixtures in a mask `(M,)`."""
        if self._age is not None:
            self._age = torch.where(disturbed.to(self._age.device), 0, self._age)

    def select(self, index: Tensor) -> None:
        """Keep the mixtures at `index` only."""
        self._kept = [kept[index] for kept in self._kept]
        self._age = None if self._age is None else self._age[index]

    def state_dict(self) -> dict[str, Any]:
        """The steps that are kept, as tensors."""
        age = None if self._age is None else self._age.clone()
        return {"kept": [kept.clone() for kept in self._kept], "age": age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self._kept, self._age = list(state["kept"]), state["age"]

    def _count(self, before: Tensor) -> Tensor:
        """Steps without a disturbance, this one included, `(M,)`."""
        # Moved to the device: a checkpoint is read onto the CPU.
        age = before.new_zeros(len(before)).long() if self._age is None else self._age
        self._age = age.to(before.device) + 1
        return self._age


class Squarem(Accelerator):
    """Squared extrapolation after every two EM steps x0, x1, x2.

    With r = x1 - x0 and v = x2 - 2 x1 + x0:

        x = x0 + 2 a r + a^2 v,   a = max(|r| / |v|, 1)

    References:
        R. Varadhan, C. Roland (2008), Simple and globally convergent methods for accelerating
        the convergence of any EM algorithm, Scandinavian Journal of Statistics 35.
    """

    name: ClassVar[str] = "squarem"

    def propose(self, before: Tensor, after: Tensor, unit: Tensor) -> tuple[Tensor, Tensor] | None:
        """Extrapolate after every second step."""
        age = self._count(before)
        # The cycles of two steps of the mixtures are independent of each other.
        kept = self._kept[0].to(before) if self._kept else before
        start = torch.where((age == 1).unsqueeze(-1), before, kept)
        is_second = age == 2
        self._kept, self._age = [start], torch.where(is_second, 0, age)
        if not bool(is_second.any()):
            return None
        r = before - start
        v = after - 2 * before + start
        length = torch.linalg.vector_norm(r / unit, dim=-1, keepdim=True)
        bend = torch.linalg.vector_norm(v / unit, dim=-1, keepdim=True)
        a = torch.where(bend > 0, length / bend, 1.0).clamp(min=1.0)
        return torch.where(a > 1, start + 2 * a * r + a.square() * v, after), is_second


class Anderson(Accelerator):
    """Anderson's mixing: the affine combination of the last EM steps whose residual is least.

    With f = EM(x) - x, `x = EM(x_t) - (dX + dF) g`, where g minimises
    `|f_t - dF g|^2 + ridge |g|^2`.

    Args:
        memory: steps that are combined, at least 1; otherwise InvalidArgumentError.
        ridge: relative to the largest squared difference, above 0.

    References:
        D. G. Anderson (1965), Iterative procedures for nonlinear integral equations, JACM 12.
        N. C. Henderson, R. Varadhan (2019), Damped Anderson acceleration with restarts and
        monotonicity control for accelerating EM and EM-like algorithms, JCGS 28.
    """

    name: ClassVar[str] = "anderson"

    def __init__(self, memory: int = 3, ridge: float = 1e-8) -> None:
        super().__init__()
        if memory < 1 or not ridge > 0:
            raise InvalidArgumentError(
                f"anderson needs memory >= 1 and ridge > 0, got {memory} and {ridge}"
            )
        self.memory, self.ridge = memory, ridge

    def propose(self, before: Tensor, after: Tensor, unit: Tensor) -> tuple[Tensor, Tensor] | None:
        """Extrapolate after every step but the first."""
        age = self._count(before)
        # Kept: x and f of every step, stacked on the axis before the last.
        latest = torch.stack([before, after - before], -2)
        self._kept = [*self._kept, latest][-(self.memory + 1) :]
        if len(self._kept) < 2:
            return None
        past = torch.stack([kept.to(latest) for kept in self._kept], -3).double()
        differences = past.diff(dim=-3)
        # Differences to steps before a disturbance do not count: their column is zero.
        steps = torch.arange(len(self._kept) - 1, 0, -1, device=age.device)
        valid = steps < age.unsqueeze(-1)
        dx, df = (differences * valid[..., None, None]).unbind(-2)
        scaled = df / unit.double().unsqueeze(-2)
        gram = scaled @ scaled.mT
        ridge = self.ridge * gram.diagonal(dim1=-2, dim2=-1).amax(-1)
        tiny = torch.finfo(gram.dtype).tiny
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        gram = gram + (ridge + tiny)[..., None, None] * identity
        residual = (past[..., -1, 1, :] / unit.double()).unsqueeze(-1)
        weights, info = torch.linalg.solve_ex(gram, scaled @ residual)
        mixed = after.double() - ((dx + df).mT @ weights).squeeze(-1)
        proposal = torch.where((info == 0).unsqueeze(-1), mixed, after.double())
        return proposal.to(after), age >= 2


_ACCELERATORS: dict[str, type[Accelerator]] = {cls.name: cls for cls in (Squarem, Anderson)}


def as_accelerator(spec: str | Accelerator | None) -> Accelerator | None:
    """An accelerator from its name, or a copy of an instance without its past steps.

    Raises:
        InvalidArgumentError: an unknown name.
    """
    if spec is None:
        return None
    if isinstance(spec, Accelerator):
        own = copy.copy(spec)
        own.load_state_dict({"kept": [], "age": None})
        return own
    return _ACCELERATORS[require_choice("acceleration", spec, _ACCELERATORS, also=", or None")]()
