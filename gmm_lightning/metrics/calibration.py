"""Calibration of forecasts: the distribution of their PIT values.

Values of `probability_integral_transform(mixture, y)` are uniform in [0, 1] if the forecasts are
right. Class probabilities have `torchmetrics.classification.CalibrationError`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmm_lightning._validation import require_choice, require_integer, require_number
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.metrics._sums import (
    SumMetric,
    WeightedMean,
    as_numbers,
    raise_for_rows,
    weight_vectors,
)

_NORMS = ("l1", "l2", "max")


class PITHistogram(SumMetric):
    """Histogram of PIT values in equally wide bins of [0, 1].

    Flat for calibrated forecasts, a hump for too wide ones, a trough for too narrow ones, a slope
    for biased ones. `plot_calibration(counts=metric.compute())` draws it.

    Args:
        num_bins: at least 2.

    Raises:
        InvalidArgumentError: fewer than 2 bins.

    References:
        A. P. Dawid (1984), Statistical theory: the prequential approach, JRSS A 147.

    Example:
        >>> from gmm_lightning.metrics import PITHistogram
        >>> metric = PITHistogram(num_bins=4)
        >>> metric.update(torch.tensor([[0.1], [0.2], [0.6], [1.0]]))
        >>> metric.compute().tolist()
        [2.0, 0.0, 1.0, 1.0]
    """

    is_differentiable = False
    counts: Tensor

    def __init__(self, num_bins: int = 20, **options: Any) -> None:
        super().__init__(**options)
        self.num_bins = require_integer("num_bins", num_bins, least=2)
        self.add_sum("counts", self.num_bins)

    def update(self, pit: Tensor, weight: Tensor | None = None) -> None:
        """Add PIT values `(*S, D)`, each as one value.

        Weights and errors are as for `LogLikelihood.update`; values outside [0, 1] are an
        `InvalidDataError`.
        """
        pit, weight = _as_probabilities(pit, weight)
        bins = (pit * self.num_bins).long().clamp(max=self.num_bins - 1)
        each = weight.unsqueeze(-1).expand_as(pit)
        self.counts = self.counts + torch.bincount(bins.flatten(), each.flatten(), self.num_bins)

    def compute(self) -> Tensor:
        """Total weight in each bin, `(num_bins,)`."""
        return self.counts


class CalibrationError(PITHistogram):
    """Distance of the distribution function F of PIT values from the uniform one.

    Over the inner edges `e_j = j / num_bins` of the bins:

        l1:  mean_j |F(e_j) - e_j|      the area between the two
        l2:  sqrt(mean_j (F(e_j) - e_j)^2)
        max: max_j |F(e_j) - e_j|       the distance of Kolmogorov, up to the width of a bin

    Lower is better; n values of a calibrated forecast have an `l1` of about `0.31 / sqrt(n)`.

    Args:
        num_bins: at least 2.
        norm: `l1`, `l2` or `max`.

    Raises:
        InvalidArgumentError: fewer than 2 bins, or an unknown norm.

    References:
        V. Kuleshov, N. Fenner, S. Ermon (2018), Accurate uncertainties for deep learning using
        calibrated regression, ICML.

    Example:
        >>> from gmm_lightning.metrics import CalibrationError
        >>> metric = CalibrationError(num_bins=4, norm="max")
        >>> metric.update(torch.tensor([[0.1], [0.2], [0.6], [1.0]]))
        >>> metric.compute().item()
        0.25
    """

    higher_is_better = False

    def __init__(self, num_bins: int = 20, norm: str = "l1", **options: Any) -> None:
        super().__init__(num_bins, **options)
        self.norm = require_choice("norm", norm, _NORMS)

    def compute(self) -> Tensor:
        """Distance in the chosen norm; NaN before any row."""
        cdf = self.counts.cumsum(0) / self.counts.sum()
        edges = torch.arange(1, self.num_bins).to(cdf) / self.num_bins
        gap = (cdf[:-1] - edges).abs()
        if self.norm == "max":
            return gap.max()
        return gap.mean() if self.norm == "l1" else gap.square().mean().sqrt()


class Coverage(WeightedMean):
    """Share of values inside the central intervals of a given mass; calibrated if it is the mass.

    `y` is in the interval that leaves `(1 - mass) / 2` on either side exactly when its PIT value
    u has `|u - 1/2| <= mass / 2`. Of several features, each is conditional on those before it.

    Args:
        mass: of the intervals, above 0 and at most 1.

    Raises:
        InvalidArgumentError: a mass out of range.

    Example:
        >>> from gmm_lightning.metrics import Coverage
        >>> metric = Coverage(0.9)
        >>> metric.update(torch.tensor([[0.01], [0.2], [0.6], [0.94]]))
        >>> metric.compute().item()
        0.75
    """

    is_differentiable = False

    def __init__(self, mass: float = 0.9, **options: Any) -> None:
        mass = require_number("mass", mass, above=0, most=1)
        # One name per mass: see `SumMetric` on collections.
        super().__init__(f"inside_{mass}".replace(".", "_"), **options)
        self.mass = mass

    def update(self, pit: Tensor, weight: Tensor | None = None) -> None:
        """Add rows: as for `PITHistogram.update`."""
        pit, weight = _as_probabilities(pit, weight)
        inside = (pit - 0.5).abs() <= 0.5 * self.mass
        self.add(inside.to(pit.dtype).mean(-1), weight)


def _as_probabilities(pit: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """PIT values `(*S, D)`, checked, and weights `(*S,)`."""
    if as_numbers(pit, "pit").dim() == 1:
        raise InvalidArgumentError(
            f"expected pit (*S, D), got shape {tuple(pit.shape)}; write pit[:, None]"
        )
    pit, weight = weight_vectors(pit, weight, "pit")
    raise_for_rows(~((pit >= 0) & (pit <= 1)).all(-1), "pit is not in [0, 1]")
    return pit, weight
