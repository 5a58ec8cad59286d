"""Export of mixtures, and conversion from and to the mixtures of other libraries.

- Export: `export_module(layer)`, `export_density(model)`, `export_parameters(model)` return modules
  that `torch.export`, `torch.compile` and `torch.onnx.export` take.
- Convert: `from_sklearn` / `to_sklearn`, `from_torch` / `to_torch`, `from_gmr` / `to_gmr`.

Other libraries are imported by the functions that need them.
"""

from __future__ import annotations

from gmm_lightning.interop.conditional import (
    ConditionalDensity,
    ConditionalParameters,
    export_density,
    export_parameters,
)
from gmm_lightning.interop.frozen import FrozenMixture, export_module
from gmm_lightning.interop.gmr import from_gmr, to_gmr
from gmm_lightning.interop.scikit_learn import from_sklearn, to_sklearn
from gmm_lightning.interop.torch_distributions import from_torch, to_torch

__all__ = [
    "ConditionalDensity",
    "ConditionalParameters",
    "FrozenMixture",
    "export_density",
    "export_module",
    "export_parameters",
    "from_gmr",
    "from_sklearn",
    "from_torch",
    "to_gmr",
    "to_sklearn",
    "to_torch",
]
