"""Inverse-Wishart distributions of the covariances of a family, and what follows of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.linalg import standard_gamma, symmetrize, unsqueeze_like


class InverseWishartForm(ABC):
    """Base class: distributions of precisions P, per `dP`, in the form of a family.

        log p(P) = (df - mode_dof) / 2 log|P| - tr(scale_matrix P) / 2 - log_normalizer

    Args:
        num_features: D.

    Attributes:
        mode_dof: what the mode of a covariance, `scale_matrix / (df + mode_dof)`, adds to df.
        least_df: the distribution is proper above it.
        independent: whether features are, given the parameters of the distribution.
    """

    mode_dof: float
    least_df: float
    independent: bool = False

    def __init__(self, num_features: int) -> None:
        self.num_features = num_features

    @abstractmethod
    def log_normalizer(self, df: Tensor, scale_matrix: Tensor) -> Tensor:
        """Logarithm of the integral of the density without its constant, `(*B, G)`."""

    @abstractmethod
    def expected_log_det(self, df: Tensor, scale_matrix: Tensor) -> Tensor:
        """Expected `log|P|`, `(*B, G)`."""

    @abstractmethod
    def predictive_df(self, df: Tensor) -> Tensor:
        """Degrees of freedom of the Student-t density of a row, `(*B, G)`."""

    @abstractmethod
    def predictive_divisor(self, df: Tensor) -> Tensor:
        """What `scale_matrix` is divided by in the squared scale of that density, `(*B, G)`."""

    @abstractmethod
    def sample_scale(
        self, df: Tensor, scale_matrix: Tensor, generator: Generator | None = None
    ) -> Tensor:
        """A draw of each covariance, in the family's compact scale, `(*B, G, ...)`."""


class DenseInverseWishart(InverseWishartForm):
    """Wishart distributions of dense precisions: df `(*B, G)`, scale_matrix `(*B, G, D, D)`.

    References:
        C. M. Bishop (2006), Pattern Recognition and Machine Learning, appendix B.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.mode_dof, self.least_df = num_features + 1.0, num_features - 1.0

    def log_normalizer(self, df: Tensor, scale_matrix: Tensor) -> Tensor:
        d = self.num_features
        half = 0.5 * df * (d * math.log(2) - _log_det(scale_matrix))
        return half + torch.special.multigammaln(0.5 * df, d)

    def expected_log_det(self, df: Tensor, scale_matrix: Tensor) -> Tensor:
        d = self.num_features
        steps = torch.arange(d, dtype=df.dtype, device=df.device)
        whole = torch.digamma(0.5 * (df.unsqueeze(-1) - steps)).sum(-1)
        return whole + d * math.log(2) - _log_det(scale_matrix)

    def predictive_df(self, df: Tensor) -> Tensor:
        return df - self.num_features + 1

    def predictive_divisor(self, df: Tensor) -> Tensor:
        return df - self.num_features + 1

    def sample_scale(
        self, df: Tensor, scale_matrix: Tensor, generator: Generator | None = None
    ) -> Tensor:
        # Bartlett: P = C A A' C' with C C' = scale_matrix^-1, so S = (C^-T A^-T)(C^-T A^-T)'.
        d = self.num_features
        factor = torch.linalg.cholesky(symmetrize(scale_matrix))
        steps = torch.arange(d, dtype=df.dtype, device=df.device)
        chi = _chi_square(df.unsqueeze(-1) - steps, generator).sqrt()
        lower = torch.empty_like(factor).normal_(generator=generator).tril(-1)
        bartlett = lower + chi.diag_embed()
        # With scale_matrix = F F', C = F^-T: S = F A^-T A^-1 F', and A^-T is upper triangular.
        half = torch.linalg.solve_triangular(bartlett, factor.mT, upper=False)
        upper = torch.linalg.qr(half, mode="r").R
        return _positive_rows(upper).mT


class EntrywiseInverseGamma(InverseWishartForm, ABC):
    """Gamma distributions of the precisions of axis-aligned families, one an entry of the scatter.

    A precision shared by p features has the shape `df p / 2` and the rate `scale_matrix p / 2`:
    `df` counts rows, each of which has p features.

    Args:
        num_features: D.

    Attributes:
        per_entry: p, the features that an entry stands for.
    """

    per_entry: int

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.mode_dof, self.least_df = 2.0 / self.per_entry, 0.0
        self.independent = self.per_entry == 1

    def _shape_and_rate(self, df: Tensor, scale_matrix: Tensor) -> tuple[Tensor, Tensor]:
        half = 0.5 * self.per_entry
        return half * unsqueeze_like(df, scale_matrix).expand_as(scale_matrix), half * scale_matrix

    def log_normalizer(self, df: Tensor, scale_matrix: Tensor) -> Tensor:
        shape, rate = self._shape_and_rate(df, scale_matrix)
        return _sum_entries(shape.lgamma() - shape * rate.log(), df)

    def expected_log_det(self, df: Tensor, scale_matrix: Tensor) -> Tensor:
        shape, rate = self._shape_and_rate(df, scale_matrix)
        return self.per_entry * _sum_entries(shape.digamma() - rate.log(), df)

    def predictive_df(self, df: Tensor) -> Tensor:
        return df * self.per_entry

    def predictive_divisor(self, df: Tensor) -> Tensor:
        return df

    def sample_scale(
        self, df: Tensor, scale_matrix: Tensor, generator: Generator | None = None
    ) -> Tensor:
        shape, rate = self._shape_and_rate(df, scale_matrix)
        return (2 * rate / _chi_square(2 * shape, generator)).sqrt()


class FeaturewiseInverseGamma(EntrywiseInverseGamma):
    """A gamma distribution for each feature: of diagonal covariances."""

    per_entry = 1


class IsotropicInverseGamma(EntrywiseInverseGamma):
    """One gamma distribution for all features: of spherical covariances."""

    def __init__(self, num_features: int) -> None:
        self.per_entry = num_features
        super().__init__(num_features)


def _sum_entries(values: Tensor, df: Tensor) -> Tensor:
    return values.reshape(*df.shape, -1).sum(-1)


def _log_det(matrix: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(symmetrize(matrix))
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _chi_square(df: Tensor, generator: Generator | None) -> Tensor:
    """Draws of chi-square distributions."""
    return 2 * standard_gamma(0.5 * df, generator)


def _positive_rows(upper: Tensor) -> Tensor:
    sign = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    return upper * sign.unsqueeze(-1)


class PosteriorForms:
    """What a family says to posteriors: base class of `Covariance`.

    Attributes:
        conjugate_class: distributions that are conjugate to the covariances; None: there are none.
    """

    name: ClassVar[str]
    conjugate_class: ClassVar[type[InverseWishartForm] | None] = None

    def log_jacobian(self, raw: Tensor) -> Tensor:
        """Log volumes `log |d Sigma / d raw|` of free elements, `(*B, G)`, for priors of Sigma."""
        raise NotImplementedError(f"the covariance {self.name!r} has no log_jacobian")

    def log_jacobian_of_deviations(self, raw: Tensor, *, flat: bool = False) -> Tensor:
        """The same of `(s, R)` in `Sigma = diag(s) R R' diag(s)`, with R by its lower triangle.

        With flat, correlations `R R'` count instead of R, the factor with rows of length 1.
        """
        raise NotImplementedError(f"the covariance {self.name!r} has no log_jacobian")
