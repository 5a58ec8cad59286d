"""Mixtures of Student-t distributions: what a Bayesian mixture predicts of the next row."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from gmm_lightning._validation import as_generator, require_number
from gmm_lightning.covariances import Covariance
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import standard_gamma, unsqueeze_like


class StudentMixture:
    """Mixture of Student-t densities whose scales have the structure of a covariance family.

        p(x) = sum_k pi_k t(x | df_k, loc_k, L_k L_k')

    with D-dimensional densities, or for `independent` features with a product over them.

    Args:
        log_weights: `(*B, K)`, normalised here.
        df: degrees of freedom, `(*B, K)`.
        loc: centres, `(*B, K, D)`.
        scale: L in the family's compact form, one for each component, `(*B, K, ...)`.
        family: of the scales.
        independent: whether the features of a component are independent.

    References:
        K. P. Murphy (2007), Conjugate Bayesian analysis of the Gaussian distribution, section 8.

    Example:
        >>> from gmm_lightning.covariances import FullCovariance
        >>> one = torch.ones(1)
        >>> t = StudentMixture(one.log(), 3 * one, torch.zeros(1, 2), torch.eye(2)[None],
        ...                    FullCovariance())
        >>> t.log_prob(torch.zeros(5, 2)).shape, t.sample(7, generator=0).shape
        (torch.Size([5]), torch.Size([7, 2]))
    """

    def __init__(
        self,
        log_weights: Tensor,
        df: Tensor,
        loc: Tensor,
        scale: Tensor,
        family: Covariance,
        *,
        independent: bool = False,
    ) -> None:
        self.log_weights, self.df, self.loc = log_weights.log_softmax(-1), df, loc
        self.scale, self.family, self.independent = scale, family, independent

    @property
    def batch_shape(self) -> torch.Size:
        """B."""
        return self.loc.shape[:-2]

    @property
    def num_features(self) -> int:
        """D."""
        return self.loc.shape[-1]

    @property
    def mean(self) -> Tensor:
        """Mean of the mixture, `(*B, D)`; NaN where a component has none (df of at most 1)."""
        own = torch.where(self.df.unsqueeze(-1) > 1, self.loc, torch.nan)
        return (self.log_weights.exp().unsqueeze(-1) * own).sum(-2)

    def log_joint(self, x: Tensor) -> Tensor:
        """Log joint densities `log pi_k t_k(x)`, `(*S, *B, D)` -> `(*S, *B, K)`."""
        d = self.num_features
        square = self.family.whiten(self.scale, x.unsqueeze(-2) - self.loc).square()
        own = self.family.half_log_det(self.scale, d)
        if self.independent:
            df = self.df.unsqueeze(-1)
            kernel = (-0.5 * (df + 1) * torch.log1p(square / df)).sum(-1)
            return self.log_weights + kernel + d * _log_constant(self.df, 1) - own
        kernel = -0.5 * (self.df + d) * torch.log1p(square.sum(-1) / self.df)
        return self.log_weights + kernel + _log_constant(self.df, d) - own

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density in nats, `(*S, *B, D)` -> `(*S, *B)`."""
        return self.log_joint(x).logsumexp(-1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Probabilities of the components given rows, `(*S, *B, K)`."""
        return self.log_joint(x).softmax(-1)

    @torch.no_grad()
    def sample(
        self, sample_shape: tuple[int, ...] | int = (), generator: Generator | int | None = None
    ) -> Tensor:
        """Independent draws, `(*sample_shape, *B, D)`."""
        shape = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
        generator = as_generator(generator, self.loc.device)
        d, cells = self.num_features, self.batch_shape.numel()
        number = torch.Size(shape).numel()
        weights = self.log_weights.exp().reshape(cells, -1)
        index = torch.multinomial(weights, max(1, number), replacement=True, generator=generator)
        index = index[:, :number]
        cell = torch.arange(cells, device=index.device).unsqueeze(-1)
        df = self.df.reshape(cells, -1)[cell, index]
        loc = self.loc.reshape(cells, -1, d)[cell, index]
        tail = self.scale.shape[len(self.batch_shape) + 1 :]
        scale = self.scale.reshape(cells, -1, *tail)[cell, index]
        noise = torch.empty_like(loc).normal_(generator=generator)
        steps = self.family.unwhiten(scale.flatten(0, 1), noise.flatten(0, 1)).view_as(loc)
        width = df.unsqueeze(-1).expand(*df.shape, d if self.independent else 1)
        stretch = (width / (2 * standard_gamma(0.5 * width, generator))).sqrt()
        drawn = loc + steps * stretch
        return drawn.movedim(0, 1).reshape(*shape, *self.batch_shape, d)

    def marginal(self, indices: list[int] | Tensor) -> StudentMixture:
        """The mixture of some features, in their order."""
        kept = torch.as_tensor(indices, device=self.loc.device)
        scale = self.family.marginal(self.scale, kept, self.num_features)
        return StudentMixture(
            self.log_weights,
            self.df,
            self.loc[..., kept],
            scale,
            self.family,
            independent=self.independent,
        )

    def condition(self, indices: list[int] | Tensor, values: Tensor) -> StudentMixture:
        """The mixture of the other features given values `(*S, *B, G)` of some.

        Of a D-dimensional density with a distance `d2` of the G values to their centre, the rest
        has `df + G` degrees of freedom and a squared scale `(df + d2) / (df + G)` times that of
        the normal conditional.
        """
        given = torch.as_tensor(indices, device=self.loc.device)
        rest = torch.ones(self.num_features, dtype=torch.bool, device=self.loc.device)
        rest[given] = False
        if not bool(rest.any()) or len(given.unique()) != len(given):
            raise InvalidArgumentError(
                f"condition needs some features, each once, and leaves at least one of "
                f"{self.num_features}; got {given.tolist()}"
            )
        kept = rest.nonzero().squeeze(-1)
        known, unknown, slope = self.family.condition(self.scale, given, kept, self.num_features)
        gap = values.unsqueeze(-2) - self.loc[..., given]
        loc = self.loc[..., kept]
        if slope is not None:
            loc = loc + (slope @ gap.unsqueeze(-1)).squeeze(-1)
        weights = self.marginal(given).log_joint(values)
        df, loc = self.df.expand(weights.shape), loc.expand(*weights.shape, len(kept))
        scale = unknown.expand(*weights.shape, *unknown.shape[self.loc.dim() - 1 :])
        if not self.independent:
            square = self.family.whiten(known, gap).square().sum(-1)
            grow = ((df + square) / (df + len(given))).sqrt()
            scale, df = scale * unsqueeze_like(grow, scale), df + len(given)
        return StudentMixture(weights, df, loc, scale, self.family, independent=self.independent)

    def density_threshold(
        self, probability: float, num_draws: int = 10_000, generator: Generator | int | None = None
    ) -> Tensor:
        """Log density above which a row lies with a probability, `(*B)`: the credible region.

        Estimated from draws.

        Raises:
            InvalidArgumentError: a probability outside (0, 1).
        """
        require_number("probability", probability, least=0)
        if not 0 < probability < 1:
            raise InvalidArgumentError(f"probability must be in (0, 1), got {probability}")
        drawn = self.log_prob(self.sample(num_draws, generator))
        return drawn.quantile(1 - probability, 0)


def _log_constant(df: Tensor, num_features: int) -> Tensor:
    """Log normalising constant of t densities with unit scale."""
    half = torch.lgamma(0.5 * (df + num_features)) - torch.lgamma(0.5 * df)
    return half - 0.5 * num_features * (df.log() + math.log(math.pi))
