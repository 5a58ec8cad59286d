"""Posteriors of mixtures by sampling, and what draws say.

Read in this order: `draws`, `alignment`, `diagnostics`, `partition`, `arviz`, `gibbs`; `raw`,
`target`, and `nuts`, which takes the sampler of another library; `samplers`.
"""

from __future__ import annotations

from gmm_lightning.bayes.alignment import Aligned, align
from gmm_lightning.bayes.arviz import loo, row_log_prob, save_netcdf, to_inference_data, waic
from gmm_lightning.bayes.diagnostics import (
    Summary,
    effective_size,
    invariants,
    rhat,
    summary,
    worst,
)
from gmm_lightning.bayes.draws import PosteriorDraws
from gmm_lightning.bayes.gibbs import fit_gibbs
from gmm_lightning.bayes.nuts import fit_nuts
from gmm_lightning.bayes.partition import partition, similarity
from gmm_lightning.bayes.raw import RawVector, log_jacobian
from gmm_lightning.bayes.samplers import Gibbs, Nuts, Sampler
from gmm_lightning.bayes.target import LogPosterior

__all__ = [
    "Aligned",
    "Gibbs",
    "LogPosterior",
    "Nuts",
    "PosteriorDraws",
    "RawVector",
    "Sampler",
    "Summary",
    "align",
    "effective_size",
    "fit_gibbs",
    "fit_nuts",
    "invariants",
    "log_jacobian",
    "loo",
    "partition",
    "rhat",
    "row_log_prob",
    "save_netcdf",
    "similarity",
    "summary",
    "to_inference_data",
    "waic",
    "worst",
]
