"""What a mixture says of rows that it does not learn from: likelihoods and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmm_lightning.evidence import Evidence
from gmm_lightning.layers import GMMLayer, most_probable, require_found
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.rows import Batch, check_finite
from gmm_lightning.statistics import WeightedMoments
from gmm_lightning.training.batches import as_global_batch
from gmm_lightning.training.units import StandardizedMixture


class Prediction(NamedTuple):
    """What a mixture says of the rows of one batch, in their order.

    Attributes:
        log_prob: log densities in nats, in the user's units, `(n, *B)`.
        component: the most probable component of each row, `(n, *B)`.
        responsibilities: `p(k | x)`, `(n, *B, K)`.
    """

    log_prob: Tensor
    component: Tensor
    responsibilities: Tensor


class EvaluatedMixture(StandardizedMixture):
    """The steps of `trainer.validate`, `trainer.test` and `trainer.predict`.

    Attributes:
        passes_before: passes of earlier fits of the same run.
    """

    def __init__(self, layer: GMMLayer, missing: str | None = None) -> None:
        super().__init__(layer, missing)
        self.passes_before = 0
        # Of the log densities in standard units, by the name of what is logged.
        self._moments: dict[str, WeightedMoments] = {}

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add the log-likelihood of one batch."""
        self._evaluate("val", batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add the log-likelihood of one batch."""
        self._evaluate("test", batch, batch_idx, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Prediction:
        """Log densities, components and responsibilities of one batch.

        `trainer.predict` returns a list of them, one for each batch of this process: the rows of
        our data modules in order, a process's own share of them. Those of a `DataLoader` with
        several processes are every so many rows, as its sampler deals them out.

        Example:
            >>> import lightning as L
            >>> from gmm_lightning.training import ArrayDataModule, GMMModule
            >>> options = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu"}
            >>> data = ArrayDataModule(torch.randn(10, 2), batch_size=4)
            >>> parts = L.Trainer(**options).predict(GMMModule(GMMLayer(2, 3)), data)
            >>> torch.cat([part.log_prob for part in parts]).shape
            torch.Size([10])
        """
        rows = as_global_batch(batch, self.trainer.world_size)
        log_joint, log_scale = self.log_joint_of(self._unseen(rows))
        component, k = require_found(most_probable(log_joint)), self.layer.num_components
        log_prob = log_joint.logsumexp(-1) + log_scale
        component = torch.where(component == k, -1, component)
        return Prediction(log_prob, component, log_joint.softmax(-1)[..., :k])

    def on_validation_epoch_end(self) -> None:
        """Log the weighted mean over all rows of all processes, for each loader."""
        means = self._mean_log_probs("val")
        if not self.trainer.sanity_checking:
            self.log_pass(means, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Log the weighted mean over all rows of all processes, for each loader."""
        self.log_pass(self._mean_log_probs("test"))

    def _evaluate(self, part: str, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        rows = as_global_batch(batch, self.trainer.world_size)
        check_finite(rows.x, missing=self.missing)
        # Lightning's name for what belongs to the second loader, and to those after it.
        name = f"{part}/log_likelihood" + f"/dataloader_idx_{dataloader_idx}" * (dataloader_idx > 0)
        self._add_moments(name, self.log_prob_of(self._unseen(rows)), rows.weight, batch_idx)

    def _seen(self, batch: Batch) -> Batch:
        """A batch to learn from, with its evidence checked."""
        if isinstance(self.layer.evidence, Evidence):
            self.layer.evidence.check_rows(batch)
        return batch

    def _unseen(self, batch: Batch) -> Batch:
        """A batch with what also counts where nothing is learnt: labels do not."""
        evidence = self.layer.evidence
        return evidence.for_evaluation(batch) if isinstance(evidence, Evidence) else batch

    def _add_moments(
        self, name: str, log_prob: Tensor, weight: Tensor | None, batch_idx: int
    ) -> None:
        own = WeightedMoments.of(log_prob, weight)
        before = self._moments.get(name)
        self._moments[name] = own if before is None or batch_idx == 0 else before + own

    def _mean_log_probs(self, part: str) -> dict[str, Tensor]:
        """Weighted means over batches and processes in the user's units, by name."""
        names = [name for name in self._moments if name.startswith(f"{part}/")]
        return {name: self._mean_log_prob(self._moments.pop(name)) for name in names}

    def _mean_log_prob(self, moments: WeightedMoments) -> Tensor:
        sums = torch.stack([moments.weight * moments.mean, moments.weight])
        total, weight = self.trainer.strategy.reduce(sums, reduce_op="sum")
        return total / torch.where(weight > 0, weight, 1.0) + self.standardize.log_abs_det

    def log_pass(self, values: Mapping[str, Tensor | float], *, prog_bar: bool = False) -> None:
        """Log numbers of one pass, equal on all processes, against the number of the pass.

        They are logged as float64: early stopping compares them, and float32 stops changing
        long before EM does.
        """
        options: dict[str, Any] = {"on_step": False, "on_epoch": True, "batch_size": 1}
        # Names say which loader they are of.
        options |= {"sync_dist": True, "add_dataloader_idx": False}
        wide = {"dtype": accumulator_dtype(self.device), "device": self.device}
        step = {"step": self.current_pass} if self.trainer.state.fn == "fit" else {}
        for name, value in {**values, **step}.items():
            shown = prog_bar and name != "step"
            self.log(name, torch.as_tensor(value, **wide), shown, **options)

    @property
    def current_pass(self) -> int:
        """Number of passes done in this run, over all its phases."""
        return self.passes_before + self.current_epoch
