"""Outputs of a head's linear map as the parameters of one mixture per row."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

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


class HeadParametrization(nn.Module):
    """Outputs of a linear map, in units of the targets, as mixtures in the user's units.

    The outputs are K logits, means and raw entries of the covariances. The map is rescaled, once
    per call, to give means of y instead of `(y - loc) / unit`. Logarithms of standard deviations
    are shifted by those of the units and bounded smoothly, by a hyperbolic tangent.

    Attributes:
        num_outputs: of the linear map.
        raw_scale: raw covariances in units, `(G, ...)`, if they are shared, else None.
        loc: mean of the targets, `(D,)`.
        unit: their standard deviations, `(D,)`.
        log_unit: raw form of the covariance with these standard deviations, `(1, ...)`.
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
        k, d = sizes.num_components, sizes.num_features
        self.covariance, self.num_components, self.num_features = sizes.covariance, k, d
        self.shape = self.covariance.shape(k, d)
        self._limit = math.log(scale_range)
        self._mask = _require_log_scale_mask(self.covariance, k, d)
        self._all_logs = bool(self._mask.all())
        self.num_outputs = k * (1 + d) + (0 if shared_scale else math.prod(self.shape))
        self.raw_scale = nn.Parameter(torch.zeros(self.shape, **factory)) if shared_scale else None
        self.register_buffer("loc", torch.zeros(d, **factory))
        self.register_buffer("unit", torch.ones(d, **factory))
        self.register_buffer("log_unit", torch.zeros(1, *self.shape[1:], **factory))

    # -- outputs to mixtures ----------------------------------------------------------------

    def rescale_linear(self, linear: nn.Linear) -> tuple[Tensor, Tensor]:
        """Weight and bias of the map whose outputs are in the user's units."""
        unit = at_least_float32(self.unit)
        gain = [unit.new_ones(self.num_components), unit.repeat(self.num_components)]
        shift = [torch.zeros_like(gain[0]), self.loc.to(unit).repeat(self.num_components)]
        if self.raw_scale is None:
            gain.append(self._entry_scales().flatten())
            shift.append(torch.zeros_like(gain[-1]))
        factor = torch.cat(gain)
        return linear.weight * factor.unsqueeze(-1), linear.bias * factor + torch.cat(shift)

    def forward(self, outputs: Tensor, temperature: float = 1.0) -> MixtureOfGaussians:
        """Mixtures of batch shape `*S` from outputs `(*S, Q)` of the rescaled map."""
        logits, means, raw = self._split(outputs, temperature)
        scale = self._scale(raw)
        if temperature != 1:
            scale = self.covariance.rescale(scale, math.sqrt(temperature), self.num_features)
        return MixtureOfGaussians(logits, means, scale, self.covariance)

    def log_prob(self, outputs: Tensor, y: Tensor, temperature: float = 1.0) -> Tensor:
        """Log densities of targets y `(*S, D)` under the mixtures of `forward`, `(*S)`."""
        logits, means, raw = self._split(outputs, temperature)
        white, half_log_det = self._whiten(raw, y.unsqueeze(-2) - means)
        half_log_norm = 0.5 * self.num_features * (LOG_2PI + math.log(temperature))
        constant = logits.log_softmax(-1) - half_log_det - half_log_norm
        return (constant - 0.5 / temperature * white.square().sum(-1)).logsumexp(-1)

    def _split(self, outputs: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `(*S, K)`, means `(*S, K, D)` and raw entries `(*S, G, ...)`."""
        k, d, lead = self.num_components, self.num_features, outputs.shape[:-1]
        logits, means, raw = outputs.split((k, k * d, self.num_outputs - k * (1 + d)), -1)
        if self.raw_scale is None:
            raw = raw.reshape(*lead, *self.shape)
        else:
            raw = (self.raw_scale * self._entry_scales()).expand(*lead, *self.shape)
        logits = logits if temperature == 1 else logits / temperature
        return logits, means.reshape(*lead, k, d), raw

    def _scale(self, raw: Tensor) -> Tensor:
        return self.covariance.scale(self._where_log(self._bound(raw, self.log_unit), raw))

    def _whiten(self, raw: Tensor, diff: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened differences and half log determinants."""
        scale = self._scale(raw)
        white = self.covariance.whiten(scale, diff)
        return white, self.covariance.half_log_det(scale, self.num_features)

    def _entry_scales(self) -> Tensor:
        return self.covariance.raw_entry_scales(at_least_float32(self.unit), self.num_components)

    def _where_log(self, logs: Tensor, raw: Tensor) -> Tensor:
        """Entries of `logs` where the raw entries are logarithms, and of `raw` elsewhere."""
        return logs if self._all_logs else torch.where(self._mask.to(raw.device), logs, raw)

    def _bound(self, logs: Tensor, log_unit: Tensor) -> Tensor:
        return log_unit + self._limit * torch.tanh(logs / self._limit)

    # -- mixtures to outputs ----------------------------------------------------------------

    @torch.no_grad()
    def fit(self, mixture: MixtureOfGaussians) -> Tensor:
        """Outputs `(Q,)` that give a mixture of the targets; sets `loc` and `unit` from it."""
        family, means, variance = self.covariance, mixture.means, mixture.variance
        self.loc.copy_(mixture.mean)
        self.unit.copy_(torch.where(variance > 0, variance, 1.0).sqrt())
        loc, unit = self.loc.to(means), self.unit.to(means)
        scatter = family.project(unit.square().diag_embed().unsqueeze(0))
        self.log_unit.copy_(family.raw(family.estimate(scatter, unit.new_ones(1))))
        scale = project_scale(family, mixture.component_covariances, mixture.weights)
        raw = family.raw(scale)
        # Within 0.99 of the range: a covariance at the bound would have no gradient.
        share = ((raw - self.log_unit.to(raw)) / self._limit).clamp(-0.99, 0.99)
        raw = self._where_log(self._limit * torch.atanh(share), raw)
        raw = raw / family.raw_entry_scales(unit, self.num_components)
        parts = [mixture.log_weights, ((means - loc) / unit).flatten()]
        if self.raw_scale is None:
            parts.append(raw.flatten())
        else:
            self.raw_scale.copy_(raw)
        return torch.cat(parts)


class _PrecisionParametrization(HeadParametrization):
    """Dense covariances by the Cholesky factors of their precisions."""

    covariance: PrecisionCholesky

    def _scale(self, raw: Tensor) -> Tensor:
        return torch.cat(self._bounded_parts(raw), -1)

    def _whiten(self, raw: Tensor, diff: Tensor) -> tuple[Tensor, Tensor]:
        # Without the scale, which would be a copy of nearly all outputs.
        logs, below = self._bounded_parts(raw)
        return self.covariance.whiten_parts(logs, below, diff), logs.sum(-1)

    def _bounded_parts(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        d = self.num_features
        logs, below = raw.split((d, raw.shape[-1] - d), -1)
        return self._bound(logs, self.log_unit[..., :d]), below


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
