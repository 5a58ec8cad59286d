"""Random numbers of a generator, also for distributions of torch that take none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Generator, Tensor
from torch.distributions import Dirichlet as TorchDirichlet
from torch.distributions import Gamma, LKJCholesky


@contextlib.contextmanager
def seeded(generator: Generator | None) -> Iterator[None]:
    """Seed torch's global generator of the CPU from one, for a while; None: as it is."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def uniform(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    """Uniform numbers between 0 and 1, drawn in float64."""
    device = like.device if generator is None else generator.device
    return torch.rand(*shape, generator=generator, device=device, dtype=torch.float64).to(like)


def normal(shape: Sequence[int], like: Tensor, generator: Generator | None) -> Tensor:
    """Standard normal numbers, drawn in float64."""
    device = like.device if generator is None else generator.device
    return torch.randn(*shape, generator=generator, device=device, dtype=torch.float64).to(like)


def gamma(concentration: Tensor, draws: int, generator: Generator | None) -> Tensor:
    """Gamma variables of rate 1, `(draws, *shape)`, for concentrations of a shape."""
    of = concentration.detach().double().cpu()
    with seeded(generator):
        return Gamma(of, torch.ones_like(of)).sample((draws,)).to(concentration)


def dirichlet(concentration: Tensor, draws: int, generator: Generator | None) -> Tensor:
    """Weights `(draws, *B, K)`, drawn in float64: small concentrations make tiny ones."""
    of = concentration.detach().double().cpu()
    with seeded(generator):
        return TorchDirichlet(of).sample((draws,)).to(concentration)


def correlation_tril(
    concentration: Tensor, num_features: int, draws: int, generator: Generator | None
) -> Tensor:
    """Cholesky factors of correlation matrices `(draws, *shape, D, D)`, by the onion method."""
    if num_features == 1:
        return concentration.new_ones(draws, *concentration.shape, 1, 1)
    of = concentration.detach().double().cpu()
    with seeded(generator):
        return LKJCholesky(num_features, of).sample((draws,)).to(concentration)
