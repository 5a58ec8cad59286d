"""Rows with weights, labels and other values: one batch type, and one interface of sources."""

from __future__ import annotations

from gmm_lightning.rows.arrays import column_names, require_order
from gmm_lightning.rows.batch import Batch, as_batch, is_batches
from gmm_lightning.rows.checked import as_source
from gmm_lightning.rows.conversion import (
    as_dense,
    as_rows,
    as_tensor,
    as_weights,
    check_finite,
    finite_rows,
)
from gmm_lightning.rows.source import BLOCK_ROWS, ArrayRows, RowSource, is_shared
from gmm_lightning.rows.uncertain import (
    ERROR_COVARIANCE,
    check_errors,
    errors_of,
    masked_errors,
    number_patterns,
    require_missing,
    uncertain_rows,
    with_errors,
)
from gmm_lightning.rows.weighting import keep_weights, row_weights, weighted_mean

__all__ = [
    "BLOCK_ROWS",
    "ERROR_COVARIANCE",
    "ArrayRows",
    "Batch",
    "RowSource",
    "as_batch",
    "as_dense",
    "as_rows",
    "as_source",
    "as_tensor",
    "as_weights",
    "check_errors",
    "check_finite",
    "column_names",
    "errors_of",
    "finite_rows",
    "is_batches",
    "is_shared",
    "keep_weights",
    "masked_errors",
    "number_patterns",
    "require_missing",
    "require_order",
    "row_weights",
    "uncertain_rows",
    "weighted_mean",
    "with_errors",
]
