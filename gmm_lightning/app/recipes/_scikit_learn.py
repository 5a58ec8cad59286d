"""Data that come with scikit-learn, which only some examples need."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning.errors import InvalidArgumentError


def load_with_scikit_learn(
    name: str, what: str, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Features in a dtype, and targets or classes as they are.

    Args:
        name: of the data in `sklearn.datasets`.
        what: they are called in an error.
        dtype: of the features.

    Raises:
        InvalidArgumentError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise InvalidArgumentError(
            f"{what} come with scikit-learn: pip install scikit-learn"
        ) from error
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return torch.as_tensor(x, dtype=dtype), torch.as_tensor(y)
