"""Missing entries: the density of the observed ones, and imputation of the others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning._tracing import require_readable
from gmm_lightning._validation import as_generator, require_choice
from gmm_lightning.distributions.density import (
    MixtureDensity,
    as_mixture,
    draw_samples,
    require_single,
)
from gmm_lightning.distributions.inference.conditioning import require_positive_density
from gmm_lightning.distributions.inference.modes import modes
from gmm_lightning.distributions.inference.patterns import PatternBlocks, pattern_blocks
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import full_precision


def log_joint_observed(mixture: MixtureDensity, x: Tensor) -> Tensor:
    """Log joint densities of the entries that are not NaN: `(*S, *B, D)` -> `(*S, *B, K)`.

    A row without entries has `log pi_k`. Patterns of missing entries are computed side by side.
    """
    x = mixture.check_rows(x)
    require_readable("rows with missing entries", x)
    shape = torch.broadcast_shapes(x.shape[:-1], mixture.batch_shape)
    rows = x.to(mixture.means.dtype).expand(*shape, -1).reshape(-1, mixture.num_features)
    cells = torch.arange(mixture.batch_shape.numel(), device=rows.device)
    cells = cells.view(mixture.batch_shape).expand(shape).reshape(-1)
    family, d, k = mixture.covariance, mixture.num_features, mixture.num_components

    def marginal(scale: Tensor, observed: Tensor, missing: Tensor) -> Tensor:
        return family.marginal(scale, observed, d)

    result = mixture.log_weights.expand(*shape, k).reshape(-1, k)
    places, found = [], []
    for blocks in pattern_blocks(rows, cells, mixture):
        if blocks.observed.shape[-1]:
            logits, means, _ = blocks.parameters(mixture)
            with full_precision(rows.device):
                scale = blocks.map_scale(marginal, mixture)
            given = mixture.with_parameters(logits, means, scale, family)
            places.append(blocks.rows[blocks.is_new])
            found.append(blocks.select(given.log_joint(blocks.values(rows))))
    if places:
        result = result.index_put((torch.cat(places),), torch.cat(found))
    return result.reshape(*shape, k)


def log_prob_observed(mixture: MixtureDensity, x: Tensor) -> Tensor:
    """Log density of the entries that are not NaN, `(*S, *B)`: `log_prob` with `marginalize`.

    References:
        R. J. A. Little, D. B. Rubin (2019), Statistical Analysis with Missing Data, chapter 11.
    """
    return log_joint_observed(as_mixture(mixture), x).logsumexp(-1)


def impute(
    mixture: MixtureDensity, x: Any, kind: str = "mean", generator: Generator | int | None = None
) -> Tensor:
    """Rows with their missing entries imputed from the conditional distribution, as a tensor.

    Args:
        mixture: a single mixture.
        x: rows `(*S, D)`, NaN where an entry is missing, or an array or table with what is masked
            or missing; observed entries stay.
        kind: `mean`, the conditional mean; `mode`, the highest mode of the conditional density;
            `draw`, a sample from the conditional distribution.
        generator: source of randomness of `draw`, or a seed.

    Raises:
        InvalidArgumentError: a batch, another width, an infinite entry, or an unknown kind.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.ones(1, 2), torch.eye(2)[None])
        >>> impute(mixture, torch.tensor([[3.0, float("nan")]]))
        tensor([[3., 1.]])
    """
    mixture = as_mixture(mixture)
    require_choice("kind", kind, ("mean", "mode", "draw"))
    require_single(mixture, "missing entries need")
    x, generator = mixture.check_rows(x), as_generator(generator, mixture.means.device)
    require_readable("rows with missing entries", x)
    rows = x.to(mixture.means.dtype).reshape(-1, mixture.num_features)
    if bool(rows.isinf().any()):
        raise InvalidArgumentError("rows to impute must not have infinite entries")
    whole = x.to(torch.promote_types(x.dtype, rows.dtype)).reshape(rows.shape).clone()
    single = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    for blocks in pattern_blocks(rows, single, mixture):
        if not blocks.missing.shape[-1]:
            continue
        conditional = _condition(mixture, blocks, rows)
        if kind == "mean":
            filled = conditional.mean
        elif kind == "mode":
            filled = _global_mode(conditional)
        else:
            filled, _ = draw_samples(conditional, (), generator=generator)
        places = (blocks.rows.unsqueeze(-1), blocks.missing.unsqueeze(1))
        filled = blocks.select(filled)
        at, features = (v.expand(*blocks.rows.shape, -1)[blocks.is_new] for v in places)
        whole[at, features] = filled.to(whole.dtype)
    return whole.reshape(x.shape)


def _condition(mixture: MixtureDensity, blocks: PatternBlocks, x: Tensor) -> MixtureDensity:
    """The conditional distribution of every row's missing entries, batch shape `(n, Q)`."""
    family, d, k = mixture.covariance, mixture.num_features, mixture.num_components
    logits, means, centre = blocks.parameters(mixture)
    if not means.shape[-1]:
        return mixture.expand((*blocks.rows.T.shape,))

    def condition(scale: Tensor, observed: Tensor, missing: Tensor) -> tuple[Tensor, ...]:
        parts = family.condition(scale, observed, missing, d)
        return tuple(part for part in parts if part is not None)

    values = blocks.values(x)
    with full_precision(x.device):
        known, unknown, *slope = blocks.map_scale(condition, mixture)
        given = mixture.with_parameters(logits, means, known, family)
        log_joint = given.log_joint(values)
        require_positive_density(blocks.select(log_joint), blocks.select(values))
        centre = centre.expand(*log_joint.shape, -1)
        if slope:
            gap = (values.unsqueeze(-2) - means).movedim(0, -1)
            centre = centre + (slope[0] @ gap).movedim(-1, 0)
    shape = (*log_joint.shape[:-1], *family.shape(k, centre.shape[-1]))
    return mixture.with_parameters(log_joint, centre, unknown.expand(shape), family)


def _global_mode(conditional: MixtureDensity) -> Tensor:
    """The highest mode of each mixture of a batch, `(*B, D)`."""
    found = modes(conditional)
    best = conditional.log_prob(found.movedim(-2, 0)).argmax(0)
    return torch.take_along_dim(found, best[..., None, None], -2).squeeze(-2)
