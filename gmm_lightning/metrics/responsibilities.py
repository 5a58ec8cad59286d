"""Entropy of responsibilities and effective number of components."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gmm_lightning._validation import require_integer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.metrics._sums import (
    SumMetric,
    WeightedMean,
    categorical_entropy,
    raise_for_rows,
    weight_vectors,
)

# Rows of responsibilities that were rounded to bfloat16 sum to 1 within this.
_TOLERANCE = 1e-2


class ResponsibilityEntropy(WeightedMean):
    """Mean entropy `mean_n -sum_k r_nk log r_nk`, in nats: 0 for separate components, up to log K.

    Example:
        >>> from gmm_lightning.metrics import ResponsibilityEntropy
        >>> metric = ResponsibilityEntropy()
        >>> metric.update(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        >>> round(metric.compute().item(), 4)
        0.3466
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("responsibility_entropy", **options)

    def update(self, responsibilities: Tensor, weight: Tensor | None = None) -> None:
        """Add rows of responsibilities `(*S, K)`.

        Weights and errors are as for `LogLikelihood.update`; rows that are negative or do not sum
        to 1 are an `InvalidDataError`. Of a layer with noise, which has a share of its own, they
        are `layer.log_joint_with_noise(x).softmax(-1)`, K + 1 columns.
        """
        resp, weight = as_responsibilities(responsibilities, weight)
        self.add(categorical_entropy(resp), weight)


class EffectiveComponents(SumMetric):
    """Effective number of components `exp(-sum_k c_k log c_k)`, of mean responsibilities c.

    K when all have the same share of the rows, 1 when one has them all: the perplexity of the
    components, or the Hill number of order 1. Equal and overlapping components count one each:
    `ResponsibilityEntropy` shows these.

    Args:
        num_components: K.

    Raises:
        InvalidArgumentError: a number of components below 1.

    References:
        M. O. Hill (1973), Diversity and evenness: a unifying notation and its consequences,
        Ecology 54.

    Example:
        >>> from gmm_lightning.metrics import EffectiveComponents
        >>> metric = EffectiveComponents(3)
        >>> metric.update(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
        >>> round(metric.compute().item(), 6)
        2.0
    """

    component_counts: Tensor

    def __init__(self, num_components: int, **options: Any) -> None:
        super().__init__(**options)
        self.num_components = require_integer("num_components", num_components, least=1)
        # Not `counts`: see `SumMetric` on collections.
        self.add_sum("component_counts", self.num_components)

    def update(self, responsibilities: Tensor, weight: Tensor | None = None) -> None:
        """Add rows: as for `ResponsibilityEntropy.update`, of K components."""
        resp, weight = as_responsibilities(responsibilities, weight)
        if resp.shape[-1] != self.num_components:
            raise InvalidArgumentError(
                f"expected responsibilities of {self.num_components} components, got shape "
                f"{tuple(resp.shape)}"
            )
        more = (weight.unsqueeze(-1) * resp).flatten(0, -2).sum(0)
        self.component_counts = self.component_counts + more

    def compute(self) -> Tensor:
        """Effective number of components; NaN before any row."""
        return categorical_entropy(self.component_counts / self.component_counts.sum()).exp()


def as_responsibilities(responsibilities: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Responsibilities `(*S, K)`, checked, and weights `(*S,)`."""
    resp, weight = weight_vectors(responsibilities, weight, "responsibilities")
    good = (resp >= 0).all(-1) & ((resp.sum(-1) - 1).abs() <= _TOLERANCE)
    raise_for_rows(~good & (weight > 0), "responsibilities are negative or do not sum to 1")
    return resp, weight
