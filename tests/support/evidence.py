"""Evidence modules for tests: of values of x, and of labels that belong to rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gmm_lightning.rows import Batch


class LabelEvidence(nn.Module):
    """Rows with a label belong to that component, unlabelled ones to any. Soft labels are weights.

    Args:
        num_components: K.
        unlabelled: the label of rows without one.
    """

    def __init__(self, num_components: int, unlabelled: int = -1) -> None:
        super().__init__()
        self.num_components, self.unlabelled = num_components, unlabelled

    def forward(self, batch: Batch) -> Tensor:
        labels = batch.labels
        if labels is None:
            return batch.x.new_zeros(*batch.x.shape[:-1], self.num_components)
        labels = labels.to(batch.x.device)
        if labels.is_floating_point():
            return labels.to(batch.x).log()
        known = labels != self.unlabelled
        one_hot = nn.functional.one_hot(labels.where(known, 0), self.num_components).bool()
        allowed = one_hot | ~known.unsqueeze(-1)
        return torch.zeros(allowed.shape).to(batch.x).masked_fill(~allowed, -torch.inf)
