"""Draws through which gradients flow."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.distributions._ancestral import choose_components
from gmm_lightning.distributions.density.drawing import drawn, full_shape
from gmm_lightning.distributions.density.implicit import implicit
from gmm_lightning.distributions.density.mixture_density import M, MixtureDensity, as_mixture
from gmm_lightning.distributions.density.options import DrawOptions, SampleShape
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import full_precision, multiply_rows


def reparameterized(
    mixture: MixtureDensity,
    sample_shape: SampleShape,
    options: DrawOptions,
    softness: float | None,
    generator: Generator | None,
) -> Tensor:
    """Draws `(*S, *B, D)` through which gradients flow: see `MixtureOfGaussians.rsample`."""
    check_reparameterized(options, softness)
    law = tempered(mixture, float(options.temperature))
    if softness is not None:
        return relaxed(law, full_shape(law, sample_shape), softness, generator)
    x, z = drawn(mixture, sample_shape, options, generator)
    if 0 in mixture.batch_shape:
        # No mixture, no draw: only the graph is kept.
        return x + law.means.sum()
    return implicit(law, x) if options.component is None else pathwise(law, x, z)


def check_reparameterized(options: DrawOptions, softness: float | None) -> None:
    """Refuse what no gradient flows through.

    Raises:
        InvalidArgumentError: a region, whose share of the mass depends on the parameters; or
            soft choices of components that are given or spread evenly.
    """
    if options.within is not None:
        raise InvalidArgumentError(
            "draws within a region have no gradients: how many are refused depends on the "
            "parameters; draw without them, or without the region"
        )
    if softness is None:
        return
    require_number("relaxed", softness, above=0)
    if options.component is not None or options.quasi or options.antithetic:
        raise InvalidArgumentError(
            "relaxed draws mix all components: they take no component, quasi or antithetic"
        )


def tempered(mixture: M, temperature: float) -> M:
    """Logits divided, and covariances multiplied, by the temperature."""
    if temperature == 1:
        return mixture
    return mixture.new(
        mixture.mixture_logits / temperature,
        mixture.means,
        math.sqrt(temperature) * mixture.scale_tril,
    )


def pathwise(mixture: MixtureDensity, x: Tensor, component: Tensor) -> Tensor:
    """The same draws x of given components z: `x = mu_z + L_z stop(L_z^-1 (x - mu_z))`."""
    with torch.no_grad():
        at = component[..., None, None].expand(*x.shape[:-1], 1, x.shape[-1])
        e = mixture.whiten(x).gather(-2, at).squeeze(-2)
    return mixed(mixture, e, torch.nn.functional.one_hot(component, mixture.num_components))


def mixed(mixture: MixtureDensity, e: Tensor, choice: Tensor) -> Tensor:
    """`sum_k y_k (mu_k + L_k e)` for noise `(*S, *B, D)` and choices `(*S, *B, K)`."""
    with full_precision(e.device):
        each = mixture.means + multiply_rows(mixture.scale_tril, e.unsqueeze(-2))
    return (choice.to(each.dtype).unsqueeze(-1) * each).sum(-2)


def relaxed(
    mixture: MixtureDensity,
    shape: torch.Size,
    temperature: float,
    generator: Generator | None,
) -> Tensor:
    """Draws `(*S, *B, D)` with a soft choice of the component: biased, of low variance.

    `x = sum_k y_k (mu_k + L_k e)`, with y a relaxed one-hot vector: softmax of logits plus
    Gumbel noise over the temperature. At temperature 0 the law is that of the mixture.

    Raises:
        InvalidArgumentError: a temperature that is not positive.

    References:
        E. Jang, S. Gu, B. Poole (2017), Categorical reparameterization with Gumbel-softmax, ICLR.
    """
    mixture = as_mixture(mixture)
    temperature = require_number("relaxed", temperature, above=0)
    like = mixture.means
    noise = torch.empty(*shape, mixture.num_components, dtype=like.dtype, device=like.device)
    gumbel = -noise.exponential_(generator=generator).log()
    # From the largest on: at a tiny temperature only that one is no infinity.
    scores = mixture.log_weights + gumbel
    scores = scores - scores.detach().amax(-1, keepdim=True)
    choice = (scores / max(temperature, torch.finfo(scores.dtype).tiny)).softmax(-1)
    e = torch.empty(*shape, mixture.num_features, dtype=like.dtype, device=like.device)
    e.normal_(generator=generator)
    return mixed(mixture, e, choice)


def score_function(
    mixture: MixtureDensity,
    function: Callable[[Tensor], Tensor],
    num_samples: int,
    generator: Generator | None = None,
) -> Tensor:
    """A surrogate of `E[f(x)]`, `(*B)`: its gradient is unbiased, also for far components.

    Means and scales are reached through the draws, the weights by the score function
    `(f(x) - baseline) grad log pi_z`, with the mean of the other draws as the baseline.

    Args:
        mixture: p.
        function: f, rows `(n, *B, D)` to `(n, *B)`.
        num_samples: draws, at least 2.
        generator: of the draws.

    Raises:
        InvalidArgumentError: fewer than 2 draws.

    References:
        R. J. Williams (1992), Simple statistical gradient-following algorithms for connectionist
        reinforcement learning, Machine Learning 8.

    Example:
        >>> logits = torch.zeros(2, requires_grad=True)
        >>> mixture = MixtureOfGaussians(logits, torch.tensor([[-9.0], [9.0]]),
        ...                              torch.ones(2, 1, 1))
        >>> score_function(mixture, lambda x: x.squeeze(-1), 1000).backward()
        >>> logits.grad.shape
        torch.Size([2])
    """
    mixture = as_mixture(mixture)
    num_samples = require_integer("num_samples", num_samples, least=2)
    batch = mixture.batch_shape
    z = choose_components(mixture.weights.detach(), torch.Size([num_samples, *batch]), generator)
    e = torch.empty(
        *z.shape, mixture.num_features, dtype=mixture.means.dtype, device=mixture.means.device
    ).normal_(generator=generator)
    chosen = torch.nn.functional.one_hot(z, mixture.num_components).to(e)
    value = function(mixed(mixture, e, chosen))
    log_weight = (chosen * mixture.log_weights).sum(-1)
    fixed = value.detach()
    baseline = (fixed.sum(0) - fixed) / (num_samples - 1)
    return (value + (fixed - baseline) * (log_weight - log_weight.detach())).mean(0)
