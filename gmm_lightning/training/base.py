"""Base of the data modules, for rows in memory or on disk."""

from __future__ import annotations

import logging
import operator
import warnings
from abc import abstractmethod
from functools import cached_property, reduce
from typing import Any

import lightning as L
import torch
from torch import Tensor

from gmm_lightning._messages import format_too_large
from gmm_lightning._validation import require_choice, require_integer, require_number
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError, printable
from gmm_lightning.linalg import all_finite
from gmm_lightning.rows import RowSource
from gmm_lightning.statistics import WeightedMoments
from gmm_lightning.training.loader import RowLoader

_log = logging.getLogger(__name__)


def missing_word(missing: Any) -> str:
    """What a data module does with missing entries: `refuse`, also for None, `drop` or `em`.

    Raises:
        InvalidArgumentError: anything else.
    """
    if missing is None:
        return "refuse"
    return require_choice("missing", missing, ("refuse", "drop", "em"), also=", or null")


class RowsDataModule(L.LightningDataModule):
    """Rows for training, validation and a test, sharded exactly over processes.

    Attributes:
        columns: names of the features.
        classes: names of the labels, or None.
        missing: what is done with rows of which an entry is missing: they are refused, dropped, or
            kept (`em`).
        num_dropped: rows that were left out.
    """

    columns: tuple[str, ...]
    classes: tuple[str, ...] | None

    def __init__(
        self,
        batch_size: int,
        seed: int,
        name: str,
        *,
        shuffle: bool,
        standardize: bool,
        missing: str | None = "refuse",
    ) -> None:
        super().__init__()
        self.batch_size = require_integer("batch_size", batch_size, least=1)
        self.seed, self.name = require_integer("seed", seed, least=0), name
        self.shuffle, self.standardize = shuffle, standardize
        self.missing, self.num_dropped = missing_word(missing), 0

    @abstractmethod
    def part(self, name: str, *, labels: bool = False) -> RowSource | None:
        """All rows of `train`, `val` or `test`; None if no rows were set aside for it.

        Labels may have to be read, so they are included only if `labels` is True.
        """

    def train_source(self, *, labels: bool = False) -> RowSource:
        """The whole training set."""
        part = self.part("train", labels=labels)
        assert part is not None
        return part

    def some_rows(self, n: int) -> Tensor:
        """At most n rows of the training set, evenly spaced, in the user's units."""
        return self.train_source().some(n)

    @property
    def num_features(self) -> int:
        """Number of features, D."""
        return self.train_source().num_features

    @property
    def num_train_rows(self) -> int:
        """Number of rows of the training set, over all processes."""
        return self.train_source().num_rows

    @cached_property
    def total_weight(self) -> float:
        """Sum of the weights of the training set; without weights, its number of rows."""
        return self.train_source().total_weight

    @cached_property
    def num_missing(self) -> tuple[int, int]:
        """Numbers of the rows and of the entries of the training set that are incomplete."""
        if self.missing != "em":
            return 0, 0
        masks = (torch.isnan(batch.x) for batch in self.train_source().read())
        counts = [(int(mask.any(-1).sum()), int(mask.sum())) for mask in masks]
        return sum(rows for rows, _ in counts), sum(entries for _, entries in counts)

    def units(self) -> tuple[Tensor, Tensor]:
        """Weighted mean and standard deviation per feature of the training set, `(D,)` each.

        They are those of the entries that are observed. The deviation of a constant feature is 0.
        """
        return self._units

    @cached_property
    def _units(self) -> tuple[Tensor, Tensor]:
        of = WeightedMoments.of_observed if self.missing == "em" else WeightedMoments.of
        moments = reduce(operator.add, (of(b.x, b.weight) for b in self.train_source().read()))
        mean, deviation = moments.mean, moments.variance.sqrt()
        if not all_finite(deviation):
            raise InvalidDataError(format_too_large("the rows are", deviation.dtype))
        # What is left of a constant feature is the rounding of its mean.
        rounding = 4 * torch.finfo(mean.dtype).eps * mean.abs()
        return mean, torch.where(deviation <= rounding, 0.0, deviation)

    def train_dataloader(self) -> RowLoader:
        """This process's rows of the training set."""
        return self._loader("train", shuffle=self.shuffle)

    def val_dataloader(self) -> RowLoader | list[Any]:
        """This process's rows of the validation set; in a fit, an empty list without one.

        Raises:
            InvalidDataError: there is none for `trainer.validate`.
        """
        if self.part("val") is None:
            if self.trainer is not None and self.trainer.state.fn == "validate":
                raise _no_part("val", "validation")
            # Lightning warns of an empty list, which is meant here.
            warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
            return []
        return self._loader("val", shuffle=False)

    def test_dataloader(self) -> RowLoader:
        """This process's rows of the test set.

        Raises:
            InvalidDataError: there is none.
        """
        if self.part("test") is None:
            raise _no_part("test", "test")
        return self._loader("test", shuffle=False)

    def predict_dataloader(self) -> RowLoader:
        """The training set in order."""
        return self._loader("train", shuffle=False)

    def _report_dropped(self, num_dropped: int, num_rows: int) -> None:
        """Count and log rows that were left out."""
        self.num_dropped += num_dropped
        if num_dropped:
            _log.info(
                "%s: %d of %d rows have missing entries and were left out",
                printable(self.name),
                num_dropped,
                num_rows,
            )

    def _loader(self, name: str, *, shuffle: bool) -> RowLoader:
        trainer = self.trainer
        layer = getattr(trainer and trainer.lightning_module, "layer", None)
        # Only evidence reads labels in a fit.
        source = self.part(name, labels=getattr(layer, "evidence", None) is not None)
        assert source is not None
        return RowLoader(
            source,
            self.batch_size,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            epoch=(lambda: trainer.current_epoch if trainer else 0) if shuffle else None,
            seed=self.seed,
        )


def require_unlabeled_weight(value: Any, *, labelled: bool) -> float:
    """The factor of the weights of rows without a label, checked; 1 where there are no labels.

    Raises:
        InvalidArgumentError: a negative or infinite number, or one for data without labels.
    """
    factor = require_number("unlabeled_weight", value, least=0)
    if factor != 1 and not labelled:
        raise InvalidArgumentError(
            f"unlabeled_weight={factor:g} is for data of which some rows have labels: give labels, "
            "or the column of them"
        )
    return factor


def _no_part(part: str, words: str) -> InvalidDataError:
    return InvalidDataError(
        f"there is no {words} set: set rows aside by {part}_fraction=0.1, name a file of them by "
        f"{part}_path=, or pass dataloaders="
    )
