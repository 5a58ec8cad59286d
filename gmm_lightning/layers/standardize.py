"""Standardisation as a layer, with its inverse."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gmm_lightning.errors import InvalidDataError
from gmm_lightning.layers._state import FINITE, POSITIVE, StateRule
from gmm_lightning.linalg import accumulator_dtype, at_least_float32
from gmm_lightning.rows import Batch, as_dense, errors_of, with_errors


class Standardize(nn.Module):
    """Standardised rows `(x - loc) / scale`; the identity until `loc` and `scale` are set.

    Args:
        num_features: D.

    Example:
        >>> units = Standardize(2)
        >>> units.set(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]))
        >>> units(torch.tensor([[3.0, 6.0]]))
        tensor([[1., 1.]])
        >>> units.inverse(torch.tensor([[1.0, 1.0]]))
        tensor([[3., 6.]])
    """

    loc: Tensor
    scale: Tensor
    state_rules: ClassVar[dict[str, StateRule]] = {"loc": FINITE, "scale": POSITIVE}

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.empty(num_features))
        self.register_buffer("scale", torch.empty(num_features))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Become the identity, as the constructor makes it."""
        self.loc.zero_()
        self.scale.fill_(1.0)

    @torch.no_grad()
    def set(self, loc: Tensor, scale: Tensor) -> None:
        """Set centre and scale; a scale of zero (of a constant column) becomes 1.

        Raises:
            InvalidDataError: they have another number of features.
        """
        self._check(loc)
        self.loc.copy_(loc)
        self.scale.copy_(torch.where(scale > 0, scale, 1.0))

    def forward(self, x: Any) -> Tensor:
        """Standardised rows `(..., D)`, in the wider dtype of x and the buffers.

        Raises:
            InvalidDataError: x has another number of features, or does not hold numbers.
        """
        x = as_dense(x, self.loc.device)
        self._check(x)
        return (at_least_float32(x) - self.loc) / self.scale

    def batch(self, rows: Batch) -> Batch:
        """A batch with standardised rows, and with the covariances of their errors."""
        return self.scale_errors(rows)._replace(x=self(rows.x))

    def scale_errors(self, rows: Batch) -> Batch:
        """A batch with the covariances of its errors, if there are any, in standard units."""
        errors = errors_of(rows)
        if errors is None:
            return rows
        scale = self.scale.to(accumulator_dtype(self.scale.device))
        square = scale.square() if errors.dim() == 2 else scale.outer(scale)
        return with_errors(rows, errors.to(square) / square)

    def _check(self, x: Tensor) -> None:
        if x.dim() == 0 or x.shape[-1] != self.loc.shape[-1]:
            raise InvalidDataError(
                f"expected {self.loc.shape[-1]} features, got an array of shape {tuple(x.shape)}"
            )

    def inverse(self, z: Tensor) -> Tensor:
        """Rows `(..., D)` in the user's units."""
        return z * self.scale + self.loc

    @property
    def log_abs_det(self) -> Tensor:
        """Log determinant `log |dz / dx|`, by which `log p(x)` exceeds `log p(z)`."""
        return -self.scale.log().sum()

    def log_scale_of_missing(self, x: Tensor) -> Tensor:
        """Sum of the log scales of the missing entries of rows `(..., D)`, `(...)`.

        Of the entries that are observed the log determinant is `log_abs_det` plus this.
        """
        return torch.isnan(x).to(self.scale) @ self.scale.log()
