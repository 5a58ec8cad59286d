"""EM from differences to each mean: for components that are tight and far apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.em.posterior import Posterior
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import accumulator_dtype, exact_products
from gmm_lightning.statistics import SufficientStatistics

# A chunk of rows `(n, *B, D)`, its weighted responsibilities `(n, *B, K)`, and its weighted log
# densities `(n, *B)`.
Portion = tuple[Tensor, Tensor, Tensor]


def portions(
    layer: GMMLayer, chunks: Iterable[tuple[Tensor, Tensor | None]], posterior: Posterior
) -> Iterator[Portion]:
    """Responsibilities under the layer's current parameters, chunk by chunk."""
    for x, weight in chunks:
        resp = layer.log_joint(x)
        log_prob = posterior(resp, -1)
        if weight is not None:
            resp, log_prob = resp * weight.unsqueeze(-1), log_prob * weight
        yield x, resp, log_prob


def empty_statistics(covariance: Covariance, shift: Tensor) -> SufficientStatistics:
    """Statistics of no rows about a shift `(*B, K, D)`."""
    made = {"dtype": accumulator_dtype(shift.device), "device": shift.device}
    *batch, _, num_features = shift.shape
    zeros = torch.zeros(1, *shift.shape[:-1], **made)
    return SufficientStatistics(
        counts=zeros[0].clone(),
        first=torch.zeros(shift.shape, **made),
        second=covariance.outer(zeros, zeros.unsqueeze(-1).expand(*zeros.shape, num_features)),
        shift=shift,
        log_likelihood=torch.zeros(batch, **made),
        num_samples=torch.zeros((), **made),
    )


@torch.no_grad()
def centred_statistics(
    covariance: Covariance, shift: Tensor, chunks: Iterable[Portion]
) -> SufficientStatistics:
    """Sums about a shift per component, from differences `x_n - shift_k`.

    The differences are taken in the layer's dtype and each chunk's sums are added up in
    float64: nothing cancels, wherever the data lie and however tight the components are.

    Args:
        covariance: the family whose form the second moments take.
        shift: reference points `(*B, K, D)`, in the layer's dtype.
        chunks: rows with their responsibilities.
    """
    total = empty_statistics(covariance, shift)
    counts, first, second = total.counts, total.first, total.second
    log_likelihood, num_samples = total.log_likelihood, 0
    with exact_products(shift.device):
        for x, resp, log_prob in chunks:
            diff = x.unsqueeze(-2) - shift
            counts = counts + resp.sum(0, dtype=counts.dtype)
            first = first + (resp.unsqueeze(-1) * diff).sum(0)
            second = second + covariance.outer(resp, diff)
            log_likelihood = log_likelihood + log_prob.sum(0, dtype=counts.dtype)
            num_samples += x.shape[0]
    return SufficientStatistics(
        counts, first, second, shift, log_likelihood, total.num_samples + num_samples
    )


def whole(layer: GMMLayer, chunks: Iterable[tuple[Tensor, Tensor | None]]) -> Iterator[Portion]:
    """Every row in one component, in float64: what lies between components is subtracted later."""
    for x, weight in chunks:
        x = x.to(accumulator_dtype(x.device))
        ones = x.new_ones(x.shape[0], *layer.batch_shape) if weight is None else weight.to(x)
        yield x, ones.unsqueeze(-1), ones
