"""numpy's files from a disk that fails or a stranger: one sentence, before memory is taken."""

from __future__ import annotations

import random
import re
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.damage import flipped, some_bits, survivors, truncated

from gmm_lightning.datasets import TableWriter, iter_table, open_rows, read_table
from gmm_lightning.errors import GMMError, InvalidDataError


def npy(shape: str, descr: str = "'<f8'", fortran: str = "False", data: int = 80) -> bytes:
    """A .npy file with any text in its header."""
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"
    head = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(data)


GOOD = npy("(5, 2)")
HOSTILE: dict[str, bytes] = {
    "negative": npy("(-5, 2)"),
    "both negative": npy("(-5, -2)"),
    "boolean": npy("(True, 2)"),
    "float": npy("(5.0, 2)"),
    "text": npy("('5', 2)"),
    "no tuple": npy("[5, 2]"),
    "rows": npy(f"({10**12}, 2)"),
    "columns": npy(f"(5, {10**12})"),
    "overflow": npy(f"({2**62}, 4)"),
    "endless": npy(f"({10**400}, 2)"),
    "empty and huge": npy(f"(0, {10**30})"),
    "one more": npy("(6, 2)"),
    "nothing wide": npy(f"({10**12},)", descr="'<U0'"),
    "objects": npy("(5, 2)", descr="'|O'"),
    "records": npy("(5,)", descr="[('a', '<f8'), ('b', '|O')]"),
    "plain records": npy("(5,)", descr="[('\\x1b[2J', '<f8'), ('b', '<f8')]"),
    "parts": npy("(5,)", descr="('<f8', (2,))"),
    "unknown": npy("(5, 2)", descr="'<z9'"),
    "complex": npy("(5, 1)", descr="'<c16'"),
    "dates": npy("(5, 2)", descr="'<M8[s]'"),
    "order": npy("(5, 2)", fortran="7"),
    "code": npy("__import__('os').system('true')"),
    "nested": npy("(" * 2000),
    "version": GOOD.replace(b"NUMPY\x01", b"NUMPY\x09"),
    "version 3": GOOD.replace(b"NUMPY\x01", b"NUMPY\x03"),
    "long header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
    "magic": GOOD.replace(b"NUMPY", b"NUMBY"),
    "cut": GOOD[:-1],
    "header": GOOD[:30],
    "six": GOOD[:6],
    "nothing": b"",
}


def refused(path: Path, **options: Any) -> str:
    """The one sentence that each way of reading gives."""
    said = set()
    for read in (
        lambda: read_table(path, **options),
        lambda: list(iter_table(path, columns=["x0", "x1"], **options)),
        lambda: list(open_rows(path, **options)),
    ):
        with pytest.raises(InvalidDataError) as caught:
            read()
        assert str(caught.value).isprintable()
        assert path.name in str(caught.value)
        said.add(str(caught.value))
    return min(said)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        refused(path)
        # Nothing is made of the size that a header claims: the smallest claim here is 2e12 bytes.
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=str)
def test_a_hostile_member(tmp_path: Path, name: str, compression: int) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", HOSTILE[name])
        archive.writestr("good.npy", GOOD)
    refused(path)
    # It does not stand in the way of another one.
    assert read_table(path, key="good").x.shape == (5, 2)


@pytest.mark.parametrize("text", ["(5, 2)", "(2, 5)"])
@pytest.mark.parametrize("fortran", ["False", "True"])
def test_the_same_files_with_a_good_header_are_read(
    tmp_path: Path, text: str, fortran: str
) -> None:
    (tmp_path / "a.npy").write_bytes(npy(text, fortran=fortran))
    assert read_table(tmp_path / "a.npy").x.shape == eval(text)


def test_what_a_zip_claims_is_compared_with_the_file(tmp_path: Path) -> None:
    """The directory of the archive and the header of the array agree on 1e12 rows."""
    path = tmp_path / "a.npz"
    array = npy(f"({10**12},)", descr="'|i1'")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo("x.npy")
        info.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(info, array)
        info.file_size = len(array) - 80 + 10**12
    assert "claims 10000000000" in refused(path)


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packed_as_numpy_never_does(tmp_path: Path, kind: int) -> None:
    """Their decoders take memory of the size that a member claims for its dictionary."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("x.npy", GOOD)
    assert "compressed as numpy never does" in refused(path)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no files of the system")
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.npy", "a.npz", "a.parquet"])
def test_files_of_the_system_are_not_read(tmp_path: Path, name: str) -> None:
    for target in ("environ", "pagemap"):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).symlink_to(f"/proc/self/{target}")
        assert re.search("is empty$|is not a readable", refused(tmp_path / name))


@pytest.mark.parametrize("name", ["file", "allow_pickle", "kwds", "args"])
def test_columns_called_like_arguments_of_numpy(tmp_path: Path, name: str) -> None:
    with TableWriter(tmp_path / "a.npz", [name, "y"]) as table:
        table.write(**{name: np.arange(3.0), "y": np.ones(3)})
    with np.load(tmp_path / "a.npz") as arrays:
        assert arrays[name].tolist() == [0, 1, 2]


def test_only_the_array_that_is_asked_for_is_read(tmp_path: Path) -> None:
    path, x = tmp_path / "a.npz", np.arange(10.0).reshape(5, 2)
    np.savez_compressed(path, bomb=np.zeros(1 << 25), x=x, label=np.arange(5))
    tracemalloc.start()
    try:
        assert read_table(path, key="x", label="label").x.tolist() == x.tolist()
        # The other array has 268 MB.
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compressed", [False, True])
def test_memory_is_taken_once(tmp_path: Path, compressed: bool) -> None:
    path, x = tmp_path / "a.npz", np.zeros((1 << 17, 8))
    (np.savez_compressed if compressed else np.savez)(path, x=x)
    tracemalloc.start()
    try:
        assert read_table(path).x.shape == x.shape
        # 8 MB of numbers, and blocks of 1 MB with their copies.
        assert tracemalloc.get_traced_memory()[1] < x.nbytes + (1 << 22)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "c.npz"])
def test_a_damaged_file_is_the_same_or_refused(tmp_path: Path, name: str) -> None:
    """Of plain .npy files only the header tells damage; the members of .npz have checksums."""
    path, x = tmp_path / name, np.random.default_rng(0).normal(size=(20, 3))
    match name:
        case "a.npy":
            np.save(path, x)
        case "a.npz":
            np.savez(path, x=x, columns=np.array(["a", "b", "c"]))
        case _:
            np.savez_compressed(path, x=x, columns=np.array(["a", "b", "c"]))

    def read() -> dict[str, Any]:
        table = read_table(path)
        return {"x": table.x.tobytes(), "columns": table.columns}

    whole = path.read_bytes()
    cut = truncated(whole, 10)
    assert survivors(path, cut, read)[0] == 10
    if name != "a.npy":
        bits = some_bits(whole, 60, seed=6)
        assert sum(survivors(path, flipped(whole, bits), read)) == 60


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    source = random.Random(0)
    for i in range(40):
        path = tmp_path / ("a.npz" if i % 2 else "a.npy")
        start = GOOD[: source.randrange(60)] if i % 3 else b"PK\x03\x04"
        path.write_bytes(start + source.randbytes(200))
        with pytest.raises(GMMError):
            read_table(path)


@pytest.mark.parametrize("old", [b"columns.npy", b"x.npy"])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("at", [0, -1])
def test_a_changed_name_is_noticed(tmp_path: Path, old: bytes, which: int, at: int) -> None:
    """Names stand in an archive twice; without the names of the columns others would be made."""
    path = tmp_path / "a.npz"
    np.savez(path, x=np.ones((4, 2)), columns=np.array(["a", "b"]))
    whole = path.read_bytes()
    places = [i for i in range(len(whole)) if whole.startswith(old, i)]
    bit = 8 * (places[-which] + at % len(old))
    path.write_bytes(next(flipped(whole, [bit])))
    assert "not a readable .npz file" in refused(path)


def test_a_member_that_cannot_be_read_leaves_the_choice_open(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, data=np.ones((4, 2)), meta=np.array([{}]))
    assert "holds Python objects, which are never loaded" in refused(path)
    assert read_table(path, key="data").x.shape == (4, 2)
    np.savez(path, x=np.ones((4, 2)), meta=np.array([{}]))
    assert read_table(path).x.shape == (4, 2)
    np.savez(path, x=np.ones((4, 2)), columns=np.array(["a", "b"], object))
    assert "holds Python objects, which are never loaded" in refused(path)
