from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from support.random_layers import FAMILIES, random_layer
from torch import Tensor

from gmm_lightning import MixtureOfGaussians
from gmm_lightning.distributions import (
    Confidence,
    affine,
    cauchy_schwarz_divergence,
    confidence_radius,
    convolve,
    ellipses,
    entropy,
    entropy_bounds,
    from_sigma_points,
    grad_log_prob,
    impute,
    in_confidence_region,
    kl_divergence,
    kl_variational,
    l2_distance,
    log_inner_product,
    log_prob_observed,
    modes,
    product,
    prune,
    reduce,
    sigma_points,
    unscented,
)
from gmm_lightning.errors import InvalidArgumentError

over_families = pytest.mark.parametrize("family", FAMILIES)


def mixture_of(
    family: str, generator: torch.Generator, d: int = 2, batch: tuple[int, ...] = ()
) -> MixtureOfGaussians:
    layer = random_layer(family, generator=generator, num_features=d, batch=batch)
    return MixtureOfGaussians(
        layer.mixture_logits.detach(), layer.means.detach(), layer.scale.detach(), layer.covariance
    )


def assert_close(found: Tensor, expected: Tensor, *, condition: float = 1e3) -> None:
    """Equal up to the rounding of a dozen operations on matrices of a condition number.

    Random factors of two or three features have condition numbers of tens, their squares of
    hundreds.
    """
    tolerance = 12 * condition * torch.finfo(expected.dtype).eps
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def integral(function, low: float = -40.0, high: float = 40.0) -> float:
    return quad(lambda v: float(function(torch.tensor([v]))), low, high, limit=400)[0]


# -- transforms ---------------------------------------------------------------------------------


@over_families
def test_affine_moments_and_density(family: str, generator: torch.Generator) -> None:
    mixture = mixture_of(family, generator, d=3)
    matrix, b = torch.randn(3, 3, generator=generator), torch.randn(3, generator=generator)
    moved = affine(mixture, matrix, b)
    x = torch.randn(5, 3, generator=generator)
    there = moved.log_prob(x @ matrix.mT + b) + torch.linalg.slogdet(matrix).logabsdet
    # The random matrix has a condition number of its own.
    assert_close(there, mixture.log_prob(x), condition=1e5)
    flat = affine(mixture, matrix[:2])
    spread = matrix[:2] @ mixture.covariance_matrix @ matrix[:2].mT
    assert_close(flat.covariance_matrix, spread)
    with pytest.raises(InvalidArgumentError, match="depend on each other"):
        affine(mixture, torch.ones(2, 3))


@over_families
def test_a_sum_adds_means_and_covariances(family: str, generator: torch.Generator) -> None:
    p, q = mixture_of(family, generator), mixture_of("full", generator)
    both = convolve(p, q)
    assert both.num_components == 9
    assert_close(both.mean, p.mean + q.mean)
    together = p.covariance_matrix + q.covariance_matrix
    assert_close(both.covariance_matrix, together)


@pytest.mark.parametrize("batch", [(), (2,)])
@over_families
def test_a_product_is_the_product(
    family: str, batch: tuple[int, ...], generator: torch.Generator
) -> None:
    p, q = mixture_of(family, generator, batch=batch), mixture_of("full", generator, batch=batch)
    x = torch.randn(6, *batch, 2, generator=generator)
    expected = p.log_prob(x) + q.log_prob(x) - log_inner_product(p, q)
    # Precisions add: the covariance is the inverse of an inverse.
    assert_close(product(p, q).log_prob(x), expected, condition=1e5)


def test_reduction_keeps_the_moments(generator: torch.Generator) -> None:
    mixture = convolve(mixture_of("full", generator), mixture_of("diag", generator))
    for k in (8, 3, 1):
        fewer = reduce(mixture, k)
        assert fewer.num_components == k
        assert_close(fewer.mean, mixture.mean)
        assert_close(fewer.covariance_matrix, mixture.covariance_matrix)
    assert reduce(mixture, 20).num_components == 9


def test_the_known_collapse_to_one(double: None) -> None:
    weights, means = torch.tensor([0.25, 0.75]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    mixture = MixtureOfGaussians(weights.log(), means, torch.eye(2).repeat(2, 1, 1))
    one = reduce(mixture, 1)
    # Sums of a handful of exact numbers; the factor of the covariance takes a root of them.
    for same in (mixture, one):
        close = {"rtol": 1e-14, "atol": 0}
        torch.testing.assert_close(same.mean, torch.tensor([2.5, 3.5]), **close)
        torch.testing.assert_close(same.variance, torch.tensor([1.75, 1.75]), **close)
        expected = torch.tensor([[1.75, 0.75], [0.75, 1.75]])
        torch.testing.assert_close(same.covariance_matrix, expected, **close)
    assert float(kl_variational(one, one)) == pytest.approx(0.0, abs=1e-12)


def test_pruning(generator: torch.Generator) -> None:
    mixture = mixture_of("tied", generator)
    heaviest = int(mixture.weights.argmax())
    alone = prune(mixture, 1.0)
    assert torch.equal(alone.means[0], mixture.means[heaviest])
    assert prune(mixture, 0.0).num_components == 3


@pytest.mark.parametrize("alpha", [1e-3, 0.5, 1.0])
@over_families
def test_sigma_points_carry_the_moments(
    family: str, alpha: float, generator: torch.Generator
) -> None:
    mixture = mixture_of(family, generator, d=3)
    again = from_sigma_points(sigma_points(mixture, alpha), mixture.mixture_logits, alpha=alpha)
    # The points lie alpha apart: squares of their gaps hold eps / alpha digits.
    close = {"rtol": 1e-9, "atol": 1e-16 / alpha * 1e3}
    torch.testing.assert_close(again.means, mixture.means, **close)
    torch.testing.assert_close(again.component_covariances, mixture.component_covariances, **close)
    matrix = torch.randn(2, 3, generator=generator)
    through, exact = (
        unscented(mixture, lambda x: x @ matrix.mT, alpha=alpha),
        affine(mixture, matrix),
    )
    torch.testing.assert_close(through.means, exact.means, **close)
    torch.testing.assert_close(through.mixture().scale_tril, exact.scale_tril, **close)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("alpha", [1e-3, 1.0])
def test_a_function_that_adds_dimensions_has_moments_alone(
    alpha: float, generator: torch.Generator
) -> None:
    mixture = mixture_of("full", generator)
    lift = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]])
    found = unscented(mixture, lambda x: x @ lift.mT, alpha=alpha)
    close = {"rtol": 1e-9, "atol": 1e-16 / alpha * 1e3}
    torch.testing.assert_close(found.means, mixture.means @ lift.mT, **close)
    covariances = lift @ mixture.component_covariances @ lift.mT
    torch.testing.assert_close(found.component_covariances, covariances, **close)
    torch.testing.assert_close(found.mean, lift @ mixture.mean, **close)
    whole = lift @ mixture.covariance_matrix @ lift.mT
    torch.testing.assert_close(found.covariance_matrix, whole, **close)
    # Nothing was added to make it definite: the third feature follows from the others.
    assert bool((torch.linalg.eigvalsh(found.component_covariances)[:, 0].abs() < 1e-8).all())
    with pytest.raises(InvalidArgumentError, match="3 of 3 covariances are not positive definite"):
        found.mixture()


@pytest.mark.parametrize(
    "function", [lambda x: x[..., :1].expand(x.shape), torch.zeros_like], ids=["line", "point"]
)
def test_a_function_that_loses_dimensions_has_moments_alone(
    function, generator: torch.Generator
) -> None:
    found = unscented(mixture_of("diag", generator), function)
    assert bool(torch.isfinite(found.covariance_matrix).all())
    with pytest.raises(InvalidArgumentError, match="adds or loses dimensions"):
        found.mixture()


def test_moments_of_sigma_points_have_gradients(generator: torch.Generator) -> None:
    def moments(means: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        mixture = MixtureOfGaussians(torch.zeros(1), means, factor.tril())
        found = unscented(mixture, lambda x: torch.cat([x, x.square()], -1), alpha=1.0)
        return found.mean, found.covariance_matrix

    factor = (torch.eye(2) + 0.1 * torch.randn(2, 2, generator=generator)).unsqueeze(0)
    leaves = [v.double().requires_grad_() for v in (torch.ones(1, 2), factor)]
    assert torch.autograd.gradcheck(moments, leaves)


# -- entropies and divergences ------------------------------------------------------------------


def test_entropy_against_quadrature(generator: torch.Generator) -> None:
    p = mixture_of("diag", generator, d=1)
    exact = integral(lambda x: -p.log_prob(x).exp() * p.log_prob(x))
    low, high = entropy_bounds(p)
    assert low <= exact <= high
    estimate = entropy(p, 20_000, generator)
    assert abs(float(estimate.value) - exact) < 5 * float(estimate.standard_error)


def test_divergences_against_quadrature(generator: torch.Generator) -> None:
    p, q = mixture_of("full", generator, d=1), mixture_of("spherical", generator, d=1)
    exact = integral(lambda x: p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x)))
    estimate = kl_divergence(p, q, 20_000, generator)
    assert abs(float(estimate.value) - exact) < 5 * float(estimate.standard_error)
    square = integral(lambda x: (p.log_prob(x).exp() - q.log_prob(x).exp()) ** 2)
    assert float(l2_distance(p, q)) == pytest.approx(square**0.5, rel=1e-7)
    inner = [integral(lambda x, a=a, b=b: (a.log_prob(x) + b.log_prob(x)).exp())
             for a, b in ((p, q), (p, p), (q, q))]  # fmt: skip
    expected = -np.log(inner[0] / np.sqrt(inner[1] * inner[2]))
    assert float(cauchy_schwarz_divergence(p, q)) == pytest.approx(expected, rel=1e-7)
    assert float(cauchy_schwarz_divergence(p, p)) == pytest.approx(0, abs=1e-12)


def test_the_variational_divergence_of_single_gaussians_is_exact(
    generator: torch.Generator,
) -> None:
    p, q = (reduce(mixture_of("full", generator), 1) for _ in range(2))
    normal = [torch.distributions.MultivariateNormal(m.means[0], scale_tril=m.scale_tril[0])
              for m in (p, q)]  # fmt: skip
    expected = torch.distributions.kl_divergence(*normal)
    assert_close(kl_variational(p, q), expected)
    with pytest.raises(InvalidArgumentError, match="equally many features, got 2 and 3"):
        kl_variational(p, mixture_of("full", generator, d=3))


# -- modes, regions, missing entries ------------------------------------------------------------


@over_families
def test_modes_have_no_slope(family: str, generator: torch.Generator) -> None:
    mixture = mixture_of(family, generator)
    found = modes(mixture)
    assert grad_log_prob(mixture, found).abs().max() < 1e-6
    # Mean shift never descends.
    assert (mixture.log_prob(found) >= mixture.log_prob(mixture.means) - 1e-12).all()


@pytest.mark.parametrize(
    ("p", "d", "radius"),
    [(0.5, 2, 1.17741), (0.68, 2, 1.50959), (0.9, 2, 2.14597), (0.95, 2, 2.44775),
     (0.99, 2, 3.03485), (0.95, 1, 1.95996), (0.9, 5, 3.03914)],
)  # fmt: skip
def test_known_radii(p: float, d: int, radius: float, generator: torch.Generator) -> None:
    assert float(confidence_radius(p, d)) == pytest.approx(radius, abs=5e-6)
    one = reduce(mixture_of("full", generator, d=d), 1)
    x = one.sample(40_000, generator=generator)
    assert isinstance(x, Tensor)
    for kind in ("component", "density"):
        inside = in_confidence_region(one, x, p, kind=kind, generator=generator)
        # Four standard errors of the share and of the edge.
        assert float(inside.double().mean()) == pytest.approx(p, abs=0.02)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_confidence_regions_hold_their_mass(d: int, generator: torch.Generator) -> None:
    """Within 1 %, seven standard errors of the share."""
    factor = torch.eye(d) + 0.5 * torch.randn(d, d, generator=generator).tril(-1)
    one = MixtureOfGaussians(torch.zeros(1), torch.randn(1, d, generator=generator), factor[None])
    x = one.sample(40_000, generator=generator)
    for mass in (0.5, 0.9, 0.95):
        share = float(in_confidence_region(one, x, mass).double().mean())
        assert share == pytest.approx(mass, abs=0.01 if mass < 0.95 else 0.008)
        inside = one.sample(2000, within=Confidence(0.0, mass), generator=generator)
        radius = float(confidence_radius(mass, d))
        assert float(one.mahalanobis(inside).max()) <= radius * (1 + 1e-9)


def test_ellipses_are_the_components(generator: torch.Generator) -> None:
    mixture = mixture_of("full", generator)
    for ellipse, covariance in zip(
        ellipses(mixture, 2.0), mixture.component_covariances, strict=True
    ):
        c, s = np.cos(ellipse.angle), np.sin(ellipse.angle)
        turn = torch.tensor([[c, -s], [s, c]])
        again = turn @ (ellipse.semi_axes / 2.0).square().diag() @ turn.mT
        assert_close(again, covariance)
    with pytest.raises(InvalidArgumentError, match="got 3 features"):
        ellipses(mixture_of("full", generator, d=3))


@over_families
def test_missing_entries(family: str, generator: torch.Generator) -> None:
    mixture = mixture_of(family, generator, d=3)
    x = torch.randn(40, 3, generator=generator)
    x[torch.rand(40, 3, generator=generator) < 0.4] = torch.nan
    density = log_prob_observed(mixture, x)
    assert torch.isfinite(density).all()
    whole = ~torch.isnan(x).any(-1)
    torch.testing.assert_close(density[whole], mixture.log_prob(x[whole]))
    for kind in ("mean", "mode", "draw"):
        filled = impute(mixture, x, kind, generator)
        assert torch.isfinite(filled).all()
        there = ~torch.isnan(x)
        assert torch.equal(filled[there], x[there])
    with pytest.raises(InvalidArgumentError, match="unknown kind 'median'; known are: mean"):
        impute(mixture, x, "median")
