"""Posteriors of mixtures by sampling, with the libraries of others.

Read in this order: `draws`, `raw`, `target`, `nuts`.
"""

from __future__ import annotations

from gmm_lightning.bayes.draws import PosteriorDraws
from gmm_lightning.bayes.nuts import fit_nuts
from gmm_lightning.bayes.raw import RawVector, log_jacobian
from gmm_lightning.bayes.target import LogPosterior

__all__ = ["LogPosterior", "PosteriorDraws", "RawVector", "fit_nuts", "log_jacobian"]
