"""Samples with gradients: pathwise, implicit, relaxed, and by the score function."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.autograd import forward_ad
from torch.nn.functional import one_hot, pad

from gmm_lightning._tracing import values_are_readable
from gmm_lightning._validation import (
    as_generator,
    require_function,
    require_integer,
    require_number,
)
from gmm_lightning.distributions.density.ancestral import choose_components
from gmm_lightning.distributions.density.drawing import (
    DrawOptions,
    SampleShape,
    draw_samples,
    full_shape,
)
from gmm_lightning.distributions.density.mixture_density import MixtureDensity, as_mixture
from gmm_lightning.distributions.density.noise import standard_normals, uniforms
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.linalg import LOG_2PI, full_precision, multiply_rows


def draw_reparameterized(
    mixture: MixtureDensity,
    sample_shape: SampleShape,
    options: DrawOptions | None = None,
    relaxation: float | None = None,
    generator: Generator | int | None = None,
) -> Tensor:
    """Samples `(*S, *B, D)` with gradients: see `MixtureOfGaussians.rsample`."""
    mixture, options = as_mixture(mixture), options or DrawOptions()
    check_reparameterization(options, relaxation)
    tempered = mixture.temper(float(options.temperature))
    if relaxation is not None:
        shape = full_shape(mixture, sample_shape)
        return gumbel_softmax_sample(tempered, shape, relaxation, generator)
    x, z = draw_samples(mixture, sample_shape, options, generator)
    if not _may_be_differentiated(mixture):
        return x
    if 0 in mixture.batch_shape:
        # An empty batch has no draws: only the graph is kept.
        return x + tempered.means.sum()
    if options.component is None:
        return implicit_reparameterization(tempered, x)
    # Pathwise: `x = mu_z + L_z stop(L_z^-1 (x - mu_z))`.
    fixed = tempered.map_parameters(Tensor.detach)
    e = torch.take_along_dim(fixed.whiten(x), z[..., None, None], -2).squeeze(-2)
    return _blend(tempered, e, one_hot(z, mixture.num_components))


def _may_be_differentiated(mixture: MixtureDensity) -> bool:
    """Whether anything asks for derivatives by the parameters, as far as can be seen.

    Under vmap, parameters do not tell whether they are differentiated outside of it.
    """
    own = (mixture.mixture_logits, mixture.means, mixture.scale)
    if any(p.requires_grad for p in own) or not values_are_readable(*own):
        return torch.is_grad_enabled()
    return any(forward_ad.unpack_dual(p).tangent is not None for p in own)


def check_reparameterization(options: DrawOptions, relaxation: float | None) -> None:
    """Raise `InvalidArgumentError` where samples with these options have no gradient."""
    if options.within is not None:
        raise InvalidArgumentError(
            "draws within a region have no gradients: how many are refused depends on the "
            "parameters; draw without them, or without the region"
        )
    if relaxation is None:
        return
    require_number("relaxed", relaxation, above=0)
    if options.component is not None or options.quasi or options.antithetic:
        raise InvalidArgumentError(
            "relaxed draws mix all components: they take no component, quasi or antithetic"
        )


def implicit_reparameterization(mixture: MixtureDensity, x: Tensor) -> Tensor:
    """Samples x `(*S, *B, D)` with gradients to weights, means and scales.

    A sample solves, for uniform u, the sequence of conditional distribution functions

        u_d = sum_k w_k(x_<d) Phi((x_d - m_kd) / L_kdd)

    so that with J = du/dx, which is lower triangular, `x - J^-1 (u - stop(u))` has the value of
    x and its gradient. The variance of the gradient for the weights grows fast with the separation
    of the components: per sample about 0.6 at 2 standard deviations, 16 at 6, 700 at 10.

    References:
        A. Graves (2016), Stochastic backpropagation through mixture density distributions,
        arXiv 1607.05690.
        M. Figurnov, S. Mohamed, A. Mnih (2018), Implicit reparameterization gradients, NeurIPS.
    """
    mixture = as_mixture(mixture)
    mixture.check_rows(x)
    x = x.detach()
    with full_precision(x.device):
        u, weights, z, terms = conditional_cdfs(mixture, x)
        with torch.no_grad():
            jacobian = _cdf_jacobian(weights, z, terms, mixture.scale_tril)
        moved = torch.linalg.solve_triangular(jacobian, (u - u.detach()).unsqueeze(-1), upper=False)
    return x - moved.squeeze(-1)


def conditional_cdfs(mixture: MixtureDensity, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Conditional cdfs `u_d = P(X_d <= x_d | x_<d)`, `(*S, *B, D)`, and terms, `(*S, *B, K, D)`.

    The terms are the components' weights given the features before d, the whitened rows, and the
    components' log densities of feature d given the features before it.
    """
    with full_precision(mixture.means.device):
        z = mixture.whiten(x)
        pivots = mixture.scale_tril.diagonal(dim1=-2, dim2=-1)
        terms = -0.5 * z.square() - pivots.log() - 0.5 * LOG_2PI
        before = pad(terms[..., :-1].cumsum(-1), (1, 0))
        weights = (mixture.log_weights.unsqueeze(-1) + before).softmax(-2)
        # Full precision in the lower tail, where torch's `ndtr` is 0 from -8.3 on.
        cdf = 0.5 * torch.erfc(-math.sqrt(0.5) * z)
        return (weights * cdf).sum(-2), weights, z, terms


def _cdf_jacobian(weights: Tensor, z: Tensor, terms: Tensor, factor: Tensor) -> Tensor:
    """Jacobian du/dx, `(*S, *B, D, D)`, lower triangular."""
    identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
    inverse = torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    density = weights * (terms + pivots.log()).exp()
    direct = (density.unsqueeze(-1) * inverse).sum(-3)
    # Derivatives of the weights of feature d with respect to the features before it.
    slope = -(z.unsqueeze(-1) * inverse)
    slope = pad(slope[..., :-1, :].cumsum(-2), (0, 0, 1, 0))
    mean = (weights.unsqueeze(-1) * slope).sum(-3, keepdim=True)
    through = weights * torch.special.ndtr(z)
    return direct + (through.unsqueeze(-1) * (slope - mean)).sum(-3)


def _blend(mixture: MixtureDensity, e: Tensor, choice: Tensor) -> Tensor:
    """`sum_k y_k (mu_k + L_k e)` for noise `(*S, *B, D)` and weights y `(*S, *B, K)`."""
    with full_precision(e.device):
        each = mixture.means + multiply_rows(mixture.scale_tril, e.unsqueeze(-2))
    return (choice.to(each.dtype).unsqueeze(-1) * each).sum(-2)


def gumbel_softmax_sample(
    mixture: MixtureDensity,
    shape: torch.Size,
    temperature: float,
    generator: Generator | int | None = None,
) -> Tensor:
    """Samples `(*S, *B, D)` by a Gumbel-softmax relaxation of the component: biased, low variance.

    `x = sum_k y_k (mu_k + L_k e)`, with y a relaxed one-hot vector: softmax of logits plus
    Gumbel noise over the temperature. In the limit of temperature 0 it is a sample of the mixture.

    Raises:
        InvalidArgumentError: a temperature that is not positive.

    References:
        E. Jang, S. Gu, B. Poole (2017), Categorical reparameterization with Gumbel-softmax, ICLR.
    """
    mixture = as_mixture(mixture)
    temperature = require_number("relaxed", temperature, above=0)
    generator = as_generator(generator, mixture.means.device)
    u = uniforms(mixture.means, (*shape, mixture.num_components), generator)
    # A Gumbel number at 0 would be infinite.
    u = u.clamp(min=torch.finfo(u.dtype).tiny)
    gumbel = (-(-u.log()).log()).to(mixture.means.dtype)
    # Relative to the largest, which alone stays finite at a tiny temperature.
    scores = mixture.log_weights + gumbel
    scores = scores - scores.detach().amax(-1, keepdim=True)
    choice = (scores / max(temperature, torch.finfo(scores.dtype).tiny)).softmax(-1)
    e = standard_normals(mixture.means, (*shape, mixture.num_features), generator)
    return _blend(mixture, e, choice)


def score_function(
    mixture: MixtureDensity,
    function: Callable[[Tensor], Tensor],
    num_samples: int,
    generator: Generator | int | None = None,
) -> Tensor:
    """A surrogate of `E[f(x)]`, `(*B)`, whose gradient is the score-function (REINFORCE) estimate.

    The gradient is unbiased, also for components that are far apart. That of means and scales
    flows through the samples, that of the weights is `(f(x) - baseline) grad log pi_z`, where the
    baseline is the mean over the other samples.

    Args:
        mixture: p.
        function: f, rows `(n, *B, D)` to `(n, *B)`.
        num_samples: at least 2.
        generator: source of randomness, or a seed.

    Raises:
        InvalidArgumentError: fewer than 2 samples.

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
    require_function("the function of samples", function)
    num_samples = require_integer("num_samples", num_samples, least=2)
    shape = torch.Size([num_samples, *mixture.batch_shape])
    generator = as_generator(generator, mixture.means.device)
    z = choose_components(mixture.weights.detach(), shape, generator)
    e = standard_normals(mixture.means, (*shape, mixture.num_features), generator)
    choice = one_hot(z, mixture.num_components).to(e)
    value = function(_blend(mixture, e, choice))
    log_weight = (choice * mixture.log_weights).sum(-1)
    fixed = value.detach()
    baseline = (fixed.sum(0) - fixed) / (num_samples - 1)
    return (value + (fixed - baseline) * (log_weight - log_weight.detach())).mean(0)
