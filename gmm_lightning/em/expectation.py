"""The E-step over a source of rows, complete ones and others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gmm_lightning.em.complete_rows import expected_statistics
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan import (
    EStepPlan,
    group_by_precision,
    is_small,
    make_plan,
    plans_by_precision,
)
from gmm_lightning.em.pooled import pooled_statistics
from gmm_lightning.em.responsibilities import Responsibilities, softmax_responsibilities_
from gmm_lightning.em.uncertain_kernel import takes_marginals, uncertain_statistics
from gmm_lightning.em.uncertain_rows import SplitRows, split_rows
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.rows import ArrayRows, Batch, RowSource
from gmm_lightning.statistics import SufficientStatistics


def split_statistics(
    model: MixtureModel,
    parameters: MixtureParameters,
    plan: EStepPlan | None,
    parts: Iterable[SplitRows],
    *,
    workspace: Workspace,
    responsibilities: Responsibilities = softmax_responsibilities_,
    pooled: SufficientStatistics | None = None,
) -> SufficientStatistics:
    """Statistics of complete rows, as from `expected_statistics`, and of the others.

    Args:
        model: family and evidence.
        parameters: of M mixtures.
        plan: made for these parameters.
        parts: batches of rows apart, each read once.
        workspace: memory of the component kernel, and the chunk size.
        responsibilities: maps log joint densities to responsibilities.
        pooled: as of `expected_statistics`, for the complete rows.
    """
    others: list[SufficientStatistics] = []

    def complete() -> Iterator[Batch]:
        for part in parts:
            if part.uncertain:
                found = uncertain_statistics(
                    model,
                    parameters,
                    part.uncertain,
                    responsibilities,
                    chunk_size=workspace.chunk_size,
                )
                others[:] = [others[0] + found if others else found]
            yield part.complete

    found = expected_statistics(
        model,
        parameters,
        plan,
        complete(),
        workspace=workspace,
        responsibilities=responsibilities,
        pooled=pooled,
    )
    return found + others[0] if others else found


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
        self._parts: list[SplitRows] | None = None
        self._complete = source
        if source.uncertain and source.in_memory:
            # Grouped once, for all E-steps.
            self._parts = [self._split(batch, model) for batch in source]
            self._complete = ArrayRows(self._parts[0].complete)
        pools = model.family.tied and source.in_memory and not model.needs_differences
        if pools and self._complete.num_rows:
            self._pooled = pooled_statistics(self._complete, model.single_restart())
        if pools and self._parts is not None:
            self._parts = [_with_pooled(part, model.single_restart()) for part in self._parts]

    @property
    def overlap(self) -> float | None:
        """Components of a mixture that shared a row in the last E-step; None: not known."""
        return self._workspace.overlap

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
        groups = self._plans(model, parameters)
        if len(groups) == 1:
            return self._run(model, parameters, groups[0][1], responsibilities)
        parts = [
            self._run(model.select(index), parameters.select(index), plan, responsibilities)
            for index, plan in groups
        ]
        order = torch.cat([index for index, _ in groups]).argsort()
        return SufficientStatistics.concatenate(parts).select(order)

    def _plans(
        self, model: MixtureModel, parameters: MixtureParameters
    ) -> list[tuple[Tensor, EStepPlan | None]]:
        """Mixtures that are computed together, and their plans; several only where it pays."""
        everything = torch.arange(parameters.num_mixtures, device=model.batch_index.device)
        small, in_memory = is_small(parameters, self._complete.num_rows), self.source.in_memory
        # Reading a stream once more costs more than a precision that some mixtures do not need.
        if in_memory and not self.source.shared and not small:
            return plans_by_precision(model, parameters)
        plan = self._plan(model, parameters)
        is_coarse = plan is not None and plan.dtypes == {parameters.dtype}
        # Mixtures of the same rows have the precision of each component apart.
        products = model.family.tied and not model.needs_differences
        whole = is_coarse or small or not in_memory or not products
        groups = [everything] if whole else group_by_precision(model, parameters)
        if len(groups) == 1:
            return [(everything, plan)]
        return [(some, self._plan(model.select(some), parameters.select(some))) for some in groups]

    def _plan(self, model: MixtureModel, parameters: MixtureParameters) -> EStepPlan | None:
        return make_plan(
            model,
            parameters,
            self._complete.num_rows,
            shared=self.source.shared,
            overlap=self.overlap,
        )

    def _run(
        self,
        model: MixtureModel,
        parameters: MixtureParameters,
        plan: EStepPlan | None,
        responsibilities: Responsibilities,
    ) -> SufficientStatistics:
        how: dict[str, Any] = {
            "workspace": self._workspace,
            "responsibilities": responsibilities,
            "pooled": self._pooled,
        }
        if not self.source.uncertain:
            batches = self.batches(model)
            return expected_statistics(model, parameters, plan, batches, **how)
        parts = self._parts or (self._split(batch, model) for batch in self.source)
        return split_statistics(model, parameters, plan, parts, **how)

    @staticmethod
    def _split(batch: Batch, model: MixtureModel) -> SplitRows:
        return split_rows(batch, model.batch_shape, apart=takes_marginals(model))

    def batches(self, model: MixtureModel) -> Iterable[Batch]:
        """The rows that the mixtures of a model read, always the same ones."""
        return self.source


def _with_pooled(rows: SplitRows, model: MixtureModel) -> SplitRows:
    """Rows with the moments of each frequent pattern, where all mixtures read them."""
    found = []
    for own in rows.uncertain:
        frequent = own.frequent
        if own.cell is None:
            frequent = tuple(
                part._replace(pooled=pooled_statistics(ArrayRows(part.batch), model))
                for part in frequent
            )
        found.append(replace(own, frequent=frequent))
    return rows._replace(uncertain=tuple(found))
