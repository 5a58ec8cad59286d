"""Confidence regions and ellipses of components."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from gmm_lightning._messages import describe
from gmm_lightning._validation import (
    require_choice,
    require_integer,
    require_number,
    require_numbers,
)
from gmm_lightning.distributions.density import MixtureDensity, as_mixture, draw_samples
from gmm_lightning.distributions.truncation import chi_quantile
from gmm_lightning.errors import InvalidArgumentError


class Ellipse(NamedTuple):
    """An ellipse in the plane: centre `(2,)` and half lengths of its axes, the longer one first.

    The angle of the longer axis from the first feature is in radians, in (-pi/2, pi/2].
    """

    center: Tensor
    semi_axes: Tensor
    angle: float


def confidence_radius(probability: float | Tensor, num_features: int) -> Tensor:
    """The Mahalanobis radius inside which a Gaussian has a given mass.

    `r^2` is the quantile of the chi-square distribution with D degrees of freedom.

    Args:
        probability: in [0, 1]; 1 gives infinity.
        num_features: D.

    Raises:
        InvalidArgumentError: a value out of range.

    Example:
        >>> confidence_radius(0.95, 2)
        tensor(2.4477)
    """
    p = require_numbers("a probability", probability, torch.empty(0, dtype=torch.float64))
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise InvalidArgumentError(f"a probability must be in [0, 1], got {describe(p.tolist())}")
    num_features = require_integer("num_features", num_features, least=1)
    radius = torch.as_tensor(chi_quantile(p.numpy(), num_features))
    return radius.to(torch.get_default_dtype()).reshape(p.shape)


def squared_mahalanobis(mixture: MixtureDensity, x: Tensor) -> Tensor:
    """Squared Mahalanobis distances `(x - mu_k)' Sigma_k^-1 (x - mu_k)`, `(*S, *B, K)`."""
    return as_mixture(mixture).whiten(x).square().sum(-1)


def in_confidence_region(
    mixture: MixtureDensity,
    x: Tensor,
    probability: float,
    *,
    kind: str = "component",
    num_samples: int = 20_000,
    generator: Generator | int | None = None,
) -> Tensor:
    """Mask `(*S, *B)` of the rows `(*S, *B, D)` in a region of given mass.

    Args:
        mixture: the mixture.
        x: the rows.
        probability: the mass, in [0, 1].
        kind: `component`: within the confidence radius of the closest component, which holds at
            least that mass of each component; `density`: in the highest-density region of the
            whole mixture, whose edge is a quantile of the density of samples.
        num_samples: samples for the kind `density`.
        generator: source of randomness, or a seed.

    Raises:
        InvalidArgumentError: a probability out of range or an unknown kind.

    References:
        R. J. Hyndman (1996), Computing and graphing highest density regions, The American
        Statistician 50.
    """
    mixture = as_mixture(mixture)
    probability = require_number("probability", probability, least=0, most=1)
    if require_choice("kind", kind, ("component", "density")) == "component":
        square = float(chi_quantile(probability, mixture.num_features)) ** 2
        return squared_mahalanobis(mixture, x).amin(-1) <= square
    num_samples = require_integer("num_samples", num_samples, least=1)
    samples, _ = draw_samples(mixture, num_samples, generator=generator)
    ordered = mixture.log_prob(samples).sort(0).values
    end = torch.full_like(ordered[:1], math.inf)
    edges = torch.cat([-end, ordered[1:], end])
    return mixture.log_prob(x) >= edges[round((1 - probability) * num_samples)]


def ellipses(mixture: MixtureDensity, std: float = 1.0) -> list[Ellipse]:
    """The components of a single mixture in the plane, as ellipses at a Mahalanobis radius.

    Args:
        mixture: of two features and no batch.
        std: the radius, > 0; `confidence_radius(p, 2)` for a given mass.

    Raises:
        InvalidArgumentError: other numbers of features, a batch, or a radius that is not positive.
    """
    mixture = as_mixture(mixture)
    if mixture.num_features != 2 or mixture.batch_shape:
        raise InvalidArgumentError(
            f"ellipses are of a single mixture of 2 features, got {mixture.num_features} features "
            f"and batch shape {tuple(mixture.batch_shape)}; take a marginal first"
        )
    std = require_number("std", std, above=0)
    axes, sizes, _ = torch.linalg.svd(mixture.scale_tril.detach())
    found = []
    for center, (x, y), semi_axes in zip(mixture.means.detach(), axes[..., 0], sizes, strict=True):
        angle = math.atan2(float(y), float(x))
        # The angle of an axis is defined up to pi.
        angle -= math.pi * math.ceil(angle / math.pi - 0.5)
        found.append(Ellipse(center, std * semi_axes, angle))
    return found
