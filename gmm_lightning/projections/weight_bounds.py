"""Weights between bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning._tracing import value_of
from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import MixtureShape
from gmm_lightning.linalg import mixture_logits
from gmm_lightning.projections._interval import IntervalProjection
from gmm_lightning.projections.base import P
from gmm_lightning.statistics import Moments

# The share of a component without rows, and what counts as no bound.
_NO_ROWS, _NO_BOUND = 1e-60, 1e-200


class WeightBounds(IntervalProjection):
    """Keeps the weights between bounds: `l_k <= pi_k <= u_k`.

    The M-step is the exact maximum of `sum_k m_k log pi_k`, with m the rows of the components and
    the pseudo-observations of a Dirichlet prior: `pi_k = min(max(m_k / t, l_k), u_k)`, with the t
    for which they sum to one.

    Args:
        lower: from 0 to 1, a number or one per component, of sum at most 1; None: 0.
        upper: likewise, of sum at least 1; None: 1.

    Raises:
        InvalidArgumentError: bounds that no weights satisfy.

    References:
        S. Boyd, L. Vandenberghe (2004), Convex Optimization, section 5.5.3 (water-filling).

    Example:
        >>> layer = GMMLayer(1, 2, bounds={"weight": (0.2, 1.0)})
        >>> layer.set_parameters(weights=[0.1, 0.9])
        >>> layer.weights
        tensor([0.2000, 0.8000], grad_fn=<SoftmaxBackward0>)
    """

    name: ClassVar[str] = "weight_bounds"
    parts = frozenset({"weights"})
    bound: ClassVar[tuple[str, ...]] = ("weight",)
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def bind(self, shape: MixtureShape) -> None:
        self._register_bounds(shape.weights)
        least, most = self.lower.sum(-1), self.upper.sum(-1)
        # Bounds such as thirds sum to one but for rounding.
        if value_of(((least > 1 + 1e-9) | (most < 1 - 1e-9)).any()):
            raise InvalidArgumentError(
                "no weights satisfy the bounds: the lower ones must sum to at most 1 and the upper "
                f"ones to at least 1, got {float(least.max()):g} and {float(most.min()):g}"
            )

    def forward(self, moments: Moments, covariance: Covariance, present: MixtureDensity) -> Moments:
        return replace(moments, mass=bounded_weights(moments.mass, *self.bounds_like(moments.mass)))

    def constrain(self, parameters: P, covariance: Covariance) -> P:
        logits = parameters.mixture_logits
        weights = logits.double().softmax(-1)
        lower, upper = self.bounds_like(weights)
        slack = 4 * torch.finfo(logits.dtype).eps
        fits = (weights >= lower * (1 - slack)) & (weights <= upper * (1 + slack))
        nearest = mixture_logits(bounded_weights(weights, lower, upper), logits.dtype)
        kept = fits.all(-1, keepdim=True)
        return parameters._replace(mixture_logits=torch.where(kept, logits, nearest))


def bounded_weights(mass: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """The weights that maximise `sum_k mass_k log pi_k` between bounds, `(*B, K)`."""
    mass, lower, upper = torch.broadcast_tensors(mass, lower, upper)
    total = mass.sum(-1, keepdim=True)
    # Components without rows share what the others must leave.
    mass = torch.where(total > 0, mass / total, 1.0).clamp(min=_NO_ROWS)

    def weights(t: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(mass / t, lower), upper)

    # Their sum falls in t, and between the values at which one of them meets a bound it is
    # `a / t + b`: the last one at which it is still at least one is found by halving.
    ends = torch.cat([mass / upper.clamp(min=_NO_BOUND), mass / lower.clamp(min=_NO_BOUND)], -1)
    ends = ends.sort(-1).values
    low = torch.zeros_like(ends[..., :1], dtype=torch.long)
    high = torch.full_like(low, ends.shape[-1])
    while bool((high - low > 1).any()):
        middle = (low + high) // 2
        enough = weights(ends.gather(-1, middle)).sum(-1, keepdim=True) >= 1
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    last = ends.shape[-1] - 1
    left, right = ends.gather(-1, low), ends.gather(-1, high.clamp(max=last))
    inside = left.sqrt() * right.sqrt()
    free = (mass / inside > lower) & (mass / inside < upper)
    rest = 1 - torch.where(free, 0.0, weights(inside)).sum(-1, keepdim=True)
    share = torch.where(free, mass, 0.0)
    t = share.sum(-1, keepdim=True) / rest
    usable = (t > 0) & torch.isfinite(t)
    return weights(torch.where(usable, t, left))
