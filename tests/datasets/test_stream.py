"""Rows of files of any size: each exactly once, from any row on, and mistakes that are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from gmm_lightning.datasets import FileRows, open_rows
from gmm_lightning.errors import GMMError, InvalidArgumentError, InvalidDataError

N, D = 9000, 3
COLUMNS = ("u", "v", "w")
Rows = NDArray[np.float64]


def numbers(n: int = N) -> Rows:
    """Rows of which each says its number in the first column."""
    x = np.random.default_rng(0).normal(size=(n, D))
    x[:, 0] = np.arange(n)
    return x


def save(path: Path, x: Rows, names: tuple[str, ...] = COLUMNS) -> Path:
    """Rows in the format of the suffix; `c.npz` is compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".npy":
            np.save(path, x)
        case ".npz":
            write = np.savez_compressed if path.stem.startswith("c") else np.savez
            write(path, x=x, columns=np.array(names))
        case ".parquet":
            table = pa.table({name: x[:, j] for j, name in enumerate(names)})
            pq.write_table(table, path, row_group_size=1000)
        case suffix:
            comma = {".tsv": "\t", ".txt": " "}.get(suffix, ",")
            lines = [comma.join(map(repr, row)) for row in x.tolist()]
            path.write_text("\n".join([comma.join(names), *lines]) + "\n")
    return path


def shards(folder: Path, x: Rows, suffix: str = ".npy") -> Path:
    """Four shards of unequal length, of which one is a single row, beside what is none."""
    for name, part in zip("dcba", np.split(x, [1, 4000, 4500])[::-1], strict=True):
        save(folder / f"part-{name}{suffix}", part)
    (folder / "_SUCCESS").write_text("")
    (folder / "notes.md").write_text("not data")
    return folder


FORMATS = ("a.npy", "a.npz", "c.npz", "a.parquet", "a.csv", "a.tsv", "a.txt")
KINDS = (*FORMATS, "npy", "parquet", "csv")


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileRows]:
    """The same rows in every format and in shards."""
    folder, x = tmp_path_factory.mktemp("rows"), numbers()
    paths = {name: save(folder / name, x) for name in FORMATS}
    paths |= {kind: shards(folder / kind, x, f".{kind}") for kind in KINDS if "." not in kind}
    return {kind: open_rows(path) for kind, path in paths.items()}


def read(stream: FileRows, *arguments: Any, **options: Any) -> Rows:
    return np.concatenate([block.x.numpy() for block in stream.read(*arguments, **options)])


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_once_and_in_order(opened: dict[str, FileRows], kind: str) -> None:
    stream, x = opened[kind], numbers()
    assert (stream.num_rows, stream.num_features) == (N, D)
    assert stream.columns == (("x0", "x1", "x2") if "npy" in kind else COLUMNS)
    for rows in (1 << 16, 4096, 700):
        sizes = [len(block.x) for block in stream.read(size=rows)]
        assert sizes == [rows] * (N // rows) + [N % rows] * (N % rows > 0)
        assert (read(stream, size=rows) == x).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("start", "stop"), [(0, 0), (N, N), (0, 1), (1, 4001), (4095, 4097), (4400, 8999), (8999, N)]
)
def test_from_any_row_to_any_other(
    opened: dict[str, FileRows], kind: str, start: int, stop: int
) -> None:
    blocks = list(opened[kind].read(start, stop, 300))
    found = [int(i) for block in blocks for i in block.x[:, 0]]
    assert found == list(range(start, stop))
    assert all(len(block.x) == 300 for block in blocks[:-1])


@pytest.mark.parametrize("kind", KINDS)
def test_evenly_spaced_rows(opened: dict[str, FileRows], kind: str) -> None:
    assert (opened[kind].every(1234).numpy() == numbers()[::1234]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_arrays_are_mapped_in_their_own_dtype(tmp_path: Path, dtype: str, name: str) -> None:
    x = numbers(100).astype(dtype)
    save(tmp_path / name, x)
    stream = open_rows(tmp_path / name)
    blocks = [block.x.numpy() for block in stream.read(size=30)]
    assert {str(block.dtype) for block in blocks} == {dtype}
    assert (np.concatenate(blocks) == x).all()
    if name == "a.npy":
        # Views of one map, no copies.
        source: Any = stream._shards[0].reopen()
        assert all(np.shares_memory(block, source.array) for block in blocks)
        assert isinstance(source.array, np.memmap)


@pytest.mark.parametrize("dtype", [">f4", ">f8", "int32", "uint8", "float16", "bool"])
def test_other_dtypes_are_converted(tmp_path: Path, dtype: str) -> None:
    x = np.arange(60).reshape(20, 3).astype(dtype)
    np.save(tmp_path / "a.npy", x)
    x_read = next(open_rows(tmp_path / "a.npy").read()).x.numpy()
    assert x_read.dtype == ("float32" if dtype in (">f4", "float16") else "float64")
    assert (x_read == x).all()


def test_an_array_in_column_order(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(numbers(50)))
    assert (read(open_rows(tmp_path / "a.npy"), 7, 41, 5) == numbers(50)[7:41]).all()


@pytest.mark.parametrize("name", FORMATS)
def test_columns_weights_and_labels(tmp_path: Path, name: str) -> None:
    x = numbers(50)
    x[:, 1], x[:, 2] = np.arange(50) % 3, np.arange(50) % 4
    path = save(tmp_path / name, x)
    stream = open_rows(path, columns=[0], weight=1, label=2)
    assert (stream.weighted, stream.labelled) == (True, True)
    assert stream.num_features == 1
    (block,) = stream.with_labels().read(10, 40)
    assert block.x.tolist() == x[10:40, :1].tolist()
    assert block.weight is not None
    assert block.weight.tolist() == x[10:40, 1].tolist()
    assert block.labels is not None
    assert len(set(zip(block.labels.tolist(), x[10:40, 2].tolist(), strict=True))) == 4
    assert stream.total_weight == x[:, 1].sum()
    (block,) = stream.read()
    assert block.labels is None
    # By default, all columns but these.
    assert open_rows(path, weight=1, label=2).num_features == 1
    swapped = open_rows(path, columns=[2, 0])
    assert read(swapped).tolist() == x[:, [2, 0]].tolist()


def test_arrays_beside_the_rows_are_weights_and_labels(tmp_path: Path) -> None:
    x, mass, kind = numbers(20), np.arange(20.0), np.array(list("ab") * 10)
    np.savez(tmp_path / "a.npz", x=x, mass=mass, kind=kind)
    stream = open_rows(tmp_path / "a.npz", weight="mass", label="kind")
    (block,) = stream.with_labels().read(5)
    assert block.x.tolist() == x[5:].tolist()
    assert block.weight is not None
    assert block.weight.tolist() == mass[5:].tolist()
    assert block.labels is not None
    assert block.labels.tolist() == [1, 0] * 7 + [1]
    with pytest.raises(InvalidDataError, match="expected numbers in kind"):
        list(open_rows(tmp_path / "a.npz", weight="kind").read())


@pytest.mark.parametrize("name", ["a.csv", "a.npz", "a.parquet"])
def test_labels_may_be_empty_in_any_block(tmp_path: Path, name: str) -> None:
    kinds = np.where(np.arange(20) % 3 == 2, np.nan, np.arange(20) % 3)
    if name == "a.csv":
        cells = (f"{i},{'' if np.isnan(k) else int(k)}\n" for i, k in enumerate(kinds))
        (tmp_path / name).write_text("x,kind\n" + "".join(cells))
    elif name == "a.npz":
        np.savez(tmp_path / name, x=np.arange(20.0)[:, None], kind=kinds)
    else:
        pq.write_table(pa.table({"x": np.arange(20.0), "kind": kinds}), tmp_path / name)
    stream = open_rows(tmp_path / name, columns=[0], label="kind")
    blocks = stream.with_labels().read(size=7)
    found = torch.cat([b.labels for b in blocks if b.labels is not None])
    assert found.tolist() == [[0, 1, -1][i % 3] for i in range(20)]
    assert stream.classes == ("0", "1")


def test_labels_keep_their_codes_over_blocks(tmp_path: Path) -> None:
    kinds = ["oak"] * 10 + ["fir"] * 10 + ["oak"] * 5
    (tmp_path / "a.csv").write_text("x,kind\n" + "".join(f"1,{k}\n" for k in kinds))
    stream = open_rows(tmp_path / "a.csv", label="kind")
    for _ in range(2):
        blocks = stream.with_labels().read(size=7)
        codes = [i for b in blocks if b.labels is not None for i in b.labels.tolist()]
        assert codes == [{"fir": 0, "oak": 1}[kind] for kind in kinds]


# -- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("\n", "\n\n").replace("\n\n", "\n , \n\n", 9),
        lambda text: text.replace("a,b\n", '"a","b"\n'),
        lambda text: text.replace(",7\n", ',"7"\n'),
        lambda text: text.partition("\n")[2],
        lambda text: "\n\n" + text,
    ],
    ids=["bom", "crlf", "cr", "open end", "blank", "quoted names", "quotes", "headless", "lead"],
)
def test_the_index_knows_every_way_to_write_text(
    tmp_path: Path, change: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gmm_lightning.datasets import _index

    monkeypatch.setattr(_index, "_EVERY", 8)
    text = "a,b\n" + "".join(f"{i},{i % 10}\n" for i in range(100))
    (tmp_path / "a.csv").write_bytes(change(text).encode())
    stream = open_rows(tmp_path / "a.csv")
    assert stream.num_rows == 100
    for start in range(0, 100, 3):
        assert read(stream, start, min(start + 9, 100))[:, 0].tolist() == list(
            range(start, min(start + 9, 100))
        )


def test_rows_over_several_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gmm_lightning.datasets import _index

    monkeypatch.setattr(_index, "_EVERY", 8)
    text = "a,kind\n" + "".join(f'{i},"two\nlines, {i % 2}"\n' for i in range(60))
    (tmp_path / "a.csv").write_text(text)
    stream = open_rows(tmp_path / "a.csv", label="kind")
    assert stream.num_rows == 60
    assert read(stream, 37, 55)[:, 0].tolist() == list(range(37, 55))


# -- mistakes ------------------------------------------------------------------------------------


def said(caught: pytest.ExceptionInfo[GMMError], folder: Path) -> str:
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.npy", "a.npy: missing values, by column of 8000 rows: x1 (1); the first in row 5000"),
        ("a.npz", "the first in row 5000"),
        ("a.parquet", "v (1); the first in row 5000"),
        ("a.csv", "v (1); the first in line 5002"),
    ],
)
def test_a_bad_row_is_named_when_it_is_reached(tmp_path: Path, name: str, words: str) -> None:
    x = numbers()
    x[5000, 1] = np.nan
    stream = open_rows(save(tmp_path / name, x))
    assert len(read(stream, 0, 4000, 500)) == 4000
    assert len(read(stream, 8500)) == N - 8500
    with pytest.raises(InvalidDataError) as caught:
        list(stream.read(size=4000))
    assert words in said(caught, tmp_path)
    assert "drop these rows" in str(caught.value)


def test_an_infinite_value_and_a_sum_that_overflows(tmp_path: Path) -> None:
    x = np.full((10, 2), 3e38, dtype=np.float32)
    np.save(tmp_path / "a.npy", x)
    assert (read(open_rows(tmp_path / "a.npy")) == x).all()
    x[7, 1] = -np.inf
    np.save(tmp_path / "b.npy", x)
    with pytest.raises(InvalidDataError, match=r"infinite values: column x1 in row\(s\) 7"):
        list(open_rows(tmp_path / "b.npy").read())


def test_a_row_of_another_width(tmp_path: Path) -> None:
    path = save(tmp_path / "a.csv", numbers(6000))
    lines = path.read_text().splitlines()
    lines[5500] += ",1"
    path.write_text("\n".join(lines))
    with pytest.raises(InvalidDataError, match=r"expected 3 cells in every line; line 5501 has 4"):
        list(open_rows(path).read(size=1000))


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.parquet"])
def test_a_file_that_is_cut_short(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, numbers())
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(InvalidDataError, match=r"a readable|cut short"):
        list(open_rows(path).read())


@pytest.mark.parametrize("name", ["a.npy", "a.csv"])
def test_a_file_that_is_cut_short_while_it_is_read(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name, numbers())
    stream = open_rows(path)
    blocks = stream.read(size=1000)
    next(blocks)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(
        InvalidDataError, match=r"a\.(npy|csv).*(cut short|changed while it was|cel)"
    ):
        list(blocks)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            [1.0, -2.0],
            r"a\.csv: v \(rows counted from 0\) must be finite and >= 0; .* row\(s\) 4001",
        ),
        ([1.0, np.nan], r"missing values, .* v \(1\)"),
        ([0.0, 0.0], "all weights are 0"),
    ],
)
def test_weights_that_cannot_be(tmp_path: Path, weights: list[float], message: str) -> None:
    x = numbers(4002)
    x[:, 1] = weights[0]
    x[4001, 1] = weights[1]
    stream = open_rows(save(tmp_path / "a.csv", x), weight="v")
    with pytest.raises(InvalidDataError, match=message):
        _ = stream.total_weight


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="holds no file that ends in"):
        open_rows(tmp_path)
    with pytest.raises(InvalidDataError, match=r"no file matches .*part-\*"):
        open_rows(tmp_path / "part-*.npy")
    save(tmp_path / "a.csv", numbers(5))
    save(tmp_path / "b.csv", numbers(5), ("u", "v", "z"))
    with pytest.raises(InvalidDataError) as caught:
        open_rows(tmp_path)
    assert said(caught, tmp_path) == (
        "the columns of b.csv are u, v, z, those of a.csv are u, v, w; expected shards with the "
        "same columns"
    )
    save(tmp_path / "c.npy", numbers(5))
    with pytest.raises(InvalidDataError, match=r"several kinds, \.csv, \.npy"):
        open_rows(tmp_path)
    np.save(tmp_path / "d.npy", numbers(5).astype(np.float32))
    with pytest.raises(InvalidDataError, match=r"d\.npy is of dtype float32, .*c\.npy of float64"):
        open_rows(tmp_path / "*.npy")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="there is no file"):
        open_rows(tmp_path / "a.npy")
    (tmp_path / "a.npy").touch()
    with pytest.raises(InvalidDataError, match="readable"):
        open_rows(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((0, 3)))
    with pytest.raises(InvalidDataError, match="empty"):
        open_rows(tmp_path / "b.npy")
    pq.write_table(pa.table({"u": pa.array([], pa.float64())}), tmp_path / "b.parquet")
    with pytest.raises(InvalidDataError, match="holds no rows"):
        open_rows(tmp_path / "b.parquet")
    (tmp_path / "b.csv").write_text("u,v\n")
    with pytest.raises(InvalidDataError, match="has a header and no rows"):
        open_rows(tmp_path / "b.csv")


def test_arguments_that_do_not_fit(tmp_path: Path) -> None:
    path = save(tmp_path / "a.csv", numbers(5))
    with pytest.raises(InvalidArgumentError, match="u is both the weight and one of the columns"):
        open_rows(path, columns=["u"], weight="u")
    with pytest.raises(InvalidArgumentError, match="u is both the label and the weight"):
        open_rows(path, label="u", weight=0)
    with pytest.raises(InvalidArgumentError, match="there is no weight column 'z'"):
        open_rows(path, weight="z")
    stream = open_rows(path)
    for arguments in ((-1, 2), (3, 2), (0, 6), (0, 5, 0)):
        with pytest.raises(InvalidArgumentError, match="expected 0 <= start <= stop <= 5"):
            stream.read(*arguments)


def test_many_shards_do_not_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gmm_lightning.datasets import stream as module

    monkeypatch.setattr(module, "_MAX_READERS", 2)
    stream = open_rows(shards(tmp_path, numbers()))
    first, again = stream._shards[0].reopen(), stream._shards[0].reopen()
    assert first is not again
    assert (read(stream, 3990, 4600, 100) == numbers()[3990:4600]).all()
