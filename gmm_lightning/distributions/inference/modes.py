"""Modes of the density, and its score."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning._tracing import value_of
from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.distributions.density import MixtureDensity, as_mixture
from gmm_lightning.linalg import full_precision, solve_rows


def grad_log_prob(mixture: MixtureDensity, x: Tensor) -> Tensor:
    """The score, `(*S, *B, D)`: see `MixtureOfGaussians.grad_log_prob`."""
    mixture = as_mixture(mixture)
    x = mixture.check_rows(x).to(mixture.means.dtype)
    resp = mixture.responsibilities(x)
    with full_precision(x.device):
        push = solve_rows(mixture.scale_tril, mixture.whiten(x), transposed=True)
    return -(resp.unsqueeze(-1) * push).sum(-2)


@torch.no_grad()
def modes(mixture: MixtureDensity, max_iter: int = 1000, tol: float = 1e-10) -> Tensor:
    """Modes of the density, by mean shift from each mean, `(*B, K, D)`.

        x <- x + (sum_k r_k(x) P_k)^-1 sum_k r_k(x) P_k (mu_k - x),   P_k = Sigma_k^-1

    Each fixed point is a mode (or, on a set of measure zero, a saddle point). Several means may
    lead to one mode: the distinct rows are the modes.

    Args:
        mixture: the mixture.
        max_iter: maximum number of iterations.
        tol: stop when no point moves by more, relative to the mixture's standard deviation.

    Raises:
        InvalidArgumentError: `max_iter` below 1, or a `tol` below 0.

    References:
        M. A. Carreira-Perpinan (2000), Mode-finding for mixtures of Gaussian distributions, IEEE
        PAMI 22.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(2), torch.tensor([[-0.1], [0.1]]),
        ...                              torch.ones(2, 1, 1))
        >>> modes(mixture).abs().max() < 1e-4
        tensor(True)
    """
    mixture = as_mixture(mixture)
    max_iter = require_integer("max_iter", max_iter, least=1)
    tol = require_number("tol", tol, least=0)
    precision = torch.cholesky_inverse(mixture.scale_tril)
    spread = mixture.variance.sqrt().amax(-1)
    x = mixture.means.movedim(-2, 0)
    with full_precision(x.device):
        for _ in range(max_iter):
            resp = mixture.responsibilities(x)[..., None, None]
            gap = (mixture.means - x.unsqueeze(-2)).unsqueeze(-1)
            total, pull = (resp * precision).sum(-3), (resp * (precision @ gap)).sum(-3)
            step = torch.linalg.solve(total, pull).squeeze(-1)
            x = x + step
            if value_of((step.abs().amax(-1) <= tol * spread).all()):
                break
    return x.movedim(0, -2)
