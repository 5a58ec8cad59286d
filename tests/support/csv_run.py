"""Rows in odd units as a csv file, and the mixture of a run on them without the library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

COLUMNS = ("mass", "width", "temp")
Rows = NDArray[np.float64]


def things(n: int, seed: int) -> tuple[Rows, list[str]]:
    """Rows of three overlapping kinds: thousands, thousandths and negative numbers."""
    source = np.random.default_rng(seed)
    kind = source.integers(3, size=n)
    centre = np.array([[5000.0, 2e-3, -40.0], [7000.0, 3e-3, -30.0], [6000.0, 1e-3, -20.0]])
    x = centre[kind] + source.normal(size=(n, 3)) * [700.0, 5e-4, 4.0]
    return x, ["abc"[k] for k in kind]


def write_csv(path: Path, columns: dict[str, Any]) -> Path:
    """A csv file with names; numbers in their exact decimals."""
    lines = [",".join(columns)]
    lines += [",".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def named(x: Rows, *order: str) -> dict[str, list[float]]:
    """Columns by name, in another order if wanted."""
    return {name: x[:, COLUMNS.index(name)].tolist() for name in order or COLUMNS}


@dataclass(frozen=True)
class Plain:
    """A mixture with full covariances in the user's units, from numpy and scipy alone."""

    weights: Rows
    means: Rows
    covariances: Rows

    @classmethod
    def read(cls, run: Path) -> Plain:
        """From a run's checkpoint."""
        path = run / "checkpoints" / "last.ckpt"
        state = torch.load(path, weights_only=True)["state_dict"]
        wide = {name: value.double().numpy() for name, value in state.items()}
        scale, loc = wide["standardize.scale"], wide["standardize.loc"]
        raw, logits = wide["layer.raw_scale"], wide["layer.mixture_logits"]
        # The strict lower part as it is, the diagonal as its logarithm.
        diagonal = np.exp(np.diagonal(raw, axis1=-2, axis2=-1))
        factor = scale[:, None] * (np.tril(raw, -1) + diagonal[..., None] * np.eye(len(scale)))
        return cls(
            np.exp(logits - logsumexp(logits)),
            wide["layer.means"] * scale + loc,
            factor @ factor.transpose(0, 2, 1),
        )

    def log_joint(self, x: Rows) -> Rows:
        """`log pi_k + log N(x | mu_k, Sigma_k)`, `(N, K)`."""
        joint: list[Rows] = []
        for weight, mean, covariance in zip(
            self.weights, self.means, self.covariances, strict=True
        ):
            # scipy's multivariate_normal refuses 1e3 beside 1e-3 as singular.
            unit = np.sqrt(np.diagonal(covariance))
            correlation = covariance / np.outer(unit, unit)
            normal = multivariate_normal(np.zeros(len(unit)), correlation)
            density = (
                np.atleast_1d(normal.logpdf((x - np.asarray(mean)) / np.asarray(unit)))
                - np.log(unit).sum()
            )
            joint.append(np.log(weight) + density)
        return np.stack(joint, axis=-1)

    def log_prob(self, x: Rows) -> Rows:
        """`log p(x)`, `(N,)`."""
        return np.asarray(logsumexp(self.log_joint(x), axis=-1))

    def responsibilities(self, x: Rows) -> Rows:
        """`p(k | x)`, `(N, K)`."""
        joint = self.log_joint(x)
        return np.exp(joint - self.log_prob(x)[:, None])

    def sample(self, n: int, source: np.random.Generator) -> Rows:
        """Draws."""
        z = source.choice(len(self.weights), size=n, p=self.weights)
        factor = np.linalg.cholesky(self.covariances)
        noise = source.normal(size=(n, self.means.shape[1]))
        return self.means[z] + np.einsum("nij,nj->ni", factor[z], noise)
