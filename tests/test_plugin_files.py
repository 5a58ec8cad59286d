"""A plug-in of one's own, one of each kind: one file and one yaml each, nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from support.lightning_runs import ROOT, command, the_run

COVARIANCE = '''
"""Ellipsoids of one shape: the unit matrix times a variance per component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.covariances.base import Covariance


@dataclass(frozen=True)
class ToyCovariance(Covariance):
    """Spheres, by nothing but what the protocol asks for."""

    name: ClassVar[str] = "toy"

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (num_components, num_features, num_features)

    def scale(self, raw: Tensor) -> Tensor:
        size = raw.diagonal(dim1=-2, dim2=-1).mean(-1).exp()
        return size[..., None, None] * torch.eye(raw.shape[-1]).to(raw)

    def raw(self, scale: Tensor) -> Tensor:
        return scale.diagonal(dim1=-2, dim2=-1).log().diag_embed()

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        size = (scatter.diagonal(dim1=-2, dim2=-1).mean(-1) / dof).sqrt()
        return size[..., None, None] * torch.eye(scatter.shape[-1]).to(scatter)

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        return num_components
'''

PRIOR = '''
"""A prior that adds the same number of rows to every component."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.hyperparameters import Hyperparameter, MixtureShape
from gmm_lightning.priors.base import Prior
from gmm_lightning.statistics import Moments


class ToyPrior(Prior):
    """`log p(pi) = rows * sum_k log pi_k`."""

    name: ClassVar[str] = "toy"
    slot: ClassVar[str] = "weights"
    rows: Tensor

    def __init__(self, rows: Hyperparameter = 1.0) -> None:
        super().__init__(rows=rows)

    def bind(self, shape: MixtureShape) -> None:
        self._register("rows", shape.weights)

    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        return (self.rows * mixture.log_weights).sum(-1)

    def update(self, moments: Moments, covariance: Covariance) -> Moments:
        return replace(moments, mass=moments.mass + self.rows.to(moments.mass))
'''

PROJECTION = '''
"""Weights that stay the same."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.projections.base import Projection
from gmm_lightning.statistics import Moments


class ToyProjection(Projection):
    """The first component has half of all rows."""

    name: ClassVar[str] = "toy"

    def forward(
        self, moments: Moments, covariance: Covariance, present: MixtureDensity
    ) -> Moments:
        mass = moments.mass.clone()
        mass[..., 0] = mass[..., 1:].sum(-1)
        return replace(moments, mass=mass)
'''

INITIALIZER = '''
"""Rows dealt out like cards."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.initializers.base import Initializer


class ToyInitializer(Initializer):
    """Row n to component n mod K."""

    name: ClassVar[str] = "toy"

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        return torch.arange(len(x), device=x.device) % num_components
'''

NOISE = '''
"""Noise of density one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning.noise.base import Noise
from gmm_lightning.rows import RowSource


class ToyNoise(Noise):
    """`u(x) = 1`."""

    name: ClassVar[str] = "toy"

    def register(self, num_features: int) -> None:
        pass

    def resolve(self, source: RowSource) -> None:
        pass

    def log_density(self, x: Tensor, missing: str | None = None) -> Tensor:
        return torch.zeros_like(x[..., 0])

    def sample(self, size: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        raise NotImplementedError

    @property
    def has_draws(self) -> bool:
        return False
'''

EVIDENCE = '''
"""Evidence that speaks for the later components, of every row alike."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from gmm_lightning.evidence.base import Evidence
from gmm_lightning.rows import Batch


class ToyEvidence(Evidence):
    """`log p(e | k) = slope k`."""

    name: ClassVar[str] = "toy"

    def __init__(self, num_components: int, slope: float = 1.0) -> None:
        super().__init__()
        self.num_components, self.slope = num_components, slope

    def forward(self, batch: Batch) -> Tensor:
        number = torch.arange(self.num_components).to(batch.x)
        return (self.slope * number).expand(*batch.x.shape[:-1], -1)

    def config(self) -> dict[str, Any]:
        return {"num_components": self.num_components, "slope": self.slope}
'''

STOPPING = '''
"""One step is enough."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gmm_lightning.em.convergence import GainEstimate
from gmm_lightning.em.stopping.base import Change, StoppingRule


class ToyRule(StoppingRule):
    """Converged as soon as a step gains anything."""

    name: ClassVar[str] = "toy"

    def settled(self, gains: GainEstimate, tol: Tensor | float, change: Change = None) -> Tensor:
        return torch.isfinite(gains.gain)
'''

FILES = {
    "gmm_lightning/covariances/toy.py": COVARIANCE,
    "gmm_lightning/priors/toy.py": PRIOR,
    "gmm_lightning/projections/toy.py": PROJECTION,
    "gmm_lightning/initializers/toy.py": INITIALIZER,
    "gmm_lightning/noise/toy.py": NOISE,
    "gmm_lightning/evidence/toy.py": EVIDENCE,
    "gmm_lightning/em/stopping/toy.py": STOPPING,
    "configs/evidence/toy.yaml": (
        "# @package model.layer.evidence\n"
        "_target_: gmm_lightning.evidence.toy.ToyEvidence\n"
        "num_components: ${model.layer.num_components}\n"
        "slope: 1.0\n"
    ),
    "configs/noise/toy.yaml": (
        "# @package model.layer.noise\n_target_: gmm_lightning.noise.toy.ToyNoise\nweight: 0.05\n"
    ),
    "configs/cov/toy.yaml": (
        "# @package model.layer.covariance\n"
        "_target_: gmm_lightning.covariances.toy.ToyCovariance\n"
        "reg_covar: 0.0\n"
        "relative_floor: 1e-8\n"
    ),
    "configs/priors/toy.yaml": (
        "# @package model.layer.priors.toy\n"
        "_target_: gmm_lightning.priors.toy.ToyPrior\n"
        "rows: 1.0\n"
    ),
    "configs/projections/toy.yaml": (
        "# @package model.layer.projections.toy\n"
        "_target_: gmm_lightning.projections.toy.ToyProjection\n"
    ),
    "configs/init/toy.yaml": (
        "# @package callbacks.initialize.initializer\n"
        "_target_: gmm_lightning.initializers.toy.ToyInitializer\n"
    ),
}


def test_one_file_and_one_yaml_each_are_all_it_takes(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    for folder in ("gmm_lightning", "configs", "scripts"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    for name, text in FILES.items():
        assert not (copy / name).exists()
        (copy / name).write_text(text.lstrip())
    done = command(
        *(
            "cov=toy",
            "priors=toy",
            "projections=toy",
            "noise=toy",
            "noise.weight=0.2",
            "evidence=toy",
            "fit.stopping=toy",
            "init=toy",
            "data=faithful",
            "fit.max_iter=30",
        ),
        "model.layer.priors.toy.rows=4",
        cwd=tmp_path,
        path=copy,
    )
    assert done.returncode == 0, done.stderr
    assert "priors toy, noise toy, constraints toy" in done.stdout + done.stderr
    run = the_run(tmp_path)
    file = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    layer = file["gmm_lightning"]["layer"]
    assert layer["covariance"]["name"] == "toy"
    assert layer["priors"] == [{"name": "toy", "rows": 4.0}]
    assert (layer["noise"]["name"], layer["noise"]["weight"]) == ("toy", 0.2)
    assert layer["projections"] == [{"name": "toy"}]
    assert layer["evidence"] == [{"name": "toy", "num_components": 2, "slope": 1.0}]
    # The rule ends the fit after the first step that has a gain.
    assert len(file["callbacks"]["EMCallback"]["history"]) == 2
    weights = file["state_dict"]["layer.mixture_logits"].softmax(-1)
    assert abs(float(weights[0]) - 0.5) < 1e-6
    # It is the toy that computed: spheres, from the toy's start.
    raw = file["state_dict"]["layer.raw_scale"]
    assert torch.equal(raw, raw[:, 0, 0, None, None] * torch.eye(2))
    assert float(file["callbacks"]["EMCallback"]["history"][-1]) < 0
    # Both are listed where a misspelt one is.
    wrong = command("cov=nope", cwd=tmp_path, path=copy)
    assert "tied_spherical, toy" in wrong.stderr
    # The original knows nothing of them.
    original = command("cov=toy", cwd=tmp_path)
    assert original.returncode == 1
    assert "unknown option cov=toy" in original.stderr
