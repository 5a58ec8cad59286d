"""Missing entries: the density of the observed ones, and imputation of the others."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Generator, Tensor

from gmm_lightning._validation import require_choice
from gmm_lightning.distributions.density import MixtureDensity, as_mixture, draw_samples
from gmm_lightning.distributions.inference.conditioning import condition, marginal
from gmm_lightning.distributions.inference.modes import modes
from gmm_lightning.errors import InvalidArgumentError


def _missingness_patterns(x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Row indices and a mask `(D,)` of the observed features, for each pattern in `(N, D)`."""
    if len(x) == 0:
        return
    observed = ~torch.isnan(x)
    kinds, which = torch.unique(observed, dim=0, return_inverse=True)
    for number, kind in enumerate(kinds):
        yield (which == number).nonzero().squeeze(-1), kind


def log_joint_observed(mixture: MixtureDensity, x: Tensor) -> Tensor:
    """Log joint densities of the entries that are not NaN: `(*S, *B, D)` -> `(*S, *B, K)`.

    A row without entries has `log pi_k`. Rows are grouped by missingness pattern.
    """
    mixture.check_rows(x)
    own = len(mixture.batch_shape)
    shape = torch.broadcast_shapes(x.shape[:-1], mixture.batch_shape)
    rows = x.to(mixture.means.dtype).expand(*shape, -1).reshape(-1, mixture.num_features)
    cells = torch.arange(mixture.batch_shape.numel(), device=rows.device)
    cells = cells.view(mixture.batch_shape).expand(shape).reshape(-1)
    k = mixture.num_components
    result = mixture.log_weights.expand(*shape, k).reshape(-1, k)
    for at, observed in _missingness_patterns(rows):
        if bool(observed.any()):
            part = marginal(mixture, observed)
            if own:
                part = part.map_parameters(lambda p, at=at: p.flatten(0, own - 1)[cells[at]])
            result = result.index_put((at,), part.log_joint(rows[at][:, observed]))
    return result.reshape(*shape, k)


def log_prob_observed(mixture: MixtureDensity, x: Tensor) -> Tensor:
    """Log density of the entries that are not NaN, `(*S, *B)`: `log_prob` with `marginalize`.

    References:
        R. J. A. Little, D. B. Rubin (2019), Statistical Analysis with Missing Data, chapter 11.
    """
    return log_joint_observed(as_mixture(mixture), x).logsumexp(-1)


def impute(
    mixture: MixtureDensity, x: Tensor, kind: str = "mean", generator: Generator | None = None
) -> Tensor:
    """Rows with their missing entries imputed from the conditional distribution.

    Args:
        mixture: a single mixture.
        x: rows `(*S, D)`, NaN where an entry is missing; observed entries stay.
        kind: `mean`, the conditional mean; `mode`, the highest mode of the conditional density;
            `draw`, a sample from the conditional distribution.
        generator: source of randomness of `draw`.

    Raises:
        InvalidArgumentError: a batch, another width, an infinite entry, or an unknown kind.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.ones(1, 2), torch.eye(2)[None])
        >>> impute(mixture, torch.tensor([[3.0, float("nan")]]))
        tensor([[3., 1.]])
    """
    mixture = as_mixture(mixture)
    require_choice("kind", kind, ("mean", "mode", "draw"))
    if mixture.batch_shape:
        raise InvalidArgumentError(
            f"missing entries need a single mixture, got a batch of shape "
            f"{tuple(mixture.batch_shape)}"
        )
    mixture.check_rows(x)
    rows = x.to(mixture.means.dtype).reshape(-1, mixture.num_features)
    if bool(rows.isinf().any()):
        raise InvalidArgumentError("rows to impute must not have infinite entries")
    whole = x.to(torch.promote_types(x.dtype, rows.dtype)).reshape(rows.shape).clone()
    for at, observed in _missingness_patterns(rows):
        if bool(observed.all()):
            continue
        conditional = mixture.expand((len(at),))
        if bool(observed.any()):
            conditional = condition(mixture, observed, rows[at][:, observed])
        if kind == "mean":
            filled = conditional.mean
        elif kind == "mode":
            filled = _global_mode(conditional)
        else:
            filled, _ = draw_samples(conditional, (), generator=generator)
        whole[at.unsqueeze(-1), (~observed).nonzero().squeeze(-1)] = filled.to(whole.dtype)
    return whole.reshape(x.shape)


def _global_mode(conditional: MixtureDensity) -> Tensor:
    """The highest mode of each mixture of a batch, `(*B, D)`."""
    found = modes(conditional)
    best = conditional.log_prob(found.movedim(-2, 0)).argmax(0)
    return torch.take_along_dim(found, best[..., None, None], -2).squeeze(-2)
