"""The check of functions of one mixture, which take no batch."""

from __future__ import annotations

from gmm_lightning.distributions.density.mixture_density import MixtureDensity
from gmm_lightning.errors import InvalidArgumentError


def require_single(mixture: MixtureDensity, reason: str = "expected") -> None:
    """Raise for a batch of mixtures; the message begins with the reason, as `draws need`.

    Raises:
        InvalidArgumentError: a batch.

    Example:
        >>> from gmm_lightning import GMMLayer
        >>> require_single(as_mixture(GMMLayer(2, 3, batch_shape=(4,))), "draws need")
        Traceback (most recent call last):
            ...
        gmm_lightning.errors.InvalidArgumentError: draws need a single mixture, got a batch ...
    """
    if mixture.batch_shape:
        raise InvalidArgumentError(
            f"{reason} a single mixture, got a batch of shape {tuple(mixture.batch_shape)}"
        )
