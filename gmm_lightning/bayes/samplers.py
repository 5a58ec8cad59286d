"""The samplers as objects with their options, for configurations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Generator

from gmm_lightning.bayes.draws import PosteriorDraws
from gmm_lightning.bayes.gibbs import fit_gibbs
from gmm_lightning.bayes.nuts import fit_nuts
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer


class Sampler(Protocol):
    """Something that draws from the posterior of a layer."""

    def __call__(
        self,
        layer: GMMLayer,
        x: Any,
        *,
        missing: str | None = None,
        generator: Generator | int | None = None,
        progress: bool = False,
    ) -> PosteriorDraws:
        """Draws of the parameters, given rows."""
        ...


@dataclass(frozen=True)
class Gibbs:
    """`fit_gibbs` with its options.

    Example:
        >>> draws = Gibbs(num_draws=10, warmup=5)(GMMLayer(1, 2), torch.randn(20, 1), generator=0)
        >>> draws.num_draws
        10
    """

    num_draws: int = 1000
    warmup: int = 500
    num_chains: int = 4
    thin: int = 1

    def __call__(
        self,
        layer: GMMLayer,
        x: Any,
        *,
        missing: str | None = None,
        generator: Generator | int | None = None,
        progress: bool = False,
    ) -> PosteriorDraws:
        """Draws of the parameters, given rows.

        Raises:
            InvalidArgumentError: as `fit_gibbs`, which takes no missing entries.
        """
        if missing is not None:
            raise InvalidArgumentError(
                "fit_gibbs takes no rows with missing entries: use fit=nuts or fit=vb"
            )
        return fit_gibbs(
            layer,
            x,
            num_draws=self.num_draws,
            warmup=self.warmup,
            num_chains=self.num_chains,
            thin=self.thin,
            generator=generator,
            progress=progress,
        )


@dataclass(frozen=True)
class Nuts:
    """`fit_nuts` with its options.

    Example:
        >>> Nuts(num_draws=10).target_accept
        0.8
    """

    num_draws: int = 1000
    warmup: int = 1000
    num_chains: int = 4
    target_accept: float = 0.8
    cores: int | None = None

    def __call__(
        self,
        layer: GMMLayer,
        x: Any,
        *,
        missing: str | None = None,
        generator: Generator | int | None = None,
        progress: bool = False,
    ) -> PosteriorDraws:
        """Draws of the parameters, given rows."""
        return fit_nuts(
            layer,
            x,
            num_draws=self.num_draws,
            warmup=self.warmup,
            num_chains=self.num_chains,
            target_accept=self.target_accept,
            cores=self.cores,
            missing=missing,
            generator=generator,
            progress=progress,
        )
