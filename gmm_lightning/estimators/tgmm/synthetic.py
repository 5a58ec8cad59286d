"""Data from a mixture, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.tgmm._starts import seeded
from gmm_lightning.linalg import factor_of_rows


def generate_gmm_data(
    centers: Any,
    covs: Any,
    n_samples: Any,
    device: Any = "cpu",
    random_state: int | None = None,
    noise_ratio: float = 0.0,
    noise_scale: float = 1.5,
) -> tuple[Tensor, Tensor]:
    """Rows `(N, D)` of Gaussians, one after another, and their labels `(N,)`.

    Args:
        centers: means, a list of `(D,)`.
        covs: covariances, a list of `(D, D)`, positive semi-definite.
        n_samples: rows of each.
        device: of the tensors.
        random_state: a seed; None: torch's generator.
        noise_ratio: uniform rows with the label -1, as a share of the others.
        noise_scale: width of their box, in ranges of the rows.

    Raises:
        InvalidArgumentError: lists of different lengths, or a covariance that is none.

    Example:
        >>> covs = [np.eye(2), 2 * np.eye(2)]
        >>> x, labels = generate_gmm_data([[0, 0], [5, 5]], covs, [30, 70], noise_ratio=0.1)
        >>> x.shape, int((labels == -1).sum())
        (torch.Size([110, 2]), 10)
    """
    device = torch.device(device)
    means = np.atleast_2d(np.asarray(centers, dtype=float))
    matrices = np.asarray(covs, dtype=float)
    matrices = matrices[None] if matrices.ndim == 2 else matrices
    counts = [n_samples] if not isinstance(n_samples, Sequence | np.ndarray) else list(n_samples)
    k, d = means.shape
    if matrices.shape != (k, d, d) or len(counts) != k:
        raise InvalidArgumentError(
            "centers, covs and n_samples must have one entry for each component, got shapes "
            f"{means.shape}, {matrices.shape} and ({len(counts)},)"
        )
    require_number("noise_ratio", noise_ratio, least=0)
    generator = seeded(random_state, device)
    centres = torch.as_tensor(means, device=device)
    factor = _factor_of(torch.as_tensor(matrices, device=device))
    mixture = MixtureOfGaussians(centres.new_zeros(k), centres, factor)
    labels = torch.arange(k).repeat_interleave(torch.as_tensor([int(n) for n in counts]))
    x = mixture.sample(len(labels), component=labels.to(device), generator=generator)
    assert isinstance(x, Tensor)
    num_noise = int(len(x) * noise_ratio)
    if num_noise:
        low, high = x.amin(0), x.amax(0)
        share = torch.empty(num_noise, d, dtype=x.dtype, device=device)
        share.uniform_(generator=generator)
        x = torch.cat([x, (low + high) / 2 + (share - 0.5) * noise_scale * (high - low)])
        labels = torch.cat([labels, labels.new_full((num_noise,), -1)])
    return x.float(), labels.to(device)


def _factor_of(matrices: Tensor) -> Tensor:
    """Lower factors of semi-definite matrices `(K, D, D)`."""
    values, vectors = torch.linalg.eigh(matrices)
    size = matrices.abs().amax((-2, -1))
    symmetric = torch.isclose(matrices, matrices.mT).all()
    if not bool(symmetric & (values[:, 0] >= -1e-8 * size).all()):
        raise InvalidArgumentError("covs must be symmetric and positive semi-definite")
    return factor_of_rows(vectors * values.clamp(min=0).sqrt().unsqueeze(-2))
