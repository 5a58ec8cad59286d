"""Uniform noise: in the bounding box of the data, in a given box, or of a given volume."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning._tracing import value_of
from gmm_lightning._validation import require_number
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.hyperparameters import Hyperparameter
from gmm_lightning.noise.base import Noise
from gmm_lightning.rows import RowSource, bounding_box


class Uniform(Noise):
    """Noise of the same density everywhere in a box, `u(x) = 1 / V`, and 0 outside.

    The box is closed. A feature in which it has no width has density 1 at its value there, as
    constant features have in a layer. Of a row with missing entries the density is that of the
    box of the others. With a volume alone there is no box: the density is `1 / V` everywhere, and
    `V^(-|O| / D)` for a row with |O| of its D entries.

    Args:
        weight: see `Noise`.
        fixed: see `Noise`.
        concentration: see `Noise`.
        low: lower corner of the box, `(D,)` or anything that broadcasts to `(*B, D)`, in the
            units of the layer; None: the least value of each feature in the data.
        high: upper corner; None: the largest value.
        volume: V, without a box.

    Raises:
        InvalidArgumentError: a volume that is not positive or beside a box, or a lower corner
            above the upper one.

    References:
        J. D. Banfield, A. E. Raftery (1993), Model-based Gaussian and non-Gaussian clustering,
        Biometrics 49.
        C. Fraley, A. E. Raftery (1998), How many clusters? Which clustering method? Answers via
        model-based cluster analysis, The Computer Journal 41.

    Example:
        >>> layer = GMMLayer(2, 1, noise=Uniform(weight=0.2, low=[0.0, 0.0], high=[2.0, 5.0]))
        >>> layer.noise.log_density(torch.tensor([[1.0, 5.0], [1.0, 6.0]])).exp()
        tensor([0.1000, 0.0000])
    """

    name: ClassVar[str] = "uniform"
    low: Tensor
    high: Tensor

    def __init__(
        self,
        weight: float = 0.05,
        *,
        fixed: bool = False,
        concentration: Any = None,
        low: Hyperparameter = None,
        high: Hyperparameter = None,
        volume: float | None = None,
    ) -> None:
        super().__init__(weight, fixed=fixed, concentration=concentration, low=low, high=high)
        if volume is not None and not (low is None and high is None):
            raise InvalidArgumentError(
                "the noise 'uniform' has a volume or a box: leave out volume, or low and high"
            )
        self.volume = None if volume is None else require_number("volume", volume, above=0)

    def register(self, num_features: int) -> None:
        if self.volume is not None:
            return
        for name in self._given:
            self._register(name, (*self.batch_shape, num_features))
        if value_of((self.low > self.high).any()):
            raise InvalidArgumentError(
                "the box of the noise 'uniform' must have low <= high in every feature"
            )

    @torch.no_grad()
    def resolve(self, source: RowSource) -> None:
        if self.volume is not None or None not in self._given.values():
            return
        for name, found in zip(("low", "high"), bounding_box(source, self.low), strict=True):
            self._set_default(name, found)
        if bool((self.low > self.high).any()):
            raise InvalidDataError(
                "the box of the noise 'uniform' holds no row: the corner that was given lies "
                "beyond all rows"
            )

    @property
    def has_draws(self) -> bool:
        return self.volume is None

    @property
    def log_volume(self) -> Tensor:
        """Logarithm of the volume, `(*B)`."""
        if self.volume is not None:
            return self.logit.new_full(self.batch_shape, math.log(self.volume))
        return self._log_width().sum(-1)

    def _log_width(self) -> Tensor:
        """Logarithms of the widths `(*B, D)`, 0 where the box has none."""
        width = self.high - self.low
        return torch.where(width > 0, width, 1.0).log()

    def log_density(self, x: Tensor, missing: str | None = None) -> Tensor:
        if self.volume is not None:
            observed = 1.0
            if missing is not None:
                observed = (~torch.isnan(x)).sum(-1) / x.shape[-1]
            return -self.log_volume * observed + 0 * x[..., 0].nan_to_num()
        self.require_resolved()
        inside = (x >= self.low) & (x <= self.high)
        if missing is None:
            return torch.where(inside.all(-1), -self.log_volume, -torch.inf)
        absent = torch.isnan(x)
        log_volume = torch.where(absent, 0.0, self._log_width()).sum(-1)
        return torch.where((inside | absent).all(-1), -log_volume, -torch.inf)

    def sample(self, size: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        if not self.has_draws:
            raise InvalidArgumentError(
                "the noise 'uniform' of a volume has no box to draw from: give low and high "
                "instead, or draw without noise"
            )
        self.require_resolved()
        share = torch.empty(*size, *self.low.shape, dtype=self.low.dtype, device=self.low.device)
        return torch.lerp(self.low, self.high, share.uniform_(generator=generator))

    def config(self) -> dict[str, Any]:
        """Constructor arguments as primitives."""
        return super().config() | {"volume": self.volume}
