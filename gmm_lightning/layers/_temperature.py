"""Temperature scaling: the cross entropy of posteriors and its minimum over the temperature."""

from __future__ import annotations

import math

from torch import Tensor

# Without a bound, posteriors that are right in every row would be sharpened indefinitely.
MAX_TEMPERATURE = 100.0


def cross_entropy(logits: Tensor, own: Tensor, inverse: float) -> float:
    """Mean `-log p(c | x)` of log posteriors `(N, C)` and classes `(N, 1)`, at a temperature."""
    return -float((inverse * logits).log_softmax(-1).gather(-1, own).mean())


def best_inverse_temperature(logits: Tensor, own: Tensor) -> float:
    """Inverse temperature that minimises the cross entropy, which is convex in it.

    By Newton's method within a bracket from `1 / MAX_TEMPERATURE` to `MAX_TEMPERATURE`.
    """
    target = logits.gather(-1, own).mean()

    def derivatives(inverse: float) -> tuple[float, float]:
        posterior = (inverse * logits).softmax(-1)
        mean = (posterior * logits).sum(-1, keepdim=True)
        curvature = (posterior * (logits - mean).square()).sum(-1).mean()
        return float(mean.mean() - target), float(curvature)

    low, high = 1 / MAX_TEMPERATURE, MAX_TEMPERATURE
    if derivatives(low)[0] >= 0:
        return low
    if derivatives(high)[0] <= 0:
        return high
    inverse = 1.0
    for _ in range(100):
        slope, curvature = derivatives(inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else math.inf
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - inverse) <= 1e-12 * inverse:
            break
        inverse = following
    return inverse
