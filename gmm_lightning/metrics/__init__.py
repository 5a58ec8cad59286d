"""Metrics of densities and forecasts, as torchmetrics: summed over batches and processes.

- Density: `LogLikelihood`, and `BIC`, `AIC`, `ICL` of a model.
- Components: `ResponsibilityEntropy`, `EffectiveComponents`, and `LabelAgreement` with classes.
- Forecasts: `CRPS`, `EnergyScore`; their calibration: `CalibrationError`, `Coverage`,
  `PITHistogram`.
- Anomalies: torchmetrics' own `BinaryAUROC` of `anomaly_score(log_prob)`.

All states are sums in float64, so a metric of the whole is the merged metric of any split, on
however many processes. `options` go to `torchmetrics.Metric`. Arguments have one name everywhere,
so a collection takes them all:

Example:
    >>> from torchmetrics import MetricCollection
    >>> from gmm_lightning.distributions import probability_integral_transform
    >>> from gmm_lightning.metrics import CRPS, CalibrationError, LogLikelihood
    >>> metrics = MetricCollection([LogLikelihood(), CRPS(), CalibrationError()])
    >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
    >>> y = torch.randn(100, 1)
    >>> metrics.update(
    ...     log_prob=mixture.log_prob(y),
    ...     mixture=mixture,
    ...     target=y,
    ...     pit=probability_integral_transform(mixture, y),
    ... )
    >>> sorted(metrics.compute())
    ['CRPS', 'CalibrationError', 'LogLikelihood']
"""

from __future__ import annotations

from gmm_lightning.metrics.anomaly import anomaly_score
from gmm_lightning.metrics.calibration import CalibrationError, Coverage, PITHistogram
from gmm_lightning.metrics.clustering import LabelAgreement, label_agreement
from gmm_lightning.metrics.information import AIC, BIC, ICL, LogLikelihood
from gmm_lightning.metrics.responsibilities import EffectiveComponents, ResponsibilityEntropy
from gmm_lightning.metrics.scores import CRPS, EnergyScore

__all__ = [
    "AIC",
    "BIC",
    "CRPS",
    "ICL",
    "CalibrationError",
    "Coverage",
    "EffectiveComponents",
    "EnergyScore",
    "LabelAgreement",
    "LogLikelihood",
    "PITHistogram",
    "ResponsibilityEntropy",
    "anomaly_score",
    "label_agreement",
]
