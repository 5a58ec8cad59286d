"""Weights that are all the same."""

from __future__ import annotations

from typing import ClassVar

from gmm_lightning.projections.fixed_weights import FixedWeights


class EqualWeights(FixedWeights):
    """Holds all weights at `1 / K`; the M-step is exact.

    Example:
        >>> GMMLayer(2, 4, projections="equal_weights").num_free_parameters  # of 23
        20
    """

    name: ClassVar[str] = "equal_weights"

    def __init__(self) -> None:
        super().__init__()

    def config(self) -> dict[str, object]:
        """No arguments."""
        return {}
