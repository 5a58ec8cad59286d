"""Conditional distributions of a single Gaussian."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_integer
from gmm_lightning.distributions import condition as condition_mixture
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.gmr._translate import (
    Floats,
    factor_of,
    floats_of,
    mixture_of,
    rows_of,
    tensor_of,
)


def invert_indices(n_features: int, indices: ArrayLike) -> NDArray[np.intp]:
    """The features that are not in `indices`, in order.

    Example:
        >>> invert_indices(4, [2, 0])
        array([1, 3])
    """
    left = np.ones(require_integer("n_features", n_features, least=1), dtype=bool)
    left[integers_of(indices, n_features)] = False
    return np.flatnonzero(left)


def regression_coefficients(
    covariance: ArrayLike, i_out: ArrayLike, i_in: ArrayLike, cov_12: ArrayLike | None = None
) -> Floats:
    """Slope `Sigma_oi Sigma_ii^+` of `E[x_o | x_i]`, `(n_features_out, n_features_in)`.

    Args:
        covariance: `(n_features, n_features)`.
        i_out: features to predict.
        i_in: features that are known.
        cov_12: the block `Sigma_oi`, if known.

    Example:
        >>> regression_coefficients([[2.0, 1.0], [1.0, 4.0]], [0], [1])
        array([[0.25]])
    """
    dense = _as_square(covariance)
    known = integers_of(i_in, len(dense))
    if cov_12 is None:
        cov_12 = dense[np.ix_(integers_of(i_out, len(dense)), known)]
    across = floats_of(cov_12)
    return across @ np.linalg.pinv(dense[np.ix_(known, known)], hermitian=True)


def condition(
    mean: ArrayLike, covariance: ArrayLike, i_out: ArrayLike, i_in: ArrayLike, X: ArrayLike
) -> tuple[Floats, Floats]:
    """Mean and covariance of some features when others are known.

    Args:
        mean: `(n_features,)`.
        covariance: `(n_features, n_features)`; it may be singular, but not among the known
            features.
        i_out: features to predict.
        i_in: features that are known.
        X: their values, `(n_features_in,)` or `(n_samples, n_features_in)`.

    Returns:
        The mean `(n_features_out,)` or `(n_samples, n_features_out)`, and the one covariance.

    Raises:
        InvalidArgumentError: indices or parameters that do not fit.

    Example:
        >>> from gmm_lightning.estimators.gmr import condition
        >>> condition([0.0, 1.0], [[2.0, 1.0], [1.0, 4.0]], [0], [1], [3.0])
        (array([0.5]), array([[1.75]]))
    """
    centre, dense = floats_of(mean), _as_square(covariance)
    if centre.shape != dense.shape[:1]:
        raise InvalidArgumentError(
            f"expected a mean of {len(dense)} features, got shape {centre.shape}"
        )
    known = integers_of(i_in, len(centre))
    order = np.concatenate([known, integers_of(i_out, len(centre))])
    centre, dense = centre[order], dense[np.ix_(order, order)]
    values = rows_of(X, len(known))
    require_known(dense[None, : len(known), : len(known)])
    joint = mixture_of([1.0], centre[None], dense[None], definite=False)
    first = list(range(len(known)))
    conditional = condition_mixture(joint, first, values)
    # One row is enough for the covariance, which does not depend on the values.
    spread = condition_mixture(joint, first, joint.means[0, first]).component_covariances[0]
    means = conditional.means[:, 0].numpy()
    return (means if np.ndim(X) == 2 else means[0]), spread.numpy()


def _as_square(covariance: ArrayLike) -> Floats:
    """A matrix `(n_features, n_features)`."""
    dense = floats_of(covariance)
    if dense.ndim != 2 or dense.shape[0] != dense.shape[1]:
        raise InvalidArgumentError(
            f"expected a covariance of shape (n_features, n_features), got {dense.shape}"
        )
    return dense


def require_known(blocks: ArrayLike) -> None:
    """Refuse singular covariances `(K, I, I)` of known features: they determine no slope."""
    try:
        factor_of(tensor_of(blocks))
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"among the known features, {error}") from None


def integers_of(indices: ArrayLike, num_features: int) -> NDArray[np.intp]:
    """Positions in `[-D, D)` from integers or from a mask."""
    index = np.asarray(indices)
    if index.dtype == bool:
        if index.shape != (num_features,):
            raise InvalidArgumentError(
                f"expected a mask of {num_features} features, got shape {index.shape}"
            )
        return np.flatnonzero(index)
    if index.size and not np.issubdtype(index.dtype, np.integer):
        raise InvalidArgumentError(f"indices must be integers, got {describe(indices)}")
    index = index.reshape(-1).astype(np.intp)
    if not ((index >= -num_features) & (index < num_features)).all():
        raise InvalidArgumentError(
            f"indices must be in [0, {num_features}), got {describe(index.tolist())}"
        )
    return index
