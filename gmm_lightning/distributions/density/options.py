"""Options of `sample` and `rsample`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Size, Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.distributions.density.quasi import check_sobol_dimension
from gmm_lightning.distributions.truncation import Region
from gmm_lightning.errors import InvalidArgumentError

SampleShape = tuple[int, ...] | Size | int


@dataclass(frozen=True, eq=False)
class DrawOptions:
    """Options of `MixtureOfGaussians.sample`, checked at construction.

    Args:
        component: the component to draw from: an index or a tensor of indices.
        within: a region; draws are conditional on lying in it.
        temperature: divides logits and multiplies covariances.
        quasi: scrambled Sobol points instead of independent rows.
        antithetic: neighbouring rows are mirror images about their mean.

    Raises:
        InvalidArgumentError: a value out of range, or options that exclude each other.
    """

    component: int | Tensor | None = None
    within: Region | None = None
    temperature: float = 1.0
    quasi: bool = False
    antithetic: bool = False

    def __post_init__(self) -> None:
        if self.component is not None:
            _as_index(self.component)
        if isinstance(self.temperature, Tensor) and self.temperature.requires_grad:
            raise InvalidArgumentError("no gradient flows to the temperature: pass its value")
        require_number("temperature", self.temperature, above=0)
        for name in ("quasi", "antithetic"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidArgumentError(
                    f"{name} must be True or False, got {getattr(self, name)!r}"
                )
        if self.within is not None:
            if not isinstance(self.within, Region):
                raise InvalidArgumentError(
                    "within must be a region (Shell, Confidence, Ball, Box, HalfSpace or Where), "
                    f"got {self.within!r}"
                )
            if self.quasi or self.antithetic:
                raise InvalidArgumentError("draws within a region are independent ones only")
        if self.antithetic and self.component is not None and _as_index(self.component).dim():
            raise InvalidArgumentError(
                "antithetic rows share a component in pairs: give one component, or none"
            )
        if self.quasi and self.antithetic:
            raise InvalidArgumentError(
                "quasi and antithetic are two ways to spread draws: choose one"
            )

    def check(self, num_components: int, num_features: int) -> None:
        """Raise where these options do not fit a mixture of given sizes.

        Raises:
            InvalidArgumentError: a component out of range, a region for rows of another width,
                or too many features for quasi-random draws.
        """
        if self.component is not None:
            _check_range(_as_index(self.component), num_components)
        if self.within is not None:
            self.within.check(num_features)
        if self.quasi:
            check_sobol_dimension(num_features)


def _as_index(component: int | Tensor) -> Tensor:
    """Component indices as a tensor of integers."""
    try:
        index = torch.as_tensor(component)
    except (TypeError, ValueError, RuntimeError):
        index = torch.zeros(())
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise InvalidArgumentError(f"component must be an integer index, got {component!r}")
    return index.long()


def _check_range(index: Tensor, num_components: int) -> None:
    """Raise unless all indices are in `[0, K)`."""
    if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < num_components):
        few = index.tolist() if index.numel() <= 10 else f"{int(index.min())} to {int(index.max())}"
        raise InvalidArgumentError(f"component must be in [0, {num_components}), got {few}")


def given_components(component: int | Tensor, shape: Size, weights: Tensor) -> Tensor:
    """Component indices of the user, checked and expanded to shape `(*S, *B)`."""
    index = _as_index(component).to(weights.device)
    _check_range(index, weights.shape[-1])
    try:
        return index.expand(shape)
    except RuntimeError:
        raise InvalidArgumentError(
            f"component must broadcast to {tuple(shape)}, got shape {tuple(index.shape)}"
        ) from None
