"""The feature form against differences to each mean: where it pays."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from benchmarks import rows
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report, times
from benchmarks.settings import Settings
from gmm_lightning.em import MixtureModel, MixtureParameters
from gmm_lightning.em.expectation import expected_statistics
from gmm_lightning.em.plan import EStepPlan, make_plan
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.rows import Batch

WORK = 1e9


def run(settings: Settings, report: Report) -> None:
    """Full covariances: growing D, several K."""
    wide = settings.pick((2, 8, 32, 64, 128, 256), (2, 16, 64), (2, 4))
    many = settings.pick((1, 2, 8, 32), (2, 16), (2,))
    table = report.table(
        "One E-step by both kernels, full covariances (CPU seconds, one thread, medians)",
        *("dtype", "D", "K", "N", "features", "differences", "features are faster by"),
        *("chosen", "largest difference"),
    )
    for dtype in rows.DTYPES:
        for d in wide:
            for k in many:
                fitting = settings.pick(1.0, 0.3, 0.0) * WORK / (2 * k * d * (d + 3))
                n = int(min(max(fitting, 512, 4 * d), 100_000))
                one_size(settings, table, dtype, n, d, k)
    table.note(
        "Both give the same statistics; the largest difference is between second moments. Chosen: "
        "by the cost alone, or because too much would cancel."
    )


def one_size(settings: Settings, table: Any, dtype: str, n: int, d: int, k: int) -> None:
    """A row of the table."""
    data = rows.clusters(n, d, k)
    layer = rows.in_dtype(rows.given("full", data), dtype)
    x = data.rows(dtype)
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    plan = make_plan(model, parameters, len(x), shared=True)
    chosen = "differences" if plan is None else "features"
    if forced_plan(model, parameters) is None:
        table.row(dtype, d, k, n, None, None, "too much cancels", chosen, None)
        return
    batches, workspace = [Batch(x)], Workspace()

    def features() -> Any:
        # A pass makes its plan from the parameters; a fit keeps its buffers.
        plan = forced_plan(model, parameters)
        assert plan is not None
        return expected_statistics(model, parameters, plan, batches, workspace=workspace)

    def differences() -> Any:
        return expected_statistics(model, parameters, None, batches, workspace=workspace)

    made = [Contender("features", features), Contender("differences", differences)]
    with threads(1):
        timings = interleaved(made, settings.times(3, 1))
    fast, slow = timings["features"], timings["differences"]
    apart = float((fast.value.second - slow.value.second).abs().max())
    apart /= float(slow.value.second.abs().max())
    table.row(
        *(dtype, d, k, len(x), fast.median, slow.median),
        *(times(slow.median / fast.median), chosen, apart),
        seconds={name: timing.seconds for name, timing in timings.items()},
        difference=apart,
    )


def forced_plan(model: MixtureModel, parameters: MixtureParameters) -> EStepPlan | None:
    """A plan of the feature form where it would not be chosen because it is slower."""
    form: Any = type(model.family.features(parameters.means.shape[-1]))
    with patch.object(form, "is_cheaper", lambda features, num_columns: True):
        return make_plan(model, parameters, 1 << 20, shared=True)
