"""Products with features against whitened rows: where they pay."""

from __future__ import annotations

import contextlib
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
CHOSEN, PRODUCTS, WHITENED = "chosen", "features", "whitened"


def run(settings: Settings, report: Report) -> None:
    """Full covariances: growing D, several K."""
    wide = settings.pick((2, 8, 32, 64, 128, 256), (2, 16, 64), (2, 4))
    many = settings.pick((1, 2, 8, 32), (2, 16), (2,))
    table = report.table(
        "One E-step in two ways, full covariances (CPU seconds, one thread, medians)",
        *("dtype", "D", "K", "N", "overlap", "features", "whitened", "features are faster by"),
        *("chosen", "largest difference"),
    )
    for dtype in rows.DTYPES:
        for d in wide:
            for k in many:
                fitting = settings.pick(1.0, 0.3, 0.0) * WORK / (2 * k * d * (d + 3))
                n = int(min(max(fitting, 512, 4 * d), 100_000))
                for separation in (4.0, 16.0) if k > 1 else (4.0,):
                    one_size(settings, table, dtype, rows.clusters(n, d, k, separation))
    table.note(
        "Both give the same statistics; the largest difference is between second moments. Overlap: "
        "components that share a row on average. Chosen: by the cost, or because too much cancels."
    )


def one_size(settings: Settings, table: Any, dtype: str, data: rows.Clusters) -> None:
    """A row of the table."""
    k, d = data.centres.shape
    layer = rows.in_dtype(rows.given("full", data), dtype)
    x, workspace = data.rows(dtype), Workspace()
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)

    def pass_by(way: str) -> Any:
        # A pass makes its plan from the parameters; a fit keeps its buffers.
        plan = plan_by(way, model, parameters, workspace.overlap)
        return expected_statistics(model, parameters, plan, [Batch(x)], workspace=workspace)

    pass_by(CHOSEN)
    overlap = workspace.overlap
    chosen, forced = (plan_by(way, model, parameters, overlap) for way in (CHOSEN, PRODUCTS))
    names = [PRODUCTS if plan.products else WHITENED for plan in (chosen, forced)]
    if names[1] == WHITENED:
        table.row(dtype, d, k, len(x), overlap, None, None, "too much cancels", names[0], None)
        return
    made = [Contender(PRODUCTS, lambda: pass_by(PRODUCTS))]
    made += [Contender(WHITENED, lambda: pass_by(WHITENED))]
    with threads(1):
        timings = interleaved(made, settings.times(3, 1))
    fast, slow = timings[PRODUCTS], timings[WHITENED]
    apart = float((fast.value.second - slow.value.second).abs().max())
    apart /= float(slow.value.second.abs().max())
    table.row(
        *(dtype, d, k, len(x), overlap, fast.median, slow.median),
        *(times(slow.median / fast.median), names[0], apart),
        seconds={name: timing.seconds for name, timing in timings.items()},
        difference=apart,
    )


def plan_by(
    way: str,
    model: MixtureModel,
    parameters: MixtureParameters,
    overlap: float | None,
) -> EStepPlan:
    """The plan, by products wherever they are exact enough, without them, or as is chosen."""
    form: Any = type(model.family.features(parameters.means.shape[-1]))
    choice = contextlib.nullcontext()
    if way != CHOSEN:
        choice = patch.object(
            form, "products_pay", lambda features, k, overlap: way == PRODUCTS and k > 0
        )
    with choice:
        plan = make_plan(model, parameters, 1 << 20, shared=True, overlap=overlap)
    assert plan is not None
    return plan
