"""tgmm's names of initial means, weights and covariances."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from gmm_lightning._validation import require_choice, require_integer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.tgmm._forms import FAMILIES, covariance_name, form_of
from gmm_lightning.estimators.tgmm._starts import (
    MEANS,
    cluster_weights,
    empirical_covariances,
    global_covariances,
    kmeans_means,
    random_covariances,
    random_weights,
    seeded,
    start_of,
    untrained_layer,
)
from gmm_lightning.rows import as_tensor


class GMMInitializer:
    """Initial values from rows `(N, D)`; a vector is one column.

    Args:
        init_method: of the means, for `initialize`.
        random_state: a seed, or None for torch's generator.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [9.0]])
        >>> GMMInitializer.maxdist(x, 2, random_state=0).flatten().sort().values
        tensor([0., 9.])
    """

    def __init__(self, init_method: str = "kmeans", random_state: int | None = None) -> None:
        self.init_method = require_choice("init_method", init_method, MEANS)
        self.random_state = random_state

    def initialize(
        self, data: Any, n_components: int, covariance_type: str = "full"
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weights and means, and covariances in tgmm's form, as older texts of tgmm ask for them.

        Warns:
            DeprecationWarning: with the present way.
        """
        warnings.warn(
            "GMMInitializer(...).initialize is now "
            f"GaussianMixture(init_means={self.init_method!r}), or the static methods",
            DeprecationWarning,
            stacklevel=2,
        )
        x, kind = _rows(data), covariance_name(covariance_type)
        specs = "kmeans", self.init_method, "empirical"
        generator = seeded(self.random_state, x.device)
        weights, means, dense = start_of(x, n_components, kind, specs, generator)
        return weights, means, _in_form(dense, means, kind)

    # -- means ------------------------------------------------------------------------------

    @staticmethod
    def random(data: Any, k: int, random_state: int | None = None) -> Tensor:
        """Draws `(k, D)` from the Gaussian with the mean and the covariance of the rows."""
        return _means("random", data, k, random_state)

    @staticmethod
    def points(data: Any, k: int, random_state: int | None = None) -> Tensor:
        """Different rows at random, `(k, D)`."""
        return _means("points", data, k, random_state)

    @staticmethod
    def kpp(data: Any, k: int, random_state: int | None = None) -> Tensor:
        """Rows by k-means++, `(k, D)`, drawn by the squared distance to the nearest before."""
        return _means("kpp", data, k, random_state)

    @staticmethod
    def kmeans(
        data: Any,
        k: int,
        max_iter: int = 1000,
        atol: float = 1e-4,
        random_state: int | None = None,
    ) -> Tensor:
        """Centres of k-means, `(k, D)`, from seeds by `kpp`.

        Args:
            data: rows.
            k: number of clusters.
            max_iter: iterations at most.
            atol: stop when the centres' squared movement is at most this share of the mean
                variance.
            random_state: a seed.
        """
        x = _enough_rows(data, k)
        generator = seeded(random_state, x.device)
        return kmeans_means(x, k, generator, max_iter, atol).to(x)

    @staticmethod
    def maxdist(data: Any, k: int, random_state: int | None = None) -> Tensor:
        """Rows `(k, D)`, each farthest from those before, the first one chosen again at last."""
        return _means("maxdist", data, k, random_state)

    # -- weights ----------------------------------------------------------------------------

    @staticmethod
    def init_weights_uniform(
        n_components: int, device: Any = None, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Equal weights, `(K,)`."""
        return torch.full((n_components,), 1.0 / n_components, dtype=dtype, device=device)

    @staticmethod
    def init_weights_random(
        n_components: int,
        device: Any = None,
        dtype: torch.dtype = torch.float32,
        random_state: int | None = None,
    ) -> Tensor:
        """Weights drawn uniformly from the simplex, `(K,)`."""
        like = torch.empty(0, dtype=dtype, device=device)
        return random_weights(n_components, like, seeded(random_state, like.device))

    @staticmethod
    def init_weights_from_clusters(data: Any, means: Tensor) -> Tensor:
        """Shares of the rows that are nearest to each mean, `(K,)`."""
        x = _rows(data)
        return cluster_weights(x, means.to(x))

    # -- covariances ------------------------------------------------------------------------

    @staticmethod
    def init_covariances_eye(
        n_components: int,
        n_features: int,
        covariance_type: str,
        reg_covar: float = 0.0,
        device: Any = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Unit covariances, in the form of the type."""
        means = torch.zeros(n_components, n_features, dtype=dtype, device=device)
        unit = torch.eye(n_features, dtype=dtype, device=device).expand(n_components, -1, -1)
        return _in_form(unit, means, covariance_name(covariance_type), reg_covar)

    @staticmethod
    def init_covariances_random(
        n_components: int,
        n_features: int,
        covariance_type: str,
        reg_covar: float = 0.0,
        device: Any = None,
        dtype: torch.dtype = torch.float32,
        random_state: int | None = None,
    ) -> Tensor:
        """Random covariances: `A A'` of normal A, uniform variances, or `1 +` a uniform number."""
        means = torch.zeros(n_components, n_features, dtype=dtype, device=device)
        kind, generator = covariance_name(covariance_type), seeded(random_state, means.device)
        return _in_form(random_covariances(kind, means, generator), means, kind, reg_covar)

    @staticmethod
    def init_covariances_global(
        data: Any, n_components: int, covariance_type: str, reg_covar: float = 0.0
    ) -> Tensor:
        """The covariance of all rows, in the form of the type."""
        x = _rows(data)
        means, kind = x.new_zeros(n_components, x.shape[1]), covariance_name(covariance_type)
        return _in_form(global_covariances(x, n_components), means, kind, reg_covar)

    @staticmethod
    def init_covariances_empirical(
        data: Any, means: Tensor, covariance_type: str, reg_covar: float = 0.0
    ) -> Tensor:
        """Covariances of the rows nearest to each mean, in the form of the type."""
        x, kind = _rows(data), covariance_name(covariance_type)
        means = means.to(x)
        return _in_form(empirical_covariances(x, means, kind), means, kind, reg_covar)


def _rows(data: Any) -> Tensor:
    x = as_tensor(data, "data")
    x = x.unsqueeze(-1) if x.dim() == 1 else x
    if x.dim() != 2:
        raise InvalidArgumentError(f"data must be rows (N, D), got shape {tuple(x.shape)}")
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def _enough_rows(data: Any, k: int) -> Tensor:
    x = _rows(data)
    if require_integer("k", k, least=1) > len(x):
        raise InvalidArgumentError(f"k must be at most the number of rows {len(x)}, got {k}")
    return x


def _means(method: str, data: Any, k: int, random_state: int | None) -> Tensor:
    x = _enough_rows(data, k)
    return MEANS[method](x, k, seeded(random_state, x.device)).to(x)


def _in_form(dense: Tensor, means: Tensor, kind: str, reg_covar: float = 0.0) -> Tensor:
    """Dense covariances `(K, D, D)`, projected onto a type, in its form."""
    layer = untrained_layer(len(means), means, FAMILIES[kind])
    regularized = dense.to(means) + reg_covar * torch.eye(means.shape[1]).to(means)
    layer.set_parameters(means=means, covariance_matrix=regularized)
    with torch.no_grad():
        return form_of(layer.distribution())
