"""The covariance floor of the M-step, for a mixture that is trained by gradient."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from gmm_lightning._validation import require_number
from gmm_lightning.em import Collapsed, CollapseEvent, DataScale, MixtureModel, MixtureParameters
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.linalg import accumulator_dtype, unsqueeze_like
from gmm_lightning.training.collapse import CollapseHandler
from gmm_lightning.training.target import as_target, state_key_for, target_layer


class CovarianceFloorCallback(L.Callback):
    """Raises flat covariances to the floor of EM, after each step of the optimizer.

    The likelihood of a mixture has no maximum: a component on one spot, or a network that draws
    its latents together, gains without bound until its scale underflows. This is the projection
    onto `Sigma_k >= c diag(s^2)`, with c the family's `relative_floor` and s the layer's
    `local_scale` (a tenth of the mixture's deviations where it is not known), and onto standard
    deviations of at least `min_std`. A prior on the covariances in the loss
    (`layer.objective(z, num_samples)`) avoids the bound itself.

    Args:
        target: as for `EMCallback`.
        min_std: the smallest standard deviation in any direction, in units of the rows.

    Attributes:
        events: components that had to be repaired, each once; `count` is the weight.

    Raises:
        InvalidDataError: a parameter of the mixture is not finite after a step.

    References:
        R. J. Hathaway (1985), A constrained formulation of maximum-likelihood estimation for
        normal mixture distributions, Annals of Statistics 13.
    """

    def __init__(self, target: str | None = None, *, min_std: float = 1e-6) -> None:
        self.target, self.min_std = as_target(target), require_number("min_std", min_std, above=0)
        self._collapse = CollapseHandler(report_once=True)

    @property
    def events(self) -> list[CollapseEvent]:
        """Components that had to be repaired."""
        return self._collapse.events

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint, one for each target."""
        return state_key_for(self, self.target)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the layer."""
        if stage == "fit":
            target_layer(pl_module, self.target, type(self).__name__)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Raise the covariances that are too flat, identically in all processes."""
        layer = target_layer(pl_module, self.target, type(self).__name__)
        model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
        if not all(bool(torch.isfinite(value).all()) for value in parameters):
            raise InvalidDataError(
                f"a parameter of the mixture is not finite after step {trainer.global_step}: lower "
                "the learning rate, or clip gradients"
            )
        raised, collapsed = _raise_to_floor(model, parameters, self.min_std)
        if collapsed is not None:
            step = trainer.global_step
            self._collapse.handle(trainer, model, raised, collapsed, step).write_to(layer)

    def state_dict(self) -> dict[str, Any]:
        """The repairs, as tensors and primitives."""
        return self._collapse.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self._collapse.load_state_dict(state_dict)


@torch.no_grad()
def _raise_to_floor(
    model: MixtureModel, parameters: MixtureParameters, min_std: float
) -> tuple[MixtureParameters, Collapsed | None]:
    """Parameters with covariances raised to the family's floor, and the repairs or None."""
    family, (_, k, d) = model.family, parameters.means.shape
    wide = parameters.to(accumulator_dtype(parameters.means.device))
    mixture, scale = model.distribution(wide), model.scale(wide)
    scatter = family.project(family.covariance_matrix(scale, d))
    dof = scatter.new_ones(len(scale), family.groups(k))
    unit = DataScale.of(mixture.variance, model.local_scale).unit
    bound = family.variance_floor(scatter, dof, unit, torch.finfo(parameters.dtype).eps)
    bound = bound.clamp(min=min_std**2)
    raised, smallest = family.floor(scatter, dof, bound)
    low = torch.isfinite(smallest) & ~model.has_frozen("covariances")
    if not bool(low.any()):
        return parameters, None
    raw = family.raw(family.estimate(raised, dof)).to(parameters.raw_scale)
    raw = torch.where(unsqueeze_like(low, raw), raw, parameters.raw_scale)
    relative = smallest * (bound / unit.unsqueeze(-2)).amin(-1)
    nothing = torch.zeros_like(mixture.weights, dtype=torch.bool)
    collapsed = Collapsed(low, nothing, mixture.weights, relative, nothing)
    return model.constrain(parameters._replace(raw_scale=raw)), collapsed
