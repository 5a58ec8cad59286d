"""One flat vector for the parameters of a mixture, and its volume against those of the priors."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from gmm_lightning.covariances import Covariance
from gmm_lightning.em import MixtureParameters
from gmm_lightning.layers import GMMLayer


def log_jacobian(layer: GMMLayer, parameters: MixtureParameters | None = None) -> Tensor:
    """Log volume `log |d natural / d raw|` at raw parameters, `(M,)`: `(*B)` as one axis.

    What a prior of the library is a density of, against what a sampler moves:

        weights       pi_1 ... pi_{K-1} against K - 1 coordinates y of `mixture_logits = V y`,
                      whose sum is zero (V'V = I): `sum_k log pi_k + log(K) / 2`
        means         themselves: 0
        covariances   the lower triangle of Sigma against a log-diagonal Cholesky factor,
                      `D log 2 + sum_i (D - i + 2) log L_ii`; variances: `sum log(2 s^2)`
        noise         p0 against its logit: `log p0 (1 - p0)`, unless it is fixed

    A prior in the slots `scales` or `correlations` is a density of standard deviations s and of
    the correlations' Cholesky factor R: there the volume is that of `(s, R)`, with
    `2 log L_ii - i log s_i` for each row i of a dense family and `log s` for the others. Where
    only `scales` has one, the correlation matrices have a flat density (LKJ with eta = 1).

    Args:
        layer: gives the family, the noise, and the slots of the priors.
        parameters: of M mixtures; None: those of the layer.

    References:
        J. J. Egozcue et al. (2003), Isometric logratio transformations for compositional data
        analysis, Mathematical Geology 35.
        D. Lewandowski, D. Kurowicka, H. Joe (2009), Generating random correlation matrices based
        on vines and extended onion method, Journal of Multivariate Analysis 100.
        Stan Development Team (2024), Stan Reference Manual, Constraint transforms.

    Example:
        >>> layer = GMMLayer(2, 1, "diag")
        >>> round(float(log_jacobian(layer)), 4)  # two variances of 1: 2 log 2
        1.3863
    """
    own = MixtureParameters.from_layer(layer) if parameters is None else parameters
    logits, k = own.mixture_logits, own.num_components
    total = logits.log_softmax(-1).sum(-1) + math.log(k) / 2
    total = total + _of_covariances(layer, own.raw_scale).sum(-1)
    if layer.noise is not None and not layer.noise.fixed:
        logit = own.noise_logit.squeeze(-1)
        total = total + functional.logsigmoid(logit) + functional.logsigmoid(-logit)
    return total


def _of_covariances(layer: GMMLayer, raw: Tensor) -> Tensor:
    """The volumes of the covariances, `(M, G)`, in what the priors are densities of."""
    family, slots = layer.covariance, set(layer.priors)
    if slots.isdisjoint(("scales", "correlations")):
        return family.log_jacobian(raw)
    return family.log_jacobian_of_deviations(raw, flat="correlations" not in slots)


class RawVector:
    """Flat unconstrained vectors `(M, V)` and the raw parameters of M mixtures.

    V counts K - 1 coordinates of the logits, the means, the raw entries of the covariances that
    the family reads, and the logit of a noise that is not fixed.

    Args:
        layer: gives the shapes, and the logit of a fixed noise.

    Attributes:
        size: V.

    Example:
        >>> vector = RawVector(GMMLayer(2, 3, "full"))
        >>> vector.size  # 2 + 3 * 2 + 3 * 3
        17
    """

    def __init__(self, layer: GMMLayer) -> None:
        self._start = MixtureParameters.from_layer(layer).to(torch.float64)
        k, d = layer.num_components, layer.num_features
        self._basis = zero_sum_basis(k)
        self._used = used_entries(layer.covariance, k, d)
        estimated = layer.noise is not None and not layer.noise.fixed
        self._sizes = [k - 1, k * d, int(self._used.sum()), int(estimated)]
        self.size = sum(self._sizes)

    def parameters(self, vector: Tensor) -> MixtureParameters:
        """Raw parameters of vectors `(M, V)`, through which gradients flow."""
        free, means, raw, noise = vector.split(self._sizes, -1)
        m, start = len(vector), self._start
        scale = vector.new_zeros(m, self._used.numel())
        scale = scale.index_copy(-1, self._used.flatten().nonzero().squeeze(-1), raw)
        if not self._sizes[-1]:
            noise = start.noise_logit[:1].expand(m, -1)
        return MixtureParameters(
            free @ self._basis.mT,
            means.reshape(m, *start.means.shape[1:]),
            scale.reshape(m, *self._used.shape),
            noise,
        )

    def from_parameters(self, parameters: MixtureParameters) -> Tensor:
        """The vectors `(M, V)` of raw parameters; a constant in the logits has no part in it."""
        logits, means, raw, noise = parameters.to(torch.float64)
        # A weight of zero has no finite logit, and no start of a chain is there.
        logits = logits.log_softmax(-1).clamp(min=-30.0)
        parts = (logits @ self._basis, means.flatten(1), raw[:, self._used])
        return torch.cat([*parts, *([noise] if self._sizes[-1] else [])], -1)

    def from_scales(self, scales: MixtureParameters) -> Tensor:
        """The scales `(M, V)` of the vectors' entries, from those of raw parameters."""
        logits, means, raw, noise = scales.to(torch.float64)
        parts = (logits[:, 1:], means.flatten(1), raw[:, self._used])
        return torch.cat([*parts, *([noise] if self._sizes[-1] else [])], -1)


def zero_sum_basis(size: int) -> Tensor:
    """Orthonormal columns `(K, K - 1)` that sum to zero (Helmert's contrasts), in float64.

    Example:
        >>> zero_sum_basis(2).squeeze(-1)
        tensor([ 0.7071, -0.7071], dtype=torch.float64)
    """
    number = torch.arange(1, size, dtype=torch.float64)
    basis = torch.ones(size, size - 1, dtype=torch.float64).triu()
    basis = basis - torch.diag_embed(number, offset=-1)[:, : size - 1]
    return basis / (number * (number + 1)).sqrt()


def used_entries(family: Covariance, num_components: int, num_features: int) -> Tensor:
    """Mask `(G, ...)` of the raw entries that a family's scale depends on."""
    raw = torch.zeros(family.shape(num_components, num_features), dtype=torch.float64)
    raw.requires_grad_()
    with torch.enable_grad():
        (found,) = torch.autograd.grad(family.scale(raw).sum(), raw)
    return found != 0
