"""Mean log-likelihood as a metric."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gmm_lightning.metrics._sums import WeightedMean


class LogLikelihood(WeightedMean):
    """`sum_n w_n log p(x_n) / sum_n w_n`, in nats per row: higher is better.

    Example:
        >>> from gmm_lightning.metrics import LogLikelihood
        >>> metric = LogLikelihood()
        >>> metric.update(torch.tensor([-1.0, -2.0]))
        >>> metric.update(torch.tensor([-6.0]), weight=torch.tensor([2.0]))
        >>> metric.compute().item()
        -3.75
    """

    higher_is_better = True

    def __init__(self, **options: Any) -> None:
        super().__init__("log_likelihood", **options)

    def update(self, log_prob: Tensor, weight: Tensor | None = None) -> None:
        """Add rows.

        Args:
            log_prob: `log p(x)` of each, of any shape: `layer(x)`, `mixture.log_prob(y)`.
            weight: of each row, broadcasts to the shape of `log_prob`.

        Raises:
            InvalidArgumentError: weights that do not fit.
            InvalidDataError: NaN, with the rows.
        """
        self.add(log_prob, weight)
