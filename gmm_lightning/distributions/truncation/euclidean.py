"""Regions of rows, the same for all components."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_function, require_integer
from gmm_lightning.distributions.truncation.envelopes import Envelope, GaussianComponent
from gmm_lightning.distributions.truncation.envelopes import unrestricted_envelope as _unrestricted
from gmm_lightning.errors import InvalidArgumentError


class EuclideanRegion(ABC):
    """A set of rows, the same for all components. A subclass needs to define only `contains`.

    Example:
        >>> class Ring(EuclideanRegion):
        ...     def contains(self, x):
        ...         return (x.norm(dim=-1) - 1).abs() < 0.1
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
        >>> bool(Ring().contains(mixture.sample(5, within=Ring())).all())
        True
    """

    @property
    def max_refused(self) -> int | None:
        """Number of draws that may be rejected; None: as many as take some seconds."""
        return None

    def check(self, num_features: int) -> None:  # noqa: B027 (nothing to check)
        """Raise unless rows of this width can lie in the region; by default all can."""

    @abstractmethod
    def contains(self, x: Tensor) -> Tensor:
        """Mask of the rows that lie in the region, `(*S, D)` -> `(*S,)`."""

    def envelopes(self, components: Sequence[GaussianComponent]) -> list[Envelope]:
        """An envelope for each component; by default the component itself."""
        return [_unrestricted(component) for component in components]

    def project(self, dims: Sequence[int], num_features: int) -> EuclideanRegion:
        """The projection onto the features `dims`: their values in rows of the region.

        Raises:
            InvalidArgumentError: a feature is left out, and the region defines only `contains`.
        """
        if len(dims) < num_features:
            raise InvalidArgumentError(
                f"the shadow of {type(self).__name__} in {len(dims)} of {num_features} features "
                "is not known; choose all of its features, or leave the region out"
            )
        order = torch.as_tensor(dims).argsort()
        return Where(lambda x: self.contains(x[..., order.to(x.device)]))

    def bounds(self, num_features: int) -> tuple[Tensor, Tensor]:
        """Least and largest value of each feature, `(D,)`; infinite where unknown."""
        ends = torch.full((num_features,), torch.inf, dtype=torch.float64, device="cpu")
        return -ends, ends

    def outline(self, window: Tensor) -> Tensor | None:
        """Corners `(V, D)` in order around a convex region, or None if they are not known.

        The region has one or two features and is cut to a window `(D, 2)` of their values.
        """
        return None


@dataclass(frozen=True)
class Where(EuclideanRegion):
    """Rows for which a function is True; draws of the mixture are accepted or rejected by it.

    Args:
        fn: rows `(n, D)`, in the mixture's dtype, to a mask `(n,)`.
        max_draws: draws that may be rejected, per mixture and given component.

    Raises:
        InvalidArgumentError: `fn` cannot be called, or `max_draws` is below 1.

    Example:
        >>> Where(lambda x: x.norm(dim=-1) < 2).contains(torch.tensor([[1.0, 1.0], [2.0, 1.0]]))
        tensor([ True, False])
    """

    fn: Callable[[Tensor], Tensor]
    max_draws: int = 10_000_000

    def __post_init__(self) -> None:
        require_function("fn", self.fn)
        require_integer("max_draws", self.max_draws, least=1)

    @property
    def max_refused(self) -> int:
        return self.max_draws

    def contains(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        mask = self.fn(rows)
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != rows.shape[:1]:
            raise InvalidArgumentError(
                f"fn must return a boolean tensor of shape {tuple(rows.shape[:1])} for rows of "
                f"shape {tuple(rows.shape)}, got {describe(mask)}"
            )
        return mask.reshape(x.shape[:-1])
