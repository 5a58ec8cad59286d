"""Small real data sets that travel with the package, and files of any size read as streams."""

from __future__ import annotations

from gmm_lightning.datasets.builtin import Dataset, load, names
from gmm_lightning.datasets.stream import RowBlock, RowStream, open_rows

__all__ = ["Dataset", "RowBlock", "RowStream", "load", "names", "open_rows"]
