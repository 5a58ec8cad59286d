"""The E-step on rows that are known exactly: choice of kernel and precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gmm_lightning.em.centred_kernel import difference_statistics
from gmm_lightning.em.component_kernel import component_statistics
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan import EStepPlan
from gmm_lightning.em.responsibilities import Responsibilities, softmax_responsibilities_
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.rows import Batch
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
        plan: made for these parameters; None: differences to each mean are taken.
        batches: rows `(n, *B, D)`.
        workspace: memory of the component kernel, and the chunk size.
        responsibilities: maps log joint densities to responsibilities.
        pooled: moments of the same rows in one component, for each mixture of a batch, if they
            are known.
    """
    size = workspace.rows_per_chunk(plan, parameters)
    chunks = (chunk for batch in batches for chunk in batch.split(size) if chunk.num_rows)
    if plan is None:
        # Squares of small or large float32 numbers are no float32 numbers.
        wide = parameters.to(accumulator_dtype(parameters.means.device))
        found = difference_statistics(model, wide, chunks, responsibilities)
        # As from the component kernel: statistics of some mixtures may replace those of all.
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
