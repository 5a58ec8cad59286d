"""Tables in files: what is read, how it is guessed, and how each mistake is named."""

from __future__ import annotations

import builtins
import errno
import logging
import os
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.damage import flipped, some_bits, truncated

from gmm_lightning.datasets import TableWriter, iter_table, open_rows, read_table, read_tables
from gmm_lightning.errors import GMMError, InvalidArgumentError, InvalidDataError

Write = Callable[..., Path]
PLAIN = "a,b,kind\n1,2.5,oak\n-3,4e1,fir\n5.25,6,oak\n"
X = [[1.0, 2.5], [-3.0, 40.0], [5.25, 6.0]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(content: str | bytes, name: str = "t.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def refused(path: Path, kind: type[GMMError] = InvalidDataError, **options: Any) -> str:
    """The message of `read_table`, less the folder."""
    with pytest.raises(kind) as caught:
        read_table(path, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value).replace(f"{path.parent}/", "")


# Text files ---------------------------------------------------------------------------------------


def test_a_table_with_names_and_labels(write: Write) -> None:
    path = write(PLAIN)
    table = read_table(path, label="kind")
    assert table.x.tolist() == X
    assert (table.x.dtype, table.x.flags.c_contiguous) == (np.float64, True)
    assert (table.columns, table.classes, table.label) == (("a", "b"), ("fir", "oak"), "kind")
    assert table.labels is not None
    assert (table.labels.tolist(), table.labels.dtype) == ([1, 0, 1], np.int64)
    assert (table.name, table.source) == ("t", str(path))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", " ", "   ", ", ", " ; ", " \t"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt"])
def test_separators_and_headers_are_guessed(
    write: Write, separator: str, header: bool, suffix: str
) -> None:
    lines = PLAIN.splitlines()[0 if header else 1 :]
    path = write("\n".join(line.replace(",", separator) for line in lines), f"t.{suffix}")
    table = read_table(path)
    assert table.x.tolist() == X
    assert table.columns == (("a", "b") if header else ("x0", "x1"))


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip("\n"),
        "\n\n" + PLAIN.replace("\n", "\n\n") + "  \n\n",
        PLAIN + ",,\n,,\n",
        PLAIN.replace("1,2.5", " 1 , 2.50 "),
        PLAIN.replace("1,2.5", '"1","2.5"'),
        PLAIN.replace("oak", '"oak, ""English""\nor not"'),
        PLAIN.replace("a,b", '"a","b"'),
        PLAIN.replace(",", "\t").replace("oak", "oak, old"),
        PLAIN.replace(",", " ").replace("oak", '"oak tree"'),
        PLAIN.replace("1,2.5", "+1.0e0,.25E1"),
    ],
    ids=[
        *("bom", "crlf", "cr", "no newline", "blank lines", "empty records", "spaces"),
        *("quoted numbers", "cells over lines", "quoted names", "commas in text", "quoted words"),
        "exponent",
    ],
)
def test_the_ways_to_write_the_same_table(write: Write, content: str) -> None:
    table = read_table(write(content), label=-1)
    assert (table.x.tolist(), table.columns) == (X, ("a", "b"))
    assert table.labels is not None
    assert table.labels.tolist() == [1, 0, 1]


def test_columns_by_name_and_number_in_the_order_given(write: Write) -> None:
    path = write("a,b,c,d\n1,2,3,x\n4,5,6,y\n")
    assert read_table(path, columns=["c", 0]).x.tolist() == [[3, 1], [6, 4]]
    assert read_table(path, columns=["c", 0]).columns == ("c", "a")
    assert read_table(path, columns="b").x.tolist() == [[2], [5]]
    assert read_table(path, columns=-2).columns == ("c",)
    assert read_table(path, label=0).columns == ("b", "c")
    headless = write("7;1;2\n8;3;4\n")
    assert read_table(headless, label=0).columns == ("x1", "x2")
    assert read_table(headless, label="x0").classes == ("7", "8")


def test_the_header_can_be_given(write: Write) -> None:
    years = write("2001,2002\n1,2\n3,4\n")
    assert read_table(years).x.shape == (3, 2)
    assert read_table(years, header=True).columns == ("2001", "2002")
    assert read_table(years, columns=["2002"]).columns == ("2002",)
    assert read_table(write("1,2\n3,4\n"), header=False).columns == ("x0", "x1")


@pytest.mark.parametrize("separator", [";", "semicolon"])
def test_the_separator_can_be_given(write: Write, separator: str) -> None:
    assert read_table(write("1;2\n3;4\n"), separator=separator).x.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("cells", "classes", "codes"),
    [
        (["10", "9", "10"], ("9", "10"), [1, 0, 1]),
        (["1.0", "2", "1"], ("1", "2"), [0, 1, 0]),
        (["1.5", "-1", "0"], ("-1", "0", "1.5"), [2, 0, 1]),
        (["b", "10", "9"], ("10", "9", "b"), [2, 0, 1]),
        (["-", "+", "none"], ("+", "-", "none"), [1, 0, 2]),
        (["9007199254740993", "9007199254740992", "9007199254740993"],) * 1
        + (("9007199254740992", "9007199254740993"), [1, 0, 1]),
    ],
)
def test_labels_become_sorted_classes(
    write: Write, cells: list[str], classes: tuple[str, ...], codes: list[int]
) -> None:
    path = write("a,k\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))
    table = read_table(path, label="k")
    assert table.classes == classes
    assert table.labels is not None
    assert table.labels.tolist() == codes


def test_an_empty_label_is_an_unknown_class(write: Write) -> None:
    path = write("a,k\n1,fir\n2,\n3,NA\n4,fir\n5,-\n")
    table = read_table(path, label="k")
    assert table.labels is not None
    # A class may be called "-".
    assert (table.labels.tolist(), table.classes) == ([1, -1, -1, 1, 0], ("-", "fir"))
    other = write("a,k\n1,\n2,oak\n", name="other.csv")
    first, second = read_tables([path, other], label="k")
    assert first.labels is not None
    assert second.labels is not None
    assert (first.labels.tolist(), second.labels.tolist()) == ([1, -1, -1, 1, 0], [-1, 2])
    assert second.classes == ("-", "fir", "oak")


@pytest.mark.parametrize("content", ["1\n2\n3\n", "1,2,3\n", "a,b\n5,5\n5,5\n", "7\n", "v\n7\n"])
def test_one_row_one_column_and_constants_are_read(write: Write, content: str) -> None:
    assert np.isfinite(read_table(write(content)).x).all()


def test_what_is_left_out_is_said_once(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table = read_table(write(",a,name,empty,b\n0,1,x,,2\n1,3,y,,4\n2,1,z,,5\n"))
    assert table.columns == ("a", "b")
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "t.csv (',' between cells, names in line 1): 3 rows of a, b; left out: x0, name, empty"
    )
    caplog.clear()
    read_table(write("1;2;7\n3;4;8\n"), label=2)
    assert caplog.messages[0].endswith(
        "t.csv (';' between cells, no line of names): 2 rows of x0, x1; label x2 of 2 classes"
    )


def test_a_nameless_column_that_measures_is_kept(write: Write) -> None:
    assert read_table(write(",a\n4,1\n2,3\n")).columns == ("x0", "a")
    assert read_table(write("x0,a\n0,1\n1,3\n")).columns == ("x0", "a")


def test_the_fast_and_the_careful_way_agree_beyond_one_block(write: Write) -> None:
    x = np.random.default_rng(0).normal(size=(70_000, 3))
    lines = [",".join(map(repr, row)) for row in x.tolist()]
    assert (read_table(write("\n".join(lines))).x == x).all()
    # A quoted cell in the second block, over a line end.
    lines[69_000] = lines[69_000] + ',"two\nlines"'
    lines = [line if i == 69_000 else line + ",one" for i, line in enumerate(lines)]
    table = read_table(write("\n".join(lines)), label=3)
    assert (table.x == x).all()
    assert table.classes == ("one", "two\nlines")
    lines[69_500] = lines[69_500].replace("one", "one,more")
    assert "line 69502 has 5" in refused(write("\n".join(lines)))


# Mistakes in text files ---------------------------------------------------------------------------

NUMBERS = "a,b\n1,2\n3,4\n5,6\n7,8\n"


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("", {}, "t.csv is empty"),
        ("\n \n", {}, "t.csv is empty"),
        ("a,b\n", {}, "t.csv has a header and no rows"),
        ("1,2\n", {"header": True}, "t.csv has a header and no rows"),
        (
            NUMBERS.replace("5,6", "5,six"),
            {},
            "t.csv: line 4, column b: expected a number, got 'six'; correct it, or choose other "
            "columns with columns=",
        ),
        (
            "\n" + NUMBERS.replace("5,6", "5,six").replace("7,", "seven,"),
            {},
            "t.csv: line 5, column b: expected a number, got 'six', and 1 more such cell; "
            "correct it, or choose other columns with columns=",
        ),
        (
            "a,b\n1,x\n2,y\n",
            {"columns": ["a", "b"]},
            "t.csv: line 2, column b: expected a number, got 'x', and 1 more such cell; "
            "correct it, or choose other columns with columns=",
        ),
        (
            "a,b\n1_0,2\n3,4\n",
            {},
            "t.csv: line 2, column a: expected a number, got '1_0'; "
            "correct it, or choose other columns with columns=",
        ),
        (
            "id,1,2\n3,1,2\n4,5,6\n",
            {},
            "t.csv: line 1, column x0: expected a number, got 'id'; if this line holds the names "
            "of the columns: header=true",
        ),
        (
            "a;b\n1,5;2,5\n3,5;4,25\n",
            {"columns": ["a", "b"]},
            "t.csv: line 2, column a: expected a number, got '1,5', and 3 more such cells; write "
            "numbers with a decimal point",
        ),
        (
            NUMBERS.replace("5,6", "5").replace("7,8", "7,8,9"),
            {},
            "t.csv: expected 2 cells in every line; line 4 has 1, line 5 has 3",
        ),
        (
            NUMBERS + "1\n" * 5,
            {},
            "t.csv: expected 2 cells in every line; line 6 has 1, line 7 has 1, line 8 has 1 and "
            "2 more lines differ",
        ),
        (
            NUMBERS.replace("5,6", "5,six,7"),
            {"columns": [0]},
            "t.csv: expected 2 cells in every line; line 4 has 3",
        ),
        (
            NUMBERS.replace("5,6", "5,").replace("3,4", "NA,?"),
            {},
            "t.csv: missing values, by column of 4 rows: a (1), b (2); the first in line 3; drop "
            "these rows by missing=drop, or use their other cells by missing=em",
        ),
        (
            "a,k\n1,\n2,NA\n",
            {"label": "k"},
            "t.csv: no row has a label in column k; name another column, or none",
        ),
        (
            NUMBERS.replace("5,6", "inf,6").replace("8", "-1e999").replace("7", "Infinity"),
            {},
            "t.csv: infinite values: column a in line(s) 4, 5, column b in line(s) 5; drop these "
            "rows, or correct them",
        ),
        (
            NUMBERS.replace(",", ";"),
            {"separator": ","},
            "t.csv: the separator ',' does not occur; it looks separated by ';': leave separator "
            "away",
        ),
        (
            "1 2\n3 4\n",
            {"separator": "tab"},
            "t.csv: the separator tab does not occur; it looks separated by whitespace: leave "
            "separator away",
        ),
        (
            "a:b\n1:2\n3:4\n",
            {},
            "t.csv has no column of numbers to read; its columns are: x0; give the separator, for "
            "instance separator=';'",
        ),
        (
            "a:b\n1:2\n3:4\n",
            {"columns": 0},
            "t.csv: line 1, column x0: expected a number, got 'a:b', and 2 more such cells; only "
            "one column was found: give the separator, for instance separator=';'",
        ),
        (
            "name,kind\nx,y\nz,w\n",
            {},
            "t.csv has no column of numbers to read; its columns are: x0, x1",
        ),
        (
            "a,b,a\n1,2,3\n4,5,6\n",
            {},
            "t.csv: column names must differ; more than one column is called a",
        ),
        (
            '1,"2\n3,4\n' + "5,6\n" * 40_000,
            {},
            "t.csv cannot be cut into cells (line 1: field larger than field limit (131072)); is "
            "a quotation mark missing?",
        ),
        (
            b"a,b\n1,\xe4\n",
            {},
            "t.csv is not a text file in UTF-8 (byte 0xe4 cannot be read); if it is text, save "
            "it as UTF-8",
        ),
    ],
)
def test_bad_rows_are_named(
    write: Write, content: str | bytes, options: dict[str, Any], said: str
) -> None:
    assert refused(write(content), **options) == said


@pytest.mark.parametrize("cell", ["", "NA", "N/A", "NaN", "nan", "-nan", "null", "None", "?", "-"])
def test_missing_values_in_all_their_spellings(write: Write, cell: str) -> None:
    said = refused(write(f"a,b\n1,2\n3,{cell}\n5,6\n"))
    assert said.startswith("t.csv: missing values, by column of 3 rows: b (1); the first in line 3")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": ["a", "z"]}, "t.csv: there is no column 'z'; the columns are: a, b"),
        ({"label": "z"}, "t.csv: there is no label column 'z'; the columns are: a, b"),
        (
            {"columns": [0, 2]},
            "t.csv: there is no column number 2; the 2 columns are numbered from 0: a, b",
        ),
        (
            {"label": -3},
            "t.csv: there is no label column number -3; the 2 columns are numbered from 0: a, b",
        ),
        ({"columns": [True]}, "a column is chosen by its name or its number, got True"),
        ({"columns": ["a", 0]}, "t.csv: chosen more than once: a"),
        ({"columns": []}, "t.csv: columns= chooses none; it has: a, b"),
        (
            {"columns": ["a", "b"], "label": 1},
            "t.csv: b is both the label and one of the columns "
            "to read; choose it as one of the two",
        ),
        ({"header": "yes"}, "header must be true, false or null, got 'yes'"),
        (
            {"separator": "::"},
            "separator must be a single character (not a letter, digit, quote "
            "or sign), or one of comma, semicolon, tab, pipe, whitespace; got '::'",
        ),
        (
            {"separator": "1"},
            "separator must be a single character (not a letter, digit, quote "
            "or sign), or one of comma, semicolon, tab, pipe, whitespace; got '1'",
        ),
    ],
)
def test_bad_options_are_named(write: Write, options: dict[str, Any], said: str) -> None:
    assert refused(write(NUMBERS), InvalidArgumentError, **options) == said


def test_a_file_without_names_says_so(write: Write) -> None:
    said = refused(write("1,2\n3,4\n"), InvalidArgumentError, label="kind")
    assert said == (
        "t.csv: there is no label column 'kind'; the columns are: x0, x1 (no names in the first "
        "line)"
    )


def test_a_column_that_is_mostly_text_later_is_left_out(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rows = [f"{i},{i}" for i in range(1100)] + [f"{i},word" for i in range(1200)]
    assert read_table(write("a,b\n" + "\n".join(rows))).columns == ("a",)
    assert caplog.messages[0].endswith("left out: b")
    said = refused(write("a,b\n" + "\n".join(rows[:2000])))
    assert "line 1102, column b: expected a number, got 'word', and 899 more" in said


# Files --------------------------------------------------------------------------------------------


def test_files_that_cannot_be_opened(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refused(tmp_path / "no.csv") == "there is no file no.csv"
    (tmp_path / "folder.csv").mkdir()
    assert refused(tmp_path / "folder.csv") == "folder.csv is a folder; expected a file"
    os.mkfifo(tmp_path / "pipe.csv")
    assert refused(tmp_path / "pipe.csv") == (
        "pipe.csv is not a regular file; write it to one first"
    )
    path = write(NUMBERS, "t.xlsx")
    assert refused(path, InvalidArgumentError) == (
        "t.xlsx: expected a file that ends in .csv, .tsv, .txt, .npy, .npz, .parquet; got .xlsx"
    )
    assert "got no suffix" in refused(write(NUMBERS, "t"), InvalidArgumentError)
    path = write(NUMBERS)

    def denied(self: Path, *args: Any, **options: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    # The suite may run as root, who may read everything.
    monkeypatch.setattr(Path, "open", denied)
    assert refused(path) == "cannot read t.csv: Permission denied"


def test_npy_files(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    np.save(tmp_path / "t.npy", np.asfortranarray(x))
    table = read_table(tmp_path / "t.npy")
    assert (table.x == x).all()
    assert (table.columns, table.x.dtype) == (("x0", "x1"), np.float64)
    table = read_table(tmp_path / "t.npy", label=0, columns=[1])
    assert table.columns == ("x1",)
    assert table.classes == ("0", "2", "4", "6", "8", "10")
    np.save(tmp_path / "v.npy", np.arange(3))
    assert read_table(tmp_path / "v.npy").x.tolist() == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (
            np.zeros((2, 2, 2)),
            "t.npy: expected a matrix of rows (N, D), got an array of shape (2, 2, 2)",
        ),
        (np.array([["a"]]), "t.npy: expected numbers, got an array of dtype <U1"),
        (np.zeros((2, 1), complex), "t.npy: expected numbers, got an array of dtype complex128"),
        (
            np.array([[1.0, np.nan], [np.nan, np.nan]]),
            "t.npy: missing values, by column of 2 rows: x0 (1), x1 (2); the first in row 0; drop "
            "these rows by missing=drop, or use their other cells by missing=em",
        ),
        (
            np.array([[1.0, 2.0], [np.inf, 3.0]]),
            "t.npy: infinite values: column x0 in row(s) 1; drop these rows, or correct them",
        ),
    ],
)
def test_bad_npy_files(tmp_path: Path, array: Any, said: str) -> None:
    np.save(tmp_path / "t.npy", array)
    assert refused(tmp_path / "t.npy", columns=[0, 1] if "x1" in said else None) == said


@pytest.mark.parametrize("name", ["t.npy", "t.npz"])
@pytest.mark.parametrize("content", ["", "1,2\n", b"\x93NUMPY\x01\x00v\x00{'descr'", b"PK\x03\x04"])
def test_foreign_files_of_numpys_suffix(write: Write, name: str, content: str | bytes) -> None:
    said = refused(write(content, name))
    assert said.startswith(f"{name} is not a readable .np")


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([{}]), allow_pickle=True)
    assert "holds Python objects, which are never loaded" in refused(tmp_path / "t.npy")
    np.savez(tmp_path / "t.npz", x=np.array([{}]))
    assert "holds Python objects, which are never loaded" in refused(tmp_path / "t.npz")


def test_npz_files(tmp_path: Path) -> None:
    x, path = np.arange(6.0).reshape(3, 2), tmp_path / "t.npz"
    np.savez(path, x=x, y=np.array(["u", "v", "u"]), other=x)
    table = read_table(path, label="y")
    assert (table.x == x).all()
    assert (table.columns, table.classes) == (("x0", "x1"), ("u", "v"))
    assert read_table(path, key="other").x.shape == (3, 2)
    assert refused(path, InvalidArgumentError, key="z") == (
        "t.npz: there is no array 'z'; it holds: x (3, 2), y (3,), other (3, 2)"
    )
    np.savez(path, rows=x, columns=np.array(["a", "b"]))
    assert read_table(path, columns=["b"]).x.tolist() == [[1], [3], [5]]
    assert [b.tolist() for b in iter_table(path, columns=["b", "a"], batch_rows=2)] == [
        [[1, 0], [3, 2]],
        [[5, 4]],
    ]
    np.savez(path, p=x, q=x)
    assert refused(path) == (
        "t.npz: none of its arrays is called x, and not exactly one is a matrix; say which to "
        "read with key=; it holds: p (3, 2), q (3, 2)"
    )
    np.savez(path, x=x, columns=np.array(["a"]))
    assert refused(path) == "t.npz: the array columns has 1 names for the 2 columns of x"


def test_parquet_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    caplog.set_level(logging.INFO)
    path = tmp_path / "t.parquet"
    columns = {"a": [1, 2, 3], "kind": ["u", "v", "u"], "b": [0.5, None, 1.5], "c": [True] * 3}
    pq.write_table(pa.table(columns), path)
    table = read_table(path, columns=["c", "a"], label="kind")
    assert (table.x.tolist(), table.classes) == ([[1, 1], [1, 2], [1, 3]], ("u", "v"))
    assert refused(path) == (
        "t.parquet: missing values, by column of 3 rows: b (1); the first in row 1; drop these "
        "rows by missing=drop, or use their other cells by missing=em"
    )
    assert refused(path, columns=["kind"]) == (
        "t.parquet: column kind is of type string; expected numbers"
    )
    assert [b.tolist() for b in iter_table(path, columns=["c", "a"], batch_rows=2)] == [
        [[1, 1], [1, 2]],
        [[1, 3]],
    ]
    path.write_text("no parquet")
    assert refused(path).startswith("t.parquet is not a readable parquet file (")


def test_parquet_without_its_extra(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refused(write("", "t.parquet"), InvalidArgumentError) == (
        "reading t.parquet needs pyarrow: pip install gmm-lightning[parquet]"
    )


def test_files_that_belong_together(write: Write) -> None:
    old = write("h,g,kind\n1,2,oak\n3,4,elm\n", "old.csv")
    new = write("kind;g;extra;h\nfir;20;0;10\noak;40;0;30\n", "new.csv")
    first, second = read_tables([old, new], label=-1)
    assert second.x.tolist() == [[10, 20], [30, 40]]
    assert first.classes == second.classes == ("elm", "fir", "oak")
    assert first.labels is not None
    assert second.labels is not None
    assert (first.labels.tolist(), second.labels.tolist()) == ([2, 0], [1, 2])
    assert [t.labels for t in read_tables([old, new], columns=["g"])] == [None, None]


# Block by block -----------------------------------------------------------------------------------


def test_blocks_of_a_file_by_name(write: Write) -> None:
    path = write("c,kind,a,b\n3,x,1,2\n\n6,y,4,5\n9,z,7,8\n")
    blocks = list(iter_table(path, columns=["a", "b", "c"], batch_rows=2))
    assert np.concatenate(blocks).tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert max(map(len, blocks)) <= 2
    assert all(block.dtype == np.float64 for block in blocks)


def test_blocks_of_a_file_without_names(write: Write) -> None:
    path = write("1,2\n3,4\n")
    (block,) = iter_table(path, columns=["height", "girth"])
    assert block.tolist() == [[1, 2], [3, 4]]
    # Names by position, as `read_table` made them for a file of the same kind.
    (block,) = iter_table(path, columns=["x1"])
    assert block.tolist() == [[2], [4]]
    with pytest.raises(InvalidDataError) as caught:
        iter_table(path, columns=["a", "b", "c"])
    assert str(caught.value) == (
        f"{path} has no names for its 2 columns; expected these 3, in this order: a, b, c"
    )


def test_names_are_recognised_where_a_guess_would_fail(write: Write) -> None:
    (block,) = iter_table(write("2001,2002\n1,2\n"), columns=["2002", "2001"])
    assert block.tolist() == [[2, 1]]


def test_columns_that_a_file_lacks(write: Write) -> None:
    path = write(NUMBERS)
    with pytest.raises(InvalidDataError) as caught:
        iter_table(path, columns=["a", "y", "z"])
    assert str(caught.value) == f"{path} lacks the columns y, z; it has: a, b"
    with pytest.raises(InvalidArgumentError, match="batch_rows must be an integer >= 1, got 0"):
        iter_table(path, columns=["a"], batch_rows=0)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("six", "line 4, column b: expected a number, got 'six'"),
        ("", "missing values, by column of 4 rows: b (1); the first in line 4"),
        ("inf", "infinite values: column b in line(s) 4"),
        ("6,7", "expected 2 cells in every line; line 4 has 3"),
    ],
)
def test_a_bad_row_is_named_when_it_is_reached(write: Write, cell: str, said: str) -> None:
    blocks = iter_table(write(NUMBERS.replace("6", cell)), columns=["b"], batch_rows=2)
    assert next(blocks).tolist() == [[2], [4]]
    with pytest.raises(InvalidDataError) as caught:
        next(blocks)
    assert said in str(caught.value)


@pytest.mark.parametrize("suffix", ["csv", "npy"])
def test_a_file_is_never_held_as_a_whole(tmp_path: Path, suffix: str) -> None:
    x = np.zeros((200_000, 4))
    path = tmp_path / f"t.{suffix}"
    if suffix == "npy":
        np.save(path, x)
    else:
        path.write_text("0,0,0,0\n" * len(x))
    tracemalloc.start()
    rows = sum(len(b) for b in iter_table(path, columns=["x1", "x2"], batch_rows=1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows == len(x)
    # The two columns take 3.2 MB; a block of lines some hundred kB.
    assert peak < 1.5e6


# Writing ------------------------------------------------------------------------------------------


def test_written_numbers_are_read_back_exactly(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(50, 3)) * 10.0 ** np.arange(-300, 300, 200)
    for name in ("t.csv", "t.npz"):
        path = tmp_path / "new" / "folder" / name
        with TableWriter(path, ["a", "b c", "d,e"]) as table:
            for part in np.split(x, 5):
                table.write(part)
        read = read_table(path)
        assert (read.x == x).all()
        assert read.columns == ("a", "b c", "d,e")
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == ["t.csv", "t.npz"]


def test_arrays_of_several_kinds(tmp_path: Path) -> None:
    part = {
        "component": np.array([1, 0]),
        "self": np.array([[0.25, 0.75], [1.0, 0.0]]),
        "name": np.array(["a", 'b,"c"']),
        "outlier": np.array([True, False]),
        "density": np.array([0.1, -1e-7], np.float32),
    }
    with TableWriter(tmp_path / "t.csv", tuple(part)) as table:
        table.write(**part)
        table.write(**part)
    lines = (tmp_path / "t.csv").read_text().split("\n")
    assert lines[:3] == [
        "component,self_0,self_1,name,outlier,density",
        "1,0.25,0.75,a,1,0.10000000149011612",
        '0,1.0,0.0,"b,""c""",0,-1.0000000116860974e-07',
    ]
    assert lines[3:] == [*lines[1:3], ""]
    with TableWriter(tmp_path / "t.npz", tuple(part)) as table:
        table.write(**part)
        table.write(**part)
    with np.load(tmp_path / "t.npz") as arrays:
        assert sorted(arrays) == sorted(part)
        assert arrays["self"].shape == (4, 2)
        assert arrays["outlier"].dtype == np.bool_


def test_no_rows_leave_a_header(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t.csv", ["a", "b"]):
        pass
    assert (tmp_path / "t.csv").read_text() == "a,b\n"


@pytest.mark.parametrize("name", ["t.csv", "t.npz"])
def test_an_output_is_complete_or_not_there(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / name
    writer = TableWriter(path, ["a"])

    def interrupted() -> None:
        with writer as table:
            table.write(np.ones((2, 1)))
            assert not path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("old")
    with pytest.raises(InvalidArgumentError) as caught:
        TableWriter(path, ["a"])
    assert str(caught.value) == (
        f"{path} exists; choose another name, or replace it with overwrite=true"
    )
    with pytest.raises(ZeroDivisionError), TableWriter(path, ["a"], overwrite=True):
        _ = 1 / 0
    assert path.read_text() == "old"
    with TableWriter(path, ["a"], overwrite=True) as table:
        table.write(np.ones((1, 1)))
    assert path.read_text() == "a\n1.0\n"
    path.unlink()
    with pytest.raises(InvalidArgumentError, match="exists"), TableWriter(path, ["a"]):
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_objects_are_never_pickled(tmp_path: Path) -> None:
    column = {"a": np.array([{}, None], dtype=object)}
    with (
        pytest.raises(InvalidArgumentError, match=r"got Python objects in a; write \.csv"),
        TableWriter(tmp_path / "t.npz", ["a"]) as table,
    ):
        table.write(**column)
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"expected a name that ends in \.csv, \.npz"):
        TableWriter(tmp_path / "t.xls", ["a"])
    (tmp_path / "f.csv").mkdir()
    with pytest.raises(InvalidArgumentError, match="is a folder; expected the name of a file"):
        TableWriter(tmp_path / "f.csv", ["a"], overwrite=True)
    (tmp_path / "file").write_text("")
    writer = TableWriter(tmp_path / "file" / "t.csv", ["a"])
    with pytest.raises(InvalidArgumentError, match=r"cannot write .*t\.csv: File exists"):
        writer.__enter__()
    with pytest.raises(InvalidArgumentError, match="columns of different names"):
        TableWriter(tmp_path / "t.csv", ["a", "a"])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("name", ["t.csv", "t.npz"])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / "new" / name
    opened = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        opened(self, mode, *args, **options).close()
        return builtins.open("/dev/full", mode, *args, **options)

    monkeypatch.setattr(Path, "open", full)
    with (
        pytest.raises(InvalidArgumentError, match=r"cannot write .*: No space left on device"),
        TableWriter(path, ["a"]) as table,
    ):
        table.write(np.ones((100_000, 1)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ([{"a": [1, 2]}], "expected the columns a, b, got a"),
        ([{"a": [1, 2], "b": [1]}], "expected arrays of the same number of rows, got"),
        ([{"a": [1], "b": [[1, 2]]}, {"a": [1], "b": [1]}], "expected arrays as before"),
        ([{}], "expected either a block of rows or one array per column"),
        ([np.ones((2, 3))], "expected rows of 2 columns, got an array of shape (2, 3)"),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, arrays: list[Any], said: str) -> None:
    def written() -> None:
        with TableWriter(tmp_path / "t.csv", ["a", "b"]) as table:
            for part in arrays:
                table.write(**part) if isinstance(part, dict) else table.write(part)

    with pytest.raises(InvalidArgumentError) as caught:
        written()
    assert str(caught.value).startswith(said)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidArgumentError, match="inside its with block"):
        TableWriter(tmp_path / "t.csv", ["a"]).write(np.ones((1, 1)))


# Files of a stranger ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1," * 500, "1,2\n" + "3," * 500, "1,2\n3,4\n" * 50 + "5" * 1000])
def test_a_line_without_end_is_not_read_to_its_end(
    write: Write, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("gmm_lightning.datasets._layout._LONGEST_LINE", 300)
    path, line = write(text), text.count("\n") + 1
    said = f"line {line} is longer than 300 characters; expected one row on each line"
    assert refused(path, header=False) == f"t.csv: {said}"
    with pytest.raises(InvalidDataError, match=said):
        list(iter_table(path, columns=["x0", "x1"]))
    with pytest.raises(InvalidDataError, match=said):
        list(open_rows(path).read())


def test_names_do_not_reach_the_terminal_as_they_are(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    name = "width\x1b[2J\x1b]0;mine\x07"
    table = read_table(write(f"{name},b\u202e\n1,2\n3,4\n"))
    # They are the file's own, so that they are found again.
    assert table.columns == (name, "b\u202e")
    assert caplog.messages[0].isprintable()
    assert r"width\x1b[2J\x1b]0;mine\x07, b\u202e" in caplog.messages[0]
    assert refused(write(f"{name},b\n1,\n,2\n")).isprintable()
    assert refused(write(f"{name},b\nx,1\n1,2\n3,4\n")).isprintable()


def test_damaged_parquet_files_are_the_same_or_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    columns = {"a": np.arange(500.0), "b": np.arange(500.0) % 7}
    parquet.write_table(pyarrow.table(columns), path, write_page_checksum=True)
    whole = path.read_bytes()
    for content in truncated(whole, 20):
        path.write_bytes(content)
        assert refused(path).startswith("t.parquet is not a readable parquet file (")
    for content in flipped(whole, some_bits(whole, 150, seed=7)):
        path.write_bytes(content)
        # Its names and types are under no checksum.
        with suppress(GMMError):
            read_table(path)
