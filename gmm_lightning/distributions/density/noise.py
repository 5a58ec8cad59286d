"""Random numbers, made out of place: `torch.func.vmap` fills no tensor that it does not map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from gmm_lightning.linalg import accumulator_dtype


def standard_normals(like: Tensor, shape: Sequence[int], generator: Generator | None) -> Tensor:
    """Standard normal numbers of a shape, in the dtype and on the device of a tensor."""
    return torch.randn(*shape, dtype=like.dtype, device=like.device, generator=generator)


def uniforms(like: Tensor, shape: Sequence[int], generator: Generator | None) -> Tensor:
    """Uniform numbers in [0, 1) of a shape, in the precision of sums on the device of a tensor."""
    dtype = accumulator_dtype(like.device)
    return torch.rand(*shape, dtype=dtype, device=like.device, generator=generator)
