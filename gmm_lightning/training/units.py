"""A mixture of standardised rows, in the user's units."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch import Tensor

from gmm_lightning.covariances import FullCovariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.layers import GMMLayer, Standardize, keep_constant
from gmm_lightning.rows import require_order


class StandardizedMixture(L.LightningModule):
    """A mixture in standard units, whose inputs and outputs are in the units of the data.

    Rows are what `GMMLayer` takes; a table has its columns in the order of `columns`, if these are
    known.

    Attributes:
        keeps_units: whether the units are those of another fit, whatever the data.
    """

    keeps_units = False

    def __init__(self, layer: GMMLayer) -> None:
        super().__init__()
        self.layer = layer
        self.standardize = Standardize(layer.num_features).to(layer.means.dtype)

    def take_units(self, datamodule: Any) -> None:
        """Set the mean and standard deviation of the data, if the data module standardises."""
        if getattr(datamodule, "standardize", False) and not self.keeps_units:
            self.standardize.set(*datamodule.units())

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features; empty where they are not known."""
        return ()

    def _standard(self, x: Any) -> Tensor:
        """Rows in standard units."""
        if not isinstance(x, Tensor):
            require_order(x, self.columns)
        return self.standardize(x)

    def forward(self, x: Any) -> Tensor:
        """Log densities, as `log_prob`."""
        return self.log_prob(x)

    def log_prob(self, x: Any) -> Tensor:
        """Log densities `log p(x)` in the user's units: `(*S, *B, D)` -> `(*S, *B)`."""
        return self.layer.log_prob(self._standard(x)) + self.standardize.log_abs_det

    def responsibilities(self, x: Any, missing: str | None = None) -> Tensor:
        """Responsibilities `p(k | x)`, `(*S, *B, K)`; `missing` as in `GMMLayer.log_prob`."""
        return self.layer.responsibilities(self._standard(x), missing)

    def predict(self, x: Any, missing: str | None = None) -> Tensor:
        """The most probable component of each row, `(*S, *B)`: see `GMMLayer.predict`."""
        return self.layer.predict(self._standard(x), missing)

    def sample(self, sample_shape: tuple[int, ...] | int = (), **options: Any) -> Any:
        """Draws in the user's units, the region of `within` too: see `GMMLayer.sample`."""
        if options.get("within") is not None:
            # A ball is not one in standard units: the mixture is transformed, not the region.
            mixture = self.distribution()
            drawn = mixture.sample(sample_shape, **options)
            return keep_constant(drawn, mixture.means, self.layer.is_constant)
        drawn = self.layer.sample(sample_shape, **options)
        if isinstance(drawn, tuple):
            return self.standardize.inverse(drawn[0]), *drawn[1:]
        return self.standardize.inverse(drawn)

    def sample_with_noise(self, sample_shape: tuple[int, ...] | int = (), **options: Any) -> Any:
        """Draws in the user's units, noise included: see `GMMLayer.sample_with_noise`."""
        drawn = self.layer.sample_with_noise(sample_shape, **options)
        if isinstance(drawn, tuple):
            return self.standardize.inverse(drawn[0]), *drawn[1:]
        return self.standardize.inverse(drawn)

    def noise_probability(self, x: Any, missing: str | None = None) -> Tensor:
        """Probability that a row is noise, `(*S, *B)`: see `GMMLayer.noise_probability`."""
        return self.layer.noise_probability(self._standard(x), missing)

    def distribution(self) -> MixtureOfGaussians:
        """The mixture in the user's units, with dense covariances."""
        mixture, units = self.layer.distribution(), self.standardize
        return MixtureOfGaussians(
            mixture.mixture_logits,
            units.inverse(mixture.means),
            units.scale.unsqueeze(-1) * mixture.scale_tril,
            FullCovariance(),
        )
