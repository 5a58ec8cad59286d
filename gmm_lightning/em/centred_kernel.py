"""EM from differences to each mean: for components that are tight and far apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.covariances import Covariance
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.responsibilities import Responsibilities
from gmm_lightning.linalg import accumulator_dtype, exact_products
from gmm_lightning.rows import Batch
from gmm_lightning.statistics import SufficientStatistics


class WeightedChunk(NamedTuple):
    """Rows `(n, M, D)`; responsibilities `(n, M, K)` and log densities `(n, M)`, both weighted."""

    x: Tensor
    responsibilities: Tensor
    log_prob: Tensor


def weighted_chunks(
    model: MixtureModel,
    parameters: MixtureParameters,
    chunks: Iterable[Batch],
    responsibilities: Responsibilities,
) -> Iterator[WeightedChunk]:
    """Responsibilities under the parameters, a chunk of rows at a time."""
    mixture = model.distribution(parameters)
    for chunk in chunks:
        x = chunk.x.to(parameters.means)
        rows = model.per_mixture(x)
        log_joint = mixture.log_joint(rows)
        if model.evidence is not None:
            # Its module has the dtype of the layer.
            own = chunk._replace(x=chunk.x.to(model.local_scale))
            log_joint = log_joint + model.log_evidence(own, log_joint.shape[-1]).to(log_joint)
        resp, log_prob = responsibilities(log_joint, -1, chunk)
        if chunk.weight is not None:
            weight = model.per_mixture(chunk.weight.to(x))
            resp, log_prob = resp * weight.unsqueeze(-1), log_prob * weight
        yield WeightedChunk(rows, resp, log_prob)


def single_component_chunks(
    batches: Iterable[Batch], model: MixtureModel, shift: Tensor
) -> Iterator[WeightedChunk]:
    """Chunks with every row in one component, for statistics about a shift `(M, 1, D)`."""
    for batch in batches:
        for chunk in batch.split(rows_per_chunk(shift.numel(), shift)):
            x = model.per_mixture(chunk.x.to(shift))
            weight = x.new_ones(x.shape[:-1])
            if chunk.weight is not None:
                weight = model.per_mixture(chunk.weight.to(x))
            yield WeightedChunk(x, weight.unsqueeze(-1), torch.zeros_like(weight))


@torch.no_grad()
def centred_statistics(
    family: Covariance, shift: Tensor, chunks: Iterable[WeightedChunk]
) -> SufficientStatistics:
    """Sums about a shift per component, from differences `x_n - shift_k`.

    The differences are taken in the dtype of the shift and each chunk's sums are added up in
    float64: nothing cancels, wherever the data lie and however tight the components are.

    Args:
        family: gives the form of the second moments.
        shift: reference points `(M, K, D)`.
        chunks: rows with their responsibilities.
    """
    wide = accumulator_dtype(shift.device)
    first = torch.zeros(shift.shape, dtype=wide, device=shift.device)
    counts, log_likelihood, num_samples = first[..., 0].clone(), first[:, 0, 0].clone(), 0
    second = family.outer(counts.unsqueeze(0), first.unsqueeze(0))
    with exact_products(shift.device):
        for x, resp, log_prob in chunks:
            diff = x.unsqueeze(-2) - shift
            counts = counts + resp.sum(0, dtype=wide)
            first = first + (resp.unsqueeze(-1) * diff).sum(0)
            second.add_(family.outer(resp, diff))
            log_likelihood = log_likelihood + log_prob.sum(0, dtype=wide)
            num_samples += len(x)
    return SufficientStatistics(
        counts, first, second, shift, log_likelihood, counts.new_full((), num_samples)
    )
