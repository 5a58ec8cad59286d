"""The posterior distribution of all parameters of M mixtures, and the E-step under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor

from gmm_lightning.distributions import MixtureOfGaussians, StudentMixture
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.variational.components import ComponentsPosterior
from gmm_lightning.em.variational.weights import WeightsPosterior
from gmm_lightning.statistics import SufficientStatistics


class ExpectedParameters(NamedTuple):
    """Parameters under which an E-step gives `exp E log p(x, k)` up to a factor.

    Attributes:
        parameters: of mixtures whose log joint densities are those of the E-step, less `log_total`.
        log_total: `(M,)`.
    """

    parameters: MixtureParameters
    log_total: Tensor


@dataclass(frozen=True)
class MixturePosterior:
    """Independent distributions of the weights and of the components of M mixtures."""

    weights: WeightsPosterior
    components: ComponentsPosterior

    def select(self, index: Tensor) -> Self:
        """The distributions of the mixtures at `index`."""
        return replace(
            self, weights=self.weights.select(index), components=self.components.select(index)
        )

    def updated(self, stats: SufficientStatistics) -> Self:
        """The posterior after rows, of which `stats` are the sums."""
        return replace(
            self,
            weights=self.weights.updated(stats.counts),
            components=self.components.updated(stats),
        )

    def expected_parameters(self, dtype: torch.dtype) -> ExpectedParameters:
        """Parameters for an E-step with expected log densities.

        The means are their expectations, the covariances the inverses of the expected precisions,
        and what else differs between components is part of the logits of the weights.
        """
        components, scale = self.components, self.components.expected_scale()
        logits = self.weights.expected_log() + components.log_correction(scale)
        means = components.loc
        parameters = MixtureParameters(
            logits.to(dtype),
            means.to(dtype),
            components.family.raw(scale).to(dtype),
            means.new_empty(len(means), 0).to(dtype),
        )
        return ExpectedParameters(parameters, logits.logsumexp(-1))

    def divergence(self, prior: Self) -> Tensor:
        """Kullback-Leibler divergence from a prior, `(M,)`."""
        return self.weights.divergence(prior.weights) + self.components.divergence(prior.components)

    def bound(self, prior: Self, stats: SufficientStatistics, log_total: Tensor) -> Tensor:
        """Lower bound of the log evidence in nats, with all constants, `(M,)`.

            log p(x) >= sum_n log sum_k exp E log p(x_n, k) - KL(posterior | prior)

        It bounds the evidence of one labelling of the components; the evidence of all of them
        may be larger by as much as `log K!`.

        Args:
            prior: of the same kind.
            stats: of the E-step under `expected_parameters` of this posterior.
            log_total: of the same `expected_parameters`.
        """
        likelihood = stats.log_likelihood + stats.total_weight * log_total
        return likelihood - self.divergence(prior)

    def mean_parameters(self, dtype: torch.dtype) -> MixtureParameters:
        """Expected weights and means, and the inverses of the expected precisions."""
        expected = self.expected_parameters(dtype).parameters
        tiny = torch.finfo(dtype).tiny
        logits = self.weights.mean().clamp(min=tiny).log()
        return expected._replace(mixture_logits=logits.to(dtype))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The distributions of several groups of mixtures, one after the other."""
        first = parts[0]
        joined = torch.cat([part.weights.parameters for part in parts])
        components = ComponentsPosterior.concatenate([part.components for part in parts])
        return replace(first, weights=type(first.weights)(joined), components=components)

    def log_prob(self, log_weights: Tensor, means: Tensor, scale: Tensor) -> Tensor:
        """Log density of parameters, per `d pi d mu dP`, `(M,)`.

        Args:
            log_weights: `(M, K)`.
            means: `(M, K, D)`.
            scale: of the covariances, in the family's form; P are their inverses.
        """
        return self.weights.log_prob(log_weights) + self.components.log_prob(means, scale)

    def sample(self, num_draws: int, generator: Generator | None = None) -> MixtureOfGaussians:
        """Draws of the mixtures, a batch of shape `(num_draws, M)`."""
        number = len(self.components.loc)
        index = torch.arange(number, device=self.components.loc.device).repeat(num_draws)
        many = self.select(index)
        log_weights = many.weights.sample(generator)
        means, scale = many.components.sample(generator)
        logits, means, scale = (
            v.reshape(num_draws, number, *v.shape[1:]) for v in (log_weights, means, scale)
        )
        return MixtureOfGaussians(logits, means, scale, self.components.family)

    def predictive(self) -> StudentMixture:
        """The density of the next row under the posterior: a mixture of Student-t densities."""
        df, scale = self.components.predictive()
        return StudentMixture(
            self.weights.mean().log(),
            df,
            self.components.loc,
            scale,
            self.components.family,
            independent=self.components.form.independent,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The parameters of the distributions by name, for a file."""
        return {"weights": self.weights.parameters, **self.components.tensors()}

    def with_tensors(self, values: Mapping[str, Tensor]) -> Self:
        """Distributions of the same kinds, with parameters from `tensors`."""
        own = {name: value.to(self.components.loc.device) for name, value in values.items()}
        weights = type(self.weights)(own.pop("weights"))
        return replace(self, weights=weights, components=replace(self.components, **own))
