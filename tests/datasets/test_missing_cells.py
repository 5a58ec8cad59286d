"""Missing cells of files, where they are allowed; what else is wrong stays wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmm_lightning.datasets import iter_table, open_rows, read_table
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError

X = np.array([[np.nan] * 3, [1.0, np.nan, 3.0], [np.nan, np.nan, 6.0], [np.nan] * 3, [7, 8, 9]])
TEXT = 'a;b;c\n;;\n1;;3\n\nNA; - ;6\n ; ;\n"7";8;9\n'


def saved(folder: Path, kind: str) -> Path:
    path = folder / f"t.{kind}"
    if kind == "csv":
        path.write_text(TEXT)
    elif kind == "npy":
        np.save(path, X)
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        pq.write_table(pa.table({n: [*v] for n, v in zip("abc", X.T, strict=True)}), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "npy", "parquet"])
def test_missing_cells_are_nan_where_they_are_allowed(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, kind)
    for read in (read_table, open_rows):
        with pytest.raises(InvalidDataError, match="missing values, by column of"):
            list(read(path).read() if read is open_rows else read(path).x)
    table = read_table(path, allow_missing=True)
    np.testing.assert_array_equal(table.x, X)
    stream = open_rows(path, allow_missing=True)
    np.testing.assert_array_equal(np.concatenate([b.x for b in stream.read(size=2)]), X)
    names = [table.columns[2], table.columns[0]]
    blocks = list(iter_table(path, columns=names, batch_rows=2, allow_missing=True))
    np.testing.assert_array_equal(np.concatenate(blocks), X[:, [2, 0]])


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("a,b\n1,2\n,inf\n", {}, "infinite values: column b in line(s) 3"),
        ("a,b\n1,2\n,x\n4,5\n", {}, "line 3, column b: expected a number, got 'x'"),
        ("a,w\n,2\n4,\n", {"weight": "w"}, "missing values, by column of 2 rows: w (1)"),
    ],
)
def test_other_bad_cells_are_refused(
    tmp_path: Path, content: str, options: dict[str, Any], said: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    with pytest.raises(InvalidDataError) as caught:
        read_table(path, allow_missing=True, **options)
    assert said in str(caught.value)
    with pytest.raises(InvalidDataError) as caught:
        list(open_rows(path, allow_missing=True, **options))
    assert said in str(caught.value)


def test_a_column_without_cells_is_left_out_unless_it_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,\n2,NA\n")
    assert read_table(path, allow_missing=True).columns == ("a",)
    assert np.isnan(read_table(path, columns="b", allow_missing=True).x).all()


@pytest.mark.parametrize("separator", [",", "\t", "|"])
def test_lines_of_separators_are_rows_among_many(tmp_path: Path, separator: str) -> None:
    # Several blocks of an index; the first one has no missing cell.
    x = np.arange(30_000.0).reshape(10_000, 3)
    x[9_000::7] = np.nan
    lines = [separator.join("" if v != v else repr(v) for v in row) for row in x.tolist()]
    path = tmp_path / "t.txt"
    path.write_text("\n".join(lines) + "\n")
    stream = open_rows(path, separator=separator, allow_missing=True)
    assert stream.num_rows == 10_000
    found = np.concatenate([b.x for b in stream.read(8_500, size=300)])
    np.testing.assert_array_equal(found, x[8_500:])
    assert len(read_table(path, separator=separator).x) == 10_000 - 143


def test_the_option_is_a_truth_value(tmp_path: Path) -> None:
    path: Any = saved(tmp_path, "csv")
    for read in (read_table, open_rows):
        with pytest.raises(InvalidArgumentError, match="allow_missing"):
            read(path, allow_missing="em")
