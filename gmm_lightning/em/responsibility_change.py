"""How much responsibilities change from one E-step to the next."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.noise_entry import shares_of_few
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.rows import RowSource


class ResponsibilityChange:
    """Keeps the responsibilities of all rows, to measure how far the next ones are from them.

    Args:
        source: the rows, read once for each measurement.
    """

    def __init__(self, source: RowSource) -> None:
        self._source = source
        self._before: tuple[Tensor, list[Tensor]] | None = None

    def measure(self, model: MixtureModel, parameters: MixtureParameters, active: Tensor) -> Tensor:
        """The Euclidean norm of the change over rows and components, `(M,)`; infinite at first.

        Args:
            model: of M mixtures.
            parameters: of the same ones.
            active: their numbers among all mixtures, increasing, `(M,)`.
        """
        shares = (shares_of_few(model, parameters, batch) for batch in self._source.read())
        now = [part.components for part in shares]
        change = torch.full((len(active),), torch.inf, dtype=torch.float64)
        if self._before is not None:
            kept = torch.searchsorted(self._before[0], active).to(parameters.device)
            pairs = zip(now, self._before[1], strict=True)
            squares = [(a - b[kept]).double().square().sum((1, 2)) for a, b in pairs]
            change = torch.stack(squares).sum(0).sqrt().cpu()
        self._before = active, now
        return change
