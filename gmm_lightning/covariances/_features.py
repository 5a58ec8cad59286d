"""Second-order terms of a Gaussian's log density, with which EM is two matrix products."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class StandardizedCoordinates:
    """Coordinates `z = A (x - centre)`, in which all rows together have about unit variance.

    Shape:
        centre `(P, D)`; matrix (A) and inverse_matrix `(P, D)` where A is diagonal, else
        `(P, D, D)`. P counts coordinate systems: 1 for rows that all mixtures share.
    """

    centre: Tensor
    matrix: Tensor
    inverse_matrix: Tensor

    def forward(self, diff: Tensor) -> Tensor:
        """Differences `(P, M, D)` in these coordinates."""
        return _apply(self.matrix, diff)

    def inverse(self, diff: Tensor) -> Tensor:
        """Differences `(P, M, D)` in the units of the data."""
        return _apply(self.inverse_matrix, diff)


def usable_unit(variance: Tensor) -> Tensor:
    """Standard deviations, 1 where they are zero or not finite."""
    unit = variance.sqrt()
    return torch.where((unit > 0) & (unit < torch.inf), unit, 1.0)


def _apply(matrix: Tensor, diff: Tensor) -> Tensor:
    return diff * matrix.unsqueeze(-2) if matrix.dim() == 2 else diff @ matrix.mT


@dataclass(frozen=True)
class NaturalParameters:
    """Coefficients of `log N = quadratic . q(z) + linear . z - (square + log|Sigma|) / 2 + const`.

    Shape:
        quadratic `(P, M, Q)`, linear `(P, M, D)`; square and magnitude `(P, M)`.

    Attributes:
        square: `(mu - c)' Sigma^-1 (mu - c)`.
        magnitude: root mean square of the terms that cancel in the sum, at the component's own
            rows: times the machine precision, it is the error of the log density.
    """

    quadratic: Tensor
    linear: Tensor
    square: Tensor
    magnitude: Tensor


class Features(ABC):
    """The second-order terms `q(z)` of one form of covariance, one row of a matrix per term.

    The log joint density of all components is one product with `(1, q(z), z)`, and the sums
    that the M-step needs are another. Rows of data are columns here, so that every term is
    built by one long multiplication.

    Args:
        num_features: D.

    Attributes:
        num_terms: Q, the length of q.
        num_scratch: rows of working memory that `make_feature_writer` needs below those of z.
        wide_products_pay: whether products in float64 cost less than differences in float32.
    """

    num_terms: int
    num_scratch: int = 0
    wide_products_pay: bool = True

    def __init__(self, num_features: int) -> None:
        self.num_features = num_features

    def products_pay(self, num_components: int, overlap: float | None) -> bool:
        """Whether the terms of a row cost less than they save, against whitened rows.

        Args:
            num_components: that would be computed by products.
            overlap: components that share a row, on average; None: not known.
        """
        return num_components > 0

    @abstractmethod
    def variances(self, scale: Tensor) -> Tensor:
        """Variance per feature, `(P, M, D)`, from scales `(P, M, ...)`."""

    def axes(self, weights: Tensor, gap: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix of the coordinates and its inverse, for means `gap` `(P, M, D)` off centre."""
        variance = (weights.unsqueeze(-1) * (self.variances(scale) + gap.square())).sum(-2)
        unit = usable_unit(self.unit(variance))
        return 1 / unit, unit

    def unit(self, variance: Tensor) -> Tensor:
        """Squared units of the coordinates `(P, D)` from the variances of all rows."""
        return variance

    @abstractmethod
    def natural_parameters(
        self, scale: Tensor, gap: Tensor, coordinates: StandardizedCoordinates
    ) -> NaturalParameters:
        """Natural parameters of components `gap` away from the centre of the coordinates."""

    @abstractmethod
    def make_feature_writer(self, z: Tensor, terms: Tensor) -> Callable[[], None]:
        """Function that writes q(z) into `terms` `(P, Q, n)`, from z `(P, D + num_scratch, n)`."""

    @abstractmethod
    def second(self, sums: Tensor, coordinates: StandardizedCoordinates) -> Tensor:
        """Sums of q(z) `(P, M, Q)` as second moments about the centre, in the family's form."""


class TiedFeatures(Features):
    """No second-order terms: those of a shared covariance cancel in the responsibilities.

    Args:
        form: the terms that the covariance would need if it were not shared.
    """

    num_terms = 0

    def __init__(self, form: Features) -> None:
        super().__init__(form.num_features)
        self.form = form

    def variances(self, scale: Tensor) -> Tensor:
        return self.form.variances(scale)

    def axes(self, weights: Tensor, gap: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        return self.form.axes(weights, gap, scale)

    def natural_parameters(
        self, scale: Tensor, gap: Tensor, coordinates: StandardizedCoordinates
    ) -> NaturalParameters:
        full = self.form.natural_parameters(scale, gap, coordinates)
        return replace(full, quadratic=full.quadratic[..., :0])

    def make_feature_writer(self, z: Tensor, terms: Tensor) -> Callable[[], None]:
        return lambda: None

    def second(self, sums: Tensor, coordinates: StandardizedCoordinates) -> Tensor:
        raise NotImplementedError("a shared covariance pools the moments of all rows")


@functools.lru_cache(maxsize=64)
def make_features(kind: type[Features], num_features: int, *, tied: bool) -> Features:
    """The terms of a kind, which hold nothing but indices; those of a shared covariance if tied."""
    terms = kind(num_features)
    return TiedFeatures(terms) if tied else terms
