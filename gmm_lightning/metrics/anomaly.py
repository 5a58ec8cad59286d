"""Anomaly scores that torchmetrics ranks without loss of digits."""

from __future__ import annotations

from torch import Tensor

from gmm_lightning.metrics._sums import as_numbers, raise_for_rows


def anomaly_score(log_prob: Tensor) -> Tensor:
    """Anomaly score in [0, 1], a monotone function of the surprise `s = -log p`.

        (1 + sign(s) t / (1 + t)) / 2,   t = log(1 + |s|)

    torchmetrics takes values outside [0, 1] for logits and passes them, batch by batch, through a
    sigmoid, which is 1 for every surprise above 40: areas under the curve of `-log p` itself would
    be wrong. Values in [0, 1] are ranked unchanged, and differ where the tenth digit does.

    Args:
        log_prob: `log p(x)` of rows, of any shape.

    Raises:
        InvalidArgumentError: not a tensor of real numbers.
        InvalidDataError: NaN, with the rows: torchmetrics would take the whole batch for logits.

    Example:
        >>> from torchmetrics.classification import BinaryAUROC
        >>> from gmm_lightning.metrics import anomaly_score
        >>> log_prob, unusual = torch.tensor([-90.0, -80.0, -300.0]), torch.tensor([0, 0, 1])
        >>> auroc = BinaryAUROC()
        >>> auroc.update(anomaly_score(log_prob), unusual)
        >>> auroc.compute()
        tensor(1.)
    """
    surprise = -as_numbers(log_prob, "log_prob")
    raise_for_rows(surprise.isnan(), "log_prob is NaN")
    size = surprise.abs().log1p()
    # t / (1 + t), also for infinite t.
    share = size.reciprocal().add(1).reciprocal()
    return 0.5 + 0.5 * surprise.sign() * share
