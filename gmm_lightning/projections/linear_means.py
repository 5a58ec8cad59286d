"""Means that a linear map ties to each other."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning._tracing import value_of
from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.linalg import take_components
from gmm_lightning.projections.base import P, Projection, move_means, require_one_order
from gmm_lightning.statistics import Moments


class LinearMeans(Projection):
    """Ties the means by a linear map, `mu_k = A_k b`: lines, grids, lattices.

    The M-step estimates b by generalised least squares, with the inverse covariance of each mean,
    `n_k Sigma_k^-1`, at the present covariances; then the covariances are estimated about these
    means. With a matrix `(K, P)` and one covariance for all components this is the exact maximum;
    otherwise it is a conditional maximisation, so that the objective rises and fixed points are
    the same. What the rows do not determine stays.

    Args:
        matrix: A, `(K, P)`: mean k is `sum_p A_kp b_p`, with b `(P, D)`; or `(K, D, P)`: mean k is
            `A_k b`, with b `(P,)`. Its columns are independent. None: means on one line, at equal
            distances, `[1, k]`.

    Raises:
        InvalidArgumentError: another shape, entries that are not finite, or dependent columns.

    References:
        X.-L. Meng, D. B. Rubin (1993), Maximum likelihood estimation via the ECM algorithm,
        Biometrika 80.

    Example:
        A lattice of two by two means:

        >>> lattice = LinearMeans([[1, 0, 0], [1, 1, 0], [1, 0, 1], [1, 1, 1]])
        >>> GMMLayer(2, 4, projections=lattice).num_free_parameters  # of 23
        21
        >>> layer = GMMLayer(2, 3, projections="linear_means")
        >>> layer.num_free_parameters  # of 17
        15
    """

    name: ClassVar[str] = "linear_means"
    parts = frozenset({"means"})
    matrix: Tensor

    def __init__(self, matrix: Hyperparameter = None) -> None:
        super().__init__(matrix=matrix)
        given = self._given["matrix"]
        if given is None:
            return
        if given.dim() not in (2, 3) or value_of(torch.isfinite(given).all()) is False:
            raise InvalidArgumentError(
                "the matrix of linear_means must be finite, of shape (K, P) or (K, D, P), got "
                f"shape {tuple(given.shape)}"
            )

    def bind(self, shape: MixtureShape) -> None:
        given, (k, d) = self._given["matrix"], shape.means[-2:]
        if given is None:
            line = torch.stack([torch.ones(k), torch.arange(k)], -1)[:, : min(k, 2)]
            given = line.double()
            self._give("matrix", given)
        if given.shape[0] != k or (given.dim() == 3 and given.shape[1] != d):
            raise InvalidArgumentError(
                f"the matrix of linear_means must be of shape ({k}, P) or ({k}, {d}, P) for "
                f"{k} components of {d} features, got {tuple(given.shape)}"
            )
        columns = given.flatten(0, -2)
        rank = value_of(torch.linalg.matrix_rank(columns))
        if rank is not None and rank < columns.shape[-1]:
            raise InvalidArgumentError(
                f"the {columns.shape[-1]} columns of the matrix of linear_means must be "
                f"independent, and its rank is {int(rank)}: leave some of them out"
            )
        self._register("matrix", (*shape.batch_shape, *given.shape))

    def _columns(self, num_features: int) -> Tensor:
        """The matrix for means `(K, D)` and b in one axis, `(*B, K, D, P')`."""
        matrix = self.matrix.double()
        if self._given_dim == 3:
            return matrix
        identity = torch.eye(num_features, dtype=matrix.dtype, device=matrix.device)
        wide = matrix[..., None, :, None] * identity[:, None, :]
        return wide.flatten(-2)

    @property
    def _given_dim(self) -> int:
        return self.matrix.dim() - len(self.batch_shape)

    def forward(self, moments: Moments, covariance: Covariance, present: MixtureDensity) -> Moments:
        means, d = moments.means, moments.means.shape[-1]
        columns = self._columns(d).to(means)
        start = _onto(columns, present.means.to(means))
        factor = covariance.scale_tril(present.scale.to(means), d)
        factor = factor.expand(*means.shape, d)
        rows = moments.mean_precision.clamp(min=0).sqrt()[..., None, None]
        design = rows * torch.linalg.solve_triangular(
            factor, columns.expand(*means.shape, columns.shape[-1]), upper=False
        )
        gap = rows * torch.linalg.solve_triangular(
            factor, (means - start).unsqueeze(-1), upper=False
        )
        # The least change of b, where the rows leave it open.
        inverse = torch.linalg.pinv(design.flatten(-3, -2))
        change = inverse @ gap.flatten(-3, -2)
        tied = start + (columns @ change.unsqueeze(-3)).squeeze(-1)
        return move_means(moments, tied, covariance)

    def constrain(self, parameters: P, covariance: Covariance) -> P:
        means = parameters.means
        tied = _onto(self._columns(means.shape[-1]), means.double())
        size = means.double().abs().amax((-2, -1), keepdim=True)
        slack = 8 * torch.finfo(means.dtype).eps * size
        same = ((tied - means).abs() <= slack).all(-1, keepdim=True).all(-2, keepdim=True)
        return parameters._replace(means=torch.where(same, means, tied.to(means)))

    def reorder(self, index: Tensor) -> None:
        order, given = require_one_order(index), self._given["matrix"]
        assert given is not None
        self._give("matrix", given[order.to(given.device)])
        self.matrix.copy_(take_components(self.matrix, index))

    def num_fixed_parameters(
        self, num_components: int, num_features: int, covariance: Covariance
    ) -> int:
        each = 1 if self._given_dim == 3 else num_features
        return max(0, num_components * num_features - self.matrix.shape[-1] * each)


def _onto(columns: Tensor, means: Tensor) -> Tensor:
    """Means `(*S, *B, K, D)` on the span of columns `(*B, K, D, P')`, by least squares."""
    basis = torch.linalg.qr(columns.flatten(-3, -2)).Q
    flat = means.flatten(-2).unsqueeze(-1)
    return (basis @ (basis.mT @ flat)).reshape(means.shape)
