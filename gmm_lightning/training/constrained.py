"""Steps of an optimizer that keep to the constraints of a layer."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch.optim import Optimizer

from gmm_lightning.layers import GMMLayer


class ConstrainedSteps(L.LightningModule):
    """Brings the layer of a module back to its constraints after each step of the optimizer.

    What momentum and weight decay did to frozen parts is undone, bit for bit.
    """

    layer: GMMLayer

    def on_train_start(self) -> None:
        """Refuse frozen parts without values, and bounds that exclude them."""
        self.layer.require_constrained()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Drop the gradients of frozen parts, which would count when gradients are clipped."""
        if self.layer.projections.frozen is not None:
            self.layer.projections.frozen.drop_gradients(self.layer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Do a step, then go to the nearest parameters under the constraints."""
        super().optimizer_step(*args, **kwargs)
        self.layer.constrain_()
