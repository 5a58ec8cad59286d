"""Rows of users as tensors, checked as scikit-learn checks them, and answers of the same kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Generator, Tensor

from gmm_lightning.rows import as_tensor

_FLOATS = {torch.float32: np.float32, torch.float64: np.float64}


class Rows:
    """Rows as a tensor, and the way back to what they were given as.

    Args:
        estimator: learns the number and the names of the features, or checks them.
        X: a tensor, or anything that scikit-learn takes.
        reset: whether it learns them.
        device: where to compute; None: where a tensor is, else the CPU.
        options: for scikit-learn's `validate_data`.

    Attributes:
        x: the rows, float32 or float64.
    """

    def __init__(
        self, estimator: Any, X: Any, *, reset: bool = False, device: Any = None, **options: Any
    ) -> None:
        self._device = X.device if isinstance(X, Tensor) else None
        if isinstance(X, Tensor):
            x = X.detach() if X.dtype in _FLOATS else X.detach().double()
            # On a device only the shape is checked here; the fit finds what is not finite.
            there = x.device.type != "cpu"
            seen = np.broadcast_to(_FLOATS[x.dtype](0), tuple(x.shape)) if there else x.numpy()
        else:
            seen, x = X, None
        checked = validate_data(
            estimator, seen, reset=reset, dtype=[np.float64, np.float32], **options
        )
        if x is None:
            x = as_tensor(checked)
        self.x = x if device is None else x.to(device)

    def give_back(self, values: Tensor) -> Any:
        """Values as the rows were given: a numpy array, or a tensor on their device."""
        values = values.detach()
        return values.cpu().numpy() if self._device is None else values.to(self._device)


def generator_of(random_state: Any, device: torch.device | str = "cpu") -> Generator:
    """A generator of torch that follows from scikit-learn's `random_state`.

    An instance of numpy's `RandomState` moves on; None takes a seed from numpy's global one, as
    scikit-learn does.
    """
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    return Generator(device).manual_seed(int(seed))
