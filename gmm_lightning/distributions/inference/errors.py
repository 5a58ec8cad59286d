"""Rows with errors of measurement: their density, and the true rows that they stand for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning._tracing import is_tracing, require_readable
from gmm_lightning._validation import as_generator, require_choice
from gmm_lightning.distributions.density import MixtureDensity, as_mixture, require_single
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.linalg import LOG_2PI, full_precision, masked_inverse
from gmm_lightning.rows import (
    ERROR_COVARIANCE,
    Batch,
    as_tensor,
    check_errors,
    masked_errors,
    with_errors,
)


def log_joint_noisy(
    mixture: MixtureDensity, x: Tensor, error_covariance: Any, missing: str | None = None
) -> Tensor:
    """Log joint densities `log pi_k + log N(x | mu_k, Sigma_k + S_n)`, `(*S, *B, K)`.

    Args:
        mixture: of the true rows.
        x: rows `(*S, *B, D)`.
        error_covariance: S_n, variances `(*S, D)` or matrices `(*S, D, D)`.
        missing: None, or `marginalize`.
    """
    x = mixture.check_rows(x).to(mixture.means.dtype)
    observed = torch.ones_like(x, dtype=torch.bool) if missing is None else ~torch.isnan(x)
    errors = _errors(mixture, x, error_covariance, observed)
    gap = torch.where(observed, x, 0.0).unsqueeze(-2) - mixture.means
    gap, mask = gap * observed.unsqueeze(-2), observed.unsqueeze(-2).to(x)
    with full_precision(x.device):
        if mixture.covariance.axis_aligned and errors.dim() == x.dim():
            variance = mixture.covariance.variances(mixture.scale.square(), x.shape[-1])
            total = variance + errors.unsqueeze(-2)
            square = (gap.square() / total).sum(-1)
            log_det = ((total.log() + LOG_2PI) * mask).sum(-1)
        else:
            inverse, log_det = _inverse(mixture, errors, observed)
            square = ((inverse @ gap.unsqueeze(-1)).squeeze(-1) * gap).sum(-1)
            log_det = log_det + LOG_2PI * mask.sum(-1)
        return mixture.log_weights - 0.5 * (square + log_det)


def deconvolve(
    mixture: MixtureDensity,
    x: Any,
    error_covariance: Any,
    kind: str = "mean",
    generator: Generator | int | None = None,
) -> Tensor:
    """The true rows given the rows with errors, as a tensor.

    Args:
        mixture: a single mixture, of the true rows.
        x: rows `(*S, D)`, NaN where an entry is missing.
        error_covariance: of the errors, variances `(*S, D)` or matrices `(*S, D, D)`.
        kind: `mean`, the conditional mean; `draw`, a sample from the conditional distribution.
        generator: source of randomness of `draw`, or a seed.

    Raises:
        InvalidArgumentError: a batch, another width, or an unknown kind.
        InvalidDataError: errors of another shape, or that are no covariances.

    References:
        J. Bovy, D. W. Hogg, S. T. Roweis (2011), Extreme deconvolution: inferring complete
        distribution functions from noisy, heterogeneous and incomplete observations, Annals of
        Applied Statistics 5.
        Y. Hoffman, E. Ribak (1991), Constrained realizations of Gaussian fields: a simple
        algorithm, Astrophysical Journal 380.

    Example:
        >>> mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> deconvolve(mixture, torch.tensor([[4.0]]), torch.tensor([[3.0]]))
        tensor([[1.]])
    """
    mixture = as_mixture(mixture)
    require_choice("kind", kind, ("mean", "draw"))
    require_single(mixture, "rows with errors need")
    x, generator = mixture.check_rows(x), as_generator(generator, mixture.means.device)
    require_readable("rows with errors", x)
    errors = _errors(mixture, x, error_covariance, ~torch.isnan(x))
    rows, d = x.reshape(-1, x.shape[-1]).to(mixture.means.dtype), x.shape[-1]
    flat = errors.reshape(len(rows), *errors.shape[x.dim() - 1 :])
    size = rows_per_chunk(4 * mixture.means.numel() * d, mixture.means, in_cache=False)
    parts = zip(rows.split(size), flat.split(size), strict=True)
    found = [_true_rows(mixture, *part, kind, generator) for part in parts]
    return torch.cat(found).reshape(x.shape)


def _true_rows(
    mixture: MixtureDensity, x: Tensor, errors: Tensor, kind: str, generator: Generator | None
) -> Tensor:
    """`deconvolve` of a chunk of rows `(n, D)`."""
    responsibilities = log_joint_noisy(mixture, x, errors, "marginalize").softmax(-1)
    observed = ~torch.isnan(x)
    rows = torch.where(observed, x, 0.0)
    errors = errors if errors.dim() > x.dim() else errors.diag_embed()
    gain = mixture.component_covariances @ _inverse(mixture, errors, observed)[0]
    if kind == "mean":
        gap = torch.where(observed.unsqueeze(-2), rows.unsqueeze(-2) - mixture.means, 0.0)
        each = mixture.means + _multiply(gain, gap)
        found = (responsibilities.unsqueeze(-1) * each).sum(-2)
    else:
        # A draw of a true row and of its error, moved by what their sum differs from x.
        component = torch.multinomial(responsibilities, 1, generator=generator).squeeze(-1)
        noise = torch.empty(2, *x.shape, dtype=rows.dtype, device=rows.device)
        noise.normal_(generator=generator)
        start = mixture.means[component] + _multiply(mixture.scale_tril[component], noise[0])
        gap = torch.where(observed, rows - start - _multiply(_root(errors), noise[1]), 0.0)
        own = gain.take_along_dim(component[..., None, None, None], -3).squeeze(-3)
        found = start + _multiply(own, gap)
    # What has no error is known.
    exact = observed & (errors.diagonal(dim1=-2, dim2=-1) == 0)
    return torch.where(exact, rows, found)


def _multiply(matrix: Tensor, rows: Tensor) -> Tensor:
    return (matrix @ rows.unsqueeze(-1)).squeeze(-1)


def _root(covariance: Tensor) -> Tensor:
    """Matrices R with `R R'` a covariance that may be singular."""
    values, axes = torch.linalg.eigh(covariance)
    return axes * values.clamp(min=0).sqrt().unsqueeze(-2)


def _inverse(mixture: MixtureDensity, errors: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses `(*S, *B, K, D, D)` and log determinants of `Sigma_k + S_n` where observed."""
    if errors.dim() == observed.dim():
        errors = errors.diag_embed()
    total = mixture.component_covariances + errors.unsqueeze(-3)
    return masked_inverse(total, observed.unsqueeze(-2))


def _errors(mixture: MixtureDensity, x: Tensor, given: Any, observed: Tensor) -> Tensor:
    """Errors of rows `(*S, *B, D)`, with ones for B, and 0 where no mixture observes an entry."""
    own, d = len(mixture.batch_shape), x.shape[-1]
    lead = x.shape[: x.dim() - 1 - own]
    given = as_tensor(given, ERROR_COVARIANCE)
    if given.shape not in ((*lead, d), (*lead, d, d)):
        raise InvalidDataError(
            f"error_covariance must hold variances of shape {(*lead, d)} or matrices of shape "
            f"{(*lead, d, d)}, one for each row, got shape {tuple(given.shape)}"
        )
    rows, known = (v.reshape(-1, *v.shape[len(lead) :]) for v in (x, observed))
    errors = given.reshape(len(rows), *given.shape[len(lead) :]).to(rows)
    if not is_tracing():
        check_errors(with_errors(Batch(rows), errors))
    errors = masked_errors(errors, known.reshape(len(rows), known.shape[1:-1].numel(), d).any(1))
    return errors.reshape(*lead, *[1] * own, *errors.shape[1:]).to(mixture.means.dtype)
