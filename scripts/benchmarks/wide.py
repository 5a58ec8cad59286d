"""Whole fits of full covariances with few rows for their features, and with enough."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from benchmarks import peers
from benchmarks.machine import threads
from benchmarks.measure import Contender, interleaved
from benchmarks.report import Report, times
from benchmarks.settings import Settings, Skipped
from gmm_lightning import GMMLayer, fit_em

OURS, PEER, STEPS, RANK, NOISE = "gmm_lightning", "scikit-learn", 5, 64, 0.05
# Features, rows, components and priors.
CASES = (
    (256, 100, 1, ""),
    (512, 100, 1, ""),
    (768, 200, 1, ""),
    (768, 200, 1, "niw"),
    (1024, 500, 1, ""),
    (2048, 500, 1, ""),
    (256, 400, 3, ""),
    (512, 400, 3, ""),
    (128, 2000, 1, ""),
    (512, 2000, 1, ""),
    (1024, 2000, 1, ""),
    (256, 2000, 3, ""),
)
QUICK = (*CASES[:4], *CASES[6:9])
TINY = ((64, 24, 1, ""), (64, 24, 1, "niw"))


def run(settings: Settings, report: Report) -> None:
    """Five M-steps at most, against as many of scikit-learn."""
    why = peers.missing(PEER)
    if why is not None:
        raise Skipped(f"{PEER}: {why}")
    mixture = importlib.import_module("sklearn.mixture")
    table = report.table(
        f"Whole fits of full covariances, float64, {STEPS} M-steps at most (CPU seconds, one "
        "thread, medians)",
        *("D", "N", "K", "priors", "seconds", "passes", "scikit-learn", "its passes"),
        *("gmm_lightning is faster by", "per pass"),
    )
    for d, n, k, priors in settings.pick(CASES, QUICK, TINY):
        x = wide_rows(d, n, k)

        def ours(x: torch.Tensor = x, k: int = k, priors: str = priors) -> tuple[int, float]:
            layer = GMMLayer(x.shape[-1], k, priors=priors or None, dtype=torch.float64)
            result = fit_em(layer, x, max_iter=STEPS, generator=torch.Generator().manual_seed(0))
            assert isinstance(result.log_likelihood, float)
            return result.num_e_steps, result.log_likelihood

        def theirs(x: torch.Tensor = x, k: int = k) -> Any:
            # With a tolerance of 0 it makes all of its steps, and one E-step more for labels.
            peer = mixture.GaussianMixture(k, max_iter=STEPS, tol=0, reg_covar=1e-3, random_state=0)
            return peer.fit(x.numpy())

        with threads(1):
            timings = interleaved(
                [Contender(OURS, ours), Contender(PEER, theirs)], settings.times(5, 3), budget=20
            )
        (passes, reached), peer = (timings[name].value for name in (OURS, PEER))
        others, level = peer.n_iter_ + 1, float(peer.score(x.numpy()))
        own, other = (timings[name].median for name in (OURS, PEER))
        table.row(
            *(d, n, k, priors, own, passes, other, others, times(other / own)),
            times(other / others / (own / passes)),
            seconds={name: timing.seconds for name, timing in timings.items()},
            log_likelihood_above_peer=reached - level,
        )
        report.bar("wide", f"D {d}, N {n}, K {k} {priors}".rstrip(), other / own)
    table.note(
        f"Rows of rank {RANK} with noise of {NOISE:g}. Passes are E-steps; scikit-learn makes all "
        "of them, we stop when nothing remains to be gained. Our time holds the scale of the "
        "features and the values of priors. reg_covar of scikit-learn is 1e-3."
    )


def wide_rows(d: int, n: int, k: int) -> torch.Tensor:
    """Rows `(n, d)` of k clusters far apart, each of the same low rank."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    x = normal(n, RANK) @ normal(RANK, d) + NOISE * normal(n, d)
    return x + 30 * normal(k, d)[torch.arange(n) % k] if k > 1 else x
