"""Initial parameters of EM, from the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from gmm_lightning._validation import require_integer
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.estimators.gmr._translate import Floats, generator_of, training_rows
from gmm_lightning.estimators.gmr.utils import check_random_state
from gmm_lightning.initializers import DistanceTable, kmeans_plus_plus_seeds


def kmeansplusplus_initialization(
    X: ArrayLike, n_components: int, random_state: Any = None
) -> Floats:
    """Centres by k-means++, `(n_components, n_features)`, rows of X.

    Each is drawn by the squared distance to the *nearest* centre before it (gmr: the farthest),
    the best of a few candidates.

    Raises:
        InvalidArgumentError: `n_components` below 1.
        InvalidDataError: fewer rows than components, or unusable rows.

    Example:
        >>> kmeansplusplus_initialization([[0.0], [0.0], [9.0]], 2, random_state=0).sum().item()
        9.0
    """
    x = _enough_rows(X, n_components)
    # Distances are precise near the origin; one unit for all features keeps their ratios.
    centred = x - x.mean(axis=0)
    centred /= np.abs(centred).max() or 1.0
    weight = torch.ones(1, len(x), dtype=torch.float64)
    rows = DistanceTable(torch.from_numpy(centred[None]), weight)
    generator = generator_of(check_random_state(random_state))
    seeds = kmeans_plus_plus_seeds(rows, n_components, 1, generator)[0].numpy()
    chosen = [np.flatnonzero((centred == seed).all(axis=1))[0] for seed in seeds]
    return x[chosen]


def _random_initialization(X: ArrayLike, n_components: int, random_state: Any) -> Floats:
    """Random rows, distinct in value while there are enough (gmr: with replacement)."""
    x = _enough_rows(X, n_components)
    order = check_random_state(random_state).permutation(len(x))
    first = np.sort(np.unique(x[order], axis=0, return_index=True)[1])
    repeated = np.setdiff1d(np.arange(len(x)), first)
    return x[order[np.concatenate([first, repeated])[:n_components]]]


def covariance_initialization(X: ArrayLike, n_components: int) -> Floats:
    """Equal diagonal covariances, `(n_components, n_features, n_features)`, from rows of X.

    The standard deviation of a feature is the mean distance of two rows in it, divided by the
    number of components.

    Raises:
        InvalidArgumentError: `n_components` below 1.
        InvalidDataError: fewer than two rows, or unusable ones.

    Example:
        >>> covariance_initialization([[0.0], [1.0], [5.0]], 2)[0]
        array([[2.77777778]])
    """
    n_components = require_integer("n_components", n_components, least=1)
    x = np.sort(training_rows(X), axis=0)
    n, d = x.shape
    if n < 2:
        raise InvalidDataError(f"distances between rows need at least 2 rows, got {n}")
    # In sorted order a gap between neighbours separates i rows from the n - i others.
    i = np.arange(1, n)[:, np.newaxis]
    distance = (i * (n - i) * np.diff(x, axis=0)).sum(axis=0) / (0.5 * n * (n - 1))
    return np.tile(np.diag((distance / n_components) ** 2), (n_components, 1, 1)).reshape(-1, d, d)


def _enough_rows(X: ArrayLike, n_components: int) -> Floats:
    x = training_rows(X)
    if require_integer("n_components", n_components, least=1) > len(x):
        raise InvalidDataError(f"expected at least {n_components} rows, got {len(x)}")
    return x


def initial_parameters(
    x: Floats,
    n_components: int,
    given: tuple[Floats | None, Floats | None, Floats | None],
    random_state: Any,
    *,
    kmeans: bool,
) -> tuple[Floats, Floats, Floats]:
    """Priors, means and covariances: those that are given, and initial ones for None."""
    priors, means, covariances = given
    if priors is None:
        priors = np.full(n_components, 1.0 / n_components)
    if means is None:
        initialize = kmeansplusplus_initialization if kmeans else _random_initialization
        means = initialize(x, n_components, random_state)
    if covariances is None:
        covariances = np.tile(np.eye(x.shape[1]), (n_components, 1, 1))
        if kmeans and len(x) > 1:
            spread = covariance_initialization(x, n_components)
            # The variance of a constant feature does not matter; 1 keeps the covariance regular.
            covariances = np.where(spread.max(axis=2, keepdims=True) > 0, spread, covariances)
    return priors, means, covariances
