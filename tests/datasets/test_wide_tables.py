"""Tables of 100,000 columns: a loop over columns that asks them all for each would not end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gmm_lightning.datasets import (
    TableWriter,
    iter_table,
    open_rows,
    read_table,
    read_tables,
)
from gmm_lightning.errors import GMMError
from gmm_lightning.training import ArrayDataModule, StreamDataModule

WIDTH = 100_000
NAMES = [f"c{i}" for i in range(WIDTH)]
BACK = NAMES[::-1]
ROW = ",".join(["1"] * WIDTH)
HEAD = ",".join(NAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows in several files."""
    folder = tmp_path_factory.mktemp("wide")
    for name, text in {
        "good.csv": f"{HEAD}\n{ROW}\n{ROW}\n",
        "ragged.csv": f"{HEAD}\n{ROW}\n{ROW},1\n",
        "twice.csv": f"{','.join(['a', 'b'] * (WIDTH // 2))}\n{ROW}\n",
        "missing.csv": f"{HEAD}\n{ROW}\n{',' * (WIDTH - 1)}\n{ROW[:-1]}\n{ROW}\n",
        "unnamed.csv": f"a{',' * (WIDTH - 1)}\n{ROW}\n{ROW}\n",
        "half.csv": f"{HEAD}\n{'1,x,' * (WIDTH // 2 - 1)}1,x\n{'1,x,' * (WIDTH // 2 - 1)}1,x\n",
    }.items():
        (folder / name).write_text(text)
    np.savez(folder / "good.npz", x=np.ones((2, WIDTH)), columns=np.array(NAMES), y=np.arange(2))
    np.save(folder / "nan.npy", np.stack([np.ones(WIDTH), np.full(WIDTH, np.nan)]))
    return folder


READ: dict[str, tuple[Callable[[Path], Any], str]] = {
    "table": (lambda f: read_table(f / "good.csv"), ""),
    "columns": (lambda f: read_table(f / "good.csv", columns=BACK), ""),
    "half": (lambda f: read_table(f / "half.csv"), ""),
    "unnamed": (lambda f: read_table(f / "unnamed.csv"), ""),
    "tables": (lambda f: read_tables([f / "good.csv"] * 2, columns=BACK), ""),
    "blocks": (lambda f: list(iter_table(f / "good.csv", columns=BACK)), ""),
    "stream": (lambda f: list(open_rows(f / "good.csv", columns=BACK).read()), ""),
    "npz": (lambda f: read_table(f / "good.npz", columns=BACK, label="y"), ""),
    "npz stream": (lambda f: list(open_rows(f / "good.npz", label="y").read()), ""),
    "data": (lambda f: ArrayDataModule.file(f / "good.csv", val_path=f / "good.csv"), ""),
    "stream data": (lambda f: StreamDataModule(f / "good.csv", val_path=f / "good.csv"), ""),
    "ragged": (lambda f: read_table(f / "ragged.csv"), "line 3 has 100001"),
    "ragged blocks": (lambda f: list(iter_table(f / "ragged.csv", columns=NAMES)), "has 100001"),
    "twice": (lambda f: read_table(f / "twice.csv"), "more than one column is called a, b"),
    "chosen twice": (lambda f: read_table(f / "good.csv", columns=NAMES * 2), "more than once: c0"),
    "missing": (lambda f: read_table(f / "missing.csv"), "missing values, by column of 3 rows"),
    "nan": (lambda f: read_table(f / "nan.npy"), "missing values, by column of 2 rows: x0"),
    "unknown": (lambda f: read_table(f / "good.csv", columns=["c7", "d"]), "no column 'd'"),
    "others": (
        lambda f: list(iter_table(f / "good.csv", columns=[f"d{name}" for name in NAMES])),
        "lacks the columns dc0",
    ),
}


# What reads in a way that another one takes, too.
TWICE = ("half", "unnamed", "tables", "npz stream", "data", "stream data", "ragged blocks", "table")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in TWICE else n for n in READ]
)
def test_a_wide_table_is_read_or_refused(folder: Path, name: str) -> None:
    read, said = READ[name]
    if not said:
        read(folder)
        return
    with pytest.raises(GMMError, match=said) as caught:
        read(folder)
    # Whatever its width, the sentence is short.
    assert len(str(caught.value)) < 1000


def test_the_right_columns_are_read(tmp_path: Path) -> None:
    names, x = [f"c{i}" for i in range(300)], np.arange(600.0).reshape(2, 300)
    with TableWriter(tmp_path / "a.csv", names) as table:
        table.write(x)
    chosen = [*range(0, 300, 7), *range(299, 0, -5)]
    chosen = list(dict.fromkeys(chosen))
    read = read_table(tmp_path / "a.csv", columns=[names[j] for j in chosen])
    assert read.columns == tuple(names[j] for j in chosen)
    assert (read.x == x[:, chosen]).all()
