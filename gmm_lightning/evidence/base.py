"""The interface of evidence: what else is known of a row, beside its values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gmm_lightning.rows import Batch


class Evidence(nn.Module, ABC):
    """Log densities of other observations of a row, given its component.

    A layer adds them to its log joint densities, in EM and by gradients:

        log p(x, e, k) = log pi_k + log N(x | mu_k, Sigma_k) + log p(e | k)

    Any module with such a `forward` is evidence for a layer. These kinds have names, are stored
    with a layer, and say how rows start and which ones count in an evaluation.

    Attributes:
        num_components: K.
    """

    name: ClassVar[str]
    num_components: int

    @abstractmethod
    def forward(self, batch: Batch) -> Tensor:
        """Log densities `log p(e | k)` of rows `(n, *B, D)`, `(n, *B, K)` or axes of size 1."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Constructor arguments as primitives."""

    def log_noise(self, batch: Batch) -> Tensor:
        """Log density of the evidence of a row that no component explains, `(n, *B)`."""
        return torch.zeros_like(batch.x[..., 0])

    def check(self, batches: Iterable[Batch]) -> None:
        """Refuse rows whose evidence cannot be read, before a fit.

        Raises:
            InvalidDataError: the message says which rows.
        """

    def check_rows(self, batch: Batch, first_row: int = 0) -> None:
        """Refuse evidence of single rows that cannot be read.

        Args:
            batch: the rows.
            first_row: number of the first one, for the message.

        Raises:
            InvalidDataError: the message says which rows.
        """

    def reorder(self, order: Tensor) -> None:
        """Follow the components to other places, in place.

        Args:
            order: `(*B, K)`, where the component at each place was.
        """

    def for_evaluation(self, batch: Batch) -> Batch:
        """The rows with the evidence that also counts where nothing is learnt: all of it."""
        return batch

    def extra_repr(self) -> str:
        """The constructor arguments."""
        return ", ".join(f"{name}={value!r}" for name, value in self.config().items())
