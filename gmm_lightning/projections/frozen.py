"""Weights, means and covariances that stay what they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_choice, require_integer
from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import MixtureShape
from gmm_lightning.linalg import unsqueeze_like
from gmm_lightning.projections.base import (
    MixtureTensors,
    P,
    Projection,
    move_means,
    require_one_order,
    scatter_of,
)
from gmm_lightning.statistics import Moments

# Which parts a name freezes, and the parameter that holds each part.
_NAMES = {
    "weights": ("weights",),
    "means": ("means",),
    "covariances": ("covariances",),
    "components": ("means", "covariances"),
}
_HELD_BY = {"weights": "mixture_logits", "means": "means", "covariances": "raw_scale"}

Components = bool | Iterable[int]


class Frozen(Projection):
    """Holds weights, means or covariances, of all components or of some, bit for bit.

    The values are those of the layer when it was frozen, or the next that `set_parameters` gives;
    until then they are NaN, and a fit is refused. The M-step is the exact maximum over all other
    parameters: the scatter is taken about a fixed mean, with the pseudo-observations of a normal
    prior, and free weights share what the fixed ones leave. Of one tied covariance no part is
    frozen.

    Args:
        weights: True for those of all components, False for none, or numbers of components.
        means: likewise.
        covariances: likewise.

    Raises:
        InvalidArgumentError: anything else.

    Example:
        >>> Frozen.of(["weights", {"means": [0, 2]}])
        Frozen(weights=True, means=[0, 2], covariances=False)
    """

    name: ClassVar[str] = "frozen"
    is_separable: ClassVar[bool] = True
    order: ClassVar[int] = 0

    def __init__(
        self,
        *,
        weights: Components = False,
        means: Components = False,
        covariances: Components = False,
    ) -> None:
        super().__init__(**dict.fromkeys(_HELD_BY))
        given = {"weights": weights, "means": means, "covariances": covariances}
        self._which = {part: _as_numbers(part, which) for part, which in given.items()}
        self._sizes: dict[str, int] = {}
        self.parts = frozenset(part for part, which in self._which.items() if which is not False)

    @classmethod
    def of(cls, spec: Any) -> Self:
        """From names of parts, and mappings of them to numbers of components, in a list or alone.

        Args:
            spec: `weights`, `means`, `covariances` or `components` (means and covariances).

        Raises:
            InvalidArgumentError: an unknown name, or something else.
        """
        frozen: dict[str, bool | list[int]] = {}
        for name, which in _entries(spec):
            own = _as_numbers(require_choice("part to freeze", name, _NAMES), which)
            for part in _NAMES[name]:
                before = frozen.get(part, False)
                if isinstance(before, list) and isinstance(own, list):
                    frozen[part] = [*before, *own]
                else:
                    frozen[part] = before is True or own or before
        return cls(**frozen)

    def bind(self, shape: MixtureShape) -> None:
        k, family = shape.num_components, shape.covariance
        shapes = {
            "weights": shape.weights,
            "means": shape.means,
            "covariances": (*shape.batch_shape, *family.shape(k, shape.num_features)),
        }
        self._sizes = {"weights": k, "means": k, "covariances": family.groups(k)}
        for part, which in self._which.items():
            if isinstance(which, list) and which[-1] >= k:
                raise InvalidArgumentError(
                    f"the components to freeze are numbered 0 to {k - 1}, got {part}={which}"
                )
            self._register(part, shapes[part])
        if family.tied and isinstance(self._which["covariances"], list):
            if self._which["covariances"] != list(range(k)):
                raise InvalidArgumentError(
                    f"the covariance {family.name!r} is one for all components, so that it is "
                    'frozen as a whole: freeze=["covariances"]'
                )
            self._which["covariances"] = True

    def is_fixed(self, part: str) -> Tensor:
        """Which of the weights, means or covariances are frozen, `(*B, K)` or `(*B, G)`."""
        which, size = self._which[part], self._sizes[part]
        mask = torch.zeros(size, dtype=torch.bool)
        mask[range(size) if which is True else which or []] = True
        return mask.to(self.get_buffer(part).device).expand(*self.batch_shape, size)

    def _missing(self) -> list[str]:
        found = []
        for part in _HELD_BY:
            value, mask = self.get_buffer(part), self.is_fixed(part)
            if bool((torch.isnan(value) & unsqueeze_like(mask, value)).any()):
                found.append(part)
        return found

    def require_resolved(self) -> None:
        """Raise unless every frozen part has a value.

        Raises:
            InvalidArgumentError: some have none yet; the message names them.
        """
        missing = self._missing()
        if missing:
            raise InvalidArgumentError(
                f"the frozen {' and '.join(missing)} have no value yet: give them to "
                "set_parameters, call layer.freeze once the layer has them, or start from a "
                "finished run (init=run)"
            )

    @torch.no_grad()
    def capture(self, parameters: MixtureTensors, parts: Iterable[str] | None = None) -> None:
        """Take the values of parameters `(*B, ...)` for what is frozen, of some parts or of all."""
        for part in _HELD_BY if parts is None else parts:
            mask, held = self.is_fixed(part), self.get_buffer(part)
            value = getattr(parameters, _HELD_BY[part]).detach()
            if part == "weights" and not bool(mask.all()):
                value = value.log_softmax(-1)
            held.copy_(torch.where(unsqueeze_like(mask, held), value, torch.nan))

    def forward(self, moments: Moments, covariance: Covariance, present: MixtureDensity) -> Moments:
        """The moments with the frozen means and covariances, and the scatter about the means."""
        mask, means = self.is_fixed("means").unsqueeze(-1), self.get_buffer("means")
        moments = move_means(
            moments, torch.where(mask, means.to(moments.means), moments.means), covariance
        )
        mask = self.is_fixed("covariances")
        if bool(mask.any()):
            raw = self.get_buffer("covariances").to(moments.dof)
            own = scatter_of(covariance.scale(raw), moments, covariance)
            fixed = unsqueeze_like(mask.expand_as(moments.dof), own)
            moments = replace(moments, scatter=torch.where(fixed, own, moments.scatter))
        mask = self.is_fixed("weights")
        if not bool(mask.any()):
            return moments
        fixed = torch.where(mask, self._weights().to(moments.mass), 0.0)
        free = torch.where(mask, 0.0, moments.mass)
        # Without any row the free ones are equal.
        free = torch.where(free.sum(-1, keepdim=True) > 0, free, (~mask).to(free))
        rest = (1 - fixed.sum(-1, keepdim=True)).clamp(min=0)
        share = free / free.sum(-1, keepdim=True).clamp(min=torch.finfo(free.dtype).tiny)
        return replace(moments, mass=torch.where(mask, fixed, rest * share))

    def _weights(self) -> Tensor:
        """The frozen weights; those of the others are of no use."""
        logits, mask = self.get_buffer("weights").double(), self.is_fixed("weights")
        return logits.softmax(-1) if bool(mask.all()) else logits.exp()

    def constrain(self, parameters: P, covariance: Covariance) -> P:
        """The parameters with the frozen values; those that have none yet stay as they are."""
        changes = {}
        for part, name in _HELD_BY.items():
            held, value = self.get_buffer(part), getattr(parameters, name)
            known = unsqueeze_like(self.is_fixed(part), held) & ~torch.isnan(held)
            changes[name] = torch.where(known, held.to(value), value)
        mask = self.is_fixed("weights")
        fixed = mask & ~torch.isnan(self.get_buffer("weights"))
        if bool(fixed.any()) and not bool(mask.all()):
            changes["mixture_logits"] = _share_the_rest(changes["mixture_logits"], fixed)
        return parameters._replace(**changes)

    def drop_gradients(self, layer: nn.Module) -> None:
        """Set the gradients of what is frozen in a layer to zero, in place."""
        for part, name in _HELD_BY.items():
            gradient = layer.get_parameter(name).grad
            if gradient is not None:
                gradient.masked_fill_(unsqueeze_like(self.is_fixed(part), gradient), 0.0)

    def differs(self, part: str, one: MixtureTensors, other: MixtureTensors) -> bool:
        """Whether the frozen values of a part are not the same in two sets of parameters."""
        values, others = (getattr(tensors, _HELD_BY[part]) for tensors in (one, other))
        return bool(((values != others) & unsqueeze_like(self.is_fixed(part), values)).any())

    def num_fixed_parameters(
        self, num_components: int, num_features: int, covariance: Covariance
    ) -> int:
        count = {part: int(self.is_fixed(part).sum(-1).max()) for part in _HELD_BY}
        each = covariance.num_free_parameters(1, num_features)
        weights = min(count["weights"], num_components - 1)
        return weights + count["means"] * num_features + count["covariances"] * each

    def reorder(self, index: Tensor) -> None:
        """Reorder the frozen components, in place.

        Raises:
            InvalidArgumentError: some are frozen, and mixtures of a batch get different orders.
        """
        partial = {part: which for part, which in self._which.items() if isinstance(which, list)}
        place = require_one_order(index).argsort().tolist() if partial else []
        super().reorder(index)
        for part, which in partial.items():
            self._which[part] = sorted(place[number] for number in which)

    def config(self) -> dict[str, Any]:
        """Constructor arguments as primitives."""
        return dict(self._which)


def _share_the_rest(logits: Tensor, fixed: Tensor) -> Tensor:
    """Logits in which the free weights share what the fixed log weights leave."""
    wide, limits = logits.double(), torch.finfo(logits.dtype)
    rest = (1 - torch.where(fixed, wide.exp(), 0.0).sum(-1, keepdim=True)).clamp(min=limits.tiny)
    free = wide.masked_fill(fixed, -torch.inf)
    missing = rest.log() - free.logsumexp(-1, keepdim=True)
    # What sums to one but for rounding stays as it is.
    moved = torch.where(missing.abs() <= 8 * limits.eps / rest, 0.0, missing)
    return torch.where(fixed | (moved == 0), logits, (free + moved).to(logits))


def _entries(spec: Any) -> Iterator[tuple[Any, Any]]:
    """Pairs of a name and the components, of a specification."""
    if isinstance(spec, Mapping):
        yield from spec.items()
    elif isinstance(spec, Iterable) and not isinstance(spec, str):
        for entry in spec:
            yield from _entries(entry)
    else:
        yield spec, True


def _as_numbers(name: str, which: Any) -> bool | list[int]:
    """True, False or sorted numbers of components."""
    if which is None or isinstance(which, bool):
        return bool(which)
    if isinstance(which, str) or not isinstance(which, Iterable):
        raise InvalidArgumentError(
            f"expected the numbers of the components whose {name} are frozen in a list, got "
            f"{describe(which)}"
        )
    numbers = sorted({require_integer(f"a component of {name}", n, least=0) for n in which})
    return numbers or False
