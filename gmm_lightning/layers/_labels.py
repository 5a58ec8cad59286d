"""Class labels of any kind as indices."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmm_lightning._messages import format_list, format_rows
from gmm_lightning._tracing import value_of
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError


class LabelEncoder:
    """Encodes labels as indices of `number` different classes, which are kept as Python values."""

    def __init__(self, classes: Iterable[Hashable], number: int) -> None:
        listed = classes.tolist() if isinstance(classes, Tensor | np.ndarray) else list(classes)
        self.classes: tuple[Any, ...] = tuple(
            label.item() if isinstance(label, np.generic) else label for label in listed
        )
        if len(self.classes) != number or len(set(self.classes)) != number:
            raise InvalidArgumentError(
                f"a layer of {number} mixtures needs {number} different classes, got "
                f"{format_list(map(repr, self.classes))}"
            )
        self._index = {label: i for i, label in enumerate(self.classes)}
        self._trivial = self.classes == tuple(range(number))

    def encode(self, y: Any, device: torch.device) -> Tensor:
        """Indices of labels of any shape, on a device."""
        if isinstance(y, Tensor):
            integral = self._trivial and not y.is_floating_point()
            if integral and not value_of(((y < 0) | (y >= len(self.classes))).any()):
                return y.to(device, torch.long)
            y = y.detach().cpu().numpy()
        if np.ma.is_masked(y):
            masked = torch.as_tensor(np.ma.getmaskarray(y).reshape(-1))
            raise InvalidDataError(
                f"y has masked labels in row(s) {format_rows(masked)}; leave out the rows without "
                "a label"
            )
        array = np.asarray(y)
        try:
            values, inverse = np.unique(array, return_inverse=True)
        except TypeError:
            raise InvalidDataError(
                "y must hold labels of one kind, all numbers or text, and one for every row"
            ) from None
        codes = np.array([self._index.get(value, -1) for value in values.tolist()], dtype=np.int64)
        indices = torch.as_tensor(codes[inverse].reshape(array.shape))
        if bool((indices < 0).any()):
            unknown = format_list(map(repr, values[codes < 0].tolist()))
            raise InvalidDataError(
                f"y has labels that are not among the {len(self.classes)} classes "
                f"{format_list(map(repr, self.classes))}: {unknown} in row(s) "
                f"{format_rows((indices < 0).reshape(-1))}; give MixtureClassifier the labels that "
                "occur as classes=, and leave out rows without a label"
            )
        return indices.to(device)
