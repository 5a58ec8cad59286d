"""The parameters of mixtures as plain tensors, on which EM works."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from gmm_lightning.layers import GMMLayer


class MixtureParameters(NamedTuple):
    """Parameters of M mixtures: the restarts of every mixture of a layer's batch.

    Restarts, chains and the mixtures of a batch all lie along the leading axis: `R * prod(B)`
    entries for R restarts of a layer of batch shape B, those of one restart side by side.

    Shape:
        mixture_logits `(M, K)`, means `(M, K, D)`, raw_scale `(M, G, ...)`, noise_logit `(M, H)`
        with H = 1 where the mixtures have noise, else 0.
    """

    mixture_logits: Tensor
    means: Tensor
    raw_scale: Tensor
    noise_logit: Tensor

    @classmethod
    def from_layer(cls, layer: GMMLayer, num_restarts: int = 1) -> Self:
        """Copies of a layer's parameters, one for each restart."""
        own, size = len(layer.batch_shape), layer.batch_shape.numel()
        flat = (p.detach().reshape(size, *p.shape[own:]) for p in _parameters(layer))
        return cls(*(p.repeat(num_restarts, *[1] * (p.dim() - 1)) for p in flat))

    @torch.no_grad()
    def write_to(self, layer: GMMLayer) -> None:
        """Overwrite a layer's parameters in place; M is the size of its batch."""
        for target, value in zip(_parameters(layer), self, strict=True):
            target.copy_(value.reshape(target.shape))

    @property
    def num_mixtures(self) -> int:
        """Number of mixtures, M."""
        return len(self.means)

    @property
    def num_components(self) -> int:
        """Number of components, K."""
        return self.means.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the parameters."""
        return self.means.dtype

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.means.device

    def select(self, index: Tensor) -> MixtureParameters:
        """The parameters of the mixtures at `index`."""
        return MixtureParameters(*(value[index] for value in self))

    def to(self, dtype: torch.dtype) -> MixtureParameters:
        """The parameters in another precision."""
        return MixtureParameters(*(value.to(dtype) for value in self))

    def to_vector(self) -> Tensor:
        """All parameters of each mixture in one row, `(M, V)`."""
        return torch.cat([value.flatten(1) for value in self], -1)

    def from_vector(self, rows: Tensor) -> MixtureParameters:
        """Parameters of the same shapes from rows that `to_vector` made."""
        parts = rows.split([value[0].numel() for value in self], -1)
        return MixtureParameters(
            *(part.reshape(value.shape) for part, value in zip(parts, self, strict=True))
        )


def _parameters(layer: GMMLayer) -> tuple[Tensor, ...]:
    """The parameters of a layer, each of the layer's batch shape and its own."""
    means, noise = layer.means, layer.noise
    logit = means.new_empty(*layer.batch_shape, 0) if noise is None else noise.logit.unsqueeze(-1)
    return layer.mixture_logits, means, layer.raw_scale, logit
