"""Components whose terms cancel beyond a dtype: from differences, beside the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.linalg import LOG_2PI, accumulator_dtype
from gmm_lightning.statistics import SufficientStatistics


@dataclass
class CarefulComponents:
    """Log joint densities and sums of C components, one by one.

    Attributes:
        family: of the covariances, not a tied one.
        index: which of the `M K` components they are, `(C,)`.
        means: `(C, D)`.
        scale: in the family's form, `(C, ...)`.
        whitening: inverse Cholesky factors, `(C, D, D)`; None: the family whitens without a solve.
        constant: of the log joint densities, `(C,)`.
    """

    family: Covariance
    index: Tensor
    means: Tensor
    scale: Tensor
    whitening: Tensor | None
    constant: Tensor

    def __post_init__(self) -> None:
        wide = accumulator_dtype(self.means.device)
        self.counts = torch.zeros(len(self.index), dtype=wide, device=self.means.device)
        self.first = torch.zeros(self.means.shape, dtype=wide, device=self.means.device)
        self.second = self.family.outer(self.counts.unsqueeze(0), self.first.unsqueeze(0))

    @classmethod
    def select(cls, model: MixtureModel, parameters: MixtureParameters, index: Tensor) -> Self:
        """Some of the components of M mixtures, without sums yet."""
        family, d = model.family, parameters.means.shape[-1]
        wide = parameters.to(accumulator_dtype(parameters.means.device))
        scale = model.scale(wide).flatten(0, 1)[index]
        half_log_det = family.half_log_det(scale.unsqueeze(0), d)[0]
        log_weights = wide.mixture_logits.log_softmax(-1).flatten()[index]
        whitening = None
        if family.whitens_by_solve:
            factor = family.scale_tril(scale.unsqueeze(0), d)[0]
            identity = torch.eye(d, dtype=factor.dtype, device=factor.device)
            whitening = torch.linalg.solve_triangular(
                factor, identity.expand_as(factor), upper=False
            ).to(parameters.means)
        return cls(
            family,
            index,
            parameters.means.flatten(0, 1)[index],
            scale.to(parameters.means),
            whitening,
            (log_weights - half_log_det - 0.5 * d * LOG_2PI).to(parameters.means),
        )

    def log_joint(self, x: Tensor) -> Tensor:
        """`log pi_k + log N(x | mu_k, Sigma_k)` of rows `(n, D)`, `(C, n)`."""
        diff = x - self.means.unsqueeze(1)
        if self.whitening is not None:
            white = torch.bmm(diff, self.whitening.mT)
        else:
            white = self.family.whiten(self.scale, diff.movedim(1, 0)).movedim(0, 1)
        return self.constant.unsqueeze(-1) - 0.5 * white.square().sum(-1)

    def add(self, x: Tensor, responsibilities: Tensor) -> None:
        """Add the sums of rows `(n, D)` with responsibilities `(C, n)`."""
        own = responsibilities.to(self.means)
        some = (own > 0).any(0).nonzero().squeeze(-1)
        weight, diff = own[:, some].T, x[some].unsqueeze(1) - self.means
        self.counts += own.sum(-1, dtype=self.counts.dtype)
        self.first += (weight.unsqueeze(-1) * diff).sum(0)
        self.second += self.family.outer(weight, diff)

    def into(self, stats: SufficientStatistics) -> SufficientStatistics:
        """Statistics `(M, K)` about the means, with the sums of these components in their place."""

        def put(whole: Tensor, own: Tensor) -> Tensor:
            flat = whole.flatten(0, 1).index_copy(0, self.index, own.to(whole))
            return flat.reshape(whole.shape)

        return SufficientStatistics(
            put(stats.counts, self.counts),
            put(stats.first, self.first),
            put(stats.second, self.second),
            stats.shift,
            stats.log_likelihood,
            stats.num_samples,
        )
