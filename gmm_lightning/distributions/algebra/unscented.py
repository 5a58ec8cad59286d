"""The unscented transform: nonlinear functions of mixtures, by sigma points."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_lightning._tracing import value_of
from gmm_lightning._validation import require_function, require_number, require_tensor
from gmm_lightning.distributions.density import MixtureDensity, as_mixture
from gmm_lightning.distributions.mixture import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype, definite_factor, symmetrize, total_covariance


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


class ComponentMoments(NamedTuple):
    """Weights, means and covariances of components, which may be singular.

    A function into more dimensions than its argument has, or one that loses some, gives
    covariances without full rank: they are moments, but not of a density.

    Attributes:
        mixture_logits: unnormalised log weights, `(*B, K)`.
        means: `(*B, K, D)`.
        component_covariances: `(*B, K, D, D)`.
        scale_tril: their lower Cholesky factors, NaN for one that is not positive definite. They
            are made in float64: rounded to float32, a covariance loses half of their digits.
    """

    mixture_logits: Tensor
    means: Tensor
    component_covariances: Tensor
    scale_tril: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean of all components together, `(*B, D)`."""
        return (self.mixture_logits.softmax(-1).unsqueeze(-1) * self.means).sum(-2)

    @property
    def covariance_matrix(self) -> Tensor:
        """Covariance of all components together, `(*B, D, D)`."""
        weights = self.mixture_logits.softmax(-1)
        return total_covariance(weights, self.means, self.component_covariances)

    def mixture(self) -> MixtureOfGaussians:
        """The mixture with these moments.

        Raises:
            InvalidArgumentError: a covariance is not positive definite.
        """
        singular = self.scale_tril.isnan().any(-1).any(-1)
        if value_of(singular.any()):
            raise InvalidArgumentError(
                f"{int(singular.sum())} of {singular.numel()} covariances are not positive "
                "definite, as where a function adds or loses dimensions, and have no density: use "
                "their moments, or a function of full rank"
            )
        return MixtureOfGaussians(self.mixture_logits, self.means, self.scale_tril)


def from_sigma_points(
    points: Tensor,
    mixture_logits: Tensor,
    *,
    alpha: float = 1e-3,
    beta: float = 2.0,
    kappa: float = 0.0,
) -> ComponentMoments:
    """Moments of the components from the values of a function at sigma points.

    Args:
        points: function values at `sigma_points`, `(*B, K, 2 D + 1, M)`.
        mixture_logits: `(*B, K)`.
        alpha: as for `sigma_points`.
        beta: weight of the central point in the covariance; 2 for a normal distribution.
        kappa: as for `sigma_points`.

    Returns:
        The moments, for any M; their `mixture()` where all covariances are definite.

    Raises:
        InvalidArgumentError: not a tensor, an even number of points, or logits of another shape.
    """
    require_tensor("points", points)
    require_tensor("mixture_logits", mixture_logits)
    if points.dim() < 3 or points.shape[-2] % 2 == 0 or points.shape[-2] < 3:
        raise InvalidArgumentError(
            f"expected 2 D + 1 points per component, got an array of shape {tuple(points.shape)}"
        )
    if mixture_logits.shape != points.shape[:-2]:
        raise InvalidArgumentError(
            f"points of shape {tuple(points.shape)} need mixture_logits of shape "
            f"{tuple(points.shape[:-2])}, got {tuple(mixture_logits.shape)}"
        )
    total, beta = _scaling(points.shape[-2] // 2, alpha, kappa), require_number("beta", beta)
    # The weight of the centre is huge and negative for a small alpha: with gaps g to the central
    # point and s their weighted sum it cancels analytically, and the covariance is
    # `sum_i w_i g_i g_i' + (beta - alpha^2) s s'`.
    gap = points[..., 1:, :] - points[..., :1, :]
    shift = gap.sum(-2) / (2 * total)
    outer = shift.unsqueeze(-1) * shift.unsqueeze(-2)
    covariances = gap.mT @ gap / (2 * total) + (beta - alpha**2) * outer
    factor, definite = definite_factor(symmetrize(covariances))
    factor = torch.where(definite[..., None, None], factor, torch.nan)
    return ComponentMoments(mixture_logits, points[..., 0, :] + shift, covariances, factor)


def unscented(
    mixture: MixtureDensity,
    function: Callable[[Tensor], Tensor],
    *,
    alpha: float = 1e-3,
    beta: float = 2.0,
    kappa: float = 0.0,
) -> ComponentMoments:
    """Approximate moments of `f(x)`, component by component; exact for affine f.

    Args:
        mixture: of x.
        function: f on points `(*B, K, 2 D + 1, D)` in float64, acting on the last axis.
        alpha: as for `sigma_points`.
        beta: as for `from_sigma_points`.
        kappa: as for `sigma_points`.

    Returns:
        The moments, also where f adds or loses dimensions; their `mixture()` where it does not.

    Raises:
        InvalidArgumentError: a value out of range, or no function that returns a tensor.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.ones(1, 2), torch.eye(2)[None])
        >>> radius = unscented(mixture, lambda x: x.square().sum(-1, keepdim=True).sqrt())
        >>> radius.mixture().log_prob(torch.ones(1)).shape
        torch.Size([])
        >>> lifted = unscented(mixture, lambda x: torch.cat([x, x.sum(-1, keepdim=True)], -1))
        >>> lifted.covariance_matrix
        tensor([[1., 0., 1.],
                [0., 1., 1.],
                [1., 1., 2.]])
    """
    mixture = as_mixture(mixture)
    require_function("the function of points", function)
    # Points lie close together for a small alpha: their differences need float64.
    wide = mixture.map_parameters(lambda p: p.to(accumulator_dtype(p.device)))
    points = function(sigma_points(wide, alpha, kappa))
    found = from_sigma_points(points, wide.mixture_logits, alpha=alpha, beta=beta, kappa=kappa)
    return ComponentMoments(*(part.to(mixture.means.dtype) for part in found))


def _scaling(num_features: int, alpha: float, kappa: float) -> float:
    """`D + lambda = alpha^2 (D + kappa)`."""
    alpha = require_number("alpha", alpha, above=0)
    kappa = require_number("kappa", kappa, above=-num_features)
    return require_number("alpha^2 (D + kappa)", alpha * alpha * (num_features + kappa), above=0)
