"""The floor of the M-step, for a mixture that is trained by gradient."""

from __future__ import annotations

import logging
from typing import Any

import lightning as L
import torch

from gmm_lightning._validation import require_number
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.em import Collapse
from gmm_lightning.em.ascent import numbered
from gmm_lightning.em.collapse import fresh
from gmm_lightning.em.starts import parameters
from gmm_lightning.em.steps import describe
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.training.target import keyed, target_layer

log = logging.getLogger(__name__)


class FloorCallback(L.Callback):
    """After each step of the optimizer, no covariance is flatter than EM would leave it.

    The likelihood of a mixture has no maximum: a component on one spot, or a network that draws
    its codes together, gains without bound until its scale underflows. This is the projection
    onto `Sigma_k >= c diag(variance of the mixture)`, with c the family's `relative_floor`, and
    onto standard deviations of `least` at least. A prior on the covariances in the loss, as in
    `layer.objective(z, num_samples)`, avoids the edge itself.

    Args:
        target: as for `EMCallback`.
        least: the smallest standard deviation in any direction, in units of the rows.

    Attributes:
        events: components that had to be repaired, each once; their `count` is their weight.

    Raises:
        InvalidDataError: a parameter of the mixture is not finite after a step.

    References:
        R. J. Hathaway (1985), A constrained formulation of maximum-likelihood estimation for
        normal mixture distributions, Annals of Statistics 13.
    """

    def __init__(self, target: str | None = None, *, least: float = 1e-6) -> None:
        self.target, self.least = target, require_number("least", least, above=0)
        self.events: list[Collapse] = []

    @property
    def state_key(self) -> str:
        """A place of its own in the checkpoint for each target."""
        return keyed(self, self.target)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the layer."""
        if stage == "fit":
            target_layer(pl_module, self.target, type(self).__name__)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Raise what is too flat, alike in all processes."""
        layer = target_layer(pl_module, self.target, type(self).__name__)
        if not all(bool(torch.isfinite(p).all()) for p in parameters(layer)):
            raise InvalidDataError(
                f"a parameter of the mixture is not finite after step {trainer.global_step}: lower "
                "the learning rate, or clip gradients"
            )
        found = fresh(raise_to_floor(layer, self.least), self.events)
        self.events += numbered(found, trainer.global_step)
        if trainer.is_global_zero:
            for event in self.events[len(self.events) - len(found) :]:
                log.warning("%s", event)

    def state_dict(self) -> dict[str, Any]:
        """What was repaired."""
        return {"events": [vars(event) for event in self.events]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.events = [Collapse(**event) for event in state_dict["events"]]


@torch.no_grad()
def raise_to_floor(layer: GMMLayer, least: float = 1e-6) -> list[Collapse]:
    """Raise covariances that are flatter than the family's floor, in place; which they were."""
    family, d = layer.covariance, layer.num_features
    wide = accumulator_dtype(layer.means.device)
    logits, means, raw = (p.detach().to(wide) for p in parameters(layer))
    scale = family.scale(raw)
    mixture = MixtureOfGaussians(logits, means, scale, family)
    scatter = family.project(family.covariance_matrix(scale, d))
    dof = scatter.new_ones(*layer.batch_shape, family.groups(layer.num_components))
    eps = torch.finfo(layer.means.dtype).eps
    bound = family.variance_floor(scatter, dof, mixture.variance, eps).clamp(min=least**2)
    raised, smallest = family.floor(scatter, dof, bound)
    low = torch.isfinite(smallest)
    if not bool(low.any()):
        return []
    estimate = family.estimate(raised, dof)
    low_scale = low[(..., *[None] * (scale.dim() - low.dim()))]
    layer.write(None, None, torch.where(low_scale, estimate, scale))
    relative = smallest * (bound / mixture.variance.unsqueeze(-2)).amin(-1)
    return describe(low, family.sum_tied(mixture.weights), relative, "floored")
