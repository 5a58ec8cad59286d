"""Implicit reparameterisation: gradients through the conditional distribution functions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from gmm_lightning.distributions.density.mixture_density import MixtureDensity, as_mixture
from gmm_lightning.linalg import LOG_2PI, full_precision


def implicit_reparameterization(mixture: MixtureDensity, x: Tensor) -> Tensor:
    """Samples x `(*S, *B, D)` with gradients to weights, means and scales.

    A sample solves, for uniform u, the sequence of conditional distribution functions

        u_d = sum_k w_k(x_<d) Phi((x_d - m_kd) / L_kdd)

    so that with J = du/dx, which is lower triangular, `x - J^-1 (u - stop(u))` has the value of
    x and its gradient. The variance of the gradient for the weights grows fast with the separation
    of the components: per sample about 0.6 at 2 standard deviations, 16 at 6, 700 at 10.

    References:
        A. Graves (2016), Stochastic backpropagation through mixture density distributions,
        arXiv 1607.05690.
        M. Figurnov, S. Mohamed, A. Mnih (2018), Implicit reparameterization gradients, NeurIPS.
    """
    mixture = as_mixture(mixture)
    x = x.detach()
    with full_precision(x.device):
        u, weights, z, terms = conditional_cdfs(mixture, x)
        with torch.no_grad():
            jacobian = _cdf_jacobian(weights, z, terms, mixture.scale_tril)
        moved = torch.linalg.solve_triangular(jacobian, (u - u.detach()).unsqueeze(-1), upper=False)
    return x - moved.squeeze(-1)


def conditional_cdfs(mixture: MixtureDensity, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`u_d = P(X_d <= x_d | x_<d)`, `(*S, *B, D)`, and its terms, `(*S, *B, K, D)` each.

    The terms are the components' weights given the features before d, the whitened rows, and the
    components' log densities of feature d given the features before it.
    """
    with full_precision(x.device):
        z = mixture.whiten(x)
        pivots = mixture.scale_tril.diagonal(dim1=-2, dim2=-1)
        terms = -0.5 * z.square() - pivots.log() - 0.5 * LOG_2PI
        before = pad(terms[..., :-1].cumsum(-1), (1, 0))
        weights = (mixture.log_weights.unsqueeze(-1) + before).softmax(-2)
        return (weights * normal_cdf(z)).sum(-2), weights, z, terms


def normal_cdf(z: Tensor) -> Tensor:
    """`Phi(z)` to full precision in the lower tail, where torch's `ndtr` is 0 from -8.3 on."""
    return 0.5 * torch.erfc(-math.sqrt(0.5) * z)


def _cdf_jacobian(weights: Tensor, z: Tensor, terms: Tensor, factor: Tensor) -> Tensor:
    """du/dx, `(*S, *B, D, D)`, lower triangular."""
    identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    density = weights * (terms + pivots.log()).exp()
    direct = (density.unsqueeze(-1) * inverse).sum(-3)
    # Derivatives of the weights of feature d with respect to the features before it.
    slope = -(z.unsqueeze(-1) * inverse)
    slope = pad(slope[..., :-1, :].cumsum(-2), (0, 0, 1, 0))
    mean = (weights.unsqueeze(-1) * slope).sum(-3, keepdim=True)
    through = weights * torch.special.ndtr(z)
    return direct + (through.unsqueeze(-1) * (slope - mean)).sum(-3)
