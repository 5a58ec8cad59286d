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
    """Options of `MixtureOfGaussians.sample`, which explains them, checked at construction.

    Raises:
        InvalidArgumentError: a value out of range, or options that exclude each other.
    """

    component: int | Tensor | None = None
    within: Region | None = None
    temperature: float = 1.0
    quasi: bool = False
    antithetic: bool = False

    def __post_init__(self) -> None:
        index = None if self.component is None else _as_index(self.component)
        if isinstance(self.temperature, Tensor) and self.temperature.requires_grad:
            raise InvalidArgumentError("no gradient flows to the temperature: pass its value")
        require_number("temperature", self.temperature, above=0)
        for name in ("quasi", "antithetic"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidArgumentError(
                    f"{name} must be True or False, got {getattr(self, name)!r}"
                )
        if not isinstance(self.within, Region | None):
            raise InvalidArgumentError(
                "within must be a region (Shell, Confidence, Ball, Box, HalfSpace or Where), got "
                f"{self.within!r}"
            )
        if self.within is not None and (self.quasi or self.antithetic):
            raise InvalidArgumentError("draws within a region are independent ones only")
        if self.antithetic and index is not None and index.dim():
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
        index = torch.zeros(0) if self.component is None else _as_index(self.component)
        if index.numel() and not (int(index.min()) >= 0 and int(index.max()) < num_components):
            ends = f"{int(index.min())} to {int(index.max())}"
            found = index.tolist() if index.numel() <= 10 else ends
            raise InvalidArgumentError(f"component must be in [0, {num_components}), got {found}")
        if self.within is not None:
            self.within.check(num_features)
        if self.quasi:
            check_sobol_dimension(num_features)

    def components(self, shape: Size, device: torch.device) -> Tensor | None:
        """The given component indices, expanded to shape `(*S, *B)`."""
        if self.component is None:
            return None
        index = _as_index(self.component).to(device)
        try:
            return index.expand(shape)
        except RuntimeError:
            raise InvalidArgumentError(
                f"component must broadcast to {tuple(shape)}, got shape {tuple(index.shape)}"
            ) from None


def _as_index(component: int | Tensor) -> Tensor:
    """Component indices as a tensor of integers."""
    try:
        index = torch.as_tensor(component)
    except (TypeError, ValueError, RuntimeError):
        index = torch.zeros(())
    if index.is_floating_point() or index.is_complex() or index.dtype == torch.bool:
        raise InvalidArgumentError(f"component must be an integer index, got {component!r}")
    return index.long()
