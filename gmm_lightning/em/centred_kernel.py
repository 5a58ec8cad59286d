"""EM from differences to each mean: for components that are tight and far apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.covariances import Covariance
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.noise_entry import row_shares
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan import FEW_PER_FEATURE
from gmm_lightning.em.responsibilities import Responsibilities
from gmm_lightning.linalg import LOG_2PI, accumulator_dtype, exact_products, invert_tril
from gmm_lightning.rows import Batch
from gmm_lightning.statistics import SufficientStatistics


class WeightedChunk(NamedTuple):
    """Rows `(n, M, D)`; responsibilities `(n, M, K)` and log densities `(n, M)`, both weighted."""

    x: Tensor
    responsibilities: Tensor
    log_prob: Tensor


@torch.no_grad()
def difference_statistics(
    model: MixtureModel,
    parameters: MixtureParameters,
    chunks: Iterable[Batch],
    responsibilities: Responsibilities,
) -> SufficientStatistics:
    """Expected statistics about the means, from differences to every mean.

    They are taken in the dtype of the parameters; the sums of chunks are added up in float64.

    Args:
        model: family and evidence.
        parameters: of M mixtures.
        chunks: rows `(n, *B, D)`.
        responsibilities: maps log joint densities to responsibilities.
    """
    family, means = model.family, parameters.means
    d, wide = means.shape[-1], accumulator_dtype(means.device)
    scale, factor, whitening = model.scale(parameters), None, None
    if family.whitens_by_solve:
        factor = family.scale_tril(scale, d)
    log_weights = parameters.mixture_logits.log_softmax(-1)
    constant = (log_weights - family.half_log_det(scale, d) - 0.5 * d * LOG_2PI).unsqueeze(-1)
    found: tuple[Tensor, ...] | None = None
    num_samples = 0
    with exact_products(means.device):
        for chunk in chunks:
            x, num_samples = chunk.x.to(means), num_samples + chunk.num_rows
            # Rows are the last axis.
            diff = model.per_mixture(x).movedim(0, -1).unsqueeze(1) - means.unsqueeze(-1)
            by_row = diff.movedim(-1, 0)
            if factor is None:
                square = family.whiten(scale, by_row).square_().sum(-1).movedim(0, -1)
            elif whitening is None and chunk.num_rows < FEW_PER_FEATURE * d:
                white = torch.linalg.solve_triangular(
                    factor.expand(*means.shape, d), diff, upper=False
                )
                square = white.square_().sum(-2)
            else:
                # Products are several times faster than solves, and of the same error.
                whitening = invert_tril(factor) if whitening is None else whitening
                square = (whitening @ diff).square_().sum(-2)
            log_joint = torch.sub(constant, square, alpha=0.5)
            shares = row_shares(model, parameters, log_joint, chunk, responsibilities)
            if chunk.weight is not None:
                shares = shares.weighted_(model.per_mixture(chunk.weight.to(x)))
            resp, noise, log_prob = shares
            sums = (
                resp.sum(-1, dtype=wide),
                (diff @ resp.unsqueeze(-1)).squeeze(-1).to(wide),
                family.outer(resp.movedim(-1, 0), by_row).to(wide),
                log_prob.sum(-1, dtype=wide),
                noise.sum((-2, -1), dtype=wide),
            )
            found = (
                sums if found is None else tuple(a + b for a, b in zip(found, sums, strict=True))
            )
    if found is None:
        first = torch.zeros(means.shape, dtype=wide, device=means.device)
        second = family.outer(first[..., 0].unsqueeze(0), first.unsqueeze(0))
        found = first[..., 0], first, second, first[:, 0, 0], first[:, 0, 0]
    counts, first, second, log_likelihood, noise_rows = found
    return SufficientStatistics(
        counts=counts,
        first=first,
        second=second,
        shift=means,
        log_likelihood=log_likelihood,
        num_samples=counts.new_full((), num_samples),
        noise=noise_rows,
    )


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
        counts=counts,
        first=first,
        second=second,
        shift=shift,
        log_likelihood=log_likelihood,
        num_samples=counts.new_full((), num_samples),
        noise=torch.zeros_like(log_likelihood),
    )
