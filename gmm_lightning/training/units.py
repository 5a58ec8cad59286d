"""A mixture of standardised rows, in the user's units."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from gmm_lightning.covariances import FullCovariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.em import Responsibilities, e_step, softmax_responsibilities_
from gmm_lightning.layers import GMMLayer, Standardize, keep_constant
from gmm_lightning.rows import Batch, require_missing, require_order
from gmm_lightning.statistics import SufficientStatistics


class StandardizedMixture(L.LightningModule):
    """A mixture in standard units, whose inputs and outputs are in the units of the data.

    Rows are what `GMMLayer` takes; a table has its columns in the order of `columns`, if these are
    known.

    Attributes:
        missing: None, or `em`, where entries of the rows of a fit may be missing.
        keeps_units: whether the units are those of another fit, whatever the data.
    """

    keeps_units = False

    def __init__(self, layer: GMMLayer, missing: str | None = None) -> None:
        super().__init__()
        self.layer, self.missing = layer, require_missing(missing)
        self.standardize = Standardize(layer.num_features).to(layer.means.dtype)

    def take_units(self, datamodule: Any) -> None:
        """Set the mean and standard deviation of the data, if the data module standardises."""
        if getattr(datamodule, "standardize", False) and not self.keeps_units:
            self.standardize.set(*datamodule.units())

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the features; empty where they are not known."""
        return ()

    def _standard(self, x: Any) -> Any:
        """Rows, or a `Batch` of them, in standard units."""
        if isinstance(x, Batch):
            return self.standardize.batch(x)
        if not isinstance(x, Tensor):
            require_order(x, self.columns)
        return self.standardize(x)

    def forward(self, x: Any) -> Tensor:
        """Log densities, as `log_prob`."""
        return self.log_prob(x)

    def log_prob(self, x: Any, missing: str | None = None) -> Tensor:
        """Log densities `log p(x)` in the user's units: `(*S, *B, D)` -> `(*S, *B)`.

        With `missing="marginalize"` those of the entries that are observed; `x` may be a `Batch`
        with the errors of its rows, as in `GMMLayer.log_prob`.
        """
        z = self._standard(x)
        log_prob = self.layer.log_prob(z, missing) + self.standardize.log_abs_det
        if missing is None:
            return log_prob
        rows = z.x if isinstance(z, Batch) else z
        return log_prob + self.standardize.log_scale_of_missing(rows).to(log_prob)

    def log_joint_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log joint densities of a batch in standard units, and what they lack in the user's.

        With noise, which is the last component. Where entries may be missing they are those of
        the observed ones.

        Shape:
            `(n, *B, K)`, or `(n, *B, K + 1)` with noise; `(n, *B)`, or `()`.
        """
        rows = self.standardize.batch(batch)
        log_joint = self.layer.reduce_joint(rows, lambda values: values, self._reading(rows.x))
        return log_joint, self.standardize.log_abs_det + self.missing_log_scale(batch)

    def log_prob_of(self, batch: Batch) -> Tensor:
        """Log densities of a batch, which lack `log_abs_det` in the user's units."""
        rows = self.standardize.batch(batch)
        log_prob = self.layer.log_prob(rows, self._reading(rows.x))
        return log_prob + self.missing_log_scale(batch) if self.missing else log_prob

    def e_step(
        self, batch: Batch, responsibilities: Responsibilities = softmax_responsibilities_
    ) -> SufficientStatistics:
        """Expected statistics of rows in the user's units, which `EMCallback` adds up."""
        units = self.standardize
        is_identity = bool((units.loc == 0).all() and (units.scale == 1).all())
        return e_step(
            self.layer,
            units.scale_errors(batch),
            missing=self.missing,
            responsibilities=responsibilities,
            transform=None if is_identity else units,
        )

    def missing_log_scale(self, batch: Batch) -> Tensor:
        """What `log_abs_det` lacks for the missing entries of each row, `(n, *B)`, else `()`."""
        if self.missing is None:
            return self.standardize.scale.new_zeros(())
        return self.standardize.log_scale_of_missing(batch.x)

    def total_log_scale(self, batch: Batch) -> float:
        """Weighted sum over the rows of `missing_log_scale`, a mean over a batch of mixtures."""
        if self.missing is None:
            return 0.0
        each = self.missing_log_scale(batch).double()
        weighted = each if batch.weight is None else batch.weight.to(each) * each
        return float(weighted.sum(0).mean())

    def _reading(self, x: Tensor) -> str | None:
        """How the densities of rows are to be read: those without missing entries as ever."""
        return "marginalize" if self.missing is not None and bool(torch.isnan(x).any()) else None

    def responsibilities(self, x: Any, missing: str | None = None) -> Tensor:
        """Responsibilities `p(k | x)`, `(*S, *B, K)`; `missing` as in `GMMLayer.log_prob`."""
        return self.layer.responsibilities(self._standard(x), missing)

    def predict(self, x: Any, missing: str | None = None) -> Tensor:
        """The most probable component of each row, `(*S, *B)`: see `GMMLayer.predict`."""
        return self.layer.predict(self._standard(x), missing)

    def class_probabilities(self, x: Any, missing: str | None = None) -> Tensor:
        """Probabilities of the classes, `(*S, *B, C)`: see `GMMLayer.class_probabilities`."""
        return self.layer.class_probabilities(self._standard(x), missing)

    def predict_class(self, x: Any, missing: str | None = None) -> Tensor:
        """The most probable class of each row, `(*S, *B)`: see `GMMLayer.predict_class`."""
        return self.layer.predict_class(self._standard(x), missing)

    def sample(self, sample_shape: tuple[int, ...] | int = (), **options: Any) -> Any:
        """Draws in the user's units, the region of `within` too: see `GMMLayer.sample`."""
        if options.get("within") is not None:
            # A ball is not one in standard units: the mixture is transformed, not the region.
            mixture = self.distribution()
            drawn = mixture.sample(sample_shape, **options)
            return keep_constant(drawn, mixture.means, self.layer.is_constant)
        return self._in_units(self.layer.sample(sample_shape, **options))

    def sample_with_noise(self, sample_shape: tuple[int, ...] | int = (), **options: Any) -> Any:
        """Draws in the user's units, noise included: see `GMMLayer.sample_with_noise`."""
        return self._in_units(self.layer.sample_with_noise(sample_shape, **options))

    def _in_units(self, drawn: Any) -> Any:
        """Draws, `rows` or `(rows, ...)`, in the user's units."""
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
