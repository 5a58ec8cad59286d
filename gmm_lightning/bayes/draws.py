"""Draws of a posterior: one mixture for each draw of each chain."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Generator, Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.datasets import stored_arrays
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import (
    CheckpointError,
    GMMError,
    InvalidArgumentError,
    InvalidDataError,
)

_NAMES = ("weights", "means", "covariance_matrix", "log_likelihood")
_OPTIONAL = ("diverging", "log_posterior", "state")


@dataclass(frozen=True)
class PosteriorDraws:
    """Draws of the parameters of a mixture, S of each of C chains.

    The posterior is the same under each order of the components: `align` orders them alike before
    anything of one component is averaged.

    Shape:
        weights `(C, S, K)`, means `(C, S, K, D)`, covariance_matrix `(C, S, K, D, D)`;
        log_likelihood, log_posterior and diverging `(C, S)`.

    Attributes:
        log_likelihood: total `log p(x)` at each draw, in nats.
        diverging: draws at which a trajectory of NUTS diverged.
        log_posterior: log density of the posterior up to a constant, where the sampler knows it.
        state: of the sampler's random numbers, from which it can go on.

    Example:
        >>> weights = torch.full((2, 5, 3), 1 / 3)
        >>> eye = torch.eye(2).expand(2, 5, 3, 2, 2)
        >>> draws = PosteriorDraws(weights, torch.randn(2, 5, 3, 2), eye, torch.zeros(2, 5))
        >>> draws.num_chains, draws.num_draws, draws.mixture().batch_shape
        (2, 5, torch.Size([2, 5]))
    """

    weights: Tensor
    means: Tensor
    covariance_matrix: Tensor
    log_likelihood: Tensor
    diverging: Tensor | None = None
    log_posterior: Tensor | None = None
    state: Tensor | None = None

    def __post_init__(self) -> None:
        c, s, k, d = self.means.shape
        shapes = {"weights": (c, s, k), "covariance_matrix": (c, s, k, d, d)}
        for name, shape in (*shapes.items(), ("log_likelihood", (c, s))):
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise InvalidArgumentError(
                    f"{name} of draws with means {(c, s, k, d)} must be {shape}, got {found}"
                )

    @property
    def num_chains(self) -> int:
        """C."""
        return self.means.shape[0]

    @property
    def num_draws(self) -> int:
        """S."""
        return self.means.shape[1]

    @property
    def num_components(self) -> int:
        """K."""
        return self.means.shape[2]

    def mixture(self) -> MixtureOfGaussians:
        """The mixtures of all draws, a batch of shape `(C, S)`."""
        factor = torch.linalg.cholesky(self.covariance_matrix)
        return MixtureOfGaussians(self.weights.log(), self.means, factor)

    def thin(self, step: int) -> Self:
        """Every `step`-th draw."""
        return self._map(lambda values: values[:, ::step])

    def reorder(self, order: Tensor) -> Self:
        """Draws with the components of each in another order `(C, S, K)`."""
        d = self.means.shape[-1]
        by_mean = order.unsqueeze(-1).expand(*order.shape, d)
        by_matrix = by_mean.unsqueeze(-1).expand(*order.shape, d, d)
        return replace(
            self,
            weights=self.weights.gather(2, order),
            means=self.means.gather(2, by_mean),
            covariance_matrix=self.covariance_matrix.gather(2, by_matrix),
        )

    def transformed(self, loc: Tensor, scale: Tensor) -> Self:
        """Draws of the mixture of `loc + scale x`, `(D,)` each."""
        # A log density loses the logarithm of the volume for each row, of which draws know nothing.
        return replace(
            self,
            means=loc + scale * self.means,
            covariance_matrix=scale.unsqueeze(-1) * self.covariance_matrix * scale,
        )

    @torch.no_grad()
    def log_density_quantiles(self, x: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """Log of the posterior-mean density of rows `(N,)`, and quantiles of the density `(Q, N)`.

        Args:
            x: rows `(N, D)`.
            probabilities: of the quantiles, `(Q,)`.
        """
        mixture, x = self.mixture(), x.to(self.means)
        number = self.num_chains * self.num_draws
        size = rows_per_chunk(number * self.means.shape[2:].numel(), self.means, in_cache=False)
        mean, quantiles = [], []
        for part in x.split(size):
            values = mixture.log_prob(part[:, None, None]).flatten(1)
            mean.append(values.logsumexp(-1) - float(np.log(number)))
            quantiles.append(values.quantile(probabilities.to(values), -1))
        return torch.cat(mean), torch.cat(quantiles, -1).exp()

    def mean_log_prob(self, x: Tensor) -> Tensor:
        """Log of the posterior-mean density of rows `(N, D)`, the density of a next row, `(N,)`."""
        return self.log_density_quantiles(x, torch.tensor([0.5]))[0]

    @torch.no_grad()
    def responsibilities(self, x: Tensor) -> Tensor:
        """Probabilities `(N, K)` of the components of aligned draws, for rows `(N, D)`."""
        mixture, x = self.mixture(), x.to(self.means)
        number = self.num_chains * self.num_draws
        size = rows_per_chunk(number * self.means.shape[2:].numel(), self.means, in_cache=False)
        parts = [mixture.responsibilities(p[:, None, None]).mean((1, 2)) for p in x.split(size)]
        return torch.cat(parts)

    def sample(self, num_rows: int, generator: Generator | None = None) -> Tensor:
        """Posterior predictive draws `(N, D)`: each row of a mixture drawn at random."""
        total = self.num_chains * self.num_draws
        index = torch.randint(total, (num_rows,), generator=generator)
        flat = self._flat(index)
        return torch.as_tensor(flat.sample(generator=generator))

    def _flat(self, index: Tensor) -> MixtureOfGaussians:
        k, d = self.means.shape[2:]
        factor = torch.linalg.cholesky(self.covariance_matrix.reshape(-1, k, d, d)[index])
        weights, means = self.weights.reshape(-1, k)[index], self.means.reshape(-1, k, d)[index]
        return MixtureOfGaussians(weights.log(), means, factor)

    def _map(self, change: Any) -> Self:
        """Draws with a function applied to every tensor `(C, S, ...)`."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        state = values.pop("state")
        changed = {n: v if v is None else change(v) for n, v in values.items()}
        return replace(self, **changed, state=state)

    @classmethod
    def concatenate(cls, first: PosteriorDraws, second: PosteriorDraws) -> PosteriorDraws:
        """The draws of the same chains one after the other, with the state of the second."""
        joined = {
            name: torch.cat([getattr(first, name), getattr(second, name)], 1)
            for name in (*_NAMES, *_OPTIONAL[:2])
            if getattr(first, name) is not None and getattr(second, name) is not None
        }
        return cls(**joined, state=second.state)

    # -- files ------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the draws to an `.npz` file."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays = {n: v.detach().cpu().numpy() for n, v in values.items() if v is not None}
        with Path(path).open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> PosteriorDraws:
        """Read draws that `save` wrote; no code in the file can run.

        Raises:
            CheckpointError: the file is no such one.
        """
        values: dict[str, Tensor] = {}
        try:
            # Headers are judged against the size of the file before memory is taken.
            stored = stored_arrays(Path(path))
            for name in (*_NAMES, *_OPTIONAL):
                found = stored.get(name)
                if isinstance(found, InvalidDataError):
                    raise found
                if found is not None:
                    values[name] = torch.from_numpy(np.array(found.load(mapped=False)))
            return cls(**values)
        except (OSError, ValueError, TypeError, GMMError) as error:
            raise CheckpointError(f"{path} holds no draws of a posterior: {error}") from None
