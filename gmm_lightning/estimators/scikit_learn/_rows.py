"""Rows of users as tensors, checked as scikit-learn checks them, and answers of the same kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Generator, Tensor

from gmm_lightning._validation import as_device
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.rows import as_tensor, as_weights

_FLOATS = {torch.float32: np.float32, torch.float64: np.float64}


class Rows:
    """Rows as a tensor, and the way back to what they were given as.

    Args:
        estimator: learns the number and the names of the features, or checks them.
        X: a tensor, or anything that scikit-learn takes.
        reset: whether it learns them.
        device: where to compute; None: where a tensor is, else the CPU.
        options: for scikit-learn's `validate_data`, with `y` for targets.

    Attributes:
        x: the rows, float32 or float64.
        y: the targets as a numpy array, where there are any.
    """

    y: Any = None

    def __init__(
        self, estimator: Any, X: Any, *, reset: bool = False, device: Any = None, **options: Any
    ) -> None:
        self._device = X.device if isinstance(X, Tensor) else None
        device = None if device is None else as_device(device)
        seen: Any = X
        x: Tensor | None = None
        if isinstance(X, np.ma.MaskedArray) and options.get("ensure_all_finite") == "allow-nan":
            seen = np.ma.filled(X.astype(float), np.nan)
        if isinstance(X, Tensor) and X.is_complex():
            seen = X.detach().cpu().numpy()  # Which scikit-learn refuses.
        elif isinstance(X, Tensor):
            as_device(X.device)
            x = X.detach() if X.dtype in _FLOATS else X.detach().double()
            # On a device only the shape is checked here; the fit finds what is not finite.
            there = x.device.type != "cpu"
            seen = np.broadcast_to(_FLOATS[x.dtype](0), tuple(x.shape)) if there else x.numpy()
        if isinstance(options.get("y"), Tensor):
            options["y"] = options["y"].detach().cpu().numpy()
        checked = validate_data(
            estimator, seen, reset=reset, dtype=[np.float64, np.float32], **options
        )
        if "y" in options:
            checked, self.y = checked
        if x is None:
            x = as_tensor(checked)
        self.x = x if device is None else x.to(device)

    def give_back(self, values: Tensor) -> Any:
        """Values as the rows were given: a numpy array, or a tensor on their device."""
        values = values.detach()
        return values.cpu().numpy() if self._device is None else values.to(self._device)


def weights_of_rows(sample_weight: Any, x: Tensor) -> Tensor | None:
    """Weights `(N,)` of rows, or None.

    Raises:
        InvalidDataError: a shape that does not fit, or weights that are negative, not finite, or
            all zero.
    """
    weights = as_weights(sample_weight, x, torch.Size(()))
    if weights is not None and not bool((weights > 0).any()):
        raise InvalidDataError("every sample_weight is zero: some row must have a weight above 0")
    return weights


def new_layer(*sizes: Any, device: torch.device, **options: Any) -> GMMLayer:
    """A layer, made while torch's global generators stay where they are."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return GMMLayer(*sizes, device=device, **options)


def generator_of(random_state: Any, device: torch.device | str = "cpu") -> Generator:
    """A generator of torch that follows from scikit-learn's `random_state`.

    An instance of numpy's `RandomState` moves on; None takes a seed from numpy's global one, as
    scikit-learn does.
    """
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    return Generator(device).manual_seed(int(seed))
