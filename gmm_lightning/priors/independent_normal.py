"""A normal prior on the means that does not depend on the covariances."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning._tracing import value_of
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.linalg import LOG_2PI, multiply_rows, solve_rows
from gmm_lightning.priors._drawing import normal
from gmm_lightning.priors.base import Prior
from gmm_lightning.priors.data_moments import DataMoments

# Of the data's variances, in each mean.
_SHARE = 0.1


class IndependentNormal(Prior):
    """Normal prior on the means, `mu_k ~ N(loc_k, V)`, independent of the covariances.

        -2 log p = sum_k D log(2 pi) + log|V| + (mu_k - loc_k)' V^-1 (mu_k - loc_k)

    Where the centres follow from the data, a fit starts with its components in the order of the
    centres that are nearest to them. It has no closed form for EM.

    Args:
        loc: centres, `(D,)` or anything that broadcasts to `(*B, K, D)`; None: the centroids of
            k-means of the rows.
        covariance: V, in squared units of the rows: a variance, variances `(D,)`, or a positive
            definite matrix `(D, D)`; None: a tenth of the data's variances.

    Raises:
        InvalidArgumentError: centres that are not finite, or a covariance that is not positive
            definite.

    References:
        S. Richardson and P. J. Green (1997), On Bayesian analysis of mixtures with an unknown
        number of components, JRSS B 59.

    Example:
        >>> IndependentNormal(loc=[0.0, 0.0], covariance=2.0)
        IndependentNormal(loc=[0.0, 0.0], covariance=2.0)
    """

    name: ClassVar[str] = "independent_normal"
    slot: ClassVar[str] = "means"
    fits: ClassVar[frozenset[str]] = frozenset({"gradient"})
    loc: Tensor
    scale_tril: Tensor

    def __init__(self, loc: Hyperparameter = None, covariance: Hyperparameter = None) -> None:
        super().__init__(loc=loc, covariance=covariance)
        self._require_above("loc", -math.inf, "finite")
        given = self._given["covariance"]
        if given is None or given.dim() < 2:
            self._require_above("covariance", 0, "> 0 and finite")
        else:
            _require_definite(given)

    def bind(self, shape: MixtureShape) -> None:
        d, given = shape.num_features, self._given["covariance"]
        self._register("loc", shape.means)
        factor = partial(_factor, diagonal=given is not None and given.dim() < 2)
        square = (*shape.batch_shape, 1, d, d)
        self._register("scale_tril", square, argument="covariance", change=factor)

    @property
    def uses_centroids(self) -> bool:
        return self._given["loc"] is None

    @property
    def uses_variances(self) -> bool:
        return self._given["covariance"] is None

    @property
    def centres(self) -> Tensor | None:
        return self.loc

    def resolve(self, data: DataMoments, num_components: int) -> None:
        if self.uses_centroids:
            centroids = data.mean.unsqueeze(-2) if data.centroids is None else data.centroids
            self._set_default("loc", centroids)
        if self.uses_variances and data.variance is not None:
            rounding = (4 * torch.finfo(self._dtype).eps * data.mean).square()
            variance = torch.where(data.variance > rounding, data.variance, 1.0)
            self._set_default("scale_tril", (_SHARE * variance).sqrt().diag_embed().unsqueeze(-3))

    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        self.require_resolved()
        white = solve_rows(self.scale_tril, mixture.means - self.loc)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = log_det + 0.5 * mixture.num_features * LOG_2PI
        return -(0.5 * white.square().sum(-1) + constant).sum(-1)

    def _sample(
        self, draws: int, generator: Generator | None, scale: Tensor | None
    ) -> dict[str, Tensor]:
        noise = normal((draws, *self.loc.shape), self.loc, generator)
        return {"means": self.loc + multiply_rows(self.scale_tril, noise)}


def _factor(covariance: Tensor, *, diagonal: bool) -> Tensor:
    """Cholesky factors; NaN of what is not known. Variances come in every row of a matrix."""
    if diagonal:
        return covariance.diagonal(dim1=-2, dim2=-1).sqrt().diag_embed()
    factor, info = torch.linalg.cholesky_ex(covariance)
    return factor.masked_fill((info != 0)[..., None, None], torch.nan)


def _require_definite(given: Tensor) -> None:
    square = given.shape[-1] == given.shape[-2]
    if not square or value_of(torch.isclose(given, given.mT).all()) is False:
        raise InvalidArgumentError(
            "covariance of the prior 'independent_normal' must be a number, (D,) variances or a "
            f"symmetric (D, D) matrix, got shape {tuple(given.shape)}"
        )
    smallest = value_of(torch.linalg.eigvalsh(given).min())
    if smallest is not None and not smallest > 0:
        raise InvalidArgumentError(
            "covariance of the prior 'independent_normal' must be positive definite (smallest "
            f"eigenvalue > 0), got smallest eigenvalue {smallest:.3g}"
        )
