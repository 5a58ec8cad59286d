"""How likely rows are that were left out, and the strength of a target for which they are most."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.em.pooled_target import pooled_target
from gmm_lightning.statistics import Moments, SufficientStatistics

# Strengths in rows, and shares of the diagonal in the target's correlations; every second and
# third one where matrices are large.
_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_DIAGONAL_SHARES = (1.0, 0.5, 0.2, 0.05, 0.01, 0.001, 0.0)
LARGE = 128
# At most so many rows for each parameter that a covariance has per feature: the clusters of
# k-means are more alike than components are.
_MAX_ROWS_PER_PARAMETER = 10.0


class LeftOutRows:
    """Mean log density of left-out rows, for each fold."""

    def __init__(
        self, folds: SufficientStatistics, rest: Moments, family: Covariance, least: Tensor
    ) -> None:
        self.rest, self.family, self.least = rest, family, least
        # A cluster without other rows says nothing.
        self.held = folds.about(rest.means, family)
        self.counts = torch.where(rest.counts > 0, self.held.counts, 0.0)
        self.has_correlations = rest.scatter.dim() == rest.dof.dim() + 2

    def target(self, share: float) -> Tensor:
        """The target of each fold, from the other folds: see `pooled_target`."""
        return pooled_target(self.rest, share, self.family, self.least)

    def score(self, strength: float, share: float, target: Tensor) -> Tensor:
        """Nats per row, `(F,)`, for a strength and the target of a share."""
        rows = self.rest.dof + strength
        scale = self.family.estimate(self.rest.scatter + strength * target, rows)
        return self._mean_log_density(scale, self.held.second, 0.0, 0.0)

    def _mean_log_density(
        self, scale: Tensor, second: Tensor, log_det: Tensor | float, trace: Tensor | float
    ) -> Tensor:
        """Nats per row under covariances, to which half log determinants and traces are added."""
        family, d = self.family, self.least.shape[-1]
        own, dof = second.shape[-1], family.sum_tied(self.counts)
        log_det = log_det + family.half_log_det(scale, own) + 0.5 * d * math.log(2 * math.pi)
        trace = trace + family.trace_precision_product(scale, second, own)
        total = -(dof * log_det + 0.5 * torch.where(dof > 0, trace, 0.0)).sum(-1)
        return total / self.counts.sum(-1).clamp(min=1e-300)


def choose_strength(score: LeftOutRows) -> tuple[float, float]:
    """The strength and the share of the diagonal."""
    _, num_components, num_features = score.rest.means.shape
    step = 2 if num_features > LARGE else 1
    most = math.inf
    if num_components > 1:
        per_feature = score.family.num_free_parameters(1, num_features) / num_features
        most = max(_STRENGTHS[0], _MAX_ROWS_PER_PARAMETER * per_feature)
    strengths = [v for v in _STRENGTHS[::step] if v <= most]
    shares = _DIAGONAL_SHARES[:: 2 * step - 1] if score.has_correlations else (1.0,)
    targets = {a: score.target(a) for a in shares}
    found = {(v, a): score.score(v, a, targets[a]) for v in strengths for a in shares}
    finite = {point: s for point, s in found.items() if bool(torch.isfinite(s).all())}
    if not finite:
        return strengths[-1], 1.0
    best = max(finite.values(), key=lambda s: float(s.mean()))
    near = {}
    for point, s in finite.items():
        gap = best - s
        # With one component the clusters are no guess, and the best point is taken.
        several = num_components > 1 and len(gap) > 1
        error = float(gap.std()) / math.sqrt(len(gap)) if several else 0.0
        if float(gap.mean()) <= error:
            near[point] = float(s.mean())
    least = min(v for v, _ in near)
    return max((point for point in near if point[0] == least), key=near.__getitem__)
