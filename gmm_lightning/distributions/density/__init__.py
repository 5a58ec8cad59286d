"""The mixture as a density: parameters, log p(x), moments, and draws from it."""

from __future__ import annotations

from gmm_lightning.distributions.density.drawing import drawn
from gmm_lightning.distributions.density.implicit import conditional_cdfs, implicit, normal_cdf
from gmm_lightning.distributions.density.mixture_density import (
    LOG_2PI,
    M,
    MixtureDensity,
    as_mixture,
)
from gmm_lightning.distributions.density.options import DrawOptions, SampleShape
from gmm_lightning.distributions.density.reparameterization import (
    check_reparameterized,
    relaxed,
    reparameterized,
    score_function,
)

__all__ = [
    "LOG_2PI",
    "DrawOptions",
    "M",
    "MixtureDensity",
    "SampleShape",
    "as_mixture",
    "check_reparameterized",
    "conditional_cdfs",
    "drawn",
    "implicit",
    "normal_cdf",
    "relaxed",
    "reparameterized",
    "score_function",
]
