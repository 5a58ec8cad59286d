"""Normal-inverse-Wishart distributions of means and covariances, in the form of any family."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Generator, Tensor

from gmm_lightning.covariances import Covariance, InverseWishartForm
from gmm_lightning.linalg import unsqueeze_like
from gmm_lightning.statistics import Moments, SufficientStatistics

_PARAMETERS = ("loc", "mean_precision", "df", "scale_matrix")


@dataclass(frozen=True)
class ComponentsPosterior:
    """Distributions `Sigma ~ IW(df, scale_matrix)`, `mu_k ~ N(loc_k, Sigma_k / mean_precision_k)`.

    In float64. A family with fewer parameters has the same product of densities on its own
    covariances: see `InverseWishartForm`.

    Shape:
        loc `(M, K, D)`, mean_precision `(M, K)`, df `(M, G)`, scale_matrix `(M, G, ...)`.

    Attributes:
        family: of the covariances.
        form: what follows of df and scale_matrix.
    """

    family: Covariance
    form: InverseWishartForm
    loc: Tensor
    mean_precision: Tensor
    df: Tensor
    scale_matrix: Tensor

    def select(self, index: Tensor) -> Self:
        """The distributions of the mixtures at `index`."""
        return replace(self, **{name: getattr(self, name)[index] for name in _PARAMETERS})

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The distributions of several groups of mixtures, one after the other."""
        joined = {name: torch.cat([getattr(p, name) for p in parts]) for name in _PARAMETERS}
        return replace(parts[0], **joined)

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def updated(self, stats: SufficientStatistics) -> Self:
        """The posterior after rows, of which `stats` are the sums.

        With n rows, mean m and scatter S about it, and kappa the precision of the prior's loc:

            mean_precision' = kappa + n        loc' = (kappa loc + n m) / (kappa + n)
            df' = df + n        scale_matrix' = scale_matrix + S + kappa n / (kappa + n) g g'

        where `g = m - loc`; of a family that shares its covariance, n, S and g g' are summed.
        """
        moments = Moments.from_statistics(stats, self.family)
        n, kappa = moments.counts, self.mean_precision
        # Components without rows keep a reference point as their mean, and a weight of 0.
        gap = moments.means - self.loc
        precision = kappa + n
        pull = self.family.outer((kappa * n / precision).unsqueeze(0), gap.unsqueeze(0))
        return replace(
            self,
            loc=self.loc + (n / precision).unsqueeze(-1) * gap,
            mean_precision=precision,
            df=self.df + self.family.sum_tied(n),
            scale_matrix=self.scale_matrix + moments.scatter + pull,
        )

    def expected_scale(self) -> Tensor:
        """Scale of the inverse of the expected precision, `scale_matrix / df`, `(M, G, ...)`."""
        return self.family.estimate(self.scale_matrix, self.df)

    def log_correction(self, scale: Tensor) -> Tensor:
        """What `E log N(x | mu_k, Sigma_k)` has more than the density at the expected precision.

        Half of `E log|P| - log|E P| - D / mean_precision`, `(M, K)`.

        Args:
            scale: from `expected_scale`.
        """
        d = self.loc.shape[-1]
        log_det = 0.5 * self.form.expected_log_det(self.df, self.scale_matrix)
        return log_det + self.family.half_log_det(scale, d) - 0.5 * d / self.mean_precision

    def divergence(self, prior: Self) -> Tensor:
        """Kullback-Leibler divergence from a prior, summed over components, `(M,)`."""
        family, form, d = self.family, self.form, self.loc.shape[-1]
        scale = self.expected_scale()
        log_det = form.expected_log_det(self.df, self.scale_matrix)
        trace = family.trace_precision_product(scale, prior.scale_matrix, d)
        own = form.log_normalizer(self.df, self.scale_matrix)
        before = form.log_normalizer(prior.df, prior.scale_matrix)
        covariances = 0.5 * (self.df - prior.df) * log_det - 0.5 * (self.df * d - trace)
        ratio = prior.mean_precision / self.mean_precision
        far = family.whiten(scale, self.loc - prior.loc).square().sum(-1)
        means = d * (ratio - 1 - ratio.log()) + prior.mean_precision * far
        return (covariances - own + before).sum(-1) + 0.5 * means.sum(-1)

    def sample(self, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
        """A draw of the means `(M, K, D)` and of the family's scales `(M, G, ...)`."""
        scale = self.form.sample_scale(self.df, self.scale_matrix, generator)
        return self.sample_means(scale, generator), scale

    def sample_means(self, scale: Tensor, generator: Generator | None = None) -> Tensor:
        """A draw of the means given the family's scales."""
        k = self.loc.shape[-2]
        noise = torch.empty_like(self.loc).normal_(generator=generator)
        own = scale.expand(len(scale), k, *scale.shape[2:])
        steps = self.family.unwhiten(own.flatten(0, 1), noise.flatten(0, 1)).view_as(noise)
        return self.loc + steps / self.mean_precision.sqrt().unsqueeze(-1)

    def log_prob(self, means: Tensor, scale: Tensor) -> Tensor:
        """Log density per `d mu dP`, P being the precisions, `(M,)`.

        Args:
            means: `(M, K, D)`.
            scale: of the covariances, in the family's form.
        """
        family, form, d = self.family, self.form, self.loc.shape[-1]
        log_det = -2 * family.half_log_det(scale, d)
        trace = family.trace_precision_product(scale, self.scale_matrix, d)
        covariances = 0.5 * ((self.df - form.mode_dof) * log_det - trace)
        covariances = covariances - form.log_normalizer(self.df, self.scale_matrix)
        far = family.whiten(scale, means - self.loc).square().sum(-1)
        normal = d * (self.mean_precision / (2 * math.pi)).log() + log_det
        return covariances.sum(-1) + 0.5 * (normal - self.mean_precision * far).sum(-1)

    def predictive(self) -> tuple[Tensor, Tensor]:
        """Degrees of freedom `(M, K)` and scales `(M, K, ...)` of the Student-t density of a row.

        Multivariate for dense families, isotropic for spherical ones, and a product over the
        features of diagonal ones.
        """
        k = self.loc.shape[-2]
        df, divisor = self.form.predictive_df(self.df), self.form.predictive_divisor(self.df)
        own = self.family.estimate(self.scale_matrix, divisor)
        own = own.expand(len(own), k, *own.shape[2:])
        wider = (1 + 1 / self.mean_precision).sqrt()
        return df.expand(len(df), k), own * unsqueeze_like(wider, own)
