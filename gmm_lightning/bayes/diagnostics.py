"""How well chains have mixed, and what they say: R-hat, effective sizes, summaries."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata
from torch import Tensor

from gmm_lightning.bayes.draws import PosteriorDraws
from gmm_lightning.errors import InvalidArgumentError

Array = NDArray[np.float64]
# Chains that differ more have not mixed; the strict bound of Vehtari et al. is 1.01.
_MOST_RHAT = 1.05
_FEWEST_DRAWS = 4


def rhat(values: Tensor | Array) -> float:
    """Rank-normalised split R-hat of draws `(C, S)` of a quantity: 1 where chains have mixed.

    The larger of that of the values and that of their distances to the median; NaN for draws that
    are all the same.

    Raises:
        InvalidArgumentError: fewer than four draws a chain.

    References:
        A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Buerkner (2021), Rank-normalization,
        folding, and localization: an improved R-hat, Bayesian Analysis 16.

    Example:
        >>> draws = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
        >>> round(rhat(draws), 2), rhat(draws + 2 * torch.arange(4)[:, None]) > 1.5
        (1.0, True)
    """
    split = _split(_array(values))
    folded = np.abs(split - np.median(split))
    return float(max(_rhat(_normal_scores(split)), _rhat(_normal_scores(folded))))


def effective_size(values: Tensor | Array, *, tail: bool = False) -> float:
    """Effective number of independent draws among draws `(C, S)` of a quantity.

    Args:
        values: the draws.
        tail: of the 5 % and 95 % quantiles, the smaller one; else of the bulk.

    References:
        As for `rhat`; C. J. Geyer (1992), Practical Markov chain Monte Carlo, Statistical
        Science 7.
    """
    split = _split(_array(values))
    if not tail:
        return _size(_normal_scores(split))
    bounds = np.quantile(split, [0.05, 0.95])
    return min(_size((split <= bound).astype(np.float64)) for bound in bounds)


class Summary(NamedTuple):
    """What draws say of a quantity."""

    name: str
    mean: float
    deviation: float
    low: float
    high: float
    rhat: float
    bulk: float
    tail: float


def summary(draws: PosteriorDraws, columns: list[str] | None = None) -> list[Summary]:
    """The mean, deviation, 5 % and 95 % quantiles, R-hat and effective sizes of each quantity.

    First of those that do not depend on the labels (log-likelihood, sorted weights), then of the
    weights, means, standard deviations and correlations of aligned draws.

    Args:
        draws: aligned: see `align`.
        columns: names of the features.
    """
    k, d = draws.means.shape[2:]
    names = columns or [str(i) for i in range(d)]
    found = [_of(name, values) for name, values in invariants(draws).items()]
    deviation = draws.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = draws.covariance_matrix / (deviation.unsqueeze(-1) * deviation.unsqueeze(-2))
    for j in range(k):
        found.append(_of(f"weight[{j}]", draws.weights[..., j]))
        found += [_of(f"mean[{j}, {names[i]}]", draws.means[..., j, i]) for i in range(d)]
        found += [_of(f"sd[{j}, {names[i]}]", deviation[..., j, i]) for i in range(d)]
        found += [
            _of(f"correlation[{j}, {names[a]}, {names[b]}]", correlation[..., j, a, b])
            for a in range(d)
            for b in range(a)
        ]
    return found


def invariants(draws: PosteriorDraws) -> dict[str, Tensor]:
    """Quantities `(C, S)` that do not depend on the labels: log-likelihood and sorted weights."""
    ordered = draws.weights.sort(-1, descending=True).values
    sorted_weights = {f"weight, {j + 1} of sorted": w for j, w in enumerate(ordered.unbind(-1))}
    return {"log likelihood": draws.log_likelihood, **sorted_weights}


def worst(draws: PosteriorDraws, disagreeing: float = 0.0) -> dict[str, float]:
    """The largest R-hat and the smallest effective size of invariant and of aligned quantities.

    Warns:
        UserWarning: an R-hat of an invariant quantity is above 1.05, or steps diverged.

    Args:
        draws: aligned.
        disagreeing: share of the draws in which components could be exchanged.
    """
    own = [_of(name, values) for name, values in invariants(draws).items()]
    others = summary(draws)[len(own) :]
    numbers = {
        "rhat": _most(own),
        "effective_size": min(one.bulk for one in own),
        "rhat_aligned": _most(others),
        "effective_size_aligned": min(one.bulk for one in others),
        "disagreeing_draws": disagreeing,
    }
    if draws.diverging is not None:
        numbers["divergences"] = float(draws.diverging.sum())
    if numbers["rhat"] > _MOST_RHAT:
        worst_one = max(own, key=lambda one: one.rhat)
        warnings.warn(
            f"the chains have not mixed: R-hat of the {worst_one.name} is {worst_one.rhat:.2f}, "
            f"and should be below {_MOST_RHAT}; take a longer warm-up and more draws, fewer "
            "components, or stronger priors, and look at the traces of single chains",
            stacklevel=2,
        )
    return numbers


def _most(found: list[Summary]) -> float:
    values = [one.rhat for one in found if not math.isnan(one.rhat)]
    return max(values, default=math.nan)


def _of(name: str, values: Tensor) -> Summary:
    flat = _array(values)
    low, high = np.quantile(flat, [0.05, 0.95])
    sizes = effective_size(flat), effective_size(flat, tail=True)
    return Summary(
        name,
        float(flat.mean()),
        float(flat.std(ddof=1)),
        float(low),
        float(high),
        rhat(flat),
        *sizes,
    )


def _array(values: Tensor | Array) -> Array:
    array = np.asarray(torch.as_tensor(values).detach().cpu(), dtype=np.float64)
    if array.ndim != 2 or array.shape[1] < _FEWEST_DRAWS:
        raise InvalidArgumentError(
            f"expected draws (C, S) of at least {_FEWEST_DRAWS} a chain, got shape {array.shape}"
        )
    return array


def _split(values: Array) -> Array:
    """Each chain as two, `(2 C, S // 2)`."""
    half = values.shape[1] // 2
    return np.concatenate([values[:, :half], values[:, -half:]])


def _normal_scores(values: Array) -> Array:
    """Normal quantiles of the ranks among all draws."""
    ranks = rankdata(values, method="average").reshape(values.shape)
    return ndtri((ranks - 0.375) / (values.size + 0.25))


def _rhat(values: Array) -> float:
    length = values.shape[1]
    within = values.var(1, ddof=1).mean()
    between = length * values.mean(1).var(ddof=1)
    if not within > 0:
        return math.nan
    return math.sqrt((between / within + length - 1) / length)


def _size(values: Array) -> float:
    """Effective size by the initial monotone sequence of autocorrelations."""
    chains, length = values.shape
    if not np.ptp(values) > 0:
        return float(values.size)
    centred = values - values.mean(1, keepdims=True)
    padded = 2 ** math.ceil(math.log2(2 * length))
    spectrum = np.fft.rfft(centred, padded, axis=1)
    covariance = np.fft.irfft(np.abs(spectrum) ** 2, padded, axis=1)[:, :length] / length
    variance = covariance[:, 0] * length / (length - 1)
    within = variance.mean()
    total = within * (length - 1) / length
    if chains > 1:
        total += values.mean(1).var(ddof=1)
    rho = 1 - (within - covariance.mean(0) * length / (length - 1)) / total
    rho[0] = 1.0
    # Sums of pairs are positive and fall, for a reversible chain.
    pairs = rho[: length // 2 * 2].reshape(-1, 2).sum(1)
    negative = np.flatnonzero(pairs < 0)
    kept = np.minimum.accumulate(pairs[: negative[0] if len(negative) else len(pairs)])
    tau = max(-1 + 2 * kept.sum(), 1 / math.log10(values.size))
    return float(values.size / tau)
