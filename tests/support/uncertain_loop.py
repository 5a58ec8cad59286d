"""The E-step on rows with missing entries and errors, row by row and component by component."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from gmm_lightning import GMMLayer, SufficientStatistics


def loop_statistics(
    layer: GMMLayer,
    x: Tensor,
    errors: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    hard: bool = False,
) -> SufficientStatistics:
    """Statistics of rows `(N, D)`, by the inverse of each row's own covariance."""
    (k, d), means = layer.means.shape, layer.means.detach()
    covariances, log_weights = layer.covariance_matrix.detach(), layer.weights.detach().log()
    counts, first, second = means.new_zeros(k), means.new_zeros(k, d), means.new_zeros(k, d, d)
    log_likelihood = means.new_zeros(())
    for n, row in enumerate(x):
        seen = (~row.isnan()).nonzero().squeeze(-1)
        error = means.new_zeros(d, d)
        if errors is not None:
            error = errors[n].diag() if errors.dim() == 2 else errors[n]
        joint, expected, spread = log_weights.clone(), [], []
        for c in range(k):
            total = (covariances[c] + error)[seen][:, seen]
            gain = covariances[c][:, seen] @ torch.linalg.inv(total)
            expected.append(gain @ (row[seen] - means[c, seen]))
            spread.append(covariances[c] - gain @ covariances[c][seen])
            if len(seen):
                joint[c] += MultivariateNormal(means[c, seen], total).log_prob(row[seen])
        own = 1.0 if weight is None else weight[n]
        resp = joint.softmax(-1)
        if hard:
            resp = torch.nn.functional.one_hot(joint.argmax(), k).to(resp)
        log_likelihood += own * (joint.max() if hard else joint.logsumexp(-1))
        for c in range(k):
            r = own * resp[c]
            counts[c] += r
            first[c] += r * expected[c]
            second[c] += r * (torch.outer(expected[c], expected[c]) + spread[c])
    if layer.covariance.tied:
        second = second.sum(0, keepdim=True)
    return SufficientStatistics(
        counts=counts,
        first=first,
        second=layer.covariance.project(second),
        shift=means,
        log_likelihood=log_likelihood,
        num_samples=counts.new_full((), len(x)),
        noise=counts.new_zeros(()),
    )
