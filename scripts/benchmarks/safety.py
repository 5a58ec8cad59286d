"""float32 against float64 on rows that cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks import peers, rows
from benchmarks.report import Report
from benchmarks.settings import Settings
from gmm_lightning import GMMLayer, e_step, fit_em, m_step

STEPS = 5
Labelled = tuple[np.ndarray, np.ndarray]


def run(settings: Settings, report: Report) -> None:
    """The same EM steps from the same labels in both dtypes."""
    n = settings.pick(20_000, 5_000, 500)
    table = report.table(
        f"float32 against float64, {STEPS} EM steps from the same labels, N = {n:,}",
        *("rows", "family", "library", "weights", "means", "covariances", "mean log-likelihood"),
        "repairs",
    )
    cases: dict[str, Labelled] = {
        "no offset": at_offset(n, 0.0),
        "offset 1e4": at_offset(n, 1e4),
        "clusters of width 1e-3, 1 apart": tight(n, 1e-3),
        "clusters of width 1e-2, 1,000 apart": tight(n, 1e-2, 1_000.0),
        "{9999, 0}, width 0.3": two_values(n),
    }
    chosen = list(cases)[: settings.pick(None, None, 2)]
    for name in chosen:
        x, labels = cases[name]
        single = x.astype(np.float32)
        for family in ("full", "diag", "spherical", "tied"):
            for library, fit in contenders().items():
                found = compared(fit, family, single, labels)
                cells = [found.get(key) for key in ("weights", "means", "covariances")]
                level: Any = found.get("log_likelihood", found.get("raises"))
                table.row(
                    *(name, family, library, *cells, level, found.get("repairs")),
                    case=name,
                    family=family,
                    library=library,
                    **found,
                )
    table.note(
        "Both dtypes see the same rows, those of float32. Weights: largest difference. Means: "
        "largest distance, in standard deviations of the component. Covariances: largest error of "
        "a component, relative to its own norm. Log-likelihood: in nats per row. Repairs: "
        "covariances in float32 / in float64 that were below the floor, which is relative to the "
        "variance of all rows."
    )


def contenders() -> dict[str, Callable[..., dict[str, Any]]]:
    """Ours by both routes, and scikit-learn where it is installed."""
    made: dict[str, Callable[..., dict[str, Any]]] = {
        "gmm_lightning": in_a_fit,
        "gmm_lightning, stateless": stateless,
    }
    if peers.missing("scikit-learn") is None:
        made["scikit-learn"] = scikit_learn
    return made


def compared(
    fit: Callable[..., dict[str, Any]], family: str, x: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Errors of float32, or what was raised."""
    try:
        exact = fit(family, x.astype(np.float64), labels)
        rough = fit(family, x, labels)
    except Exception as error:
        return {"raises": f"raises {type(error).__name__}"}
    gap = np.linalg.norm(rough["means"] - exact["means"], axis=-1)
    width = np.sqrt(np.trace(exact["covariances"], axis1=-2, axis2=-1) / x.shape[1])
    norm = np.linalg.norm(exact["covariances"], axis=(-2, -1))
    error = np.linalg.norm(rough["covariances"] - exact["covariances"], axis=(-2, -1))
    return {
        "weights": float(np.abs(rough["weights"] - exact["weights"]).max()),
        "means": float((gap / width).max()),
        "covariances": float((error / norm).max()),
        "log_likelihood": float(abs(rough["level"] - exact["level"])),
        "repairs": f"{rough['repairs']} / {exact['repairs']}" if "repairs" in rough else None,
    }


def in_a_fit(family: str, x: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """As `fit_em` goes, but for its rule to stop when float32 sees no gain."""
    layer = labelled(family, x, labels)
    steps = rows.FitSteps(layer, x)
    last = [steps.iterate() for _ in range(STEPS)][-1]
    level = float(steps.statistics().log_likelihood) / len(x)
    repairs = 0 if last.collapsed is None else int(last.collapsed.floored.sum())
    return {**rows.parameters(steps.fitted()), "level": level, "repairs": repairs}


def stateless(family: str, x: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """By `e_step` and `m_step` alone."""
    layer = labelled(family, x, labels)
    events: list[Any] = []
    for _ in range(STEPS):
        events = m_step(layer, e_step(layer, x))
    level = float(e_step(layer, x).log_likelihood) / len(x)
    return {**rows.parameters(layer), "level": level, "repairs": len(events)}


def labelled(family: str, x: np.ndarray, labels: np.ndarray) -> GMMLayer:
    """A layer after one M-step from labels."""
    kind = torch.from_numpy(x).dtype
    layer = GMMLayer(x.shape[1], int(labels.max()) + 1, family, dtype=kind)
    fit_em(layer, x, initializer=labels, max_iter=0)
    return layer


def scikit_learn(family: str, x: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Likewise, without a regularisation that would hide an error."""
    from sklearn.mixture import GaussianMixture

    k = int(labels.max()) + 1
    peer: Any = GaussianMixture(k, covariance_type=family, reg_covar=0.0)
    peer._initialize(x, np.eye(k, dtype=x.dtype)[labels])
    for _ in range(STEPS):
        _, log_resp = peer._e_step(x)
        peer._m_step(x, log_resp)
    level, _ = peer._e_step(x)
    return {**peers.scikit_learn_parameters(family, peer), "level": float(level)}


# -- rows -----------------------------------------------------------------------------------


def at_offset(n: int, offset: float) -> Labelled:
    """Clusters of unit width, far from the origin."""
    rng = np.random.default_rng(3)
    labels = np.arange(n) % 3
    centres = 5.0 * np.array([[0, 0, 0], [1, 0, 1], [0, 1, 1]])
    return offset + centres[labels] + rng.standard_normal((n, 3)), labels


def tight(n: int, width: float, apart: float = 1.0) -> Labelled:
    """Clusters much narrower than the distance between them."""
    rng = np.random.default_rng(4)
    labels = np.arange(n) % 3
    centres = apart * np.array([[0.0, 0.0], [1.0, 0.3], [0.2, 1.0]])
    return centres[labels] + width * rng.standard_normal((n, 2)), labels


def two_values(n: int) -> Labelled:
    """Features that are about 9999 in one cluster and about 0 in the other."""
    rng = np.random.default_rng(5)
    labels = np.arange(n) % 2
    centres = np.array([[9999.0, 9999.0], [0.0, 0.0]])
    return centres[labels] + 0.3 * rng.standard_normal((n, 2)), labels
