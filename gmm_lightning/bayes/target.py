"""The log posterior of a mixture's parameters, as samplers ask for it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmm_lightning.bayes.raw import RawVector, log_jacobian
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.em import LikelihoodGradient, MixtureParameters, resolve_priors
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer


class LogPosterior:
    """Log posterior densities of flat unconstrained vectors, up to a constant, and gradients.

        log p(v | x) = sum_n w_n log p(x_n | theta(v)) + log p(theta(v)) + log |d theta / d v|

    in float64; the first term is of one E-step (`LikelihoodGradient`), and only tensors of K
    components meet autograd.

    Args:
        layer: of one mixture; it is copied, and stays as it is. Priors without values take them
            from the rows.
        x: rows `(N, D)`, as `fit_em` takes them.
        sample_weight: not negative, `(N,)`.
        missing: None refuses NaN; `em`: the likelihood of what is observed.

    Attributes:
        layer: the copy, in float64 on the CPU, its priors with values.
        vector: maps vectors to raw parameters.
        likelihood: of the rows.

    Raises:
        InvalidArgumentError: a batch of mixtures, or constraints, which no sampler keeps.
        InvalidDataError: as for `fit_em`.

    Example:
        >>> posterior = LogPosterior(GMMLayer(2, 1, priors="niw"), torch.randn(50, 2))
        >>> value, gradient = posterior(posterior.start())
        >>> type(value).__name__, gradient.shape
        ('float', (5,))
    """

    def __init__(
        self,
        layer: GMMLayer,
        x: Any,
        sample_weight: Any = None,
        *,
        missing: str | None = None,
    ) -> None:
        if layer.batch_shape:
            raise InvalidArgumentError(
                f"expected a layer of one mixture, got batch_shape {tuple(layer.batch_shape)}: "
                "sample the posterior of each mixture apart"
            )
        if layer.projections.to_list():
            raise InvalidArgumentError(
                "expected a layer without projections, bounds and frozen parts, which a sampler "
                "does not keep: make the layer without them"
            )
        self.layer = copy.deepcopy(layer).cpu().double()
        resolve_priors(self.layer, x, sample_weight, missing=missing)
        self.vector = RawVector(self.layer)
        self._rows = {"x": x, "sample_weight": sample_weight, "missing": missing}
        self.likelihood = LikelihoodGradient(self.layer, **self._rows)

    def replicate(self) -> LogPosterior:
        """The same density with working memory of its own, for another thread."""
        other = copy.copy(self)
        other.likelihood = LikelihoodGradient(self.layer, **self._rows)
        return other

    @property
    def size(self) -> int:
        """Length V of the vectors."""
        return self.vector.size

    def __call__(self, vector: np.ndarray) -> tuple[float, np.ndarray]:
        """Log posterior and its gradient `(V,)` in float64 at a vector `(V,)`."""
        values, gradients = self.of_vectors(torch.as_tensor(vector).reshape(1, -1))
        return float(values[0]), gradients[0].numpy()

    def of_vectors(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Log posteriors `(M,)` and gradients `(M, V)` of M vectors at once."""
        v = vectors.detach().to(torch.float64).requires_grad_()
        with torch.enable_grad():
            parameters = self.vector.parameters(v)
            total = self.likelihood.log_likelihood(parameters) + self.log_prior(parameters)
            (gradient,) = torch.autograd.grad(total.sum(), v)
        return total.detach(), gradient

    def log_prior(self, parameters: MixtureParameters) -> Tensor:
        """Log prior densities of raw parameters, their volume included, `(M,)`."""
        layer, total = self.layer, log_jacobian(self.layer, parameters)
        if len(layer.priors):
            total = total + layer.priors.log_prob(self.distribution(parameters))
        if layer.noise is not None:
            total = total + layer.noise.log_prior(parameters.noise_logit).squeeze(-1)
        return total

    def log_likelihood(self, vectors: Tensor) -> Tensor:
        """Log-likelihoods `(M,)` of vectors `(M, V)`, in nats."""
        return self.likelihood(self.vector.parameters(vectors))[0]

    def distribution(self, parameters: MixtureParameters) -> MixtureOfGaussians:
        """Mixtures of batch shape `(M,)` with raw parameters, without noise."""
        family = self.layer.covariance
        scale = family.scale(parameters.raw_scale)
        return MixtureOfGaussians(parameters.mixture_logits, parameters.means, scale, family)

    def start(self) -> np.ndarray:
        """The vector `(V,)` of the layer's parameters."""
        return self.vector.from_parameters(MixtureParameters.from_layer(self.layer))[0].numpy()
