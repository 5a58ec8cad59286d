"""Small real data sets in the package, and tables in files of any size."""

from __future__ import annotations

from gmm_lightning.datasets._stored import stored_arrays
from gmm_lightning.datasets._writer import TableWriter
from gmm_lightning.datasets.builtin import Dataset, load, names
from gmm_lightning.datasets.stream import FileRows, open_rows
from gmm_lightning.datasets.tables import (
    Table,
    iter_table,
    read_table,
    read_tables,
)

__all__ = [
    "Dataset",
    "FileRows",
    "Table",
    "TableWriter",
    "iter_table",
    "load",
    "names",
    "open_rows",
    "read_table",
    "read_tables",
    "stored_arrays",
]
