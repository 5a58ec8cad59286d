"""Sources that follow from others: rows without missing entries, and changed rows."""

from __future__ import annotations

import pytest
import torch

from gmm_lightning.errors import InvalidDataError
from gmm_lightning.rows import (
    BLOCK_ROWS,
    ArrayRows,
    Batch,
    CompleteRows,
    MappedRows,
    complete,
    errors_of,
    take_features,
    with_errors,
)


def holed(n: int, blocks: tuple[int, ...] = ()) -> Batch:
    """Rows of which every third one, and every one of some blocks, lacks an entry."""
    x = torch.arange(2.0 * n).reshape(n, 2)
    x[::3, 1] = torch.nan
    for block in blocks:
        x[block * BLOCK_ROWS : (block + 1) * BLOCK_ROWS, 0] = torch.nan
    return Batch(x, weight=torch.arange(float(n)), labels=torch.arange(n))


@pytest.mark.parametrize("blocks", [(), (0,), (1, 2)])
def test_complete_rows_are_read_from_any_row_on(blocks: tuple[int, ...]) -> None:
    batch = holed(3 * BLOCK_ROWS + 100, blocks)
    rows, whole = CompleteRows(ArrayRows(batch)), complete(batch)
    assert rows.num_rows == whole.num_rows
    assert rows.num_dropped == batch.num_rows - whole.num_rows
    n = rows.num_rows
    for start, stop, size in ((0, None, BLOCK_ROWS), (5, n - 3, 1000), (n - 1, n, 7), (n, n, 1)):
        parts = list(rows.read(start, stop, size))
        assert all(part.num_rows == size for part in parts[:-1])
        expected = whole.at(slice(start, stop))
        found = Batch.concatenate(parts) if parts else expected.at(slice(0))
        assert torch.equal(found.x, expected.x)
        assert torch.equal(found.labels, expected.labels)
    assert rows.total_weight == float(whole.weight.double().sum())
    assert torch.equal(rows.every(7), whole.x[::7])
    assert torch.equal(next(rows.read_at([4], 9)).x, whole.x[4:13])


def test_no_complete_row_is_refused() -> None:
    with pytest.raises(InvalidDataError, match="an entry is missing in every row"):
        CompleteRows(ArrayRows(Batch(torch.tensor([[1.0, torch.nan]]))))


def test_changed_rows_are_read_from_any_row_on() -> None:
    batch = holed(50)
    errors = torch.arange(200.0).reshape(50, 2, 2)
    source = ArrayRows(with_errors(batch, errors))
    rows = MappedRows(source, lambda b: take_features(b, [1]), ["b"])
    assert (rows.num_rows, rows.num_features, rows.columns) == (50, 1, ("b",))
    assert rows.total_weight == source.total_weight
    part = next(rows.read(10, 20))
    torch.testing.assert_close(part.x, batch.x[10:20, 1:], equal_nan=True)
    assert torch.equal(errors_of(part), errors[10:20, 1:, 1:])
