"""Lloyd's algorithm from k-means++ seeds."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.initializers.base import Initializer, nearest
from gmm_lightning.initializers.kmeans_plus_plus import plus_plus_centres


class KMeans(Initializer):
    """Each row belongs to its k-means cluster, in standard units.

    Args:
        max_iter: passes over the rows at most.
        tol: stop when the centres' squared movement, relative to the mean variance, is below it.

    References:
        S. P. Lloyd (1982), Least squares quantization in PCM, IEEE Transactions on Information
        Theory 28.
    """

    name: ClassVar[str] = "kmeans"

    def __init__(self, max_iter: int = 100, tol: float = 1e-6) -> None:
        if max_iter < 0 or not tol >= 0:
            raise InvalidArgumentError(
                f"kmeans needs max_iter >= 0 and tol >= 0, got {max_iter} and {tol}"
            )
        self.max_iter, self.tol = max_iter, tol

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        centres = plus_plus_centres(x, num_components, weight, generator)
        labels, distance = nearest(x, centres)
        weighted = weight.unsqueeze(-1) * x
        for _ in range(self.max_iter):
            mass = torch.zeros(num_components, dtype=x.dtype, device=x.device)
            mass.index_add_(0, labels, weight)
            sums = torch.zeros_like(centres).index_add_(0, labels, weighted)
            moved = torch.where((mass > 0).unsqueeze(-1), sums / mass.unsqueeze(-1), centres)
            lost = (mass <= 0).nonzero().squeeze(-1)
            if len(lost):
                # A cluster without rows starts again at the rows that are served worst.
                moved[lost] = x[(weight * distance).topk(len(lost)).indices]
            shift = (moved - centres).square().sum()
            centres = moved
            labels, distance = nearest(x, centres)
            if shift <= self.tol:
                break
        return labels

    def __repr__(self) -> str:
        return f"KMeans(max_iter={self.max_iter}, tol={self.tol})"
