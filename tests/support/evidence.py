"""Evidence modules for tests: of values of x, and of labels that belong to rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gmm_lightning.rows import Batch


class LabelEvidence(nn.Module):
    """Rows with a label belong to that component; -1 says nothing. Soft labels are weights.

    Args:
        num_components: K.
    """

    def __init__(self, num_components: int) -> None:
        super().__init__()
        self.num_components = num_components

    def forward(self, batch: Batch) -> Tensor:
        labels = batch.labels
        if labels is None:
            return batch.x.new_zeros(*batch.x.shape[:-1], self.num_components)
        labels = labels.to(batch.x.device)
        if labels.is_floating_point():
            return labels.to(batch.x).log()
        one_hot = nn.functional.one_hot(labels.clamp(min=0), self.num_components).bool()
        allowed = one_hot | (labels < 0).unsqueeze(-1)
        return torch.zeros(allowed.shape).to(batch.x).masked_fill(~allowed, -torch.inf)
