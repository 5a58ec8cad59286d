"""Wide Gaussian noise: the mean and a multiple of the covariance of all rows, or given ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning._tracing import value_of
from gmm_lightning._validation import require_number
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import Hyperparameter
from gmm_lightning.noise.base import Noise
from gmm_lightning.rows import RowSource

# The least eigenvalue of the correlations of all rows: columns that follow from each other leave
# a density that is finite.
_LEAST_CORRELATION = 1e-6
# Rows that are summed at a time.
_BLOCK = 1 << 14


class Gaussian(Noise):
    """Noise of one wide normal density, `u(x) = N(x | m, c S)`.

    m and S are the mean and the covariance of all rows, c a factor. A constant feature has
    density 1 at its value, as in a layer. Of a row with missing entries the density is that of
    the others.

    Args:
        weight: see `Noise`.
        fixed: see `Noise`.
        concentration: see `Noise`.
        factor: c.
        mean: m, `(D,)` or anything that broadcasts to `(*B, D)`, in the units of the layer; None:
            of the data.
        covariance: the covariance itself, `(D, D)` or anything that broadcasts to `(*B, D, D)`;
            None: c S.

    Raises:
        InvalidArgumentError: a factor that is not positive, or a covariance that is not positive
            definite.

    References:
        P. Coretto, C. Hennig (2016), Robust improper maximum likelihood: tuning, computation, and
        a comparison with other methods for robust Gaussian clustering, JASA 111.

    Example:
        >>> noise = Gaussian(mean=[0.0, 0.0], covariance=[[4.0, 0.0], [0.0, 4.0]])
        >>> GMMLayer(2, 1, noise=noise).noise.log_density(torch.zeros(2))
        tensor(-3.2242)
    """

    name: ClassVar[str] = "gaussian"
    mean: Tensor
    scale_tril: Tensor

    def __init__(
        self,
        weight: float = 0.05,
        *,
        fixed: bool = False,
        concentration: Any = None,
        factor: float = 4.0,
        mean: Hyperparameter = None,
        covariance: Hyperparameter = None,
    ) -> None:
        hyper = {"mean": mean, "covariance": covariance}
        super().__init__(weight, fixed=fixed, concentration=concentration, **hyper)
        self.factor = require_number("factor", factor, above=0)

    def register(self, num_features: int) -> None:
        shape = (*self.batch_shape, num_features)
        self._register("mean", shape)
        square = (*shape, num_features)
        self._register("scale_tril", square, argument="covariance", change=_factor_of)

    @torch.no_grad()
    def resolve(self, source: RowSource) -> None:
        if None not in self._given.values():
            return
        mean, covariance = _moments(source, self.mean.shape)
        self._set_default("mean", mean)
        self._set_default("scale_tril", _wide_factor(self.factor * covariance, mean))

    def log_density(self, x: Tensor, missing: str | None = None) -> Tensor:
        self.require_resolved()
        logits = torch.zeros_like(self.mean[..., :1])
        means, scale = self.mean.unsqueeze(-2), self.scale_tril.unsqueeze(-3)
        return MixtureOfGaussians(logits, means, scale, "full").log_prob(x, missing)

    def sample(self, size: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        self.require_resolved()
        z = torch.empty(*size, *self.mean.shape, dtype=self.mean.dtype, device=self.mean.device)
        z = z.normal_(generator=generator)
        return self.mean + (self.scale_tril @ z.unsqueeze(-1)).squeeze(-1)

    def config(self) -> dict[str, Any]:
        """Constructor arguments as primitives."""
        return super().config() | {"factor": self.factor}


def _factor_of(covariance: Tensor) -> Tensor:
    """Lower Cholesky factor of a given covariance; NaN where none is known yet."""
    unknown = value_of(torch.isnan(covariance).any())
    if unknown is not False:
        return covariance
    factor, info = torch.linalg.cholesky_ex(covariance)
    symmetric = torch.isclose(covariance, covariance.mT, rtol=1e-5, atol=0).all()
    if value_of(symmetric & (info == 0).all()) is False:
        raise InvalidArgumentError(
            "covariance of the noise must be symmetric and positive definite"
        )
    return factor


def _moments(source: RowSource, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Weighted mean `(*B, D)` and covariance `(*B, D, D)` of all rows, in float64.

    Of missing entries, each is taken from the rows that have what it needs. Differences to the
    mean are summed in a second pass, so that an offset costs no digits.
    """
    total, first = torch.zeros(2, *shape, dtype=torch.float64)
    origin = next(b.x[:1] for b in source if b.num_rows).double().cpu().nan_to_num()[0]
    for x, used in _double_rows(source, shape):
        total, first = total + used.sum(0), first + (used * (x - origin)).sum(0)
    mean = origin + first / torch.where(total > 0, total, 1.0)
    pairs, second = torch.zeros(2, *shape, shape[-1], dtype=torch.float64)
    for x, used in _double_rows(source, shape):
        root = used.sqrt()
        diff = root * (x - mean)
        pairs = pairs + torch.einsum("n...i,n...j->...ij", root, root)
        second = second + torch.einsum("n...i,n...j->...ij", diff, diff)
    return mean, second / torch.where(pairs > 0, pairs, 1.0)


def _double_rows(source: RowSource, shape: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows `(n, *B, D)` with 0 for missing entries, and weights of the same shape, 0 for these."""
    for batch in source:
        for part in batch.split(_BLOCK):
            x = part.x.double().cpu().expand(-1, *shape)
            used = (~torch.isnan(x)).double()
            if part.weight is not None:
                used = used * part.weight.double().cpu().unsqueeze(-1)
            # What has no weight may be of any size.
            yield torch.where(used > 0, x, 0.0), used


def _wide_factor(covariance: Tensor, mean: Tensor) -> Tensor:
    """Lower Cholesky factor of a covariance whose correlations are bounded from below."""
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    # A constant is known up to the rounding of the mean; its density is 1 at its value.
    constant = variance <= (1e-12 * mean).square()
    deviation = torch.where(constant, (2 * torch.pi) ** -0.5, variance.sqrt())
    correlation = covariance / deviation.unsqueeze(-1) / deviation.unsqueeze(-2)
    either = constant.unsqueeze(-1) | constant.unsqueeze(-2)
    correlation = torch.where(either, 0.0, correlation)
    correlation = correlation.diagonal_scatter(torch.ones_like(variance), dim1=-2, dim2=-1)
    values, axes = torch.linalg.eigh(correlation)
    root = axes * values.clamp(min=_LEAST_CORRELATION).sqrt().unsqueeze(-2)
    # Q R of the root gives the factor without squaring it.
    upper = torch.linalg.qr(root.mT).R
    factor = upper.mT * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
    return deviation.unsqueeze(-1) * factor
