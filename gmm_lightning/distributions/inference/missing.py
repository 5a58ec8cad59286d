"""Rows with missing entries: their density, and what may have stood there."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from gmm_lightning.distributions.density import DrawOptions, M, MixtureDensity, as_mixture, drawn
from gmm_lightning.distributions.inference.conditioning import condition, marginal
from gmm_lightning.distributions.inference.modes import modes
from gmm_lightning.errors import InvalidArgumentError

KINDS = ("mean", "mode", "draw")


def patterns(x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Numbers of the rows `(N, D)` that miss the same entries, with which entries they have."""
    if len(x) == 0:
        return
    present = ~torch.isnan(x)
    kinds, which = torch.unique(present, dim=0, return_inverse=True)
    for number, kind in enumerate(kinds):
        yield (which == number).nonzero().squeeze(-1), kind


def log_joint_observed(mixture: MixtureDensity, x: Tensor) -> Tensor:
    """`log pi_k + log N` of the entries that are not NaN: `(*S, *B, D)` -> `(*S, *B, K)`.

    A row without any entry has `log pi_k`. Rows that miss the same entries go together.

    Raises:
        InvalidArgumentError: rows of another width.
    """
    mixture.check_rows(x)
    shape = torch.broadcast_shapes(x.shape[:-1], mixture.batch_shape)
    rows = x.to(mixture.means.dtype).expand(*shape, -1).reshape(-1, mixture.num_features)
    cells = torch.arange(mixture.batch_shape.numel(), device=rows.device)
    cells = cells.reshape(mixture.batch_shape).expand(shape).reshape(-1)
    k = mixture.num_components
    result = mixture.log_weights.expand(*shape, k).reshape(-1, k)
    for at, present in patterns(rows):
        if bool(present.any()):
            index = present.nonzero().squeeze(-1)
            part = marginal(mixture, index)
            part = of_cells(part, cells[at]) if mixture.batch_shape else part
            result = result.index_put((at,), part.log_joint(rows[at][:, index]))
    return result.reshape(*shape, k)


def log_prob_of_present(mixture: MixtureDensity, x: Tensor) -> Tensor:
    """`log p` of the entries that are not NaN, integrated over the others: `(*S, *B)`.

    A row without any entry has log density 0.

    Args:
        mixture: the mixture.
        x: rows `(*S, *B, D)`, NaN where an entry is missing.

    Raises:
        InvalidArgumentError: rows of another width.

    References:
        R. J. A. Little, D. B. Rubin (2019), Statistical Analysis with Missing Data, chapter 11.
    """
    mixture = as_mixture(mixture)
    return log_joint_observed(mixture, x).logsumexp(-1)


def of_cells(mixture: M, cells: Tensor) -> M:
    """Mixtures of a batch by their numbers `(N,)`, as a batch of N."""
    own = len(mixture.batch_shape)
    parts = (mixture.mixture_logits, mixture.means, mixture.scale)
    logits, means, scale = (part.flatten(0, own - 1)[cells] for part in parts)
    return mixture.new(logits, means, scale, mixture.covariance)


def impute(
    mixture: MixtureDensity,
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
        InvalidArgumentError: a batch of mixtures, another width, an infinite entry, or an unknown
            kind.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.ones(1, 2), torch.eye(2)[None])
        >>> impute(mixture, torch.tensor([[3.0, float("nan")]]))
        tensor([[3., 1.]])
    """
    mixture = as_mixture(mixture)
    if kind not in KINDS:
        raise InvalidArgumentError(f"unknown kind {kind!r}; known are: {', '.join(KINDS)}")
    rows = as_rows(mixture, x)
    if bool(rows.isinf().any()):
        raise InvalidArgumentError("an infinite entry says nothing of the missing ones")
    whole = x.to(torch.promote_types(x.dtype, rows.dtype)).reshape(rows.shape).clone()
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
            filled, _ = drawn(law, (), DrawOptions(), generator)
        whole[at.unsqueeze(-1), absent] = filled.to(whole.dtype)
    return whole.reshape(x.shape)


def highest_mode(law: MixtureDensity) -> Tensor:
    """For every mixture of a batch the place of its highest density, `(*B, D)`."""
    found = modes(law)
    best = law.log_prob(found.movedim(-2, 0)).argmax(0)
    at = best[..., None, None].expand(*best.shape, 1, found.shape[-1])
    return found.gather(-2, at).squeeze(-2)


def as_rows(mixture: MixtureDensity, x: Tensor) -> Tensor:
    """Rows `(N, D)` in the mixture's dtype.

    Raises:
        InvalidArgumentError: a batch of mixtures, or another width.
    """
    if mixture.batch_shape:
        raise InvalidArgumentError(
            f"missing entries need a single mixture, got a batch of shape "
            f"{tuple(mixture.batch_shape)}"
        )
    mixture.check_rows(x)
    return x.to(mixture.means.dtype).reshape(-1, mixture.num_features)
