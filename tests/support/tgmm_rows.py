"""Rows for the tests of tgmm's door, and constructor arguments without any chance in them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TYPES = ("full", "diag", "spherical", "tied_full", "tied_diag", "tied_spherical")

MEANS = torch.tensor([[0.0, 0.0], [3.0, 2.0]], dtype=torch.float64)
_UNIT = torch.eye(2, dtype=torch.float64)
# Unit covariances in the form of each type.
UNITS = {
    "full": _UNIT.repeat(2, 1, 1),
    "diag": torch.ones(2, 2, dtype=torch.float64),
    "spherical": torch.ones(2, dtype=torch.float64),
    "tied_full": _UNIT,
    "tied_diag": torch.ones(2, dtype=torch.float64),
    "tied_spherical": torch.ones((), dtype=torch.float64),
}
# A scale matrix of 0.8 I in tgmm's form: of spherical covariances the trace.
SCALES = {
    "full": 0.8 * _UNIT,
    "diag": torch.full((2,), 0.8, dtype=torch.float64),
    "spherical": torch.tensor(1.6, dtype=torch.float64),
    "tied_full": 0.8 * _UNIT,
    "tied_diag": torch.full((2,), 0.8, dtype=torch.float64),
    "tied_spherical": torch.tensor(1.6, dtype=torch.float64),
}


def blobs(seed: int = 0, n: int = 120, dtype: torch.dtype = torch.float64) -> Tensor:
    """Rows of two overlapping Gaussians in the plane."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    first = z[: 2 * n // 3] * torch.tensor([1.0, 2.0])
    return torch.cat([first, 0.7 * z[2 * n // 3 :] + 3.0]).to(dtype)


def given(kind: str, **options: Any) -> dict[str, Any]:
    """Arguments of a mixture of two components that starts from given values."""
    start = {"init_means": MEANS, "init_covariances": UNITS[kind]}
    sizes = {"n_components": 2, "n_features": 2, "covariance_type": kind, "device": "cpu"}
    return sizes | start | {"reg_covar": 0.0} | options
