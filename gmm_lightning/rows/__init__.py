"""Rows with weights, labels and other values: one batch type, and one interface of sources."""

from __future__ import annotations

from gmm_lightning.rows.arrays import column_names, require_order
from gmm_lightning.rows.batch import Batch, as_batch, is_batches
from gmm_lightning.rows.box import bounding_box
from gmm_lightning.rows.checked import as_source
from gmm_lightning.rows.conversion import (
    as_dense,
    as_rows,
    as_tensor,
    as_weights,
    check_finite,
    finite_rows,
)
from gmm_lightning.rows.derived import CompleteRows, MappedRows, complete, rebatch
from gmm_lightning.rows.labels import (
    as_labels,
    is_labelled,
    weigh_unlabelled,
)
from gmm_lightning.rows.source import BLOCK_ROWS, ArrayRows, RowSource, is_shared
from gmm_lightning.rows.uncertain import (
    ERROR_COVARIANCE,
    ObservedFeatures,
    check_errors,
    errors_of,
    masked_errors,
    number_patterns,
    require_missing,
    take_features,
    uncertain_rows,
    with_errors,
)
from gmm_lightning.rows.weighting import keep_weights, row_weights, weighted_mean

__all__ = [
    "BLOCK_ROWS",
    "ERROR_COVARIANCE",
    "ArrayRows",
    "Batch",
    "CompleteRows",
    "MappedRows",
    "ObservedFeatures",
    "RowSource",
    "as_batch",
    "as_dense",
    "as_labels",
    "as_rows",
    "as_source",
    "as_tensor",
    "as_weights",
    "bounding_box",
    "check_errors",
    "check_finite",
    "column_names",
    "complete",
    "errors_of",
    "finite_rows",
    "is_batches",
    "is_labelled",
    "is_shared",
    "keep_weights",
    "masked_errors",
    "number_patterns",
    "rebatch",
    "require_missing",
    "require_order",
    "row_weights",
    "take_features",
    "uncertain_rows",
    "weigh_unlabelled",
    "weighted_mean",
    "with_errors",
]
