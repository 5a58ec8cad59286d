"""Random mixtures as arrays, and what gmr's methods ought to give, in plain numpy and scipy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

Floats = NDArray[np.float64]


class Case(NamedTuple):
    """Parameters of a mixture, and rows near it."""

    priors: Floats
    means: Floats
    covariances: Floats
    x: Floats


def case(seed: int, k: int = 3, d: int = 3, n: int = 15) -> Case:
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(k, d, d + 2))
    return Case(
        rng.dirichlet(np.ones(k)),
        2 * rng.normal(size=(k, d)),
        factor @ factor.transpose(0, 2, 1),
        3 * rng.normal(size=(n, d)),
    )


def log_joint(c: Case, x: Floats, index: list[int]) -> Floats:
    """`log pi_k + log N(x | ...)` of some features, `(N, K)`."""
    columns = [
        np.log(p) + multivariate_normal(m[index], s[np.ix_(index, index)]).logpdf(x)
        for p, m, s in zip(c.priors, c.means, c.covariances, strict=True)
    ]
    return np.stack(columns, axis=-1).reshape(-1, len(c.priors))


def softmax(values: Floats) -> Floats:
    shares = np.exp(values - values.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def conditional(c: Case, k: int, known: list[int], x: Floats) -> tuple[Floats, Floats]:
    """Means `(N, R)` and covariance of component k, by the textbook's inverse."""
    rest = [i for i in range(c.means.shape[1]) if i not in known]
    s = c.covariances[k]
    slope = s[np.ix_(rest, known)] @ np.linalg.inv(s[np.ix_(known, known)])
    means = c.means[k, rest] + (x - c.means[k, known]) @ slope.T
    return means, s[np.ix_(rest, rest)] - slope @ s[np.ix_(known, rest)]


def regression(c: Case, known: list[int], x: Floats) -> Floats:
    shares = softmax(log_joint(c, x, known))
    means = [conditional(c, k, known, x)[0] for k in range(len(c.priors))]
    return sum(shares[:, k, None] * mean for k, mean in enumerate(means))


def em(c: Case, x: Floats, steps: int) -> Case:
    """So many plain EM steps."""
    for _ in range(steps):
        r = softmax(log_joint(c, x, list(range(x.shape[1]))))
        count = r.sum(axis=0)
        means = r.T @ x / count[:, None]
        gap = x[:, None] - means
        spread = np.einsum("nk,nki,nkj->kij", r, gap, gap) / count[:, None, None]
        c = Case(count / count.sum(), means, spread, c.x)
    return c


def blobs(seed: int, n: int = 40) -> Floats:
    """Rows around five points far apart."""
    rng = np.random.default_rng(seed)
    centres = 10.0 * np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 3]])
    return np.concatenate([centre + 0.1 * rng.normal(size=(n, 2)) for centre in centres])
