"""Random layers and rows for every registered family, prior and initializer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning import GMMLayer, resolve_priors
from gmm_lightning.covariances import registry as covariances
from gmm_lightning.initializers import Given
from gmm_lightning.initializers import registry as initializers
from gmm_lightning.priors import Prior
from gmm_lightning.priors import registry as priors

FAMILIES = covariances.names
# Every prior alone, and the combinations that fill all slots.
PRIORS = (
    "none",
    *priors.names,
    "dirichlet+niw",
    "dirichlet+normal+inverse_wishart",
    "dirichlet+independent_normal+half_cauchy+lkj",
)
BATCHES = ((), (3,), (2, 3))
# Initializers that need nothing from the user.
INITIALIZERS = tuple(n for n in initializers.names if initializers.get(n) is not Given)

# Values away from every default, for two features.
HYPER: dict[str, dict[str, Any]] = {
    "dirichlet": {"concentration": 3.5},
    "normal": {"loc": [0.7, -0.4], "mean_precision": 2.5},
    "inverse_wishart": {"df": 7.0, "scale_matrix": [[2.0, 0.6], [0.6, 1.5]]},
    "independent_normal": {"loc": [0.7, -0.4], "covariance": [[2.0, 0.6], [0.6, 1.5]]},
    "half_cauchy": {"scale": 1.7},
    "half_normal": {"scale": 1.7},
    "log_normal": {"loc": 0.3, "scale": 0.8},
    "inverse_gamma": {"concentration": 3.5, "scale": 2.5},
    "lkj": {"concentration": 2.5},
    "sparse_dirichlet": {"concentration": 9.5},
    "stick_breaking": {"concentration": 2.5},
}
HYPER["niw"] = HYPER["normal"] | HYPER["inverse_wishart"]


def make_priors(label: str, *, given: bool = False) -> list[Prior]:
    """Priors from names joined by `+`; `given` ones carry values instead of defaults."""
    if label == "none":
        return []
    return [priors.get(name)(**(HYPER.get(name, {}) if given else {})) for name in label.split("+")]


def served(family: str, label: str, fit: str = "em") -> bool:
    """Whether all priors of a label serve a family and a kind of fit."""
    return all(
        fit in prior.fits and prior.supports(covariances.create(family))
        for prior in make_priors(label)
    )


def cases(fit: str = "em") -> list[tuple[str, str]]:
    """Every family with every prior that serves it."""
    return [(f, p) for f in FAMILIES for p in PRIORS if served(f, p, fit)]


def rows(n: int, d: int, generator: Generator, batch: tuple[int, ...] = ()) -> Tensor:
    """Correlated rows `(n, *batch, d)` of three overlapping clusters."""
    like: dict[str, Any] = {"generator": generator, "device": generator.device}
    centre = 4.0 * torch.tensor([[0.0, 0.0], [1.0, 0.2], [0.3, 1.1]], device=generator.device)
    centre = centre.repeat(1, d)[:, :d]
    spread = torch.tensor([0.8, 1.0, 1.3], device=generator.device)
    which = torch.randint(3, (n, *batch), **like)
    noise = torch.randn(n, *batch, d, **like)
    noise = noise + 0.5 * noise.roll(1, -1) * (which == 1).unsqueeze(-1)
    return centre[which] + spread[which].unsqueeze(-1) * noise


def random_layer(
    family: str,
    prior: str = "none",
    *,
    generator: Generator,
    batch: tuple[int, ...] = (),
    num_components: int = 3,
    num_features: int = 2,
    given: bool = False,
) -> GMMLayer:
    """A layer with parameters at random and priors that have their values."""
    layer = GMMLayer(
        num_features,
        num_components,
        family,
        make_priors(prior, given=given),
        batch_shape=batch,
        device=generator.device,
    )
    with torch.no_grad():
        for parameter, width in (
            (layer.mixture_logits, 0.7),
            (layer.means, 2.0),
            (layer.raw_scale, 0.3),
        ):
            parameter.normal_(0.0, width, generator=generator)
    resolve_priors(layer, rows(40, num_features, generator, batch))
    return layer


def rounding(tolerance: float) -> float:
    """A tolerance stated for float64, widened by as much as the default dtype is coarser."""
    eps = torch.finfo(torch.get_default_dtype()).eps
    return tolerance * eps / torch.finfo(torch.float64).eps


def parameters(layer: GMMLayer) -> list[Tensor]:
    """Copies of a layer's parameters."""
    return [p.detach().clone() for p in (layer.mixture_logits, layer.means, layer.raw_scale)]


def finite(layer: GMMLayer) -> bool:
    """Whether every parameter is a number."""
    return all(bool(torch.isfinite(p).all()) for p in layer.parameters())


def collapsing_rows() -> Tensor:
    """Five rows of ones and five of zeros in 5-D."""
    return torch.cat([torch.ones(5, 5), torch.zeros(5, 5)])
