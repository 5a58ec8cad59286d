"""Rows to measure with, and parameters to start from."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gmm_lightning import GMMLayer, SufficientStatistics, fit_em
from gmm_lightning.em import MixtureModel, MixtureParameters, MStepResult, maximize
from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.plan import make_plan
from gmm_lightning.rows import as_source

FAMILIES = ("full", "diag", "spherical", "tied", "tied_diag", "tied_spherical")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Clusters:
    """Rows of overlapping clusters, in float64, with the centres that they were drawn about."""

    x: np.ndarray
    centres: np.ndarray

    def rows(self, dtype: str, device: str = "cpu") -> Tensor:
        """The rows as a tensor."""
        return torch.from_numpy(self.x).to(device, DTYPES[dtype])


def clusters(n: int, d: int, k: int, separation: float = 4.0, seed: int = 0) -> Clusters:
    """Clusters with covariances of their own, the same in every run.

    The distance between two centres is about `separation` standard deviations, whatever D is.
    """
    rng = np.random.default_rng(seed)
    centres = separation / np.sqrt(2 * d) * rng.standard_normal((k, d))
    mixing = np.eye(d) + 0.3 / np.sqrt(d) * rng.standard_normal((k, d, d))
    labels = rng.integers(k, size=n)
    x = rng.standard_normal((n, d))
    for component in range(k):
        own = labels == component
        x[own] = x[own] @ mixing[component].T + centres[component]
    return Clusters(x, centres)


def nearest(data: Clusters) -> np.ndarray:
    """The nearest centre of each row."""
    offsets = 0.5 * np.square(data.centres).sum(-1)
    return (data.x @ data.centres.T - offsets).argmax(-1)


def start(family: str, data: Clusters) -> GMMLayer:
    """A layer in float64 after one M-step from the nearest centres: where every fit begins."""
    k, d = data.centres.shape
    layer = GMMLayer(d, k, family, dtype=torch.float64)
    fit_em(layer, data.x, initializer=nearest(data), max_iter=0)
    return layer


def given(family: str, data: Clusters) -> GMMLayer:
    """A layer in float64 with unit covariances about the centres: sound however few the rows."""
    k, d = data.centres.shape
    layer = GMMLayer(d, k, family, dtype=torch.float64)
    layer.set_parameters(means=torch.from_numpy(data.centres))
    return layer


def in_dtype(layer: GMMLayer, dtype: str, device: str = "cpu") -> GMMLayer:
    """A copy in another dtype."""
    return copy.deepcopy(layer).to(device, DTYPES[dtype])


class FitSteps:
    """The two steps on values, as `fit_em` takes them: memory and pooled moments are made once.

    Args:
        layer: gives the parameters to start from; `write` puts the present ones back.
        x: rows in memory.
        missing: as for `fit_em`.
    """

    def __init__(self, layer: GMMLayer, x: Tensor | np.ndarray, missing: str | None = None) -> None:
        self.layer, self.model = layer, MixtureModel.from_layer(layer)
        self._num_rows = len(x)
        source = as_source(x, num_features=layer.num_features, missing=missing)
        self._e_step = EStep(source, self.model, None)
        self.reset()

    def reset(self) -> None:
        """Back to the parameters of the layer."""
        self.parameters = MixtureParameters.from_layer(self.layer)

    def statistics(self) -> SufficientStatistics:
        """One E-step."""
        return self._e_step(self.model, self.parameters)

    def iterate(self) -> MStepResult:
        """One E-step and one M-step."""
        step = maximize(self.model, self.parameters, self.statistics())
        self.parameters = step.parameters
        return step

    def ways(self) -> tuple[int, int, float | None]:
        """Components by products and by whitened rows in the next E-step, and their overlap."""
        n, overlap = self._num_rows, self._e_step.overlap
        plan = make_plan(self.model, self.parameters, n, shared=True, overlap=overlap)
        whitened = sum(len(terms.index) for terms in plan.whitened) if plan is not None else 0
        return self.parameters.means.shape[:-1].numel() - whitened, whitened, overlap

    def fitted(self) -> GMMLayer:
        """A layer with the present parameters."""
        layer = copy.deepcopy(self.layer)
        self.parameters.write_to(layer)
        return layer


def operations(n: int, d: int, k: int) -> int:
    """Multiplications and additions of the two products of one iteration, full covariances."""
    return 2 * 2 * n * k * (d * (d + 1) // 2 + d + 1)


def largest_difference(ours: GMMLayer, theirs: dict[str, np.ndarray]) -> float:
    """Between weights, means and dense covariances, relative to the largest entry of each."""
    own = parameters(ours)
    return max(
        float(np.abs(own[name] - theirs[name]).max() / np.abs(own[name]).max()) for name in theirs
    )


def parameters(layer: GMMLayer) -> dict[str, np.ndarray]:
    """Weights, means and dense covariances in float64."""
    named = {
        "weights": layer.weights,
        "means": layer.means,
        "covariances": layer.covariance_matrix,
    }
    return {name: value.detach().double().cpu().numpy() for name, value in named.items()}
