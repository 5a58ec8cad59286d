"""The M-step on tensors: from sums to parameters."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from gmm_lightning._messages import format_too_large
from gmm_lightning.covariances import Covariance
from gmm_lightning.em.collapse import Collapsed, CollapseEvent, weightless
from gmm_lightning.em.data_scale import DataScale
from gmm_lightning.em.event_log import CollapseCount, EventLog
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan import MAX_CANCELLATION
from gmm_lightning.errors import CollapseError, InvalidDataError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import all_finite, unsqueeze_like
from gmm_lightning.statistics import Moments, SufficientStatistics

# Below this share of all rows a component counts as empty: float64 cannot resolve its mean.
_EMPTY_SHARE = 2.3e-16


class MStepResult(NamedTuple):
    """The result of an M-step.

    Attributes:
        parameters: of M mixtures.
        collapsed: the components that had to be repaired; None where there are none.
        singular: mixtures without an estimate, `(M,)`: with `relative_floor=0` nothing repairs a
            singular covariance.
    """

    parameters: MixtureParameters
    collapsed: Collapsed | None
    singular: Tensor

    def write_to(self, layer: GMMLayer) -> list[CollapseEvent | CollapseCount]:
        """Overwrite the parameters of a layer; returns the components that had to be repaired.

        Raises:
            CollapseError: a covariance is singular.
        """
        self.require_regular()
        self.parameters.write_to(layer)
        if self.collapsed is None:
            return []
        runs, model = torch.arange(self.parameters.num_mixtures), MixtureModel.from_layer(layer)
        log = EventLog(len(runs), regularized=model.regularizes_covariances)
        log.add(self.collapsed, runs, 0)
        return log.events(runs, layer.batch_shape)

    def require_regular(self) -> None:
        """Refuse a singular covariance.

        Raises:
            CollapseError: a covariance is singular.
        """
        if bool(self.singular.any()):
            raise singular_error()

    @classmethod
    def unchanged(cls, parameters: MixtureParameters) -> Self:
        """A result with the given parameters, without repairs."""
        nothing = torch.zeros(parameters.num_mixtures, dtype=torch.bool)
        return cls(parameters, None, nothing)


def singular_error() -> CollapseError:
    """The error of a covariance that cannot be estimated."""
    return CollapseError(
        "a covariance is singular; set relative_floor or reg_covar of the covariance above 0, add "
        "a covariance prior, or use fewer components"
    )


@torch.no_grad()
def maximize(
    model: MixtureModel, parameters: MixtureParameters, stats: SufficientStatistics
) -> MStepResult:
    """The parameters that maximise the expected objective, and what had to be repaired.

    The priors add their pseudo-observations, the projections constrain means, weights and
    scatters, the floor bounds the covariances from below, and the family estimates its scale.

    Args:
        model: of the M mixtures.
        parameters: the ones that the statistics were taken under.
        stats: sums `(M, ...)` over all rows.

    Raises:
        InvalidDataError: the statistics hold no rows, or are not finite.
    """
    family, dtype = model.family, parameters.means.dtype
    if not stats.is_finite():
        raise InvalidDataError(
            format_too_large("the statistics are not finite: the rows are", dtype)
        )
    total_weight = stats.total_weight
    if not bool((total_weight > 0).all()):
        raise InvalidDataError("the statistics hold no rows: their total weight is 0")
    data = Moments.from_statistics(stats, family)
    data_scale = model.data_scale
    if data_scale is None:
        data_scale = DataScale.from_moments(data, family, dtype, model.local_scale)
    data_scale = data_scale.of_form(data.scatter, data.dof)
    empty = data.counts <= total_weight.unsqueeze(-1) * _EMPTY_SHARE
    moments = model.update_moments(_without_rows(data, stats, family, empty), parameters)
    moments = data_scale.fill(moments, family, data)
    noise = _rounding(model, stats, moments, data_scale, dtype)
    scatter, smallest = _apply_floor(model, parameters, moments, data_scale, noise)
    if family.reg_covar > 0:
        identity = torch.eye(parameters.means.shape[-1]).to(scatter)
        unit = family.project(identity.expand(*moments.dof.shape, *identity.shape))
        scatter = scatter + family.reg_covar * unsqueeze_like(moments.dof, unit) * unit
    scale = family.estimate(scatter, moments.dof)
    noise_logit = model.update_noise(parameters, stats)
    # Where the noise explains every row, the components keep their weights.
    alone = moments.mass.sum(-1, keepdim=True) <= 0
    mass = torch.where(alone, parameters.mixture_logits.softmax(-1).to(moments.mass), moments.mass)
    updated = model.from_constrained(mass, moments.means, scale, noise_logit, dtype)
    updated = model.constrain(updated)
    if not all_finite(updated.means):
        raise InvalidDataError(format_too_large("the means of the rows are", dtype))
    raw = updated.raw_scale.flatten(1)
    singular = ~torch.isfinite(raw.sum(-1))
    if bool(singular.any()):
        # Large entries may overflow their sum alone.
        singular = ~torch.isfinite(raw).all(-1)
    if smallest is None and not bool(empty.any()):
        return MStepResult(updated, None, singular)
    if smallest is None:
        smallest = torch.full_like(moments.dof, torch.inf)
    # Weights that the last M-step set to zero were reported by it.
    floored, emptied = torch.isfinite(smallest), empty & ~weightless(parameters)
    # What is frozen is as it should be.
    floored, emptied = floored & ~model.has_frozen("covariances"), emptied & ~model.is_held
    if not bool(floored.any() | emptied.any()):
        return MStepResult(updated, None, singular)
    nothing = torch.zeros_like(emptied)
    return MStepResult(
        updated, Collapsed(floored, emptied, stats.counts, smallest, nothing), singular
    )


def _without_rows(
    moments: Moments, stats: SufficientStatistics, family: Covariance, empty: Tensor
) -> Moments:
    """Moments in which components without rows keep their reference point, with zero sums."""
    if not bool(empty.any()):
        return moments
    counts = torch.where(empty, 0.0, moments.counts)
    scatter = moments.scatter
    if not family.tied:
        scatter = torch.where(unsqueeze_like(empty, scatter), 0.0, scatter)
    return Moments(
        counts=counts,
        mass=counts,
        means=torch.where(empty.unsqueeze(-1), stats.shift.to(moments.means), moments.means),
        scatter=scatter,
        dof=family.sum_tied(counts),
        mean_precision=counts,
    )


def _rounding(
    model: MixtureModel,
    stats: SufficientStatistics,
    moments: Moments,
    data_scale: DataScale,
    dtype: torch.dtype,
) -> Tensor:
    """The variances that rounding may leave of none where it may have, `(M, G, D)`; else 0.

    The kernels keep their errors below a share of the second moments about the present means
    (`MAX_CANCELLATION`).
    """
    family, d = model.family, data_scale.unit.shape[-1]
    dof = family.sum_tied(stats.counts).unsqueeze(-1)
    share = 4 * MAX_CANCELLATION.get(dtype, 1.0) * torch.finfo(dtype).eps
    second = family.variances(stats.second, d) / dof.masked_fill(dof <= 0, 1.0)
    noise = second.clamp_(min=0).mul_(share)
    own = family.variances(moments.scatter, d) / moments.dof.unsqueeze(-1)
    return noise.masked_fill_(data_scale.constant.unsqueeze(-2) | (own > noise), 0.0)


def _apply_floor(
    model: MixtureModel,
    parameters: MixtureParameters,
    moments: Moments,
    data_scale: DataScale,
    noise: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """The scatter above the family's floor, and smallest eigenvalues in the unit of the floor.

    The smallest eigenvalue of a covariance is infinite where it satisfies the bound; None: all do.
    """
    family, unit = model.family, data_scale.unit
    if family.relative_floor == 0:
        return moments.scatter, None
    eps = torch.finfo(parameters.dtype).eps
    scatter, dof = moments.scatter, moments.dof
    bound = torch.maximum(family.variance_floor(scatter, dof, unit, eps), noise)
    low = family.is_below(scatter, dof, bound)
    if not bool(low.any()):
        return scatter, None
    # The part of the bound that moves with a component is lowered until the present covariance
    # satisfies it: so the objective cannot fall. Each one is a mixture of its own here.
    unit, noise = (v.expand(*dof.shape, v.shape[-1])[low] for v in (unit.unsqueeze(-2), noise))
    present = model.scale(parameters)[low].unsqueeze(1)
    one, own = scatter[low], dof[low]
    bound = family.variance_floor(one.unsqueeze(1), own.unsqueeze(1), unit, eps, present)
    bound = torch.maximum(bound.squeeze(1), noise)
    raised, least = family.raise_to(one, own, bound)
    scatter, smallest = scatter.clone(), torch.full_like(dof, torch.inf)
    scatter[low], smallest[low] = raised, least * (bound / unit).amin(-1)
    return scatter, smallest
