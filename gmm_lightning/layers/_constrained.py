"""Frozen parts and bounds of a layer's parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers.mixture import MixtureModule
from gmm_lightning.projections import Frozen, ProjectionList


class _Tensors(NamedTuple):
    """The unconstrained parameters of a layer."""

    mixture_logits: Tensor
    means: Tensor
    raw_scale: Tensor


class ConstrainedMixin(MixtureModule):
    """Adds `freeze` and `constrain_` to a layer with projections."""

    mixture_logits: Tensor
    raw_scale: Tensor
    projections: ProjectionList

    @torch.no_grad()
    def freeze(self, parts: Any) -> None:
        """Freeze parts of the parameters at their present values, and free all others.

        EM, extrapolated steps and `GMMModule` leave them as they are, bit for bit; in a loop of
        your own call `constrain_` after each step of the optimizer.

        Args:
            parts: `weights`, `means`, `covariances`, `components` (means and covariances), or a
                mapping of these to numbers of components, or a list of both; None or an empty
                list frees everything.

        Raises:
            InvalidArgumentError: an unknown name, a component that does not exist, or a part that
                another projection constrains.

        Example:
            >>> layer = GMMLayer(num_features=2, num_components=3)
            >>> layer.freeze(["weights", {"means": [0, 2]}])
            >>> layer.num_free_parameters  # of 17
            11
        """
        others = [one for one in self.projections.to_list() if not isinstance(one, Frozen)]
        bound = ProjectionList(self.projections.shape)
        for one in [*([Frozen.of(parts)] if parts else []), *others]:
            bound.append(one)
        self.projections = bound.to(self.means)
        self._hold()

    @torch.no_grad()
    def take_parameters(self, other: ConstrainedMixin) -> None:
        """Copy the parameters of a layer of the same sizes and family, bit for bit.

        So is its noise, if both have some. What is frozen has these values from now on; the rest
        is brought within its bounds.

        Raises:
            InvalidArgumentError: no such layer, or one of other sizes or of another family.
        """
        if not isinstance(other, ConstrainedMixin) or _kind(other) != _kind(self):
            got = _kind(other) if isinstance(other, ConstrainedMixin) else describe(other)
            raise InvalidArgumentError(
                f"expected a layer of {_kind(self)}, whose parameters can be taken, got {got}"
            )
        for name in _Tensors._fields:
            self.get_parameter(name).copy_(other.get_parameter(name))
        if self.noise is not None and other.noise is not None:
            self.noise.load_state_dict(other.noise.state_dict())
        self._hold()

    @torch.no_grad()
    def constrain_(self) -> None:
        """Bring the parameters to the nearest ones under the constraints, in place.

        What satisfies them stays as it is. To be called after each step of an optimizer.

        Example:
            >>> layer = GMMLayer(1, 2, bounds={"mean": (0.0, 1.0)})
            >>> layer.set_parameters(means=[[-0.5], [0.5]])
            >>> layer.means.flatten().tolist()
            [0.0, 0.5]
        """
        if not len(self.projections):
            return
        present = self._tensors()
        for own, value in zip(present, self.projections.constrain(present), strict=True):
            own.copy_(value)

    def require_constrained(self) -> None:
        """Refuse a layer whose constraints have no values yet, or contradict each other.

        Raises:
            InvalidArgumentError: the message says which.
        """
        if len(self.projections):
            self.projections.require_resolved(self._tensors())

    def _hold(self, parts: Iterable[str] | None = None) -> None:
        """Take the present values of what is frozen, of some parts or all; keep to the bounds."""
        if self.projections.frozen is not None:
            self.projections.frozen.capture(self._tensors(), parts)
        self.constrain_()

    def _tensors(self) -> _Tensors:
        return _Tensors(self.mixture_logits, self.means, self.raw_scale)


def _kind(layer: ConstrainedMixin) -> str:
    """Family and sizes of a layer, in words."""
    family = layer.projections.shape.covariance
    return f"{family.name!r} covariances and means of shape {tuple(layer.means.shape)}"
