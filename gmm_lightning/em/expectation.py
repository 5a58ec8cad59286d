"""The E-step on tensors: choice of kernel and precision, and pooled moments for tied families."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from gmm_lightning.em.centred_kernel import (
    centred_statistics,
    weighted_chunks,
)
from gmm_lightning.em.component_kernel import component_statistics
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan import EStepPlan, group_by_precision, is_small, make_plan
from gmm_lightning.em.pooled import pooled_statistics
from gmm_lightning.em.responsibilities import Responsibilities, softmax_responsibilities_
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.rows import Batch, RowSource
from gmm_lightning.statistics import SufficientStatistics


def expected_statistics(
    model: MixtureModel,
    parameters: MixtureParameters,
    plan: EStepPlan | None,
    batches: Iterable[Batch],
    *,
    workspace: Workspace,
    responsibilities: Responsibilities = softmax_responsibilities_,
    pooled: SufficientStatistics | None = None,
) -> SufficientStatistics:
    """Statistics `(M, ...)` about the means under the parameters.

    Args:
        model: family and evidence.
        parameters: of M mixtures.
        plan: of the feature kernel; None: differences to each mean are taken.
        batches: rows `(n, *B, D)`.
        workspace: memory of the feature kernel, and the chunk size.
        responsibilities: maps log joint densities to responsibilities.
        pooled: moments of the same rows in one component, if they are known.
    """
    size = workspace.rows_per_chunk(plan, parameters)
    chunks = (chunk for batch in batches for chunk in batch.split(size) if chunk.num_rows)
    if plan is None:
        # Squares of small or large float32 numbers are no float32 numbers.
        wide = parameters.to(accumulator_dtype(parameters.means.device))
        weighted = weighted_chunks(model, wide, chunks, responsibilities)
        found = centred_statistics(model.family, wide.means, weighted)
        # As from the feature kernel: statistics of some mixtures may replace those of all.
        return replace(found, shift=parameters.means)
    return component_statistics(
        model,
        parameters,
        plan,
        chunks,
        workspace=workspace,
        responsibilities=responsibilities,
        pooled=pooled,
    )


class EStep:
    """E-steps over one source of rows, with shared buffers and pooled moments.

    Args:
        source: the rows.
        model: of all mixtures.
        chunk_size: rows at a time; None: as many as stay in cache.
    """

    def __init__(self, source: RowSource, model: MixtureModel, chunk_size: int | None) -> None:
        self.source = source
        self._workspace = Workspace(chunk_size)
        self._pooled: SufficientStatistics | None = None
        if model.family.tied and source.in_memory:
            self._pooled = pooled_statistics(source, model.single_restart())

    @torch.no_grad()
    def __call__(
        self,
        model: MixtureModel,
        parameters: MixtureParameters,
        responsibilities: Responsibilities = softmax_responsibilities_,
    ) -> SufficientStatistics:
        """Statistics `(M, ...)` under the parameters.

        A mixture with a tight component needs a higher precision: mixtures are grouped by the
        precision they need, so that one does not slow down all.
        """
        plan = self._plan(model, parameters)
        groups = self._precision_groups(model, parameters, plan)
        if len(groups) == 1:
            return self._run(model, parameters, plan, responsibilities)
        parts = []
        for index in groups:
            some, theirs = model.select(index), parameters.select(index)
            parts.append(self._run(some, theirs, self._plan(some, theirs), responsibilities))
        return SufficientStatistics.concatenate(parts).select(torch.cat(groups).argsort())

    def _precision_groups(
        self, model: MixtureModel, parameters: MixtureParameters, plan: EStepPlan | None
    ) -> list[Tensor]:
        """Indices of mixtures that are computed together; several groups only where it pays."""
        everything = torch.arange(parameters.num_mixtures, device=model.batch_index.device)
        is_coarse = plan is not None and plan.dtypes == {parameters.means.dtype}
        # Mixtures of the same rows have the precision of each component apart.
        apart = self.source.shared and not model.family.tied
        # Reading a stream once more costs more than a precision that some mixtures do not need.
        if is_coarse or apart or len(everything) == 1 or not self.source.in_memory:
            return [everything]
        if is_small(parameters, self.source.num_rows):
            return [everything]
        return group_by_precision(model, parameters)

    def _plan(self, model: MixtureModel, parameters: MixtureParameters) -> EStepPlan | None:
        return make_plan(
            model,
            parameters,
            self.source.num_rows,
            shared=self.source.shared,
            overlap=self._workspace.overlap,
        )

    def _run(
        self,
        model: MixtureModel,
        parameters: MixtureParameters,
        plan: EStepPlan | None,
        responsibilities: Responsibilities,
    ) -> SufficientStatistics:
        return expected_statistics(
            model,
            parameters,
            plan,
            self.batches(model),
            workspace=self._workspace,
            responsibilities=responsibilities,
            pooled=None if self._pooled is None else self._pooled.select(model.batch_index),
        )

    def batches(self, model: MixtureModel) -> Iterable[Batch]:
        """The rows that the mixtures of a model read: of positive weight, always the same ones."""
        return self.source
