"""The unscented transform: nonlinear functions of mixtures, by sigma points."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.distributions.density import MixtureDensity, as_mixture
from gmm_lightning.distributions.mixture import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype, symmetrize


def sigma_points(mixture: MixtureDensity, alpha: float = 1e-3, kappa: float = 0.0) -> Tensor:
    """Sigma points `(*B, K, 2 D + 1, D)` with the mean and covariance of each component.

    With `lambda = alpha^2 (D + kappa) - D`: the mean, and the mean plus and minus each column
    of `sqrt(D + lambda) L`.

    Args:
        mixture: the mixture.
        alpha: spread of the points, > 0.
        kappa: second spread parameter, > -D.

    Raises:
        InvalidArgumentError: a value out of range.

    References:
        S. J. Julier, J. K. Uhlmann (2004), Unscented filtering and nonlinear estimation,
        Proceedings of the IEEE 92.
    """
    mixture = as_mixture(mixture)
    spread = _scaling(mixture.num_features, alpha, kappa) ** 0.5
    steps = spread * mixture.scale_tril.mT
    centre = mixture.means.unsqueeze(-2)
    return torch.cat([centre, centre + steps, centre - steps], -2)


def from_sigma_points(
    points: Tensor,
    mixture_logits: Tensor,
    *,
    alpha: float = 1e-3,
    beta: float = 2.0,
    kappa: float = 0.0,
) -> MixtureOfGaussians:
    """The mixture whose components have the moments of sigma points.

    Args:
        points: function values at `sigma_points`, `(*B, K, 2 D + 1, M)`.
        mixture_logits: `(*B, K)`.
        alpha: as for `sigma_points`.
        beta: weight of the central point in the covariance; 2 for a normal distribution.
        kappa: as for `sigma_points`.

    Raises:
        InvalidArgumentError: an even number of points, or a covariance that is not of full rank.
    """
    if points.dim() < 3 or points.shape[-2] % 2 == 0 or points.shape[-2] < 3:
        raise InvalidArgumentError(
            f"expected 2 D + 1 points per component, got an array of shape {tuple(points.shape)}"
        )
    total, beta = _scaling(points.shape[-2] // 2, alpha, kappa), require_number("beta", beta)
    # The weight of the centre is huge and negative for a small alpha: with gaps g to the central
    # point and s their weighted sum it cancels analytically, and the covariance is
    # `sum_i w_i g_i g_i' + (beta - alpha^2) s s'`.
    gap = points[..., 1:, :] - points[..., :1, :]
    shift = gap.sum(-2) / (2 * total)
    outer = shift.unsqueeze(-1) * shift.unsqueeze(-2)
    covariance = gap.mT @ gap / (2 * total) + (beta - alpha**2) * outer
    factor, info = torch.linalg.cholesky_ex(symmetrize(covariance))
    if bool((info != 0).any()):
        raise InvalidArgumentError(
            "the points of a component have no covariance of full rank: the function loses "
            "dimensions"
        )
    return MixtureOfGaussians(mixture_logits, points[..., 0, :] + shift, factor)


def unscented(
    mixture: MixtureDensity,
    function: Callable[[Tensor], Tensor],
    *,
    alpha: float = 1e-3,
    beta: float = 2.0,
    kappa: float = 0.0,
) -> MixtureOfGaussians:
    """Approximately the distribution of `f(x)`, component by component; exact for affine f.

    Args:
        mixture: of x.
        function: f on points `(*B, K, 2 D + 1, D)` in float64, acting on the last axis.
        alpha: as for `sigma_points`.
        beta: as for `from_sigma_points`.
        kappa: as for `sigma_points`.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.ones(1, 2), torch.eye(2)[None])
        >>> polar = unscented(mixture, lambda x: x.square().sum(-1, keepdim=True).sqrt())
        >>> polar.means.shape
        torch.Size([1, 1])
    """
    mixture = as_mixture(mixture)
    # Points lie close together for a small alpha: their differences need float64.
    wide = mixture.map_parameters(lambda p: p.to(accumulator_dtype(p.device)))
    points = function(sigma_points(wide, alpha, kappa))
    image = from_sigma_points(points, wide.mixture_logits, alpha=alpha, beta=beta, kappa=kappa)
    return image.map_parameters(lambda p: p.to(mixture.means.dtype))


def _scaling(num_features: int, alpha: float, kappa: float) -> float:
    """`D + lambda = alpha^2 (D + kappa)`."""
    alpha = require_number("alpha", alpha, above=0)
    kappa = require_number("kappa", kappa, above=-num_features)
    return require_number("alpha^2 (D + kappa)", alpha * alpha * (num_features + kappa), above=0)
