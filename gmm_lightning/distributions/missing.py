"""Rows with missing entries: their density, and what may have stood there."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from gmm_lightning.distributions.conditioning import condition, marginal
from gmm_lightning.distributions.mixture import MixtureOfGaussians
from gmm_lightning.distributions.modes import modes
from gmm_lightning.errors import InvalidArgumentError

KINDS = ("mean", "mode", "draw")


def patterns(x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of the rows `(N, D)` that miss the same entries, with which entries they have."""
    present = ~torch.isnan(x)
    kinds, which = torch.unique(present, dim=0, return_inverse=True)
    for number, kind in enumerate(kinds):
        yield (which == number).nonzero().squeeze(-1), kind


def log_prob_of_present(mixture: MixtureOfGaussians, x: Tensor) -> Tensor:
    """`log p` of the entries that are not NaN, integrated over the others: `(*S)`.

    A row without any entry has log density 0. Rows that miss the same entries go together.

    Args:
        mixture: a single mixture.
        x: rows `(*S, D)`, NaN where an entry is missing.

    Raises:
        InvalidArgumentError: a batch of mixtures, or another width.

    References:
        R. J. A. Little, D. B. Rubin (2019), Statistical Analysis with Missing Data, chapter 11.
    """
    rows = as_rows(mixture, x)
    result = rows.new_zeros(len(rows))
    for at, present in patterns(rows):
        if bool(present.any()):
            index = present.nonzero().squeeze(-1)
            values = marginal(mixture, index).log_prob(rows[at][:, index])
            result = result.index_put((at,), values)
    return result.reshape(x.shape[:-1])


def impute(
    mixture: MixtureOfGaussians,
    x: Tensor,
    kind: str = "mean",
    generator: Generator | None = None,
) -> Tensor:
    """Rows with their missing entries filled in from the law given the entries they have.

    Args:
        mixture: a single mixture.
        x: rows `(*S, D)`, NaN where an entry is missing; entries that are there stay.
        kind: `mean`, the best guess in squared error; `mode`, the highest of the conditional
            density's modes; `draw`, a draw from the conditional law.
        generator: of the draws.

    Raises:
        InvalidArgumentError: a batch of mixtures, another width, or an unknown kind.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.ones(1, 2), torch.eye(2)[None])
        >>> impute(mixture, torch.tensor([[3.0, float("nan")]]))
        tensor([[3., 1.]])
    """
    if kind not in KINDS:
        raise InvalidArgumentError(f"unknown kind {kind!r}; known are: {', '.join(KINDS)}")
    rows = as_rows(mixture, x).clone()
    for at, present in patterns(rows):
        if bool(present.all()):
            continue
        absent = (~present).nonzero().squeeze(-1)
        known = present.nonzero().squeeze(-1)
        if len(known):
            law = condition(mixture, known, rows[at][:, known])
        else:
            law = mixture.expand((len(at),))
        if kind == "mean":
            filled = law.mean
        elif kind == "mode":
            filled = highest_mode(law)
        else:
            filled = law.sample(generator=generator)
            assert isinstance(filled, Tensor)
        rows[at.unsqueeze(-1), absent] = filled
    return rows.reshape(x.shape)


def highest_mode(law: MixtureOfGaussians) -> Tensor:
    """For every mixture of a batch the place of its highest density, `(*B, D)`."""
    found = modes(law)
    best = law.log_prob(found.movedim(-2, 0)).argmax(0)
    at = best[..., None, None].expand(*best.shape, 1, found.shape[-1])
    return found.gather(-2, at).squeeze(-2)


def as_rows(mixture: MixtureOfGaussians, x: Tensor) -> Tensor:
    """Rows `(N, D)` in the mixture's dtype.

    Raises:
        InvalidArgumentError: a batch of mixtures, or another width.
    """
    if mixture.batch_shape:
        raise InvalidArgumentError(
            f"missing entries need a single mixture, got a batch of shape "
            f"{tuple(mixture.batch_shape)}"
        )
    if x.dim() == 0 or x.shape[-1] != mixture.num_features:
        raise InvalidArgumentError(
            f"expected rows with {mixture.num_features} features in the last axis, got an array "
            f"of shape {tuple(x.shape)}"
        )
    return x.to(mixture.means.dtype).reshape(-1, mixture.num_features)
