"""Log-likelihood, and the criteria of `gmm_lightning.criteria`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning.criteria import aic, bic, icl
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.metrics._sums import (
    SumMetric,
    WeightedMean,
    categorical_entropy,
    weight_values,
    weight_vectors,
)


class LogLikelihood(WeightedMean):
    """Mean log density `sum_n w_n log p(x_n) / sum_n w_n`, in nats per row: higher is better.

    Example:
        >>> from gmm_lightning.metrics import LogLikelihood
        >>> metric = LogLikelihood()
        >>> metric.update(torch.tensor([-1.0, -2.0]))
        >>> metric.update(torch.tensor([-6.0]), weight=torch.tensor([2.0]))
        >>> metric.compute().item()
        -3.75
    """

    higher_is_better = True

    def __init__(self, **options: Any) -> None:
        super().__init__("log_likelihood", **options)

    def update(self, log_prob: Tensor, weight: Tensor | None = None) -> None:
        """Add rows.

        Args:
            log_prob: `log p(x)` of each, of any shape: `layer(x)`, `mixture.log_prob(y)`.
            weight: of each row, broadcasts to them; 0 leaves a row out, even with NaN.

        Raises:
            InvalidArgumentError: weights that do not fit.
            InvalidDataError: NaN, with the rows.
        """
        self.add(log_prob, weight)


class _Criterion(SumMetric):
    """Criterion of the total log-likelihood and the number of parameters."""

    higher_is_better = False
    log_likelihood: Tensor
    num_samples: Tensor

    def __init__(self, model: int | GMMLayer, **options: Any) -> None:
        super().__init__(**options)
        count = getattr(model, "num_free_parameters", model)
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise InvalidArgumentError(
                f"expected a number of free parameters >= 0 or a layer, got {describe(model)}"
            )
        self.num_free_parameters = count
        self.add_sum("log_likelihood")
        self.add_sum("num_samples")

    def update(self, log_prob: Tensor, weight: Tensor | None = None) -> None:
        """Add rows: as for `LogLikelihood.update`."""
        log_prob, weight = weight_values(log_prob, weight, "log_prob")
        self.log_likelihood = self.log_likelihood + (weight * log_prob).sum()
        self.num_samples = self.num_samples + weight.sum()


class BIC(_Criterion):
    """BIC `-2 log L + p log n` of all rows, by `gmm_lightning.criteria.bic`: lower is better.

    Args:
        model: the number of free parameters p, or a layer.

    Raises:
        InvalidArgumentError: not a number of parameters or a layer; in `compute`, no rows.

    Example:
        >>> from gmm_lightning.metrics import BIC
        >>> metric = BIC(GMMLayer(2, 3))
        >>> metric.update(torch.full((100,), -4.0))
        >>> round(metric.compute().item(), 3)
        878.288
    """

    def compute(self) -> Tensor:
        """Value of the criterion."""
        return bic(self.log_likelihood, self.num_free_parameters, float(self.num_samples))


class AIC(_Criterion):
    """AIC `-2 log L + 2 p` of all rows, by `gmm_lightning.criteria.aic`: lower is better.

    Arguments and errors are as for `BIC`.

    Example:
        >>> from gmm_lightning.metrics import AIC
        >>> metric = AIC(17)
        >>> metric.update(torch.full((100,), -4.0))
        >>> metric.compute().item()
        834.0
    """

    def compute(self) -> Tensor:
        """Value of the criterion."""
        return aic(self.log_likelihood, self.num_free_parameters)


class ICL(_Criterion):
    """ICL `BIC + 2 sum_n H(r_n)` of all rows, by `gmm_lightning.criteria.icl`: lower is better.

    Arguments and errors are as for `BIC`.

    Example:
        >>> from gmm_lightning.metrics import ICL
        >>> metric, layer = ICL(17), GMMLayer(2, 3)
        >>> metric.update(layer.log_joint(torch.randn(100, 2)))
        >>> metric.compute() > 0
        tensor(True)
    """

    entropy: Tensor

    def __init__(self, model: int | GMMLayer, **options: Any) -> None:
        super().__init__(model, **options)
        self.add_sum("entropy")

    def update(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, log_joint: Tensor, weight: Tensor | None = None
    ) -> None:
        """Add rows of `log pi_k + log p(x | k)`, `(*S, K)`: `layer.log_joint(x)`.

        Of a layer with noise, `layer.log_joint_with_noise(x)`: its entropy counts as well.
        Weights and errors are as for `LogLikelihood.update`.
        """
        log_joint, weight = weight_vectors(log_joint, weight, "log_joint")
        super().update(log_joint.logsumexp(-1), weight)
        # A row without density has no entropy.
        share = log_joint.softmax(-1).nan_to_num()
        self.entropy = self.entropy + (weight * categorical_entropy(share)).sum()

    def compute(self) -> Tensor:
        """Value of the criterion."""
        rows = float(self.num_samples)
        return icl(self.log_likelihood, self.num_free_parameters, rows, self.entropy)
