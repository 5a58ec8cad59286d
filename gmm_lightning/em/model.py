"""The constants of a fit, while EM changes the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Size, Tensor, nn

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.em.data_scale import DataScale
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import mixture_logits
from gmm_lightning.noise import Noise
from gmm_lightning.priors import Prior
from gmm_lightning.projections import Frozen, Projection
from gmm_lightning.rows import Batch, RowSource
from gmm_lightning.statistics import Moments, SufficientStatistics


def require_values(layer: GMMLayer) -> None:
    """Refuse a layer that no fit can read.

    Raises:
        InvalidArgumentError: it is on the meta device.
    """
    if layer.means.is_meta:
        raise InvalidArgumentError(
            "expected a layer with values, got one on the meta device: call "
            "to_empty(device=...) and reset_parameters() first"
        )


@dataclass(frozen=True)
class MixtureModel:
    """The constants of a fit: family, priors, evidence, projections and noise.

    Attributes:
        family: structure of the covariances.
        priors: of the mixtures in `batch_index`.
        evidence: log densities of other observations of a row, or None: see `GMMLayer`.
        projections: constraints of the M-step, in order.
        batch_shape: B of the layer.
        batch_index: `(M,)`, which mixture of the flattened batch each entry of the leading axis is.
        local_scale: see `GMMLayer`, `(M, D)`.
        mean_weight: of the rows that have any, `(M,)`; None: 1.
        noise: of batch shape B, or None.
    """

    family: Covariance
    priors: Sequence[Prior]
    evidence: nn.Module | None
    projections: Sequence[Projection]
    batch_shape: Size
    batch_index: Tensor
    local_scale: Tensor
    mean_weight: Tensor | None = None
    noise: Noise | None = None

    @classmethod
    def from_layer(cls, layer: GMMLayer, num_restarts: int = 1) -> Self:
        """The model of a layer, for a number of restarts.

        Raises:
            InvalidArgumentError: the layer is on the meta device, or frozen parts have no value.
        """
        require_values(layer)
        layer.require_constrained()
        size = layer.batch_shape.numel()
        batch_index = torch.arange(size, device=layer.means.device).repeat(num_restarts)
        return cls(
            layer.covariance,
            [prior.select(batch_index) for prior in layer.all_priors],
            layer.evidence,
            [_of_mixtures(one, batch_index) for one in layer.projections.to_list()],
            layer.batch_shape,
            batch_index,
            layer.local_scale.reshape(size, -1)[batch_index],
            noise=layer.noise,
        )

    def select(self, index: Tensor) -> MixtureModel:
        """The model of the mixtures at `index` along the leading axis."""
        priors = [prior.select(index) for prior in self.priors]
        return replace(
            self,
            batch_index=self.batch_index[index],
            local_scale=self.local_scale[index],
            mean_weight=None if self.mean_weight is None else self.mean_weight[index],
            priors=priors,
            projections=[_of_mixtures(one, index) for one in self.projections],
        )

    def single_restart(self) -> MixtureModel:
        """The model of one restart of each mixture."""
        return self.select(torch.arange(self.batch_shape.numel(), device=self.batch_index.device))

    def gaussians_alone(self) -> MixtureModel:
        """The model without evidence and noise."""
        return replace(self, evidence=None, noise=None)

    @property
    def needs_differences(self) -> bool:
        """Whether only the kernel of differences fits.

        Products of tied families leave out what all components of a row share, and so rely on
        responsibilities that sum to one; with noise they do not.
        """
        return self.family.tied and self.noise is not None

    @property
    def runs_independently(self) -> bool:
        """Whether mixtures of one restart can be fitted apart from each other."""
        return not any(projection.couples_batch for projection in self.projections)

    def per_mixture(self, values: Tensor) -> Tensor:
        """Values of rows `(n, *B, ...)` for each entry of the leading axis, `(n, M, ...)`.

        Where all mixtures read the same rows, B being ones, nothing is copied.
        """
        n, lead = len(values), 1 + len(self.batch_shape)
        tail, size, m = values.shape[lead:], self.batch_shape.numel(), len(self.batch_index)
        if values.shape[1:lead].numel() == 1:
            return values.reshape(n, 1, *tail).expand(n, m, *tail)
        flat = values.expand(n, *self.batch_shape, *tail).reshape(n, size, *tail)
        return flat if self._has_whole_batch else flat[:, self.batch_index.to(flat.device)]

    @cached_property
    def data_scale(self) -> DataScale | None:
        """The scale of the data by `local_scale`, the same in all M-steps; None: not known."""
        return DataScale.known(self.local_scale.double())

    @cached_property
    def _has_whole_batch(self) -> bool:
        whole = torch.arange(self.batch_shape.numel()).to(self.batch_index)
        return torch.equal(self.batch_index, whole)

    def log_evidence(self, batch: Batch, num_components: int) -> Tensor:
        """Log densities of the evidence, to add to the log joint densities, `(n, M, K)`."""
        assert self.evidence is not None
        # Its module has the dtype of the layer.
        values = self.evidence(batch._replace(x=batch.x.to(self.local_scale)))
        return self.per_mixture(values.expand(*values.shape[:-1], num_components))

    def scale(self, parameters: MixtureParameters) -> Tensor:
        """The covariances in the family's compact form, `(M, G, ...)`."""
        return self.family.scale(parameters.raw_scale)

    def distribution(self, parameters: MixtureParameters) -> MixtureOfGaussians:
        """The mixtures as a distribution of batch shape `(M,)`."""
        logits, means, *_ = parameters
        return MixtureOfGaussians(logits, means, self.scale(parameters), self.family)

    def from_constrained(
        self,
        mass: Tensor,
        means: Tensor,
        scale: Tensor,
        noise_logit: Tensor,
        dtype: torch.dtype,
    ) -> MixtureParameters:
        """Parameters from weights `(M, K)` up to a factor, means, covariances, and of the noise."""
        logits, raw = mixture_logits(mass, dtype), self.family.raw(scale)
        return MixtureParameters(logits, means.to(dtype), raw.to(dtype), noise_logit.to(dtype))

    def update_noise(self, parameters: MixtureParameters, stats: SufficientStatistics) -> Tensor:
        """Logits `(M, H)` of the noise's weight that maximise the expected objective."""
        if self.noise is None:
            return parameters.noise_logit
        noise, components = stats.noise.unsqueeze(-1), stats.counts.sum(-1, keepdim=True)
        return self.noise.update(noise, components, parameters.noise_logit)

    def objective(self, parameters: MixtureParameters, stats: SufficientStatistics) -> Tensor:
        """Objective `mean log p(x) + log_prior / N`, `(M,)`, at the parameters of the E-step."""
        total = stats.log_likelihood
        if self.priors:
            mixture = self.distribution(parameters)
            total = total + sum(prior.log_prob(mixture).to(total) for prior in self.priors)
        if self.noise is not None:
            total = total + self.noise.log_prior(parameters.noise_logit).squeeze(-1).to(total)
        return total / stats.total_weight

    def entry_scales(self, parameters: MixtureParameters) -> Tensor:
        """The scale of each entry of `to_vector`, `(M, V)`, by the mixture's deviations, or 1.

        A logit of noise, which may go to minus infinity, by that of its estimate from a row.
        """
        unit = self.distribution(parameters).variance.sqrt()
        unit = torch.where(torch.isfinite(unit) & (unit > 0), unit, 1.0)
        logits, means, _, noise = parameters
        scales = self.family.raw_entry_scales(unit, parameters.num_components)
        return MixtureParameters(
            torch.ones_like(logits),
            unit.unsqueeze(-2).expand_as(means),
            scales,
            (noise.abs() / 2).clamp(max=40.0).exp(),
        ).to_vector()

    def has_frozen(self, part: str) -> Tensor:
        """Which of the `means` `(M, K)`, or `covariances` `(M, G)`, are frozen."""
        masks = [one.is_fixed(part) for one in self.projections if isinstance(one, Frozen)]
        nothing = torch.zeros(1, 1, dtype=torch.bool, device=self.batch_index.device)
        return masks[0] if masks else nothing

    @property
    def is_held(self) -> Tensor:
        """Components whose mean and covariance are frozen, `(M, K)`: they need no rows."""
        return self.has_frozen("means") & self.has_frozen("covariances")

    @property
    def regularizes_covariances(self) -> bool:
        """Whether `reg_covar`, a prior or a bound gives few rows a proper covariance."""
        parts = (*self.priors, *self.projections)
        return any(one.regularizes_covariances for one in parts) or self.family.reg_covar > 0

    def has_few_rows(self, counts: Tensor) -> Tensor:
        """Components with fewer than `D + 1` rows, whose covariance nothing else regularises.

        D counts the features that are not constant.
        """
        if self.regularizes_covariances or self.family.tied or counts.shape[-1] == 1:
            return torch.zeros_like(counts, dtype=torch.bool)
        rows = counts if self.mean_weight is None else counts / self.mean_weight.unsqueeze(-1)
        few = rows < (self.local_scale != 0).sum(-1, keepdim=True) + 1
        return few & ~self.has_frozen("covariances")

    def with_mean_weight(self, source: RowSource) -> MixtureModel:
        """The model with the mean weight of the rows of a source."""
        if not source.weighted:
            return self
        total, rows = torch.zeros(2, len(self.batch_index), dtype=torch.float64)
        for batch in source:
            assert batch.weight is not None
            weight = self.per_mixture(batch.weight).cpu()
            total, rows = total + weight.sum(0, dtype=torch.float64), rows + (weight > 0).sum(0)
        return replace(self, mean_weight=(total / rows.clamp(min=1)).to(self.local_scale.device))

    def update_moments(self, moments: Moments, present: MixtureParameters) -> Moments:
        """Moments with the priors' pseudo-observations, then constrained by the projections.

        Args:
            moments: of the rows.
            present: the parameters before the M-step.
        """
        for prior in self.priors:
            moments = prior.update(moments, self.family)
        if not self.projections:
            return moments
        # In float64, as the moments are.
        present = present.to(moments.means.dtype)
        mixture = self.distribution(present)
        for projection in sorted(self.projections, key=lambda one: one.order):
            if projection.couples_batch:
                moments = self._project_restarts(projection, moments, present)
            else:
                moments = projection(moments, self.family, mixture)
        return moments

    def _project_restarts(
        self, projection: Projection, moments: Moments, present: MixtureParameters
    ) -> Moments:
        """Moments under a projection for the batch of its layer: one restart at a time."""
        size, batch = self.batch_shape.numel(), tuple(self.batch_shape)

        def whole(values: Tensor) -> Tensor:
            return values.reshape((*batch, *values.shape[1:]))

        projected = []
        places = torch.arange(present.num_mixtures, device=present.device).split(size)
        for part, place in zip(moments.split(size), places, strict=True):
            own = present.select(place)
            mixture = MixtureOfGaussians(
                whole(own.mixture_logits), whole(own.means), whole(self.scale(own)), self.family
            )
            one = projection(part.map(whole), self.family, mixture)
            projected.append(one.map(lambda v: v.reshape((size, *v.shape[len(batch) :]))))
        return Moments.concatenate(projected)

    def constrain(self, parameters: MixtureParameters) -> MixtureParameters:
        """The nearest parameters that satisfy the projections, frozen parts bit for bit."""
        for projection in sorted(self.projections, key=lambda one: -one.order):
            if not projection.couples_batch:
                parameters = projection.constrain(parameters, self.family)
        return parameters


def _of_mixtures(projection: Projection, index: Tensor) -> Projection:
    """A projection for the mixtures at an index; one that couples them stays whole."""
    return projection if projection.couples_batch else projection.select(index)


def with_closed_forms(model: MixtureModel) -> MixtureModel:
    """A model without the priors that have no closed form for EM."""
    return replace(model, priors=[prior for prior in model.priors if "em" in prior.fits])
