"""Shrinkage of covariances to spherical ones, for components with few rows in many features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from gmm_lightning._validation import require_choice
from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.linalg import unsqueeze_like
from gmm_lightning.projections.base import Projection
from gmm_lightning.rows import as_tensor
from gmm_lightning.statistics import Moments


class Shrinkage(Projection):
    """Shrinks scatters: `S <- (1 - rho) S + rho tr(S)/D I`, component by component.

    The result is not the mode of the objective, so EM with it is not monotone. rho follows from the
    effective count n of each component, as if its rows were drawn from one Gaussian.

    Args:
        kind: `oas`, oracle approximating shrinkage, or `rblw`, the Rao-Blackwell form of Ledoit
            and Wolf's.

    References:
        Y. Chen, A. Wiesel, Y. C. Eldar, A. O. Hero (2010), Shrinkage algorithms for MMSE
        covariance estimation, IEEE Transactions on Signal Processing 58.

    Example:
        >>> layer = GMMLayer(num_features=5, num_components=2, projections=Shrinkage("oas"))
        >>> _ = m_step(layer, e_step(layer, torch.randn(12, 5)))
    """

    name: ClassVar[str] = "shrinkage"
    parts = frozenset({"covariances"})
    is_separable: ClassVar[bool] = True
    is_maximum: ClassVar[bool] = False

    def __init__(self, kind: str = "oas") -> None:
        super().__init__()
        self.kind = require_choice("kind", kind, _INTENSITIES)

    def forward(
        self, moments: Moments, covariance: Covariance, present: MixtureDensity | None = None
    ) -> Moments:
        """The moments with shrunk scatter, whatever the present mixtures."""
        d = moments.means.shape[-1]
        counts = covariance.sum_tied(moments.counts)
        safe = moments.dof.clamp(min=torch.finfo(moments.dof.dtype).tiny)
        scatter = moments.scatter
        rho, size = _intensity(self.kind, scatter / unsqueeze_like(safe, scatter), counts, d)
        identity = torch.eye(d, dtype=size.dtype, device=size.device)
        ball = covariance.project(identity.expand(*size.shape, d, d))
        rho, size = unsqueeze_like(rho, scatter), unsqueeze_like(size * safe, scatter)
        return replace(moments, scatter=(1 - rho) * scatter + rho * size * ball)

    def config(self) -> dict[str, Any]:
        """Constructor arguments as primitives."""
        return {"kind": self.kind}


def _intensity(kind: str, scatter: Tensor, counts: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Rho and `tr(S)/D` for covariances `(*B, G, ...)` in any form, from counts `(*B, G)`."""
    form = scatter.dim() - counts.dim()
    if form == 0:  # Spherical already.
        return torch.zeros_like(counts), scatter
    trace = scatter.diagonal(dim1=-2, dim2=-1).sum(-1) if form == 2 else scatter.sum(-1)
    square = scatter.square().flatten(-form).sum(-1)
    return _INTENSITIES[kind](trace, square, counts, d), trace / d


def _oas(trace: Tensor, square: Tensor, n: Tensor, d: int) -> Tensor:
    """`((1 - 2/D) tr(S^2) + tr(S)^2) / ((n + 1 - 2/D) (tr(S^2) - tr(S)^2/D))`, at most 1."""
    return _ratio((1 - 2 / d) * square + trace.square(), n + 1 - 2 / d, square - trace.square() / d)


def _rblw(trace: Tensor, square: Tensor, n: Tensor, d: int) -> Tensor:
    """`((n - 2)/n tr(S^2) + tr(S)^2) / ((n + 2) (tr(S^2) - tr(S)^2/D))`, at most 1."""
    few = ((n - 2) / n.clamp(min=1)).clamp(min=0)
    return _ratio(few * square + trace.square(), n + 2, square - trace.square() / d)


def _ratio(above: Tensor, count: Tensor, spread: Tensor) -> Tensor:
    """An intensity in [0, 1]; 1 where the covariance is spherical already."""
    return torch.where(count * spread > 0, above / (count * spread), 1.0).clamp(0, 1)


_INTENSITIES = {"oas": _oas, "rblw": _rblw}


def ledoit_wolf(x: Any, weight: Any = None) -> tuple[Tensor, Tensor]:
    """Ledoit and Wolf's shrunk covariance of rows `(N, D)`, and the intensity rho.

    With S the covariance about the mean, `m = tr(S)/D` and `d^2 = |S - m I|^2 / D`:

        rho = min(sum_n |d_n d_n' - S|^2 / (D N^2), d^2) / d^2

    With weights `(N,)`, such as the responsibilities of a component, N is the effective count
    `(sum w)^2 / sum w^2`.

    References:
        O. Ledoit, M. Wolf (2004), A well-conditioned estimator for large-dimensional covariance
        matrices, Journal of Multivariate Analysis 88.
    """
    x = as_tensor(x)
    w = torch.ones_like(x[:, 0]) if weight is None else as_tensor(weight, "weight").to(x)
    share = w / w.sum()
    gap, d = x - share @ x, x.shape[-1]
    covariance = (gap * share.unsqueeze(-1)).mT @ gap
    size = covariance.diagonal().sum() / d
    away = covariance - size * torch.eye(d, dtype=x.dtype, device=x.device)
    spread = away.square().sum() / d
    fourth = share @ gap.square().sum(-1).square() - covariance.square().sum()
    noise = (fourth * share.square().sum() / d).clamp(max=spread)
    rho = torch.where(spread > 0, noise / spread, 1.0)
    return covariance - rho * away, rho
