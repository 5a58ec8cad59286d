"""How rows share out among components."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmm_lightning._validation import require_integer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.metrics._sums import Mean, Sums, refuse, rows_of, weight_of

# Rows of responsibilities that were rounded to bfloat16 sum to 1 within this.
ROUNDING = 1e-2


class ResponsibilityEntropy(Mean):
    """`mean_n -sum_k r_nk log r_nk`, in nats per row: 0 for components apart, log K for one heap.

    Args:
        options: of `torchmetrics.Metric`.

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
        """Add rows.

        Args:
            responsibilities: `(*S, K)`.
            weight: of each row, broadcasts to `(*S,)`.

        Raises:
            InvalidArgumentError: weights that do not fit, or no axis of components.
            InvalidDataError: rows that are no shares of 1, by number.
        """
        resp, weight = shares(responsibilities, weight)
        self.add(entropy(resp), weight)


class EffectiveComponents(Sums):
    """`exp(-sum_k c_k log c_k)` of the mean responsibilities c: how many components are in use.

    It is K when all have the same share of the rows, and 1 when one has them all: the perplexity
    of the components, or the Hill number of order 1. Components that differ in nothing count as
    many, and so do those that overlap: see `ResponsibilityEntropy` for these.

    Args:
        num_components: K.
        options: of `torchmetrics.Metric`.

    Raises:
        InvalidArgumentError: no number of components.

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
        # Not `counts`: see `Sums` on collections.
        self.add_sum("component_counts", self.num_components)

    def update(self, responsibilities: Tensor, weight: Tensor | None = None) -> None:
        """Add rows: as for `ResponsibilityEntropy.update`.

        Raises:
            InvalidArgumentError: weights that do not fit, or another number of components.
            InvalidDataError: rows that are no shares of 1, by number.
        """
        resp, weight = shares(responsibilities, weight)
        if resp.shape[-1] != self.num_components:
            raise InvalidArgumentError(
                f"expected responsibilities of {self.num_components} components, got shape "
                f"{tuple(resp.shape)}"
            )
        more = (weight.unsqueeze(-1) * resp).flatten(0, -2).sum(0)
        self.component_counts = self.component_counts + more

    def compute(self) -> Tensor:
        """See the class; NaN before any row."""
        return entropy(self.component_counts / self.component_counts.sum()).exp()


def shares(responsibilities: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Responsibilities `(*S, K)` and weights `(*S,)`; rows of weight 0 become 0.

    Raises:
        InvalidArgumentError: see `EffectiveComponents.update`.
        InvalidDataError: see there.
    """
    resp = rows_of(responsibilities, "responsibilities")
    weight = weight_of(resp[..., 0], weight)
    resp = torch.where(weight.unsqueeze(-1) > 0, resp, 0.0)
    good = (resp >= 0).all(-1) & ((resp.sum(-1) - 1).abs() <= ROUNDING)
    refuse(~good & (weight > 0), "responsibilities are not shares that sum to 1")
    return resp, weight


def entropy(share: Tensor) -> Tensor:
    """`-sum_k c_k log c_k`, `(*S,)`, with a gradient also where a share is 0."""
    return -(share * torch.where(share > 0, share, 1.0).log()).sum(-1)
