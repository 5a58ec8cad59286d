"""The mixture as a density: parameters, log p(x), moments, and draws from it."""

from __future__ import annotations

from gmm_lightning.distributions.density.drawing import DrawOptions, SampleShape, draw_samples
from gmm_lightning.distributions.density.mixture_density import (
    M,
    MixtureDensity,
    as_mixture,
    moment_match,
)
from gmm_lightning.distributions.density.noise import standard_normals
from gmm_lightning.distributions.density.reparameterization import (
    check_reparameterization,
    conditional_cdfs,
    draw_reparameterized,
    gumbel_softmax_sample,
    implicit_reparameterization,
    score_function,
)
from gmm_lightning.distributions.density.single import require_single

__all__ = [
    "DrawOptions",
    "M",
    "MixtureDensity",
    "SampleShape",
    "as_mixture",
    "check_reparameterization",
    "conditional_cdfs",
    "draw_reparameterized",
    "draw_samples",
    "gumbel_softmax_sample",
    "implicit_reparameterization",
    "moment_match",
    "require_single",
    "score_function",
    "standard_normals",
]
