"""The rows that are set aside for validation and for a test."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError


def split_rows(
    num_rows: int, val_fraction: float, test_fraction: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of the rows to train on, for validation and for a test, in order each.

    The validation set is drawn first, so that it does not depend on the test set.

    Raises:
        InvalidArgumentError: a share out of range, or shares that leave a part without rows.
        InvalidDataError: there is a single row.
    """
    shares = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    shares = {name: require_number(name, x, least=0, most=1) for name, x in shares.items()}
    sizes = {name: round(share * num_rows) for name, share in shares.items() if share > 0}
    if not sizes:
        return torch.arange(num_rows), torch.arange(0), torch.arange(0)
    if 0 in sizes.values() or sum(sizes.values()) >= num_rows:
        asked = " and ".join(f"{name}={shares[name]}" for name in sizes)
        if num_rows == 1:
            raise InvalidDataError(
                f"there is 1 row, so none can be set aside ({asked}); a mixture needs at least as "
                "many rows as components, one on each line of a file (0 sets none aside)"
            )
        raise InvalidArgumentError(
            f"{asked} of {num_rows} rows leaves no rows on one side; 0 sets none aside"
        )
    num_val, num_test = (sizes.get(name, 0) for name in shares)
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))
    parts = order.split([num_val, num_test, num_rows - num_val - num_test])
    val, test, train = (part.sort().values for part in parts)
    return train, val, test
