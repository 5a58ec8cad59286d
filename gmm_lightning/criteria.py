"""Criteria for choosing the number of components and the covariance family.

All of them weigh fit against the number of free parameters, in scikit-learn's sign: **lower is
better**. They are functions of totals in nats, of a fitted layer, of a scikit-learn model or from
a paper. A tensor of log-likelihoods, one per restart or per mixture of a batch, gives a tensor of
the same shape.

Example:
    >>> from gmm_lightning.criteria import aic, bic
    >>> round(bic(-1130.26396, 11, 272), 3), round(aic(-1130.26396, 11), 3)
    (2322.192, 2282.528)
"""

from __future__ import annotations

import math
from typing import TypeVar

from torch import Tensor

from gmm_lightning.errors import InvalidArgumentError

__all__ = ["aic", "bic", "icl"]

Total = TypeVar("Total", float, Tensor)


def bic(log_likelihood: Total, num_free_parameters: int, num_samples: float) -> Total:
    """Bayesian information criterion, `-2 log L + p log n`.

    Shape:
        log_likelihood and the result are both a number or both `(*B)`.

    Args:
        log_likelihood: Total log-likelihood of the data in nats (a sum over rows, not a mean).
        num_free_parameters: `p`, the number of free parameters of the model.
        num_samples: `n`, the number of rows, or their total weight.

    Raises:
        InvalidArgumentError: `num_samples` is not a positive number, or `num_free_parameters` is
            negative.

    References:
        Schwarz (1978), Estimating the dimension of a model. Annals of Statistics 6(2), 461-464.

    Example:
        >>> from gmm_lightning.criteria import bic
        >>> round(bic(-180.1855, 44, 150), 3)
        580.839
    """
    _check_parameters(num_free_parameters)
    if not (math.isfinite(num_samples) and num_samples > 0):
        raise InvalidArgumentError(
            f"expected a positive number of rows, got num_samples={num_samples}; pass the rows "
            "that the total log-likelihood was summed over"
        )
    return -2.0 * log_likelihood + num_free_parameters * math.log(num_samples)


def aic(log_likelihood: Total, num_free_parameters: int) -> Total:
    """Akaike's information criterion, `-2 log L + 2 p`.

    Shape:
        log_likelihood and the result are both a number or both `(*B)`.

    Args:
        log_likelihood: Total log-likelihood of the data in nats (a sum over rows, not a mean).
        num_free_parameters: `p`, the number of free parameters of the model.

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
    _check_parameters(num_free_parameters)
    return -2.0 * log_likelihood + 2.0 * num_free_parameters


def icl(
    log_likelihood: Total, num_free_parameters: int, num_samples: float, entropy: Total
) -> Total:
    """Integrated completed likelihood, `bic + 2 sum_i sum_k -r_ik log r_ik`.

    The entropy of the responsibilities is zero when every row belongs to one component and grows
    where components overlap, so that ICL prefers separated clusters where BIC prefers a good
    density.

    Shape:
        log_likelihood, entropy and the result are all numbers or all `(*B)`.

    Args:
        log_likelihood: Total log-likelihood of the data in nats (a sum over rows, not a mean).
        num_free_parameters: `p`, the number of free parameters of the model.
        num_samples: `n`, the number of rows, or their total weight.
        entropy: Total entropy of the responsibilities in nats, `-sum_i sum_k r_ik log r_ik`.

    Raises:
        InvalidArgumentError: `num_samples` is not a positive number, or `num_free_parameters` is
            negative.

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


def _check_parameters(num_free_parameters: int) -> None:
    if num_free_parameters < 0:
        raise InvalidArgumentError(
            f"expected a number of free parameters >= 0, got {num_free_parameters}; a layer has it "
            "as num_free_parameters"
        )
