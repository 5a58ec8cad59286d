"""Other libraries, from the same start and to the same tolerance.

None of them is needed: one that cannot be imported is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.rows import DTYPES, in_dtype, parameters
from gmm_lightning import GMMLayer

MODULES = {
    "scikit-learn": "sklearn.mixture",
    "torchgmm": "torchgmm.bayes.gmm",
    "tgmm": "tgmm",
    "pomegranate": "pomegranate.gmm",
    "zuko": "zuko.mixtures",
}


@dataclass(frozen=True)
class Outcome:
    """What a fit came to.

    Attributes:
        passes: E-steps until the rule of the tolerance stopped it; one more at the end, for
            labels, is not counted.
        parameters: weights, means and dense covariances.
    """

    passes: int
    parameters: dict[str, np.ndarray]


@dataclass(frozen=True)
class Problem:
    """What is fitted, and from where.

    Attributes:
        family: of the covariances.
        start: the parameters where the fit begins, those of one M-step from the nearest centres.
        centres: `(K, D)`.
        x: rows, in the dtype to fit in.
    """

    family: str
    start: GMMLayer
    centres: np.ndarray
    x: np.ndarray


# A fit to a tolerance in nats per row, with so many iterations at most.
Fit = Callable[[Problem, float, int], Outcome]


def missing(name: str) -> str | None:
    """Why a peer cannot be used, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(MODULES[name])
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def quiet() -> None:
    """Nothing but the tables is of interest here."""
    warnings.filterwarnings("ignore")
    # Lightning announces every fit, and some peers set its levels themselves.
    logging.disable(logging.WARNING)


# -- shapes ---------------------------------------------------------------------------------


def compact(family: str, dense: np.ndarray) -> np.ndarray:
    """Covariances `(K, D, D)` in the form that scikit-learn, tgmm and torchgmm share."""
    if family == "full":
        return dense
    if family == "tied":
        return dense[0]
    variances = np.diagonal(dense, axis1=-2, axis2=-1)
    return variances.copy() if family == "diag" else variances[:, 0].copy()


def dense(family: str, covariances: Any, k: int, d: int) -> np.ndarray:
    """The inverse of `compact`, in float64."""
    given = np.asarray(covariances, dtype=np.float64)
    if family == "full":
        return given
    if family == "tied":
        return np.broadcast_to(given, (k, d, d)).copy()
    if family == "diag":
        return given[:, :, None] * np.eye(d)
    return given[:, None, None] * np.eye(d)


def outcome(passes: int, family: str, weights: Any, means: Any, covariances: Any) -> Outcome:
    """Parameters of a peer in one form."""
    means = np.asarray(means, dtype=np.float64)
    return Outcome(
        int(passes),
        {
            "weights": np.asarray(weights, dtype=np.float64),
            "means": means,
            "covariances": dense(family, covariances, *means.shape),
        },
    )


# -- scikit-learn ---------------------------------------------------------------------------


def scikit_learn(
    family: str, start: GMMLayer, dtype: str, tol: float = 0.0, max_iter: int = 1
) -> Any:
    """A `GaussianMixture` that begins at a layer's parameters."""
    from sklearn.mixture import GaussianMixture

    given = parameters(start)
    matrices = compact(family, given["covariances"])
    precisions = np.linalg.inv(matrices) if family in ("full", "tied") else 1 / matrices
    if family in ("full", "tied"):
        precisions = 0.5 * (precisions + np.swapaxes(precisions, -1, -2))
    kind = np.dtype(dtype)
    return GaussianMixture(
        start.num_components,
        covariance_type=family,
        weights_init=given["weights"].astype(kind),
        means_init=given["means"].astype(kind),
        precisions_init=precisions.astype(kind),
        reg_covar=0.0,
        tol=tol,
        max_iter=max_iter,
    )


def scikit_learn_iteration(family: str, start: GMMLayer, x: np.ndarray) -> tuple[Any, Any, Any]:
    """One EM iteration: what runs, what sets it back to its start, and the estimator."""
    peer = scikit_learn(family, start, str(x.dtype))

    def reset() -> None:
        peer._initialize(x, None)

    def run() -> None:
        _, log_resp = peer._e_step(x)
        peer._m_step(x, log_resp)

    return run, reset, peer


def scikit_learn_pass(family: str, start: GMMLayer, x: np.ndarray) -> tuple[Any, Any]:
    """One EM iteration from any parameters, and what sets it back: tight components are kept."""
    peer, given = scikit_learn(family, start, str(x.dtype)), parameters(start)
    peer.reg_covar = 1e-6
    matrices = compact(family, given["covariances"])
    if family in ("full", "tied"):
        factors = np.swapaxes(np.linalg.inv(np.linalg.cholesky(matrices)), -1, -2)
    else:
        factors = matrices**-0.5

    def reset() -> None:
        peer.weights_, peer.means_, peer.precisions_cholesky_ = (
            value.astype(x.dtype) for value in (given["weights"], given["means"], factors)
        )

    def run() -> None:
        _, log_resp = peer._e_step(x)
        with contextlib.suppress(ValueError):  # of covariances too small, at the end of an M-step
            peer._m_step(x, log_resp)

    return run, reset


def scikit_learn_parameters(family: str, peer: Any) -> dict[str, np.ndarray]:
    """What the estimator holds."""
    return outcome(0, family, peer.weights_, peer.means_, peer.covariances_).parameters


def fit_scikit_learn(problem: Problem, tol: float, max_iter: int) -> Outcome:
    """A whole fit. Its tolerance is the change of the mean log-likelihood, as ours is."""
    family, x = problem.family, problem.x
    peer = scikit_learn(family, problem.start, str(x.dtype), tol, max_iter).fit(x)
    return outcome(peer.n_iter_, family, peer.weights_, peer.means_, peer.covariances_)


def scikit_learn_fit(family: str, num_components: int, x: np.ndarray, max_iter: int) -> None:
    """A fit from random rows, of so many M-steps."""
    from sklearn.mixture import GaussianMixture

    GaussianMixture(
        num_components,
        covariance_type=family,
        init_params="random_from_data",
        tol=0.0,
        max_iter=max_iter,
        random_state=0,
    ).fit(x)


# -- torch libraries ------------------------------------------------------------------------


def fit_torchgmm(problem: Problem, tol: float, max_iter: int) -> Outcome:
    """A whole fit in float32: all rows as one batch, of which it makes two epochs per iteration.

    It takes means alone, and assigns each row to the nearest to find its covariances.
    """
    gmm: Any = importlib.import_module(MODULES["torchgmm"])
    peer = gmm.GaussianMixture(
        len(problem.centres),
        covariance_type=problem.family,
        init_means=torch.from_numpy(problem.centres).float(),
        convergence_tolerance=tol,
        covariance_regularization=0.0,
        trainer_params={
            "max_epochs": max_iter,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "logger": False,
        },
    )
    peer.fit(torch.from_numpy(problem.x))
    model = peer.model_
    found = (model.component_probs, model.means, model.covariances)
    return outcome(peer.num_iter_, problem.family, *found)


def fit_tgmm(problem: Problem, tol: float, max_iter: int) -> Outcome:
    """A whole fit. Its tolerance is relative: ours, divided by the mean log-likelihood there."""
    family, start, x = problem.family, problem.start, problem.x
    tgmm: Any = importlib.import_module(MODULES["tgmm"])
    given = parameters(start)
    kind = torch.from_numpy(x).dtype
    matrices = compact(family, given["covariances"])
    peer = tgmm.GaussianMixture(
        start.num_components,
        n_features=start.num_features,
        covariance_type="tied_full" if family == "tied" else family,
        init_means=torch.from_numpy(given["means"]).to(kind),
        init_weights=torch.from_numpy(given["weights"]).to(kind),
        init_covariances=torch.from_numpy(matrices).to(kind),
        reg_covar=0.0,
        tol=tol / level(start, x),
        max_iter=max_iter,
        device="cpu",
    )
    peer.fit(torch.from_numpy(x))
    passes = len(peer.log_likelihood_history_)
    return outcome(passes, family, peer.weights_, peer.means_, peer.covariances_)


def level(start: GMMLayer, x: np.ndarray) -> float:
    """The magnitude of the mean log-likelihood, from some rows at the start."""
    with torch.no_grad():
        return float(start.log_prob(torch.from_numpy(x[:4096]).double()).mean().abs())


def fit_pomegranate(problem: Problem, tol: float, max_iter: int) -> Outcome:
    """A whole fit in float32. Its tolerance is on the sum over rows."""
    family, x = problem.family, problem.x
    gmm: Any = importlib.import_module(MODULES["pomegranate"])
    distributions: Any = importlib.import_module("pomegranate.distributions")
    given = parameters(problem.start)
    matrices = compact(family, given["covariances"])
    kind = np.float32
    components = [
        distributions.Normal(mean.astype(kind), matrix.astype(kind), covariance_type=family)
        for mean, matrix in zip(given["means"], matrices, strict=True)
    ]
    weights = given["weights"].astype(kind)

    class Counted(gmm.GeneralMixtureModel):
        passes = 0

        def summarize(self, *arguments: Any, **options: Any) -> Any:
            self.passes += 1
            return super().summarize(*arguments, **options)

    peer = Counted(
        components,
        priors=weights / weights.sum(),
        tol=tol * len(x),
        max_iter=max_iter,
        check_data=False,
    )
    peer.fit(torch.from_numpy(x))
    means = torch.stack([d.means for d in peer.distributions])
    covariances = torch.stack([d.covs for d in peer.distributions])
    return outcome(peer.passes, family, peer.priors, means, covariances)


# Which families and dtypes each of them offers.
FITS: dict[str, tuple[Fit, tuple[str, ...], tuple[str, ...]]] = {
    "scikit-learn": (
        fit_scikit_learn,
        ("full", "diag", "spherical", "tied"),
        ("float32", "float64"),
    ),
    "torchgmm": (fit_torchgmm, ("full", "diag", "spherical", "tied"), ("float32",)),
    "tgmm": (fit_tgmm, ("full", "diag", "spherical", "tied"), ("float32", "float64")),
    "pomegranate": (fit_pomegranate, ("full", "diag"), ("float32",)),
}


# -- plain torch ----------------------------------------------------------------------------


class PlainIteration:
    """One EM iteration as one would write it in torch, in chunks: on any device.

    Log densities by whitened differences, second moments by `einsum`.

    Args:
        family: `full` or `diag`.
        start: where it begins.
        x: rows.
        chunk: rows at a time.
    """

    def __init__(self, family: str, start: GMMLayer, x: torch.Tensor, chunk: int) -> None:
        self.family, self.x, self.chunk = family, x, chunk
        dtype = next(name for name, kind in DTYPES.items() if kind == x.dtype)
        layer = in_dtype(start, dtype, str(x.device))
        self.start = tuple(
            value.detach() for value in (layer.weights, layer.means, layer.covariance_matrix)
        )
        self.weights, self.means, self.covariances = self.start

    def reset(self) -> None:
        """Back to the start."""
        self.weights, self.means, self.covariances = self.start

    @torch.no_grad()
    def run(self) -> None:
        """E-step and M-step."""
        k, d = self.means.shape
        identity = torch.eye(d, dtype=self.x.dtype, device=self.x.device)
        factor = torch.linalg.cholesky(self.covariances)
        white = torch.linalg.solve_triangular(factor, identity, upper=False)
        deviation = self.covariances.diagonal(dim1=-2, dim2=-1).sqrt()
        log_scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = torch.log(self.weights) - log_scale - 0.5 * d * math.log(2 * math.pi)
        counts, first, second = (torch.zeros((), device=self.x.device) for _ in range(3))
        for x in self.x.split(self.chunk):
            diff = x.unsqueeze(1) - self.means
            if self.family == "full":
                z = torch.einsum("nkd,ked->nke", diff, white)
            else:
                z = diff / deviation
            resp = (constant - 0.5 * z.square().sum(-1)).softmax(-1)
            counts = counts + resp.sum(0)
            first = first + torch.einsum("nk,nkd->kd", resp, diff)
            weighted = resp.unsqueeze(-1) * diff
            if self.family == "full":
                second = second + torch.einsum("nkd,nke->kde", weighted, diff)
            else:
                second = second + (weighted * diff).sum(0)
        gap = first / counts.unsqueeze(-1)
        self.weights, self.means = counts / len(self.x), self.means + gap
        if self.family == "full":
            outer = gap.unsqueeze(-1) * gap.unsqueeze(-2)
            self.covariances = second / counts.view(k, 1, 1) - outer
        else:
            self.covariances = (second / counts.unsqueeze(-1) - gap.square()).diag_embed()

    def parameters(self) -> dict[str, np.ndarray]:
        """Where it stands."""
        named = {"weights": self.weights, "means": self.means, "covariances": self.covariances}
        return {name: value.double().cpu().numpy() for name, value in named.items()}
