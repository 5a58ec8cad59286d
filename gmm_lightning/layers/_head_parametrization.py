"""Outputs of a head's linear map as the parameters of one mixture per row."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Size, Tensor, nn

from gmm_lightning._tracing import value_of
from gmm_lightning.covariances import (
    Covariance,
    FullCovariance,
    PrecisionCholesky,
    TiedCovariance,
    TiedPrecisionCholesky,
)
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers._state import FINITE, POSITIVE, StateRule
from gmm_lightning.layers.parameters import project_scale
from gmm_lightning.linalg import LOG_2PI, at_least_float32
from gmm_lightning.priors import MixtureShape


class Rescaling(NamedTuple):
    """Constants that take outputs in units of the targets to parameters in the user's units.

    Attributes:
        gain: factors of the outputs, `(*B, Q)`.
        shift: added to them, `(*B, Q)`.
        log_unit: added to logarithms of standard deviations, `(*B, 1, ...)`.
        raw: raw covariances, `(*B, G, ...)`, if all rows share them.
    """

    gain: Tensor
    shift: Tensor
    log_unit: Tensor
    raw: Tensor | None


class HeadParametrization(nn.Module):
    """Outputs of a linear map, in units of the targets, as mixtures in the user's units.

    The outputs are K logits, means and raw entries of the covariances, of each mixture of a batch.
    Means of `(y - loc) / unit` become means of y. Logarithms of standard deviations are bounded
    smoothly, by a hyperbolic tangent, and shifted by those of the units.

    Attributes:
        num_outputs: Q, for one mixture.
        raw_scale: raw covariances in units, `(*B, G, ...)`, if they are shared, else None.
        loc: mean of the targets, `(*B, D)`.
        unit: their standard deviations, `(*B, D)`.
        log_unit: raw form of the covariance with these standard deviations, `(*B, 1, ...)`.
    """

    loc: Tensor
    unit: Tensor
    log_unit: Tensor
    state_rules: ClassVar[dict[str, StateRule]] = {
        "loc": FINITE,
        "unit": POSITIVE,
        "log_unit": FINITE,
    }

    def __init__(
        self, sizes: MixtureShape, scale_range: float, *, shared_scale: bool, **factory: Any
    ) -> None:
        super().__init__()
        k, d, batch = sizes.num_components, sizes.num_features, sizes.batch_shape
        self.covariance, self.num_components, self.num_features = sizes.covariance, k, d
        self.batch_shape, self.shape = Size(batch), self.covariance.shape(k, d)
        self.scale_range, self._limit = scale_range, math.log(scale_range)
        self._mask = _require_log_scale_mask(self.covariance, k, d)
        # Where the mask cannot be read, a choice by the mask does the same.
        self._all_logs = value_of(self._mask.all()) is True
        self.num_outputs = k * (1 + d) + (0 if shared_scale else math.prod(self.shape))
        raw = torch.empty(*batch, *self.shape, **factory)
        self.raw_scale = nn.Parameter(raw) if shared_scale else None
        self.register_buffer("loc", torch.empty(*batch, d, **factory))
        self.register_buffer("unit", torch.empty(*batch, d, **factory))
        self.register_buffer("log_unit", torch.empty(*batch, 1, *self.shape[1:], **factory))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set units of 1 about 0, and unit covariances."""
        self.loc.zero_()
        self.unit.fill_(1.0)
        self.log_unit.zero_()
        if self.raw_scale is not None:
            self.raw_scale.zero_()

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of outputs, targets and mixtures, float32 or float64."""
        return at_least_float32(self.unit).dtype

    # -- outputs to mixtures ----------------------------------------------------------------

    def rescaling(self) -> Rescaling:
        """Constants of the present units."""
        unit, k = at_least_float32(self.unit), self.num_components
        entries = self.covariance.raw_entry_scales(unit, k)
        ones = unit.new_ones(*self.batch_shape, k)
        gain = [ones, _repeat(unit, k), entries.flatten(len(self.batch_shape))]
        shift = [torch.zeros_like(ones), _repeat(self.loc.to(unit), k), torch.zeros_like(gain[-1])]
        kept = slice(3 if self.raw_scale is None else 2)
        return Rescaling(
            torch.cat(gain[kept], -1),
            torch.cat(shift[kept], -1),
            self.log_unit.to(unit),
            None if self.raw_scale is None else self.raw_scale * entries,
        )

    def forward(self, outputs: Tensor, temperature: float = 1.0) -> MixtureOfGaussians:
        """Mixtures of batch shape `(*S, *B)` from outputs `(*S, *B, Q)`."""
        rescaling = self.rescaling()
        logits, means, raw = self._split(outputs, rescaling, temperature)
        scale = self._scale(raw, rescaling.log_unit)
        if temperature != 1:
            scale = self.covariance.rescale(scale, math.sqrt(temperature), self.num_features)
        return MixtureOfGaussians(logits, means, scale, self.covariance)

    def log_prob(
        self, outputs: Tensor, y: Tensor, *rescaling: Any, temperature: float = 1.0
    ) -> Tensor:
        """Log densities of targets y `(*S, *B, D)` under the mixtures of `forward`, `(*S, *B)`."""
        constants = Rescaling(*rescaling)
        logits, means, raw = self._split(outputs, constants, temperature)
        white, half_log_det = self._whiten(raw, constants.log_unit, y.unsqueeze(-2) - means)
        half_log_norm = 0.5 * self.num_features * (LOG_2PI + math.log(temperature))
        constant = logits.log_softmax(-1) - half_log_det - half_log_norm
        return (constant - 0.5 / temperature * white.square().sum(-1)).logsumexp(-1)

    def _split(
        self, outputs: Tensor, rescaling: Rescaling, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `(*S, *B, K)`, means `(*S, *B, K, D)` and raw entries `(*S, *B, G, ...)`."""
        k, d, lead = self.num_components, self.num_features, outputs.shape[:-1]
        outputs = torch.addcmul(rescaling.shift, outputs, rescaling.gain)
        logits, means, raw = outputs.split((k, k * d, self.num_outputs - k * (1 + d)), -1)
        if rescaling.raw is None:
            raw = raw.reshape(*lead, *self.shape)
        else:
            raw = rescaling.raw.expand(*lead, *self.shape)
        logits = logits if temperature == 1 else logits / temperature
        return logits, means.reshape(*lead, k, d), raw

    def _scale(self, raw: Tensor, log_unit: Tensor) -> Tensor:
        return self.covariance.scale(self._where_log(self._bound(raw, log_unit), raw))

    def _whiten(self, raw: Tensor, log_unit: Tensor, diff: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened differences and half log determinants."""
        scale = self._scale(raw, log_unit)
        white = self.covariance.whiten(scale, diff)
        return white, self.covariance.half_log_det(scale, self.num_features)

    def _where_log(self, logs: Tensor, raw: Tensor) -> Tensor:
        """Entries of `logs` where the raw entries are logarithms, and of `raw` elsewhere."""
        return logs if self._all_logs else torch.where(self._mask.to(raw.device), logs, raw)

    def _bound(self, logs: Tensor, log_unit: Tensor) -> Tensor:
        return log_unit + self._limit * torch.tanh(logs / self._limit)

    # -- mixtures to outputs ----------------------------------------------------------------

    @torch.no_grad()
    def fit(self, mixture: MixtureOfGaussians) -> Tensor:
        """Outputs `(*B, Q)` that give mixtures of the targets; sets `loc` and `unit` from them."""
        family, means, variance = self.covariance, mixture.means, mixture.variance
        self.loc.copy_(mixture.mean)
        self.unit.copy_(torch.where(variance > 0, variance, 1.0).sqrt())
        loc, unit = self.loc.to(means), self.unit.to(means)
        scatter = family.project(unit.square().diag_embed().unsqueeze(-3))
        dof = unit.new_ones(*self.batch_shape, 1)
        self.log_unit.copy_(family.raw(family.estimate(scatter, dof)))
        scale = project_scale(family, mixture.component_covariances, mixture.weights)
        raw = family.raw(scale)
        # Within 0.99 of the range: a covariance at the bound would have no gradient.
        share = ((raw - self.log_unit.to(raw)) / self._limit).clamp(-0.99, 0.99)
        raw = self._where_log(self._limit * torch.atanh(share), raw)
        raw = raw / family.raw_entry_scales(unit, self.num_components)
        standard = (means - loc.unsqueeze(-2)) / unit.unsqueeze(-2)
        parts = [mixture.log_weights, standard.flatten(-2)]
        if self.raw_scale is None:
            parts.append(raw.flatten(len(self.batch_shape)))
        else:
            self.raw_scale.copy_(raw)
        return torch.cat(parts, -1)


class _PrecisionParametrization(HeadParametrization):
    """Dense covariances by the Cholesky factors of their precisions."""

    covariance: PrecisionCholesky

    def _scale(self, raw: Tensor, log_unit: Tensor) -> Tensor:
        return torch.cat(self._bounded_parts(raw, log_unit), -1)

    def _whiten(self, raw: Tensor, log_unit: Tensor, diff: Tensor) -> tuple[Tensor, Tensor]:
        # Without the scale, which would be a copy of nearly all outputs.
        logs, below = self._bounded_parts(raw, log_unit)
        return self.covariance.whiten_parts(logs, below, diff), logs.sum(-1)

    def _bounded_parts(self, raw: Tensor, log_unit: Tensor) -> tuple[Tensor, Tensor]:
        d = self.num_features
        logs, below = raw.split((d, raw.shape[-1] - d), -1)
        return self._bound(logs, log_unit[..., :d]), below


# Classes derived from these may have another raw form, and keep it.
_PREDICTED_AS: dict[type[Covariance], type[PrecisionCholesky]] = {
    FullCovariance: PrecisionCholesky,
    TiedCovariance: TiedPrecisionCholesky,
}


def make_parametrization(
    sizes: MixtureShape, scale_range: float, **options: Any
) -> HeadParametrization:
    """Parametrization of a head, with the arguments of `HeadParametrization`."""
    form = _PREDICTED_AS.get(type(sizes.covariance))
    if form is None:
        return HeadParametrization(sizes, scale_range, **options)
    sizes = replace(sizes, covariance=form(**sizes.covariance.config()))
    return _PrecisionParametrization(sizes, scale_range, **options)


def _repeat(values: Tensor, num_components: int) -> Tensor:
    """Values `(*B, D)` of each component, `(*B, K D)`."""
    return values.unsqueeze(-2).expand(*values.shape[:-1], num_components, -1).flatten(-2)


def _require_log_scale_mask(family: Covariance, num_components: int, num_features: int) -> Tensor:
    # On the CPU also for modules on the meta device: the values of the mask decide.
    with torch.device("cpu"):
        mask = family.log_scale_mask(num_components, num_features)
    if mask is None:
        raise InvalidArgumentError(
            "a head must know which raw entries of a covariance are logarithms of standard "
            f"deviations, and {type(family).__name__} does not state it: write its method "
            "log_scale_mask(num_components, num_features); EM and GMMLayer work without it"
        )
    expected = family.shape(num_components, num_features)
    if mask.dtype != torch.bool or mask.shape != expected:
        raise InvalidArgumentError(
            f"log_scale_mask of {type(family).__name__} must return booleans of shape {expected}, "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    return mask
