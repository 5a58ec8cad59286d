"""Rows that fits of this folder use."""

from __future__ import annotations

import pytest
import torch
from support.random_layers import rows
from torch import Tensor


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    """101 rows of three overlapping clusters: no batch size or number of processes divides it."""
    return rows(101, 2, generator)


@pytest.fixture(autouse=True)
def _doubles(double: None) -> None:
    """Fits are compared to rounding."""
