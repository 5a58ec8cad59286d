"""Draws in ArviZ: files of its kind, and predictive criteria by its functions."""

from __future__ import annotations

import logging
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.bayes.draws import PosteriorDraws


def to_inference_data(
    draws: PosteriorDraws, x: Tensor | None = None, columns: list[str] | None = None
) -> Any:
    """Aligned draws as ArviZ's `InferenceData`, with the log density of each row if x is given.

    Args:
        draws: aligned: see `align`.
        x: rows `(N, D)`, for `waic` and `loo`; None: without them.
        columns: names of the features.

    Raises:
        ImportError: ArviZ is not installed.
    """
    arviz = _arviz()
    d = draws.means.shape[-1]
    names = columns or [str(i) for i in range(d)]
    deviation = draws.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    posterior = {
        "weights": draws.weights.numpy(),
        "means": draws.means.numpy(),
        "sd": deviation.numpy(),
        "covariance": draws.covariance_matrix.numpy(),
    }
    stats: dict[str, Any] = {"lp": draws.log_likelihood.numpy()}
    if draws.diverging is not None:
        stats["diverging"] = draws.diverging.numpy()
    groups: dict[str, Any] = {"posterior": posterior, "sample_stats": stats}
    if x is not None:
        groups["log_likelihood"] = {"x": row_log_prob(draws, x).numpy()}
    features = ["component", "feature"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return arviz.from_dict(
            **groups,
            coords={"feature": names, "other_feature": names},
            dims={
                "weights": ["component"],
                "means": features,
                "sd": features,
                "covariance": [*features, "other_feature"],
                "x": ["row"],
            },
        )


def save_netcdf(draws: PosteriorDraws, path: str | Path, columns: list[str] | None = None) -> None:
    """Write aligned draws as ArviZ's NetCDF file.

    Raises:
        ImportError: ArviZ is not installed.
    """
    to_inference_data(draws, columns=columns).to_netcdf(str(path))


def waic(draws: PosteriorDraws, x: Tensor) -> Any:
    """ArviZ's WAIC of rows `(N, D)`, with the expected log predictive density as `elpd_waic`.

    References:
        S. Watanabe (2010), Asymptotic equivalence of Bayes cross validation and widely applicable
        information criterion in singular learning theory, JMLR 11.
    """
    return _arviz().waic(to_inference_data(draws, x))


def loo(draws: PosteriorDraws, x: Tensor) -> Any:
    """ArviZ's leave-one-out cross-validation by Pareto-smoothed importance sampling.

    References:
        A. Vehtari, A. Gelman, J. Gabry (2017), Practical Bayesian model evaluation using
        leave-one-out cross-validation and WAIC, Statistics and Computing 27.
    """
    return _arviz().loo(to_inference_data(draws, x))


@torch.no_grad()
def row_log_prob(draws: PosteriorDraws, x: Tensor) -> Tensor:
    """Log density of each row under each draw, `(C, S, N)`."""
    mixture, rows = draws.mixture(), x.to(draws.means)
    number = draws.num_chains * draws.num_draws * draws.means.shape[2:].numel()
    size = rows_per_chunk(number, draws.means, in_cache=False)
    parts = [mixture.log_prob(part[:, None, None]) for part in rows.split(size)]
    return torch.cat(parts).movedim(0, -1)


def _arviz() -> Any:
    before = logging.root.manager.disable
    try:
        with warnings.catch_warnings():
            # It announces its next version whenever it is imported, in warnings and in logs.
            warnings.simplefilter("ignore", FutureWarning)
            logging.disable(logging.WARNING)
            return import_module("arviz")
    except ImportError as error:
        raise ImportError("this needs ArviZ: pip install 'gmm-lightning[bayes]'") from error
    finally:
        logging.disable(before)
