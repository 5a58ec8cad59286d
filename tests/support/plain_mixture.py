"""A mixture as pictures need it, with values that a distribution would refuse."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Plain:
    """The three attributes that a picture needs."""

    weights: Tensor
    means: Tensor
    scale_tril: Tensor
