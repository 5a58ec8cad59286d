"""The sufficient statistics of EM, and the moments that the M-step derives from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance, as_covariance
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import accumulator_dtype, all_finite, unsqueeze_like


@dataclass(frozen=True)
class SufficientStatistics:
    """Sums over rows under responsibilities `r_nk`, about a reference point per component.

    With `d_nk = x_n - shift_k`:

        counts_k = sum_n r_nk      first_k = sum_n r_nk d_nk      second = sum_n r_nk d_nk d_nk'

    and the rows that the mixture's noise explains, `noise = sum_n (1 - sum_k r_nk)`.

    They are float64 sums, so those of two batches, ranks or machines are added with `+`. The
    shift is constant during a pass (the current means), which keeps the second moments exact
    where raw ones would cancel.

    Shape:
        counts `(*B, K)`; first and shift `(*B, K, D)`; second in the covariance family's form,
        `(*B, G, ...)`; log_likelihood and noise `(*B)`; num_samples `()`.

    Attributes:
        counts: effective number of rows per component.
        first: first moments about the shift.
        second: second moments about the shift.
        shift: the reference points.
        log_likelihood: weighted sum of `log p(x)`, in nats.
        num_samples: number of rows seen, whatever their weights.
        noise: effective number of rows of the noise; 0 without one.
    """

    counts: Tensor
    first: Tensor
    second: Tensor
    shift: Tensor
    log_likelihood: Tensor
    num_samples: Tensor
    noise: Tensor

    def __add__(self, other: SufficientStatistics) -> SufficientStatistics:
        if not torch.equal(self.shift, other.shift):
            raise InvalidArgumentError(
                "statistics can be added only when both were taken about the same means: "
                "compute them all before the M-step"
            )
        return replace(self, **{name: v + getattr(other, name) for name, v in self._sums()})

    def about(self, shift: Tensor, covariance: str | Covariance) -> SufficientStatistics:
        """The statistics of the same rows about other reference points `(*B, K, D)`.

        With delta the difference of the new points to the old ones, and g = first / n:

            second' = second - n g g' + n (g - delta)(g - delta)'
        """
        second = self.second_about(shift, covariance)
        delta = shift.to(self.first) - self.shift.to(self.first)
        first = self.first - self.counts.unsqueeze(-1) * delta
        return replace(self, first=first, second=second, shift=shift)

    def second_about(self, shift: Tensor, covariance: str | Covariance) -> Tensor:
        """The second moments of `about`."""
        covariance = as_covariance(covariance)
        delta = shift.to(self.first) - self.shift.to(self.first)
        gap = self.first / self.counts.unsqueeze(-1).clamp(min=torch.finfo(self.counts.dtype).tiny)
        weight = self.counts.unsqueeze(0)
        added = covariance.outer(weight, (gap - delta).unsqueeze(0))
        return self.second + added - covariance.outer(weight, gap.unsqueeze(0))

    def map(self, change: Callable[[Tensor], Tensor]) -> SufficientStatistics:
        """The statistics with a function applied to every tensor except `num_samples`."""
        return replace(self, **{name: change(getattr(self, name)) for name in _PER_MIXTURE})

    def select(self, index: Tensor) -> SufficientStatistics:
        """The statistics of some mixtures along the first axis of a batch."""
        return self.map(lambda values: values[index])

    def replace(self, index: Tensor, other: SufficientStatistics) -> SufficientStatistics:
        """The statistics with those of the mixtures at `index` replaced by `other`."""
        parts = {}
        for name in _PER_MIXTURE:
            parts[name] = getattr(self, name).clone()
            parts[name][index] = getattr(other, name)
        return replace(self, **parts)

    def reshape(self, batch_shape: tuple[int, ...]) -> SufficientStatistics:
        """The same mixtures in a batch of another shape."""
        own = self.log_likelihood.dim()
        return self.map(lambda values: values.reshape((*batch_shape, *values.shape[own:])))

    @staticmethod
    def concatenate(parts: Sequence[SufficientStatistics]) -> SufficientStatistics:
        """Statistics of several batches of mixtures that saw the same rows, as one batch."""
        joined = {name: torch.cat([getattr(p, name) for p in parts]) for name in _PER_MIXTURE}
        return replace(parts[0], **joined)

    def scaled(self, factor: Tensor) -> SufficientStatistics:
        """Statistics of the same rows with every weight multiplied by a factor `(*B)`."""
        summed = ("counts", "first", "second", "log_likelihood", "noise")
        parts = {name: getattr(self, name) for name in summed}
        return replace(self, **{name: unsqueeze_like(factor, v) * v for name, v in parts.items()})

    def normalized(self) -> SufficientStatistics:
        """Statistics scaled to a total weight of 1; a total weight of 0 stays."""
        weight = self.total_weight
        return self.scaled(1 / torch.where(weight > 0, weight, 1.0))

    @property
    def total_weight(self) -> Tensor:
        """Sum of the rows' weights, `(*B)`."""
        return self.counts.sum(-1) + self.noise

    def _sums(self) -> list[tuple[str, Tensor]]:
        return [(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "shift"]

    def is_finite(self) -> bool:
        """Whether no sum is infinite or NaN."""
        return all(map(all_finite, (self.counts, self.first, self.second, self.log_likelihood)))

    def pack(self) -> Tensor:
        """All sums as one flat vector, for a single reduction over ranks."""
        return torch.cat([value.reshape(-1) for _, value in self._sums()])

    def unpack(self, flat: Tensor) -> SufficientStatistics:
        """The statistics whose `pack` is `flat`, about the same shift."""
        named = self._sums()
        parts = flat.split([value.numel() for _, value in named])
        sums = {
            name: part.reshape(value.shape).to(value)
            for (name, value), part in zip(named, parts, strict=True)
        }
        return replace(self, **sums)


_PER_MIXTURE = tuple(f.name for f in fields(SufficientStatistics) if f.name != "num_samples")


@dataclass(frozen=True)
class Moments:
    """Moments of an M-step: priors add to them, and the family turns them into parameters.

    Attributes:
        counts: effective number of rows per component, without priors, `(*B, K)`.
        mass: weights up to a factor, `(*B, K)`.
        means: `(*B, K, D)`.
        scatter: about the means, in the family's form, `(*B, G, ...)`.
        dof: divisor of the scatter, `(*B, G)`.
        mean_precision: how many rows a mean is worth, with those of a prior, `(*B, K)`: moving it
            by g adds `mean_precision g g'` to the scatter.
    """

    counts: Tensor
    mass: Tensor
    means: Tensor
    scatter: Tensor
    dof: Tensor
    mean_precision: Tensor

    @classmethod
    def from_statistics(cls, stats: SufficientStatistics, covariance: str | Covariance) -> Moments:
        """Means and scatter about them; a component without rows keeps its reference point.

        Raises:
            InvalidArgumentError: the statistics were taken for another family.
        """
        covariance, counts = as_covariance(covariance), stats.counts
        safe = counts.clamp(min=torch.finfo(counts.dtype).tiny).unsqueeze(-1)
        gap = stats.first / safe
        correction = covariance.outer(counts.unsqueeze(0), gap.unsqueeze(0))
        if correction.shape != stats.second.shape:
            raise InvalidArgumentError(
                f"the statistics hold second moments of shape {tuple(stats.second.shape)}, the "
                f"covariance {covariance.name!r} needs {tuple(correction.shape)}"
            )
        return cls(
            counts=counts,
            mass=counts,
            means=stats.shift + gap,
            scatter=stats.second - correction,
            dof=covariance.sum_tied(counts),
            mean_precision=counts,
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> Moments:
        """The moments with a function applied to every tensor."""
        return Moments(*(change(getattr(self, f.name)) for f in fields(self)))

    def split(self, size: int) -> list[Moments]:
        """The moments of `size` mixtures at a time, along the first axis."""
        starts = range(0, len(self.counts), size)
        return [self.map(lambda values, i=i: values[i : i + size]) for i in starts]

    @staticmethod
    def concatenate(parts: Sequence[Moments]) -> Moments:
        """The moments of several batches of mixtures, along the first axis."""
        columns = zip(*([getattr(p, f.name) for f in fields(p)] for p in parts), strict=True)
        return Moments(*(torch.cat(column) for column in columns))

    def data_variance(self, covariance: str | Covariance) -> tuple[Tensor, Tensor]:
        """Mean and variance per feature of all rows together, each `(*B, D)`.

        Before priors are added, neither depends on the responsibilities (for a family that keeps
        only an average over features, the variance is that average).
        """
        counts = self.counts.unsqueeze(-1)
        tiny = torch.finfo(self.counts.dtype).tiny
        total = self.counts.sum(-1).clamp(min=tiny).unsqueeze(-1)
        centre = (counts * self.means).sum(-2) / total
        within = as_covariance(covariance).variances(self.scatter, self.means.shape[-1]).sum(-2)
        between = (counts * (self.means - centre.unsqueeze(-2)).square()).sum(-2)
        return centre, (within + between).clamp(min=0) / total


@dataclass(frozen=True)
class WeightedMoments:
    """Weighted mean and scatter of values, feature by feature; those of two batches are added.

    Attributes:
        weight: sum of the weights, `()`, or of those of each entry, `(...)`.
        mean: weighted mean, `(...)`; 0 without rows.
        scatter: weighted sum of squared differences to the mean, `(...)`.

    References:
        T. F. Chan, G. H. Golub, R. J. LeVeque (1979), Updating formulae and a pairwise algorithm
        for computing sample variances, Stanford STAN-CS-79-773.

    Example:
        >>> x = torch.tensor([1.0, 2.0, 6.0])
        >>> both = WeightedMoments.of(x[:1]) + WeightedMoments.of(x[1:])
        >>> float(both.mean), round(float(both.variance), 6)
        (3.0, 4.666667)
    """

    weight: Tensor
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, values: Tensor, weight: Tensor | None = None) -> WeightedMoments:
        """The moments of values `(n, ...)` with weights `(n,)`, or of that shape, in float64."""
        x = values.to(accumulator_dtype(values.device))
        w = x.new_ones(len(x)) if weight is None else weight.to(x)
        total = w.sum(0)
        share = w / torch.where(total > 0, total, 1.0)
        mean = _weighted_sum(share, x)
        gap = x - mean
        # The mean of the gaps is the rounding error of the mean.
        error = _weighted_sum(share, gap)
        gap -= error
        return cls(total, mean + error, _weighted_sum(w, gap.square_()))

    @classmethod
    def of_observed(cls, values: Tensor, weight: Tensor | None = None) -> WeightedMoments:
        """The same of the entries of rows `(n, ..., D)` that are not NaN, with a weight of each.

        Example:
            >>> x = torch.tensor([[1.0, 4.0], [3.0, torch.nan]])
            >>> moments = WeightedMoments.of_observed(x)
            >>> moments.weight.tolist(), moments.mean.tolist()
            ([2.0, 1.0], [2.0, 4.0])
        """
        observed = ~torch.isnan(values)
        if bool(observed.all()):
            return cls.of(values, weight)
        weights = observed.double() if weight is None else observed * weight.unsqueeze(-1).double()
        return cls.of(torch.where(observed, values, 0.0), weights)

    def __add__(self, other: WeightedMoments) -> WeightedMoments:
        total = self.weight + other.weight
        share = other.weight / torch.where(total > 0, total, 1.0)
        gap = other.mean - self.mean
        between = self.weight * share * gap.square()
        return WeightedMoments(
            total, self.mean + share * gap, self.scatter + other.scatter + between
        )

    @property
    def variance(self) -> Tensor:
        """Weighted variance `(...)`; 0 without rows."""
        return self.scatter / torch.where(self.weight > 0, self.weight, 1.0)


def _weighted_sum(weight: Tensor, values: Tensor) -> Tensor:
    """Sum of values `(n, ...)` by weights `(n,)` or of their shape, `(...)`."""
    if weight.dim() == 1:
        return torch.tensordot(weight, values, 1)
    return (weight * values).sum(0)
