"""What rows that are not known exactly say of the true ones, under each component."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.covariances import Covariance
from gmm_lightning.em.uncertain_rows import UncertainRows
from gmm_lightning.linalg import LOG_2PI, factor_of_rows, invert_tril, masked_inverse
from gmm_lightning.rows import Batch, errors_of


@dataclass(frozen=True)
class Conditional:
    """The distribution of the true rows of a chunk given what is known, under each component.

    Attributes:
        rows: the chunk.
        log_density: of what is known, `(M, K, n)`.
        diff: expected differences to the means, `(M, K, D, n)`.
        spread: from weights `(M, K, n)` to the weighted sums of the conditional covariances,
            `(M, K, D, D)`, or of their diagonals, `(M, K, D)`.
    """

    rows: Batch
    log_density: Tensor
    diff: Tensor
    spread: Callable[[Tensor], Tensor]


class Conditionals(ABC):
    """Base class: the conditional distributions of rows, chunk by chunk, in float64.

    Args:
        family: of the covariances.
        scale: in the family's form, `(M, G, ...)`.
        means: `(M, K, D)`.
    """

    def __init__(self, family: Covariance, scale: Tensor, means: Tensor) -> None:
        self.means = means
        self._prepare(family, scale)

    @abstractmethod
    def _prepare(self, family: Covariance, scale: Tensor) -> None:
        """Compute what all rows share."""

    @abstractmethod
    def of(self, rows: UncertainRows, chunk_size: int | None = None) -> Iterator[Conditional]:
        """The conditional distributions of all rows, in order.

        Args:
            rows: at least one.
            chunk_size: rows at a time; None: as many as stay in cache.
        """

    def _gaps(self, rows: Batch) -> tuple[Tensor, Tensor]:
        """Differences to the means, `(M, K, D, n)`, 0 where missing; which are observed, (D, n)."""
        x = rows.x.reshape(rows.num_rows, -1).to(self.means).mT
        observed = ~torch.isnan(x)
        gap = torch.where(observed, x, 0.0) - self.means.unsqueeze(-1)
        return gap.mul_(observed), observed


class AxisAlignedConditionals(Conditionals):
    """Of families with one variance per feature, and errors that are independent of each other.

    With s^2 the variance, e that of the error, and a gain `g = s^2 / (s^2 + e)`, 0 where an entry
    is missing, the true entry has mean `mu + g (x - mu)` and variance `(1 - g) s^2`.
    """

    def _prepare(self, family: Covariance, scale: Tensor) -> None:
        variance = family.variances(scale.square(), self.means.shape[-1])
        self.variance = variance.expand_as(self.means)

    def of(self, rows: UncertainRows, chunk_size: int | None = None) -> Iterator[Conditional]:
        """The conditional distributions of all rows, in order."""
        size = chunk_size or rows_per_chunk(2 * self.means.numel(), self.means)
        for chunk in rows.batch.split(size):
            yield self._of_chunk(chunk, *self._gaps(chunk), errors_of(chunk))

    def _of_chunk(
        self, chunk: Batch, gap: Tensor, observed: Tensor, errors: Tensor | None
    ) -> Conditional:
        variance, mask = self.variance, observed.to(gap)
        if errors is None:
            square = (gap.square() / variance.unsqueeze(-1)).sum(-2)
            log_det = (variance.log() + LOG_2PI) @ mask

            def spread(weights: Tensor) -> Tensor:
                return variance * (weights @ (1 - mask).mT)

            return Conditional(chunk, -0.5 * (square + log_det), gap, spread)
        total = variance.unsqueeze(-1) + errors.to(gap).mT
        square = (gap.square() / total).sum(-2)
        log_det = ((total.log() + LOG_2PI) * mask).sum(-2)
        gain = variance.unsqueeze(-1) / total * mask

        def uncertain_spread(weights: Tensor) -> Tensor:
            return variance * ((1 - gain) @ weights.unsqueeze(-1)).squeeze(-1)

        return Conditional(chunk, -0.5 * (square + log_det), gain * gap, uncertain_spread)


class PatternConditionals(Conditionals):
    """Of dense covariances, by the blocks of the precision that belong to the missing entries.

    With `P = Sigma^-1`, M the missing entries of a pattern, `C = P_MM^-1`, d the differences to
    the mean, 0 at M, and `y = P d`: the missing entries have mean `mu_M - C y_M` and covariance C,
    and what is observed has the squared distance `d'y - y_M' C y_M` and the determinant
    `|Sigma| |P_MM|`. C is computed once for each pattern.

    References:
        Z. Ghahramani, M. I. Jordan (1994), Supervised learning from incomplete data via an EM
        approach, NIPS 6.
    """

    def _prepare(self, family: Covariance, scale: Tensor) -> None:
        k, d = self.means.shape[1:]
        inverse = family.inverse_tril(scale, d)
        self.whitening = invert_tril(family.scale_tril(scale, d)) if inverse is None else inverse
        self.precision = self.whitening.mT @ self.whitening
        self.half_log_det = family.half_log_det(scale, d).expand(-1, k).unsqueeze(-1)

    def of(self, rows: UncertainRows, chunk_size: int | None = None) -> Iterator[Conditional]:
        """The conditional distributions of all rows, in order."""
        m, k, d = self.means.shape
        most = int(rows.patterns.sum(-1).max())
        size = max(_FEWEST_ROWS, rows_per_chunk(m * k * (4 * d + most * most), self.means))
        for chunk, patterns, which in rows.chunks(chunk_size or size):
            yield self._of_chunk(chunk, patterns, which)

    def _of_chunk(self, chunk: Batch, patterns: Tensor, which: Tensor) -> Conditional:
        (m, k, d), size = self.means.shape, int(patterns[0].sum())
        patterns, which = (values.to(self.means.device) for values in (patterns, which))
        gap, _ = self._gaps(chunk)
        product = self.precision @ gap
        square = (gap * product).sum(-2)
        log_det = (d - size) * LOG_2PI + 2 * self.half_log_det
        if not size:
            nothing = torch.zeros_like(self.means)
            return Conditional(chunk, -0.5 * (square + log_det), gap, lambda weights: nothing)
        at = patterns.nonzero()[:, 1].view(-1, size)
        flat = at.unsqueeze(-1) * d + at.unsqueeze(-2)
        # (M, G, Q, size, size), and for each row, (M, G, n, size, K / G).
        factor, info = torch.linalg.cholesky_ex(self.precision.flatten(-2)[..., flat])
        if bool((info != 0).any()):
            # Of a component that is nearly flat, without squaring its factor. One that is flat,
            # as an extrapolated one may be, has no density.
            factor = factor_of_rows(self.whitening.mT[..., at, :])
            is_singular = (factor.diagonal(dim1=-2, dim2=-1) == 0).any(-1)
            factor = factor.masked_fill(is_singular[..., None, None], torch.nan)
        covariance, groups = torch.cholesky_inverse(factor), self.precision.shape[1]
        own_log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        places = at[which].T.expand(m, k, -1, -1)
        y = product.gather(-2, places)
        columns = y.unflatten(1, (groups, -1)).movedim((-1, -2), (2, 3))
        step = (covariance[:, :, which] @ columns).movedim((2, 3), (-1, -2)).flatten(1, 2)
        square = (square - (y * step).sum(-2)).clamp_(min=0)
        log_det = log_det + own_log_det[..., which]
        gap.scatter_(-2, places, -step)

        def spread(weights: Tensor) -> Tensor:
            weights = weights.unflatten(1, (groups, -1)).sum(2)
            sums = weights.new_zeros(m, groups, len(patterns)).index_add_(-1, which, weights)
            found = weights.new_zeros(m, groups, d * d)
            own = (sums[..., None, None] * covariance).flatten(-3)
            return found.index_add_(-1, flat.flatten(), own).unflatten(-1, (d, d))

        return Conditional(chunk, -0.5 * (square + log_det), gap, spread)


class NoisyConditionals(Conditionals):
    """Of rows with errors `x = true + N(0, S_n)`, of which entries may be missing.

    With `T = Sigma + S_n` on what is observed, and zeros for the rest of `T^-1`, the true row has
    mean `mu + Sigma T^-1 (x - mu)` and covariance `Sigma - Sigma T^-1 Sigma`.

    References:
        J. Bovy, D. W. Hogg, S. T. Roweis (2011), Extreme deconvolution: inferring complete
        distribution functions from noisy, heterogeneous and incomplete observations, Annals of
        Applied Statistics 5.
    """

    def _prepare(self, family: Covariance, scale: Tensor) -> None:
        k, d = self.means.shape[1:]
        self.covariance = family.covariance_matrix(scale, d).expand(-1, k, -1, -1)

    def of(self, rows: UncertainRows, chunk_size: int | None = None) -> Iterator[Conditional]:
        """The conditional distributions of all rows, in order."""
        numbers = 4 * self.means.numel() * self.means.shape[-1]
        for chunk in rows.batch.split(chunk_size or rows_per_chunk(numbers, self.means)):
            yield self._of_chunk(chunk)

    def _of_chunk(self, chunk: Batch) -> Conditional:
        errors = errors_of(chunk)
        assert errors is not None
        gap, observed = self._gaps(chunk)
        errors = errors.to(gap)
        if errors.dim() == 2:
            errors = errors.diag_embed()
        # (M, K, n, D, D).
        inverse, log_det = masked_inverse(self.covariance.unsqueeze(2) + errors, observed.mT)
        log_det = log_det + LOG_2PI * observed.sum(0)
        weighted = (inverse @ gap.mT.unsqueeze(-1)).squeeze(-1).mT
        square = (gap * weighted).sum(-2)

        def spread(weights: Tensor) -> Tensor:
            known = (weights.unsqueeze(-2) @ inverse.flatten(-2)).squeeze(-2)
            known = known.unflatten(-1, inverse.shape[-2:])
            whole = weights.sum(-1)[..., None, None] * self.covariance
            return whole - self.covariance @ known @ self.covariance

        diff = self.covariance @ weighted
        return Conditional(chunk, -0.5 * (square + log_det), diff, spread)


# Fewer rows at once cost more in calls than larger ones outside of the cache (measured).
_FEWEST_ROWS = 1024


def conditionals_for(
    family: Covariance, scale: Tensor, means: Tensor, rows: UncertainRows
) -> Conditionals:
    """Those that a family and the kind of the errors of the rows need."""
    errors = errors_of(rows.batch)
    if family.axis_aligned and (errors is None or errors.dim() == 2):
        return AxisAlignedConditionals(family, scale, means)
    kind = PatternConditionals if errors is None else NoisyConditionals
    return kind(family, scale, means)
