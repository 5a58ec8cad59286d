"""Proper scores of forecast mixtures as metrics."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from gmm_lightning._validation import as_generator, require_integer
from gmm_lightning.distributions import MixtureDensity, as_mixture, crps, energy_score
from gmm_lightning.metrics._sums import WeightedMean


class CRPS(WeightedMean):
    """Mean continuous ranked probability score, in the unit of the target: lower is better.

    In closed form: see `gmm_lightning.distributions.crps`.

    Example:
        >>> from gmm_lightning.metrics import CRPS
        >>> metric = CRPS()
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> metric.update(mixture, torch.tensor([[0.0], [3.0]]))
        >>> round(metric.compute().item(), 4)
        1.3351
    """

    higher_is_better = False

    def __init__(self, **options: Any) -> None:
        super().__init__("crps", **options)

    def update(self, mixture: MixtureDensity, target: Tensor, weight: Tensor | None = None) -> None:
        """Add observed values `(*S, *B, 1)` with forecasts: a mixture per row, or one for all.

        Weights and errors are as for `LogLikelihood.update`; several features are refused.
        """
        self.add(crps(mixture, target), weight)


class EnergyScore(WeightedMean):
    """Mean energy score, the CRPS of one or more features, from samples: lower is better.

    See `gmm_lightning.distributions.energy_score`. Each update draws anew: two passes differ by
    errors of the order of `sigma / sqrt(num_draws * rows)`.

    Args:
        num_draws: for each row, at least 2.
        generator: on the device of the mixtures, or a seed; None for the global one.

    Raises:
        InvalidArgumentError: fewer than 2 draws.

    Example:
        >>> from gmm_lightning.metrics import EnergyScore
        >>> metric = EnergyScore(generator=torch.Generator().manual_seed(0))
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> metric.update(mixture, torch.zeros(100, 2))
        >>> 0.3 < metric.compute() < 0.4
        tensor(True)
    """

    higher_is_better = False

    def __init__(
        self, num_draws: int = 100, generator: Generator | int | None = None, **options: Any
    ) -> None:
        num_draws = require_integer("num_draws", num_draws, least=2)
        # One name per number of draws: see `SumMetric` on collections.
        super().__init__(f"energy_score_{num_draws}", **options)
        self.num_draws = num_draws
        self.generator = generator

    def update(self, mixture: MixtureDensity, target: Tensor, weight: Tensor | None = None) -> None:
        """Add observed values `(*S, *B, D)`: otherwise as for `CRPS.update`."""
        self.generator = as_generator(self.generator, as_mixture(mixture).means.device)
        self.add(energy_score(mixture, target, self.num_draws, self.generator), weight)
