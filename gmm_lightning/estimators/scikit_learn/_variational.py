"""Posteriors by scikit-learn's rules, where they are not those of the conjugate posterior.

Tied covariances count `N / K` rows and not N; the expected log determinant of diagonal and
spherical precisions is that of a Wishart distribution; the last stick of a Dirichlet process leaves
something over; and the lower bound lacks constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Generator, Tensor

from gmm_lightning.covariances import Covariance, InverseWishartForm, conjugate_form
from gmm_lightning.em import (
    ComponentsPosterior,
    MixtureModel,
    MixtureParameters,
    MixturePosterior,
    StickBreakingPosterior,
)
from gmm_lightning.linalg import LOG_2PI
from gmm_lightning.statistics import SufficientStatistics


class WishartRules(InverseWishartForm):
    """The expected log determinant of a Wishart distribution, whatever the family.

    Args:
        family: of the covariances.
        num_features: D.
    """

    def __init__(self, family: Covariance, num_features: int) -> None:
        super().__init__(num_features)
        self._family, self._own = family, conjugate_form(family, num_features)
        self.mode_dof, self.least_df = self._own.mode_dof, num_features - 1.0
        self.independent = self._own.independent

    def log_det(self, scale_matrix: Tensor) -> Tensor:
        """`log|scale_matrix|`, `(*B, G)`."""
        ones = scale_matrix.new_ones(scale_matrix.shape[:2])
        scale = self._family.estimate(scale_matrix, ones)
        return 2 * self._family.half_log_det(scale, self.num_features)

    def _steps(self, df: Tensor) -> Tensor:
        return 0.5 * (df.unsqueeze(-1) - torch.arange(self.num_features).to(df))

    def expected_log_det(self, df: Tensor, scale_matrix: Tensor) -> Tensor:
        """Expected `log|P|`, `(*B, G)`."""
        constant = self.num_features * math.log(2)
        return self._steps(df).digamma().sum(-1) + constant - self.log_det(scale_matrix)

    def log_normalizer(self, df: Tensor, scale_matrix: Tensor) -> Tensor:
        """Of the Wishart distribution, without the term of pi that all have, `(*B, G)`."""
        half = 0.5 * df * (self.num_features * math.log(2) - self.log_det(scale_matrix))
        return half + self._steps(df).lgamma().sum(-1)

    def predictive_df(self, df: Tensor) -> Tensor:
        """Degrees of freedom of the predictive density."""
        return self._own.predictive_df(df)

    def predictive_divisor(self, df: Tensor) -> Tensor:
        """What `scale_matrix` is divided by in the predictive density."""
        return self._own.predictive_divisor(df)

    def sample_scale(
        self, df: Tensor, scale_matrix: Tensor, generator: Generator | None = None
    ) -> Tensor:
        """Draws of the covariances."""
        return self._own.sample_scale(df, scale_matrix, generator)


@dataclass(frozen=True)
class SharedRows(ComponentsPosterior):
    """The distributions of a tied family to which each row counts `1 / K`."""

    def updated(self, stats: SufficientStatistics) -> Self:
        """The posterior after rows."""
        whole, k = super().updated(stats), self.loc.shape[-2]
        return replace(
            whole,
            df=self.df + (whole.df - self.df) / k,
            scale_matrix=self.scale_matrix + (whole.scale_matrix - self.scale_matrix) / k,
        )


class AllSticks(StickBreakingPosterior):
    """Sticks of all K components: the last one, too, leaves something over.

    Parameters are `(M, K, 2)`.
    """

    def updated(self, counts: Tensor) -> Self:
        """The posterior after rows of counts `(M, K)`."""
        counts = counts.to(self.parameters)
        after = counts.flip(-1).cumsum(-1).flip(-1) - counts
        return type(self)(self.parameters + torch.stack([counts, after], -1))

    def expected_log(self) -> Tensor:
        """Expected `log pi_k`, `(M, K)`."""
        return super().expected_log()[..., :-1]

    def mean(self) -> Tensor:
        """Products of the expected sticks, normalised, `(M, K)`."""
        own = super().mean()[..., :-1]
        return own / own.sum(-1, keepdim=True)


def lower_bound(
    model: MixtureModel,
    before: MixtureParameters,
    stats: SufficientStatistics,
    after: MixturePosterior,
) -> float:
    """scikit-learn's lower bound after a step, in nats, without constants.

    Args:
        model: family.
        before: the parameters that the E-step was taken under.
        stats: of the E-step.
        after: the posterior that follows from them.
    """
    components, form = after.components, after.components.form
    log_wishart = -form.log_normalizer(components.df, components.scale_matrix)
    copies = stats.counts.shape[-1] // log_wishart.shape[-1]
    alpha = after.weights.parameters
    log_norm_weight = (alpha.sum(-1).lgamma() - alpha.lgamma().sum(-1)).sum()
    d = components.loc.shape[-1]
    total = _entropy(model, before, stats).sum() - copies * log_wishart.sum() - log_norm_weight
    return float(total - 0.5 * d * components.mean_precision.log().sum())


def _entropy(
    model: MixtureModel, parameters: MixtureParameters, stats: SufficientStatistics
) -> Tensor:
    """Entropy `-sum r log r` of the responsibilities of an E-step, `(M,)`.

    The log-likelihood less the expected log joint density, both at the parameters of the E-step.
    """
    wide = parameters.to(stats.counts.dtype)
    family, d = model.family, wide.means.shape[-1]
    about = stats.about(wide.means, family)
    scale = model.scale(wide)
    log_weights = wide.mixture_logits.log_softmax(-1)
    constant = log_weights - family.half_log_det(scale, d) - 0.5 * d * LOG_2PI
    square = family.trace_precision_product(scale, about.second, d).sum(-1)
    return stats.log_likelihood - (stats.counts * constant).sum(-1) + 0.5 * square
