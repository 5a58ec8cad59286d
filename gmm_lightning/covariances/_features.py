"""Second-order terms of a Gaussian's log density: what makes EM two matrix products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

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


def _apply(matrix: Tensor, diff: Tensor) -> Tensor:
    return diff * matrix.unsqueeze(-2) if matrix.dim() == 2 else diff @ matrix.mT


@dataclass(frozen=True)
class NaturalParameters:
    """`log N(x | mu, Sigma) = quadratic . q(z) + linear . z - square / 2 - log|Sigma| / 2 + const`.

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
    """

    num_terms: int
    num_scratch: int = 0

    def __init__(self, num_features: int) -> None:
        self.num_features = num_features

    def is_cheaper(self, num_columns: int) -> bool:
        """Whether the terms of a row cost less than they save over `num_columns` components."""
        return True

    @abstractmethod
    def variances(self, scale: Tensor) -> Tensor:
        """Variance per feature, `(P, M, D)`, from scales `(P, M, ...)`."""

    def axes(self, weights: Tensor, gap: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The matrix of the coordinates and its inverse, for means `gap` `(P, M, D)` off centre."""
        variance = (weights.unsqueeze(-1) * (self.variances(scale) + gap.square())).sum(-2)
        unit = self.unit(variance).sqrt()
        unit = torch.where(torch.isfinite(unit) & (unit > 0), unit, 1.0)
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
        """What writes q(z) into `terms` `(P, Q, n)`; z `(P, D + num_scratch, n)` has the rows."""

    @abstractmethod
    def second(self, sums: Tensor, coordinates: StandardizedCoordinates) -> Tensor:
        """Sums of q(z) `(P, M, Q)` as second moments about the centre, in the family's form."""


class QuadraticFeatures(Features):
    """All products `z_i z_j`: dense covariances, scale `(P, M, D, D)` lower factors.

    The coordinates whiten by the covariance of the whole mixture, so the correlation that all
    components share costs no precision. Terms are ordered by the distance of j from i,
    cyclically: one multiplication of z with a window that slides over a repeated z makes all.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        d = num_features
        self.num_terms = d * (d + 1) // 2
        self.shifts = (d + 1) // 2
        self.num_scratch = self.shifts - 1
        term = torch.arange(self.num_terms)
        self.first, self.other = term % d, (term % d + term // d) % d

    def is_cheaper(self, num_columns: int) -> bool:
        # Measured on a CPU, one thread: D^2 / 2 products are made per row whatever K is, and
        # differences to each mean are as fast at K = 2, 5, 8, 12 for D = 32, 64, 128, 256.
        return 12 * num_columns >= self.num_features

    def variances(self, scale: Tensor) -> Tensor:
        return scale.square().sum(-1)

    def axes(self, weights: Tensor, gap: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        forward, unit = super().axes(weights, gap, scale)
        factors = torch.cat([scale, gap.unsqueeze(-1)], -1) * forward[:, None, :, None]
        factors = factors * weights.sqrt()[..., None, None]
        flat = factors.movedim(1, -2).flatten(-2)
        factor, info = torch.linalg.cholesky_ex(flat @ flat.mT)
        identity = torch.eye(self.num_features, dtype=scale.dtype, device=scale.device)
        usable = (info == 0) & torch.isfinite(factor).all(-1).all(-1)
        factor = torch.where(usable[:, None, None], factor, identity)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        return inverse * forward.unsqueeze(-2), factor * unit.unsqueeze(-1)

    def natural_parameters(
        self, scale: Tensor, gap: Tensor, coordinates: StandardizedCoordinates
    ) -> NaturalParameters:
        both = torch.cat(
            [coordinates.inverse_matrix.unsqueeze(1).expand_as(scale), gap.unsqueeze(-1)], -1
        )
        white = torch.linalg.solve_triangular(scale, both, upper=False)
        axes, offset = white[..., :-1], white[..., -1:]
        precision, square = axes.mT @ axes, offset.squeeze(-1).square().sum(-1)
        spread = (coordinates.matrix.unsqueeze(1) @ scale).square().sum(-1)
        reach = (spread + coordinates.forward(gap).square()).sqrt()
        cancelling = precision * reach.unsqueeze(-1) * reach.unsqueeze(-2)
        once = torch.where(self.first == self.other, -0.5, -1.0).to(scale)
        return NaturalParameters(
            quadratic=precision[..., self.first, self.other] * once,
            linear=(axes.mT @ offset).squeeze(-1),
            square=square,
            magnitude=torch.linalg.matrix_norm(cancelling) + square,
        )

    def make_feature_writer(self, z: Tensor, terms: Tensor) -> Callable[[], None]:
        d, whole = self.num_features, self.shifts * self.num_features
        p, _, n = z.shape
        windows = z.as_strided((p, self.shifts, d, n), (z.stride(0), n, n, 1), z.storage_offset())
        cyclic = terms[:, :whole].view(p, self.shifts, d, n)
        rest = self.num_terms - whole
        own, again = z[:, : self.num_scratch], z[:, d : d + self.num_scratch]
        half = (z[:, self.shifts : self.shifts + rest], z[:, :rest], terms[:, whole:])
        repeated = z[:, None, :d]

        def write() -> None:
            again.copy_(own)
            torch.mul(windows, repeated, out=cyclic)
            if rest:
                torch.mul(half[0], half[1], out=half[2])

        return write

    def second(self, sums: Tensor, coordinates: StandardizedCoordinates) -> Tensor:
        d = self.num_features
        matrix = sums.new_zeros(*sums.shape[:-1], d, d)
        matrix[..., self.first, self.other] = sums
        matrix[..., self.other, self.first] = sums
        back = coordinates.inverse_matrix.unsqueeze(1)
        return back @ matrix @ back.mT


class DiagonalFeatures(Features):
    """The squares `z_d^2`: diagonal covariances, scale `(P, M, D)` standard deviations."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.num_terms = num_features

    def variances(self, scale: Tensor) -> Tensor:
        return scale.square()

    def natural_parameters(
        self, scale: Tensor, gap: Tensor, coordinates: StandardizedCoordinates
    ) -> NaturalParameters:
        precision = (coordinates.inverse_matrix.unsqueeze(-2) / scale).square()
        offset = coordinates.forward(gap)
        square = (precision * offset.square()).sum(-1)
        reach = precision * (1 / precision + offset.square())
        return NaturalParameters(
            quadratic=-0.5 * precision,
            linear=precision * offset,
            square=square,
            magnitude=torch.linalg.vector_norm(reach, dim=-1) + square,
        )

    def make_feature_writer(self, z: Tensor, terms: Tensor) -> Callable[[], None]:
        def write() -> None:
            torch.mul(z, z, out=terms)

        return write

    def second(self, sums: Tensor, coordinates: StandardizedCoordinates) -> Tensor:
        return sums * coordinates.inverse_matrix.square().unsqueeze(-2)


class SphericalFeatures(Features):
    """The squared length `|z|^2`: round covariances, scale `(P, M)` standard deviations."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.num_terms, self.num_scratch = 1, num_features

    def variances(self, scale: Tensor) -> Tensor:
        return scale.square().unsqueeze(-1).expand(*scale.shape, self.num_features)

    def unit(self, variance: Tensor) -> Tensor:
        return variance.mean(-1, keepdim=True).expand_as(variance)

    def natural_parameters(
        self, scale: Tensor, gap: Tensor, coordinates: StandardizedCoordinates
    ) -> NaturalParameters:
        precision = (coordinates.inverse_matrix[..., :1] / scale).square()
        offset = coordinates.forward(gap)
        square = precision * offset.square().sum(-1)
        return NaturalParameters(
            quadratic=-0.5 * precision.unsqueeze(-1),
            linear=precision.unsqueeze(-1) * offset,
            square=square,
            magnitude=self.num_features**0.5 + 2 * square,
        )

    def make_feature_writer(self, z: Tensor, terms: Tensor) -> Callable[[], None]:
        own, scratch = z[:, : self.num_features], z[:, self.num_features :]

        def write() -> None:
            torch.mul(own, own, out=scratch)
            torch.sum(scratch, 1, keepdim=True, out=terms)

        return write

    def second(self, sums: Tensor, coordinates: StandardizedCoordinates) -> Tensor:
        return sums.squeeze(-1) * coordinates.inverse_matrix[..., :1].square() / self.num_features


class TiedFeatures(Features):
    """No second-order terms at all: they are the same for components that share a covariance.

    In the responsibilities they cancel, and their sum over rows does not depend on them.

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
        return NaturalParameters(full.quadratic[..., :0], full.linear, full.square, full.magnitude)

    def make_feature_writer(self, z: Tensor, terms: Tensor) -> Callable[[], None]:
        return lambda: None

    def second(self, sums: Tensor, coordinates: StandardizedCoordinates) -> Tensor:
        raise NotImplementedError("a shared covariance pools the moments of all rows")
