"""Numbers of clusters that agree with those of classes as well as they can."""

from __future__ import annotations

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.rows import as_tensor


def match_predicted_to_true_labels(true_labels: Any, pred_labels: Any) -> Tensor:
    """The predicted labels, renumbered so that most of them equal the true ones.

    Labels of clusters beyond the number of classes stay as they are.

    Raises:
        InvalidArgumentError: different numbers of labels.

    References:
        H. W. Kuhn (1955), The Hungarian method for the assignment problem, Naval Research
        Logistics Quarterly 2.

    Example:
        >>> match_predicted_to_true_labels([0, 0, 1], [1, 1, 0])
        tensor([0, 0, 1])
    """
    true = as_tensor(true_labels, "true_labels").reshape(-1)
    found = as_tensor(pred_labels, "pred_labels").reshape(-1)
    if len(true) != len(found):
        raise InvalidArgumentError(
            f"expected one predicted label for each of {len(true)} true ones, got {len(found)}"
        )
    classes, row = true.cpu().unique(return_inverse=True)
    clusters, column = found.cpu().unique(return_inverse=True)
    counts = torch.zeros(len(classes), len(clusters))
    counts.index_put_((row, column), torch.ones(len(row)), accumulate=True)
    matched = clusters.clone()
    for i, j in zip(*linear_sum_assignment(-counts.numpy()), strict=True):
        matched[j] = classes[i]
    return matched[column].to(found)
