"""What `scripts/benchmark.py` measures: one subject per module."""

from __future__ import annotations

# Name on the command line -> module. The order is the order of a whole run.
SUBJECTS = {
    "iteration": "iteration",
    "real": "real_rows",
    "tight": "tight",
    "fit": "whole_fit",
    "few": "few_rows",
    "estimator": "estimator",
    "wide": "wide",
    "memory": "memory",
    "log_prob": "density",
    "gradient": "gradient",
    "likelihood_gradient": "likelihood_gradient",
    "head": "head",
    "draws": "draws",
    "impute": "impute",
    "missing": "missing",
    "restarts": "restarts",
    "many": "many_mixtures",
    "priors": "priors",
    "acceleration": "acceleration",
    "streaming": "streaming",
    "processes": "processes",
    "lightning": "callback_route",
    "m_step": "m_share",
    "variational": "variational",
    "gibbs": "gibbs",
    "safety": "safety",
    "crossover": "crossover",
}
# Those that also run on a GPU, against peers written in torch.
ON_CUDA = ("iteration", "log_prob", "gradient", "head", "draws")
