"""Small real data sets that travel with the package, for examples, tests and first runs."""

from __future__ import annotations

from gmm_lightning.datasets.builtin import Dataset, load, names

__all__ = ["Dataset", "load", "names"]
