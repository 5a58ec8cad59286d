"""Variational Bayes beside EM of the same family, and whole fits beside scikit-learn's."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import peers, rows
from benchmarks.iteration import SKLEARN
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report, times
from benchmarks.settings import Settings
from gmm_lightning import GMMLayer, fit_em, fit_vb

OURS = "gmm_lightning"
# Passes of one run.
FEW, MANY = 2, 8


def run(settings: Settings, report: Report) -> None:
    """Passes of every family, whole fits, and streams."""
    passes(settings, report)
    if peers.missing(SKLEARN) is None:
        whole_fits(settings, report)
    streams(settings, report)


def passes(settings: Settings, report: Report) -> None:
    """A pass of `fit_vb` beside one of `fit_em`: of some, less those of fewer."""
    n, d, k = settings.pick((100_000, 32, 32), (20_000, 16, 8), (1_000, 4, 3))
    data = rows.clusters(n, d, k, separation=1.5)
    table = report.table(
        f"A pass, N = {n:,}, D = {d}, K = {k} (CPU seconds, one thread, medians)",
        *("family", "dtype", "EM", "variational", "variational against EM"),
    )
    for family in rows.FAMILIES:
        for dtype in rows.DTYPES:
            start = rows.in_dtype(rows.start(family, data), dtype)
            x = data.rows(dtype)
            made = [
                Contender(f"{name} {number}", fit(method, start, x, number))
                for name, method in (("EM", fit_em), ("variational", fit_vb))
                for number in (FEW, MANY)
            ]
            with threads(1):
                timings = interleaved(made, settings.times(5, 3))
            em, vb = (
                (timings[f"{name} {MANY}"].median - timings[f"{name} {FEW}"].median) / (MANY - FEW)
                for name in ("EM", "variational")
            )
            table.row(
                *(family, dtype, em, vb, times(vb / em)),
                seconds={name: timing.seconds for name, timing in timings.items()},
                dtype=dtype,
            )


def fit(method: Callable[..., Any], start: GMMLayer, x: Any, number: int) -> Callable[[], Any]:
    """A fit of so many steps from the same parameters, under the same prior."""

    def run_once() -> Any:
        layer = GMMLayer(
            start.num_features,
            start.num_components,
            start.covariance,
            priors=[prior("dirichlet"), prior("niw")],
            dtype=start.means.dtype,
        )
        layer.set_parameters(start.weights, start.means, start.covariance_matrix)
        plain = {"acceleration": None} if method is fit_em else {}
        return method(layer, x, initializer=None, max_iter=number, tol=0.0, **plain)

    return run_once


def prior(name: str) -> Any:
    """A prior with values from the data, the same for both."""
    from gmm_lightning.priors import Dirichlet, NormalInverseWishart

    if name == "dirichlet":
        return Dirichlet(1.0)
    return NormalInverseWishart(convention="fraley_raftery")


def whole_fits(settings: Settings, report: Report) -> None:
    """Whole fits of `BayesianGaussianMixture`, from starts of the same kind."""
    from sklearn.mixture import BayesianGaussianMixture as Theirs

    from gmm_lightning.estimators import BayesianGaussianMixture as Ours

    n, d, k, most = settings.pick((100_000, 32, 32, 10), (10_000, 16, 8, 10), (500, 3, 2, 3))
    data = rows.clusters(n, d, k, separation=1.5)
    table = report.table(
        f"BayesianGaussianMixture, whole fits of {most} steps, N = {n:,}, D = {d}, K = {k}, full "
        "(CPU seconds, one thread, medians)",
        *("weights", OURS, SKLEARN, "faster", "difference of the bounds"),
    )
    for kind in ("dirichlet_process", "dirichlet_distribution"):
        options = {
            "n_components": k,
            "weight_concentration_prior_type": kind,
            "max_iter": most,
            "tol": 0.0,
            "init_params": "random_from_data",
            "random_state": 0,
        }
        both = {OURS: Ours(**options), SKLEARN: Theirs(**options)}
        x = data.rows("float64").numpy()
        with threads(1), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            timings = interleaved(
                [Contender(name, functools.partial(own.fit, x)) for name, own in both.items()],
                settings.times(3, 3),
            )
        ours, theirs = (timings[name].median for name in (OURS, SKLEARN))
        bounds = [float(np.ravel(one.lower_bound_)[0]) for one in both.values()]
        table.row(
            *(
                kind,
                ours,
                theirs,
                times(theirs / ours),
                abs(bounds[0] - bounds[1]) / abs(bounds[1]),
            ),
            seconds={name: timing.seconds for name, timing in timings.items()},
        )
        report.bar("BayesianGaussianMixture, whole fits", kind, theirs / ours)
    table.note(
        "Starts are random rows, not the same ones, and so the bounds differ, relative to them. "
        "Every fit takes all its steps."
    )


def streams(settings: Settings, report: Report) -> None:
    """Fits of rows that are read batch by batch, beside EM's."""
    n, d, k = settings.pick((1_000_000, 10, 8), (100_000, 10, 8), (2_000, 3, 2))
    data = rows.clusters(n, d, k, separation=1.5)
    start = rows.in_dtype(rows.start("full", data), "float32")
    batches = list(data.rows("float32").split(50_000))
    made = [
        Contender(name, fit(method, start, batches, FEW))
        for name, method in (("EM", fit_em), ("variational", fit_vb))
    ]
    with threads(1):
        timings = interleaved(made, settings.times(3, 3))
    table = report.table(
        f"A stream of N = {n:,}, D = {d}, K = {k}, full, float32, {FEW} steps (CPU seconds, one "
        "thread, medians)",
        *("EM", "variational", "variational against EM"),
    )
    em, vb = timings["EM"].median, timings["variational"].median
    table.row(
        *(em, vb, times(vb / em)), seconds={name: one.seconds for name, one in timings.items()}
    )
