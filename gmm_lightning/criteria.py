"""Criteria for choosing the number of components and the covariance family.

They weigh fit against the number of free parameters, in scikit-learn's sign: **lower is better**.
Totals in nats, of a layer or of any other model, are numbers, or tensors `(*B)` with one entry per
restart or per mixture of a batch, which give a tensor of that shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.errors import InvalidArgumentError

__all__ = ["aic", "bic", "icl", "rank_fits"]

Total = TypeVar("Total", float, Tensor)


def bic(log_likelihood: Total, num_free_parameters: int, num_samples: float) -> Total:
    """Bayesian information criterion, `-2 log L + p log n`.

    Args:
        log_likelihood: total log-likelihood of the data, a sum over rows.
        num_free_parameters: p, a layer's `num_free_parameters`.
        num_samples: n, the number of rows summed over, or their total weight.

    Raises:
        InvalidArgumentError: `num_samples` is not positive, or `num_free_parameters` negative.

    References:
        Schwarz (1978), Estimating the dimension of a model. Annals of Statistics 6(2), 461-464.

    Example:
        >>> from gmm_lightning.criteria import bic
        >>> round(bic(-180.1855, 44, 150), 3)
        580.839
    """
    rows = require_number("num_samples, the rows of the log-likelihood,", num_samples, above=0)
    return -2.0 * log_likelihood + _require_count(num_free_parameters) * math.log(rows)


def aic(log_likelihood: Total, num_free_parameters: int) -> Total:
    """Akaike's information criterion, `-2 log L + 2 p`, with arguments as for `bic`.

    Raises:
        InvalidArgumentError: `num_free_parameters` is negative.

    References:
        Akaike (1974), A new look at the statistical model identification. IEEE Transactions on
        Automatic Control 19(6), 716-723.

    Example:
        >>> import torch
        >>> from gmm_lightning.criteria import aic
        >>> aic(torch.tensor([-100.0, -90.0]), 5).tolist()
        [210.0, 190.0]
    """
    return -2.0 * log_likelihood + 2.0 * _require_count(num_free_parameters)


def icl(
    log_likelihood: Total, num_free_parameters: int, num_samples: float, entropy: Total
) -> Total:
    """Integrated completed likelihood, `bic + 2 sum_i sum_k -r_ik log r_ik`.

    Arguments are as for `bic`; `entropy` is the total entropy of the responsibilities r, large
    where components overlap: ICL prefers separated clusters, BIC a good density.

    Raises:
        InvalidArgumentError: as for `bic`.

    References:
        Biernacki, Celeux and Govaert (2000), Assessing a mixture model for clustering with the
        integrated completed likelihood. IEEE Transactions on Pattern Analysis and Machine
        Intelligence 22(7), 719-725.

    Example:
        >>> import math
        >>> from gmm_lightning.criteria import bic, icl
        >>> undecided = 10 * math.log(2.0)  # ten rows, each half in one component, half in another
        >>> round(icl(-100.0, 5, 10, undecided) - bic(-100.0, 5, 10), 6)
        13.862944
    """
    return bic(log_likelihood, num_free_parameters, num_samples) + 2.0 * entropy


def rank_fits(
    scores: Sequence[float], degenerate: Sequence[object], *, include_degenerate: bool = False
) -> list[int]:
    """Indices of fits, lowest criterion first; degenerate ones after all others.

    A degenerate component can have any likelihood, so the criterion of its fit means nothing.

    Args:
        scores: a criterion of each fit.
        degenerate: of each fit whether it has degenerate components, or which:
            `EMResult.degenerate`.
        include_degenerate: rank them by their criterion like the others.

    Raises:
        InvalidArgumentError: the two are not of one length.

    Example:
        >>> from gmm_lightning.criteria import rank_fits
        >>> rank_fits([520.0, 505.0, -90.0], [[], [], [(2,)]])
        [1, 0, 2]
    """
    if len(scores) != len(degenerate):
        raise InvalidArgumentError(
            f"expected one entry of degenerate per score, got {len(degenerate)} for {len(scores)}"
        )
    last = [bool(found) and not include_degenerate for found in degenerate]
    # NaN comes after every number.
    keys = [(last[i], math.isnan(score), score) for i, score in enumerate(scores)]
    return sorted(range(len(scores)), key=keys.__getitem__)


def _require_count(num_free_parameters: int) -> int:
    require_number("num_free_parameters", num_free_parameters, least=0)
    return num_free_parameters
