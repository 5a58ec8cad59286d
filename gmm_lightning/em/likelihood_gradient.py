"""Gradients of the log-likelihood from one E-step, for samplers and optimizers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.initialization import layer_source
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.statistics import SufficientStatistics


class LikelihoodGradient:
    """Log-likelihoods of rows and their gradients, at any parameters, again and again.

    By Fisher's identity the gradient of `log p(x | theta)` is that of the expected complete-data
    log-likelihood at the same parameters,

        Q(theta) = sum_k n_k (log pi_k - log|Sigma_k| / 2) - tr(Sigma_k^-1 S_k(mu_k)) / 2

    with the counts n and the second moments S of one E-step: rows meet no autograd, and Q has
    tensors of K components only. The rows are checked and prepared once.

    Args:
        layer: gives the family, the noise and the evidence, not the parameters. Parameters of
            its evidence are constants.
        x: rows `(N, *B, D)`, as `fit_em` takes them.
        sample_weight: not negative, broadcasts to `(N, *B)`.
        missing: None refuses NaN; `em`: the likelihood of what is observed.
        chunk_size: rows at a time; None: as many as stay in cache.

    Raises:
        InvalidDataError: as for `fit_em`.

    References:
        B. Efron (1977), discussion of A. P. Dempster, N. M. Laird, D. B. Rubin, JRSS B 39.
        R. Salakhutdinov, S. Roweis, Z. Ghahramani (2003), Optimization with EM and
        expectation-conjugate-gradient, ICML.

    Example:
        >>> layer = GMMLayer(2, 3, dtype=torch.float64)
        >>> likelihood = LikelihoodGradient(layer, torch.randn(50, 2))
        >>> starts = MixtureParameters.from_layer(layer, num_restarts=4)
        >>> log_likelihood, gradient = likelihood(starts)
        >>> log_likelihood.shape, gradient.means.shape
        (torch.Size([4]), torch.Size([4, 3, 2]))
    """

    def __init__(
        self,
        layer: GMMLayer,
        x: Any,
        sample_weight: Any = None,
        *,
        missing: str | None = None,
        chunk_size: int | None = None,
    ) -> None:
        source = layer_source(layer, x, sample_weight, missing=missing)
        if layer.noise is not None:
            layer.noise.require_resolved()
        # Priors and projections have no part in a likelihood.
        model = MixtureModel.from_layer(layer)
        self._models = {len(model.batch_index): replace(model, priors=[], projections=[])}
        self._batch_size = len(model.batch_index)
        self._e_step = EStep(source, self._models[self._batch_size], chunk_size)

    def __call__(self, parameters: MixtureParameters) -> tuple[Tensor, MixtureParameters]:
        """Log-likelihoods `(M,)` in nats, float64, and the gradients, of the parameters' dtype.

        Args:
            parameters: of M mixtures, a multiple of the size of the layer's batch.

        Raises:
            InvalidArgumentError: another number of mixtures.
        """
        model = self._model(parameters.num_mixtures)
        stats = self._e_step(model, _detached(parameters))
        return stats.log_likelihood, fisher_gradient(model, parameters, stats)

    def log_likelihood(self, parameters: MixtureParameters) -> Tensor:
        """Log-likelihoods `(M,)` that autograd differentiates once, by Fisher's identity.

        For sums with other terms, such as a log-prior; a second derivative would be that of Q.

        Args:
            parameters: as for a call.

        Raises:
            InvalidArgumentError: another number of mixtures.
        """
        model = self._model(parameters.num_mixtures)
        stats = self._e_step(model, _detached(parameters))
        expected = expected_log_likelihood(model, parameters, stats)
        return stats.log_likelihood + (expected - expected.detach())

    def _model(self, num_mixtures: int) -> MixtureModel:
        if num_mixtures % self._batch_size or num_mixtures < 1:
            raise InvalidArgumentError(
                f"expected parameters of a multiple of {self._batch_size} mixtures, the size of "
                f"the layer's batch, got {num_mixtures}: see MixtureParameters.from_layer"
            )
        if num_mixtures not in self._models:
            one = self._models[self._batch_size]
            index = one.batch_index.repeat(num_mixtures // self._batch_size)
            self._models[num_mixtures] = one.select(index)
        return self._models[num_mixtures]


def log_likelihood_and_gradient(
    layer: GMMLayer, x: Any, sample_weight: Any = None, *, missing: str | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-likelihood of rows `(*B)` in nats, and its gradient by the names of raw parameters.

    It is what autograd finds through `(sample_weight * layer.log_prob(x)).sum()`, by one E-step:
    see `LikelihoodGradient`, which is faster for many gradients of the same rows.

    Args:
        layer: the mixture.
        x: rows `(N, *B, D)`, as `fit_em` takes them.
        sample_weight: not negative, broadcasts to `(N, *B)`.
        missing: None refuses NaN; `em`: the likelihood of what is observed.

    Returns:
        The log-likelihood in float64, and `mixture_logits`, `means`, `raw_scale` and, for a
        noise whose weight is estimated, `noise.logit`, of the parameters' shapes and dtype.

    Raises:
        InvalidDataError: as for `fit_em`.

    Example:
        >>> layer = GMMLayer(2, 3)
        >>> log_likelihood, gradient = log_likelihood_and_gradient(layer, torch.randn(50, 2))
        >>> sorted(gradient)
        ['means', 'mixture_logits', 'raw_scale']
    """
    found, parts = LikelihoodGradient(layer, x, sample_weight, missing=missing)(
        MixtureParameters.from_layer(layer)
    )
    named = dict(zip(("mixture_logits", "means", "raw_scale", "noise.logit"), parts, strict=True))
    own = dict(layer.named_parameters())
    gradient = {
        name: value.reshape(own[name].shape) for name, value in named.items() if name in own
    }
    return found.reshape(layer.batch_shape), gradient


def fisher_gradient(
    model: MixtureModel, parameters: MixtureParameters, stats: SufficientStatistics
) -> MixtureParameters:
    """Gradient of the log-likelihoods at the parameters that the statistics were taken under."""
    inputs = [value.detach().requires_grad_() for value in parameters]
    with torch.enable_grad():
        own = MixtureParameters(*inputs)
        total = expected_log_likelihood(model, own, stats).sum()
        found = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
    return MixtureParameters(*found)


def expected_log_likelihood(
    model: MixtureModel, parameters: MixtureParameters, stats: SufficientStatistics
) -> Tensor:
    """Expected complete-data log-likelihoods `(M,)`, less what no parameter changes.

    Gradients are those of Q at the reference points of the statistics: what is of second order
    in a mean's distance to its own is left out.

    Args:
        model: the family, and the noise.
        parameters: of M mixtures, near the statistics' shift.
        stats: of an E-step, `(M, ...)`.
    """
    family, d = model.family, parameters.means.shape[-1]
    counts, first = stats.counts, stats.first
    wide = parameters.to(counts.dtype)
    scale = family.scale(wide.raw_scale)
    log_weights = wide.mixture_logits.log_softmax(-1)
    volume = family.half_log_det(scale, d)
    spread = family.trace_precision_product(scale, stats.second, d)
    total = (counts * log_weights).sum(-1)
    total = total - (family.sum_tied(counts) * volume + 0.5 * spread).sum(-1)
    fixed = scale.detach()
    gap = wide.means - stats.shift.to(counts.dtype)
    total = total + (family.whiten(fixed, first) * family.whiten(fixed, gap)).sum((-2, -1))
    if model.noise is not None:
        logit = wide.noise_logit.squeeze(-1)
        log_noise, log_rest = (functional.logsigmoid(sign * logit) for sign in (1, -1))
        total = total + stats.noise * log_noise + counts.sum(-1) * log_rest
    return total


def _detached(parameters: MixtureParameters) -> MixtureParameters:
    return MixtureParameters(*(value.detach() for value in parameters))
