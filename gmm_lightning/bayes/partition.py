"""Which rows belong together, whatever the labels: similarities, and one partition of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gmm_lightning._validation import require_choice
from gmm_lightning.bayes.draws import PosteriorDraws
from gmm_lightning.errors import InvalidArgumentError

# Similarities of more rows would take gigabytes.
_MOST_ROWS = 20_000


@torch.no_grad()
def similarity(draws: PosteriorDraws, x: Tensor) -> Tensor:
    """Posterior probabilities that two rows have the same component, `(N, N)`.

    The mean over draws of `sum_k p(k | x_i) p(k | x_j)`, and 1 on the diagonal: no order of the
    components matters.

    Args:
        draws: aligned or not.
        x: rows `(N, D)`.

    Raises:
        InvalidArgumentError: more than 20,000 rows, of which a matrix takes 3 GiB.

    Example:
        >>> means = torch.tensor([[[[0.0], [9.0]], [[9.0], [0.0]]]])
        >>> ones, half = torch.ones(1, 2, 2, 1, 1), torch.full((1, 2, 2), 0.5)
        >>> draws = PosteriorDraws(half, means, ones, torch.zeros(1, 2))
        >>> similarity(draws, torch.tensor([[0.1], [8.9], [9.2]])).round(decimals=2)
        tensor([[1., 0., 0.],
                [0., 1., 1.],
                [0., 1., 1.]])
    """
    if len(x) > _MOST_ROWS:
        raise InvalidArgumentError(
            f"similarities of {len(x)} rows are a matrix of {len(x) ** 2:,} numbers: take a sample "
            f"of at most {_MOST_ROWS:,} rows"
        )
    rows = x.to(draws.means)
    total = rows.new_zeros(len(rows), len(rows))
    for shares in _responsibilities(draws, rows):
        total.addmm_(shares, shares.mT)
    total /= draws.num_chains * draws.num_draws
    return total.fill_diagonal_(1.0)


@torch.no_grad()
def partition(
    draws: PosteriorDraws, x: Tensor, criterion: str = "variation_of_information"
) -> Tensor:
    """Labels `(N,)` of the rows: of the draw whose partition is nearest to all of them.

    Args:
        draws: aligned or not.
        x: rows `(N, D)`.
        criterion: `least_squares`: the sum of squared differences between the similarities and
            those of the partition (Dahl); `variation_of_information`: the lower bound of its
            expectation, which splits off fewer small clusters (Wade and Ghahramani).

    Raises:
        InvalidArgumentError: too many rows, or an unknown criterion.

    References:
        D. B. Dahl (2006), Model-based clustering for expression data via a Dirichlet process
        mixture model. S. Wade, Z. Ghahramani (2018), Bayesian cluster analysis, Bayesian Analysis
        13.

    Example:
        >>> means = torch.tensor([[[[0.0], [9.0]], [[9.0], [0.0]]]])
        >>> ones, half = torch.ones(1, 2, 2, 1, 1), torch.full((1, 2, 2), 0.5)
        >>> draws = PosteriorDraws(half, means, ones, torch.zeros(1, 2))
        >>> partition(draws, torch.tensor([[0.1], [8.9], [9.2]])).tolist()
        [0, 1, 1]
    """
    loss = _CRITERIA[require_choice("criterion", criterion, _CRITERIA)]
    rows = x.to(draws.means)
    shared = similarity(draws, rows)
    best: tuple[float, Tensor] | None = None
    for shares in _responsibilities(draws, rows):
        labels = shares.argmax(-1)
        assigned = torch.zeros_like(shares).scatter_(-1, labels.unsqueeze(-1), 1.0)
        found = float(loss(assigned, shared))
        if best is None or found < best[0]:
            best = found, labels
    assert best is not None
    # In the order in which clusters appear.
    _, index = torch.unique(best[1], return_inverse=True)
    first = torch.full((int(index.max()) + 1,), len(index)).scatter_reduce(
        0, index, torch.arange(len(index)), "amin"
    )
    return first.argsort().argsort()[index]


def _responsibilities(draws: PosteriorDraws, rows: Tensor) -> Iterator[Tensor]:
    """Responsibilities `(N, K)` of each draw in turn."""
    mixture = draws.mixture()
    k, d = draws.means.shape[2:]
    parts = (
        mixture.mixture_logits.reshape(-1, k),
        mixture.means.reshape(-1, k, d),
        mixture.scale.reshape(-1, k, d, d),
    )
    for logits, means, scale in zip(*parts, strict=True):
        yield type(mixture)(logits, means, scale).responsibilities(rows)


def _least_squares(assigned: Tensor, shared: Tensor) -> Tensor:
    """Squared distance of the matrices, up to what all partitions have in common."""
    sizes = assigned.sum(0)
    return sizes.square().sum() - 2 * (assigned * (shared @ assigned)).sum()


def _variation_of_information(assigned: Tensor, shared: Tensor) -> Tensor:
    """Lower bound of the expected variation of information, up to what all have in common."""
    own = (assigned * assigned.sum(0)).sum(-1)
    together = (assigned * (shared @ assigned)).sum(-1)
    return (own.log2() - 2 * together.log2()).sum()


_CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "least_squares": _least_squares,
    "variation_of_information": _variation_of_information,
}
