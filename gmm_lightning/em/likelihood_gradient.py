"""Gradients of the log-likelihood from one E-step, for samplers and optimizers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
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

        For sums with other terms, such as a log-prior. A second derivative is not that of the rows.

        Args:
            parameters: as for a call.

        Raises:
            InvalidArgumentError: another number of mixtures.
        """
        model = self._model(parameters.num_mixtures)
        stats = self._e_step(model, _detached(parameters))
        slope = fisher_gradient(model, _detached(parameters), stats)
        found = stats.log_likelihood
        for value, own in zip(parameters, slope, strict=True):
            # Zero, with this slope.
            change = own.to(found) * (value - value.detach())
            found = found + change.flatten(1).sum(-1)
        return found

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
    """Gradient of the log-likelihoods at the parameters that the statistics were taken under.

        d / d logits = n - pi sum_k n_k      d / d mu_k = Sigma_k^-1 sum_n r_nk (x_n - mu_k)

    and that of the raw scale by autograd through the family's own functions.

    Args:
        model: the family, and the noise.
        parameters: of M mixtures.
        stats: of an E-step under them, `(M, ...)`.
    """
    family, d = model.family, parameters.means.shape[-1]
    counts, total = stats.counts, stats.counts.sum(-1, keepdim=True)
    raw = parameters.raw_scale.detach().to(counts.dtype).requires_grad_()
    with torch.enable_grad():
        scale = family.scale(raw)
        volume = family.sum_tied(counts) * family.half_log_det(scale, d)
        spread = family.trace_precision_product(scale, stats.second, d)
        (of_raw,) = torch.autograd.grad(-(volume + 0.5 * spread).sum(), raw)
    logits, noise = parameters.mixture_logits, parameters.noise_logit
    of_noise = torch.zeros_like(noise)
    if model.noise is not None:
        rows = stats.noise.unsqueeze(-1)
        share = noise.detach().to(rows.dtype).sigmoid()
        of_noise = rows - share * (rows + total)
    found = MixtureParameters(
        counts - logits.detach().to(counts.dtype).softmax(-1) * total,
        _times_precision(family, scale.detach(), stats.first),
        of_raw,
        of_noise,
    )
    return found.to(parameters.dtype)


def _times_precision(family: Covariance, scale: Tensor, vectors: Tensor) -> Tensor:
    """Products `Sigma_k^-1 v_k` with vectors `(M, K, D)`."""
    if family.axis_aligned:
        return family.whiten(scale, family.whiten(scale, vectors))
    d = vectors.shape[-1]
    factor = family.scale_tril(scale, d).expand(*vectors.shape, d)
    return torch.cholesky_solve(vectors.unsqueeze(-1), factor).squeeze(-1)


def _detached(parameters: MixtureParameters) -> MixtureParameters:
    return MixtureParameters(*(value.detach() for value in parameters))
