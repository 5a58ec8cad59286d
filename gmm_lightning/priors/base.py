"""The interface of priors: a log density, and the equivalent pseudo-observations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning._validation import require_integer
from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import GMMError, InvalidArgumentError, UnresolvedPriorError
from gmm_lightning.hyperparameters import HyperparameterModule, MixtureShape
from gmm_lightning.priors.data_moments import DataMoments
from gmm_lightning.statistics import Moments


class Prior(HyperparameterModule, ABC):
    """A log-prior on parameters of a mixture.

    Gradient descent adds `log_prob` to the log-likelihood; EM adds `update` to the moments, and
    so reaches the exact mode of the same objective.

    Hyper-parameters that are None follow from the data: their buffers have full shape as soon as
    a layer binds the prior, and hold NaN until `resolve`. They broadcast from the right, so that
    `log_prob` and `update` take parameters `(*S, *B, ...)` of any leading axes S.

    Attributes:
        batch_shape: B, once a layer has bound the prior.
        shape: sizes and family that a layer has bound it to.
        slot: its parameters: `weights`, `means`, `covariances` or `components` (the latter two);
            or, in place of `covariances`, the `scales` of the features and their `correlations`.
            A layer takes one prior per slot.
        regularizes_covariances: whether a component of few rows has a proper covariance.
        fits: the kinds of training that it supports, of `em` and `gradient`.
    """

    noun: ClassVar[str] = "prior"
    unresolved: ClassVar[type[GMMError]] = UnresolvedPriorError
    remedy: ClassVar[str] = (
        "fit the layer, call resolve_priors(layer, x), initialize_from a head, or give the values"
    )
    slot: ClassVar[str]
    fits: ClassVar[frozenset[str]] = frozenset({"em", "gradient"})
    regularizes_covariances: ClassVar[bool] = False
    shape: MixtureShape | None = None

    def supports(self, covariance: Covariance) -> bool:
        """Whether the prior is defined for a family; every one by default."""
        return True

    @abstractmethod
    def bind(self, shape: MixtureShape) -> None:
        """Register the hyper-parameters as buffers of full shape, and check them."""

    @abstractmethod
    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        """Log density in nats up to a constant of the hyper-parameters, `(*B)`."""

    def update(self, moments: Moments, covariance: Covariance) -> Moments:
        """Moments with the pseudo-observations of the prior added."""
        raise _no_closed_form(self.name)

    @property
    def uses_target(self) -> bool:
        """Whether `resolve` asks for the target of the covariances."""
        return False

    @property
    def uses_centroids(self) -> bool:
        """Whether `resolve` asks for the centroids of k-means of the rows."""
        return False

    @property
    def uses_variances(self) -> bool:
        """Whether `resolve` asks for the variance of each feature, whatever the family."""
        return False

    @property
    def centres(self) -> Tensor | None:
        """Where each component's mean is expected, `(*B, K, D)`, to order a start by, or None."""
        return None

    def resolve(self, data: DataMoments, num_components: int) -> None:
        """Fill the hyper-parameters that follow from the data."""

    # -- draws ------------------------------------------------------------------------------

    @property
    def bound(self) -> MixtureShape:
        """Sizes and family that a layer has bound the prior to.

        Raises:
            InvalidArgumentError: none has.
        """
        if self.shape is None:
            raise InvalidArgumentError(
                f"the prior {self.name!r} belongs to no layer yet, and so has no K and D: take "
                "that of a layer (GMMLayer(..., priors=...).priors), or call bind_priors"
            )
        return self.shape

    @property
    def has_mode(self) -> bool:
        """Whether the density is bounded, so that a gradient fit has a mode to find."""
        return True

    @property
    def is_proper(self) -> bool:
        """Whether the density integrates to a finite number, so that there are draws."""
        return True

    @torch.no_grad()
    def sample(
        self, draws: int, generator: Generator | None = None, scale: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Draws of the parameters of its slot, by name, each `(draws, *B, ...)`.

        The names are `weights` `(K,)`, `means` `(K, D)`, `scale` (covariances in the family's
        compact form), `standard_deviations` `(G, D)` (spherical families: `(G,)`) and
        `correlation_tril` `(G, D, D)`.

        Args:
            draws: number of draws.
            generator: source of randomness; None: torch's global one.
            scale: covariances of the draws in compact form, `(draws, *B, G, ...)`, for a prior on
                the means that is relative to them.

        Raises:
            InvalidArgumentError: the prior is improper, belongs to no layer, needs covariances, or
                describes no draws.
            UnresolvedPriorError: hyper-parameters have no value yet.

        Example:
            >>> from gmm_lightning import GMMLayer
            >>> layer = GMMLayer(2, 3, priors="dirichlet")
            >>> layer.priors["weights"].sample(5)["weights"].shape
            torch.Size([5, 3])
        """
        require_integer("draws", draws, least=1)
        self.require_resolved()
        if not self.is_proper:
            raise InvalidArgumentError(
                f"the prior {self.name!r} is improper, so nothing can be drawn from it: its "
                f"density has no finite integral at {self.extra_repr()}; choose other values"
            )
        return self._sample(draws, generator, scale)

    def _sample(
        self, draws: int, generator: Generator | None, scale: Tensor | None
    ) -> dict[str, Tensor]:
        """`sample` of a proper prior that has its values."""
        raise InvalidArgumentError(
            f"the prior {self.name!r} describes no draws: its class has no method _sample"
        )

    @property
    def _dtype(self) -> torch.dtype:
        """Of the hyper-parameters."""
        return next(self.buffers()).dtype


def require_closed_forms(priors: Iterable[Prior]) -> None:
    """Refuse priors that have no closed form for EM.

    Raises:
        InvalidArgumentError: there is one; the message names the fits that take it.
    """
    for prior in priors:
        if "em" not in prior.fits:
            raise _no_closed_form(prior.name)


def _no_closed_form(name: str) -> InvalidArgumentError:
    """The error of a fit by EM alone, which a prior cannot take part in."""
    return InvalidArgumentError(
        f"the prior {name!r} has no closed form for EM: use fit=sgd, fit=em_then_sgd or fit=nuts, "
        "or in Python a gradient fit"
    )
