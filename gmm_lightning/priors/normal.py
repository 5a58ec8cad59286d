"""A normal prior on the means, relative to each component's covariance."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.linalg import multiply_rows
from gmm_lightning.priors._drawing import normal
from gmm_lightning.priors.base import Prior
from gmm_lightning.priors.data_moments import DataMoments
from gmm_lightning.statistics import Moments


class NormalMeans(Prior):
    """Normal prior on the means, `mu_k ~ N(loc, Sigma_k / mean_precision)`.

    With kappa the precision, in units of rows:

        -2 log p = sum_k log|Sigma_k| + kappa (mu_k - loc)' Sigma_k^-1 (mu_k - loc) + const

    EM moves a mean to `(n m + kappa loc) / (n + kappa)`, adds `kappa n / (n + kappa)` times the
    square of the gap to the scatter, and one degree of freedom per component.

    Args:
        loc: centre, `(D,)` or anything that broadcasts to `(*B, K, D)`; None: the data's medians,
            or their mean if there is one component.
        mean_precision: kappa, a number or one per component; None: 1e-4.

    Raises:
        InvalidArgumentError: a precision that is not positive, or a centre that is not finite.

    References:
        A. Gelman et al. (2013), Bayesian Data Analysis, section 3.6.

    Example:
        >>> NormalMeans(loc=[0.0, 0.0], mean_precision=2.0)
        NormalMeans(loc=[0.0, 0.0], mean_precision=2.0)
    """

    name: ClassVar[str] = "normal"
    slot: ClassVar[str] = "means"
    loc: Tensor
    mean_precision: Tensor
    default_precision = 1e-4
    dof = 1.0  # with which log|Sigma_k| is counted; 0 beside a prior that has integrated it out

    def __init__(self, loc: Hyperparameter = None, mean_precision: Hyperparameter = None) -> None:
        super().__init__(loc=loc, mean_precision=mean_precision)
        self._require_above("mean_precision", 0, "> 0 and finite")
        self._require_above("loc", -math.inf, "finite")

    def bind(self, shape: MixtureShape) -> None:
        self._register("loc", shape.means)
        self._register("mean_precision", shape.weights, default=self.default_precision)

    def resolve(self, data: DataMoments, num_components: int) -> None:
        # Of one component the mode is the mean, however many rows are far away.
        center = data.mean if num_components == 1 or data.center is None else data.center
        self._set_default("loc", center.unsqueeze(-2))

    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        self.require_resolved()
        family, scale = mixture.covariance, mixture.scale
        gap = family.whiten(scale, mixture.means - self.loc)
        pull = 0.5 * self.mean_precision * gap.square().sum(-1)
        return -(self.dof * family.half_log_det(scale, mixture.num_features) + pull).sum(-1)

    def update(self, moments: Moments, covariance: Covariance) -> Moments:
        self.require_resolved()
        n, kappa = moments.counts, self.mean_precision.to(moments.counts)
        gap = self.loc.to(moments.means) - moments.means
        pseudo = covariance.outer((kappa * n / (kappa + n)).unsqueeze(0), gap.unsqueeze(0))
        return replace(
            moments,
            means=moments.means + (kappa / (kappa + n)).unsqueeze(-1) * gap,
            scatter=moments.scatter + pseudo,
            dof=moments.dof + covariance.sum_tied(torch.full_like(n, self.dof)),
            mean_precision=moments.mean_precision + kappa,
        )

    def _sample(
        self, draws: int, generator: Generator | None, scale: Tensor | None
    ) -> dict[str, Tensor]:
        if scale is None:
            raise InvalidArgumentError(
                f"draws of the prior {self.name!r} are relative to covariances: give scale, "
                "(draws, *B, G, ...) in the family's form, or call sample_prior"
            )
        noise = normal((draws, *self.loc.shape), self.loc, generator)
        noise = noise / self.mean_precision.sqrt().unsqueeze(-1)
        factor = self.bound.covariance.scale_tril(scale, noise.shape[-1])
        return {"means": self.loc + multiply_rows(factor, noise)}
