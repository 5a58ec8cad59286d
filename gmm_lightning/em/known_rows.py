"""Rows to start from where some entries are missing: what one Gaussian expects stands for them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Generator, Tensor

from gmm_lightning.covariances import Covariance, DiagCovariance, FullCovariance
from gmm_lightning.em.conditionals import conditionals_for
from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.loop import run_em
from gmm_lightning.em.maximization import MStepResult
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.state import EMOptions
from gmm_lightning.em.uncertain_rows import split_rows
from gmm_lightning.em.updater import MonotoneUpdater
from gmm_lightning.layers import GMMLayer
from gmm_lightning.rows import ArrayRows, Batch, RowSource, complete
from gmm_lightning.statistics import SufficientStatistics, WeightedMoments

# Rows that the Gaussian is fitted to, and when it is good enough.
_MAX_ROWS, _MAX_ITER, _TOL = 1 << 14, 100, 1e-6
# With a feature observed less often in them, it is fitted to all rows.
_LEAST_OBSERVED = 64
# With more features, diagonal covariances start from a diagonal one.
_MOST_DENSE = 64


def known_rows(layer: GMMLayer, source: RowSource) -> RowSource:
    """The rows of a source without missing entries: itself, where none is missing."""
    return KnownRows(layer, source) if source.uncertain else source


class KnownRows(RowSource):
    """The rows of a source, with the conditional means of one Gaussian for missing entries.

    The Gaussian is fitted by EM when it is first needed, to a sample of many rows, the same one
    in every process; each mixture of a batch has its own.

    Args:
        layer: gives the local scale of the rows, the family and the batch shape.
        source: the rows `(N, *B, D)`.
    """

    def __init__(self, layer: GMMLayer, source: RowSource) -> None:
        self._layer, self._source = layer, source
        self.num_rows, self.num_features = source.num_rows, source.num_features
        self.shared, self.weighted = source.shared, source.weighted
        self.columns = source.columns

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._source.read():
            yield self._fill(batch)

    def sample(self, limit: int, generator: Generator | None) -> Batch:
        """All rows, or `limit` of them drawn without replacement, in their order."""
        return self._fill(self._source.sample(limit, generator))

    def take(self, index: Tensor) -> Batch:
        """The rows of given numbers, increasing, `(n,)`."""
        return self._fill(self._source.take(index))

    def complete_rows(self, least: int) -> RowSource:
        """Rows without missing entries, if there are so many in a sample; else all, filled in.

        What is expected of missing entries varies less than they do.
        """
        sample = self._source.sample(8 * _MAX_ROWS, Generator().manual_seed(0))
        kept = complete(sample)
        return self if kept.num_rows < least else ArrayRows(kept)

    def pooled_statistics(self, family: Covariance) -> SufficientStatistics:
        """Statistics `(M, ...)` of one component that holds every row, in the form of a family."""
        e_step, model, parameters = self._gaussian
        stats = e_step(model, parameters)
        second = stats.second
        if model.family.axis_aligned:
            second = model.family.variances(second, self.num_features).diag_embed()
        return replace(stats, second=family.project(second))

    @cached_property
    def _gaussian(self) -> tuple[EStep, MixtureModel, MixtureParameters]:
        """The Gaussian of each mixture, and the E-step over the rows that it is fitted to."""
        model = _single_gaussian(self._layer)
        sample = ArrayRows(self._source.sample(_MAX_ROWS, Generator().manual_seed(0)))
        sample.uncertain = True
        observed = (~torch.isnan(sample.batch.x)).sum(0)
        rows = sample if bool((observed >= _LEAST_OBSERVED).all()) else self._source
        e_step = EStep(rows, model, None)
        start = MStepResult.unchanged(_available_moments(model, rows))
        options, updater = EMOptions(_MAX_ITER, _TOL), MonotoneUpdater("squarem")
        state = run_em(e_step, model, start, options, updater)
        return e_step, model, state.final

    def _fill(self, batch: Batch) -> Batch:
        """The rows of a batch without missing entries."""
        if not bool(torch.isnan(batch.x).any()):
            return batch
        _, model, parameters = self._gaussian
        n, d, shape = batch.num_rows, self.num_features, model.batch_shape
        whole = batch.x if self.shared else batch.x.expand(n, *shape, d)
        x = whole.reshape(n, -1, d).clone()
        for rows in split_rows(batch._replace(weight=None, labels=None), shape).uncertain:
            some = slice(None) if rows.cell is None else slice(rows.cell, rows.cell + 1)
            means, scale = parameters.means[some], model.scale(parameters)[some]
            found = conditionals_for(model.family, scale, means, rows).of(rows)
            # Mixtures that read the same rows agree, unless their weights differ.
            expected = torch.cat([part.diff.mean((0, 1)) for part in found], -1).mT
            expected = expected + means.mean((0, 1))
            own = x[rows.places, rows.cell or 0]
            x[rows.places, rows.cell or 0] = torch.where(own.isnan(), expected.to(x), own)
        return batch._replace(x=x.reshape(whole.shape))


def _single_gaussian(layer: GMMLayer) -> MixtureModel:
    """The model of one component for each mixture of a layer."""
    diagonal = layer.covariance.axis_aligned and layer.num_features > _MOST_DENSE
    size = layer.batch_shape.numel()
    return MixtureModel(
        family=DiagCovariance() if diagonal else FullCovariance(),
        priors=[],
        evidence=None,
        projections=[],
        batch_shape=layer.batch_shape,
        batch_index=torch.arange(size, device=layer.means.device),
        local_scale=layer.local_scale.double().reshape(size, -1),
    )


def _available_moments(model: MixtureModel, rows: RowSource) -> MixtureParameters:
    """Gaussians with the mean and the variance of what is observed of each feature."""
    zero = torch.zeros_like(model.local_scale)
    parts = (WeightedMoments.of_observed(model.per_mixture(batch.x)) for batch in rows)
    moments = sum(parts, WeightedMoments(zero, zero, zero))
    mean, variance = moments.mean, moments.variance
    variance = torch.where(variance > 0, variance, 1.0).unsqueeze(1)
    projected = model.family.project(variance.diag_embed())
    scale = model.family.estimate(projected, torch.ones_like(variance[..., 0]))
    mass = torch.ones_like(variance[..., 0])
    return model.from_constrained(mass, mean.unsqueeze(1), scale, mass[:, :0], mean.dtype)
