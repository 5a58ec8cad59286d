"""Posterior distributions of the weights: Dirichlet, and stick-breaking."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Generator, Tensor

from gmm_lightning.linalg import standard_gamma


class WeightsPosterior(ABC):
    """Base class: a distribution of the weights of M mixtures that counts of rows update.

    Args:
        parameters: of the distribution, one tensor `(M, ...)`.
    """

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters

    @abstractmethod
    def updated(self, counts: Tensor) -> Self:
        """The posterior after rows of counts `(M, K)`."""

    @abstractmethod
    def expected_log(self) -> Tensor:
        """Expected `log pi_k`, `(M, K)`."""

    @abstractmethod
    def divergence(self, prior: WeightsPosterior) -> Tensor:
        """Kullback-Leibler divergence from a prior of the same kind, `(M,)`."""

    @abstractmethod
    def log_prob(self, log_weights: Tensor) -> Tensor:
        """Log density of weights on the simplex, `(M,)`."""

    @abstractmethod
    def mean(self) -> Tensor:
        """Expected weights, `(M, K)`."""

    @abstractmethod
    def sample(self, generator: Generator | None = None) -> Tensor:
        """A draw of the logarithms of the weights, `(M, K)`."""

    def select(self, index: Tensor) -> Self:
        """The distributions of the mixtures at `index`."""
        return type(self)(self.parameters[index])


class DirichletPosterior(WeightsPosterior):
    """Dirichlet distributions: parameters are the concentrations `(M, K)`.

    Example:
        >>> prior = DirichletPosterior(torch.ones(1, 2))
        >>> prior.updated(torch.tensor([[3.0, 1.0]])).mean()
        tensor([[0.6667, 0.3333]])
    """

    def updated(self, counts: Tensor) -> Self:
        return type(self)(self.parameters + counts.to(self.parameters))

    def expected_log(self) -> Tensor:
        alpha = self.parameters
        return alpha.digamma() - alpha.sum(-1, keepdim=True).digamma()

    def divergence(self, prior: WeightsPosterior) -> Tensor:
        alpha, before = self.parameters, prior.parameters
        constants = _log_beta(before) - _log_beta(alpha)
        return constants + ((alpha - before) * self.expected_log()).sum(-1)

    def log_prob(self, log_weights: Tensor) -> Tensor:
        return ((self.parameters - 1) * log_weights).sum(-1) - _log_beta(self.parameters)

    def mean(self) -> Tensor:
        return self.parameters / self.parameters.sum(-1, keepdim=True)

    def sample(self, generator: Generator | None = None) -> Tensor:
        # A gamma variable of a small shape underflows: log G(a) = log G(a + 1) + log(U) / a.
        alpha = self.parameters
        log_gamma = standard_gamma(alpha + 1, generator).log()
        uniform = torch.empty_like(alpha).exponential_(generator=generator)
        return (log_gamma - uniform / alpha).log_softmax(-1)


class StickBreakingPosterior(WeightsPosterior):
    """Truncated stick-breaking: parameters are a and b of Beta variables `v_k`, `(M, K - 1, 2)`.

        pi_k = v_k prod_{j < k} (1 - v_j),    the last stick being what is left

    References:
        H. Ishwaran, L. F. James (2001), Gibbs sampling methods for stick-breaking priors, JASA 96.
        D. M. Blei, M. I. Jordan (2006), Variational inference for Dirichlet process mixtures,
        Bayesian Analysis 1.
    """

    @classmethod
    def of_concentration(cls, concentration: Tensor, num_components: int) -> Self:
        """The prior `v_k ~ Beta(1, concentration)` of concentrations `(M,)`."""
        rest = concentration.unsqueeze(-1).expand(-1, num_components - 1)
        return cls(torch.stack([torch.ones_like(rest), rest], -1))

    def updated(self, counts: Tensor) -> Self:
        counts = counts.to(self.parameters)
        after = counts.flip(-1).cumsum(-1).flip(-1)[..., 1:]
        return type(self)(self.parameters + torch.stack([counts[..., :-1], after], -1))

    def expected_log(self) -> Tensor:
        logs = self.parameters.digamma() - self.parameters.sum(-1, keepdim=True).digamma()
        return _with_last(logs[..., 0], logs[..., 1])

    def divergence(self, prior: WeightsPosterior) -> Tensor:
        ab, before = self.parameters, prior.parameters
        logs = ab.digamma() - ab.sum(-1, keepdim=True).digamma()
        constants = _log_beta(before) - _log_beta(ab)
        return (constants + ((ab - before) * logs).sum(-1)).sum(-1)

    def log_prob(self, log_weights: Tensor) -> Tensor:
        # What is left before each stick, r_k: v_k = pi_k / r_k, and |d pi / d v| is their product.
        rest = log_weights.flip(-1).logcumsumexp(-1).flip(-1)
        log_own, log_left = log_weights[..., :-1] - rest[..., :-1], rest[..., 1:] - rest[..., :-1]
        logs = torch.stack([log_own, log_left], -1)
        density = ((self.parameters - 1) * logs).sum(-1) - _log_beta(self.parameters)
        return (density - rest[..., :-1]).sum(-1)

    def mean(self) -> Tensor:
        logs = (self.parameters / self.parameters.sum(-1, keepdim=True)).log()
        return _with_last(logs[..., 0], logs[..., 1]).exp()

    def sample(self, generator: Generator | None = None) -> Tensor:
        logs = DirichletPosterior(self.parameters).sample(generator)
        return _with_last(logs[..., 0], logs[..., 1])


def _log_beta(alpha: Tensor) -> Tensor:
    """Log normalising constant of Dirichlet distributions `(..., K)`."""
    return alpha.lgamma().sum(-1) - alpha.sum(-1).lgamma()


def _with_last(log_own: Tensor, log_rest: Tensor) -> Tensor:
    """Logs of weights `(M, K)` from those of the sticks and of what each leaves, `(M, K - 1)`."""
    nothing = log_own.new_zeros(*log_own.shape[:-1], 1)
    before = torch.cat([nothing, log_rest.cumsum(-1)], -1)
    return torch.cat([log_own, nothing], -1) + before
