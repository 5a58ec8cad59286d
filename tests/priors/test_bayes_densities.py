"""Densities of the priors of a fully Bayesian mixture against torch, by hand and numerically."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.random_layers import FAMILIES, random_layer, rows
from torch import Tensor, distributions

from gmm_lightning import GMMLayer, fit_em, resolve_priors
from gmm_lightning.covariances import registry as covariances
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.em import initialize_layer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.priors import (
    LKJ,
    HalfCauchy,
    HalfNormal,
    IndependentNormal,
    InverseGamma,
    LogNormal,
    Prior,
    SparseDirichlet,
    StickBreaking,
)

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)


def float64(value: float) -> Tensor:
    """A number that modules make before a test sets the dtype."""
    return torch.tensor(value, dtype=torch.float64)


SCALES: dict[str, tuple[Prior, Any]] = {
    "half_cauchy": (HalfCauchy(1.7), distributions.HalfCauchy(float64(1.7))),
    "half_normal": (HalfNormal(1.7), distributions.HalfNormal(float64(1.7))),
    "log_normal": (LogNormal(0.3, 0.8), distributions.LogNormal(float64(0.3), float64(0.8))),
    "inverse_gamma": (
        InverseGamma(3.5, 2.5),
        distributions.InverseGamma(float64(3.5), float64(2.5)),
    ),
}
over_scales = pytest.mark.parametrize("name", SCALES)
# Distinct standard deviations of three components with two features.
DISTINCT = {
    "full": 6,
    "diag": 6,
    "spherical": 3,
    "tied": 2,
    "tied_diag": 2,
    "tied_spherical": 1,
}


def layer_with(family: str, prior: Any, generator: torch.Generator) -> GMMLayer:
    """A layer with the parameters of a random one, and a prior."""
    layer = GMMLayer(2, 3, family, prior)
    state = random_layer(family, generator=generator).state_dict()
    layer.load_state_dict(state, strict=False)
    return layer


def deviations(layer: GMMLayer) -> Tensor:
    """The distinct standard deviations, in a row."""
    every = layer.covariance_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    if layer.covariance.tied:
        every = every[:1]
    return (every[:, :1] if "spherical" in layer.covariance.name else every).flatten()


@over_scales
@over_families
def test_priors_on_scales_are_torchs(name: str, family: str, generator: torch.Generator) -> None:
    prior, theirs = SCALES[name]
    layer = layer_with(family, prior, generator)
    sigma = deviations(layer)
    assert len(sigma) == DISTINCT[family]
    expected = theirs.log_prob(sigma.square() if name == "inverse_gamma" else sigma).sum()
    assert torch.allclose(layer.log_prior(), expected, rtol=1e-12)


@pytest.mark.parametrize("d", [2, 3, 6])
@pytest.mark.parametrize("eta", [0.7, 1.0, 2.5])
@pytest.mark.parametrize("family", ["full", "tied"])
def test_lkj_is_torchs(family: str, eta: float, d: int, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator, num_features=d)
    layer = GMMLayer(d, 3, family, LKJ(eta))
    with torch.no_grad():
        layer.raw_scale.normal_(generator=generator)
    matrix = layer.covariance_matrix[:1] if family == "tied" else layer.covariance_matrix
    sigma = matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    factor = torch.linalg.cholesky(matrix / sigma.unsqueeze(-1) / sigma.unsqueeze(-2))
    theirs = distributions.LKJCholesky(d, eta).log_prob(factor).sum()
    assert torch.allclose(layer.log_prior(), theirs, rtol=1e-10, atol=1e-10)


def test_lkj_of_one_feature_is_certain() -> None:
    layer = GMMLayer(1, 3, "full", LKJ(2.0))
    assert layer.log_prior() == 0
    layer.log_prior().backward()


def test_lkj_takes_no_family_without_correlations() -> None:
    for family in ("diag", "spherical", "tied_diag", "tied_spherical"):
        with pytest.raises(InvalidArgumentError, match=r"~model.layer.priors.lkj.*\(full, tied\)"):
            GMMLayer(2, 3, family, "lkj")


@pytest.mark.parametrize(
    "covariance", [2.0, [2.0, 0.5], [[2.0, 0.6], [0.6, 1.5]]], ids=["number", "vector", "matrix"]
)
@over_families
def test_independent_normal_is_torchs(
    covariance: Any, family: str, generator: torch.Generator
) -> None:
    loc = [[0.7, -0.4], [1.0, 2.0], [0.0, 3.0]]
    layer = layer_with(family, IndependentNormal(loc, covariance), generator)
    value = torch.as_tensor(covariance)
    matrix = value if value.dim() == 2 else value.expand(2).diag_embed()
    theirs = distributions.MultivariateNormal(torch.tensor(loc), matrix).log_prob(layer.means)
    assert torch.allclose(layer.log_prior(), theirs.sum(), rtol=1e-12)


def test_sparse_dirichlet_is_torchs(generator: torch.Generator) -> None:
    layer = layer_with("full", SparseDirichlet(2.0), generator)
    theirs = distributions.Dirichlet(torch.full((3,), 2 / 3)).log_prob(layer.weights)
    assert torch.allclose(layer.log_prior(), theirs, rtol=1e-12)


def test_stick_breaking_has_the_jacobian_of_its_sticks(generator: torch.Generator) -> None:
    # By autograd: the density of v is that of pi times |d pi / d v|.
    v, alpha = torch.rand(4, generator=generator), 2.5

    def weights(v: Tensor) -> Tensor:
        left = torch.cat([torch.ones(1), (1 - v).cumprod(0)])
        return torch.cat([v, torch.ones(1)]) * left

    jacobian: Any = torch.autograd.functional.jacobian(weights, v)
    expected = distributions.Beta(1.0, alpha).log_prob(v).sum() - jacobian[:4].slogdet()[1]
    layer = GMMLayer(2, 5, priors=StickBreaking(alpha))
    with torch.no_grad():
        layer.mixture_logits.copy_(weights(v).log())
    assert torch.allclose(layer.log_prior(), expected, rtol=1e-12)


def mixture_of(weights: Tensor) -> MixtureOfGaussians:
    """Mixtures of K standard normals with weights `(*S, K)`."""
    family = covariances.create("tied_spherical")
    return MixtureOfGaussians(
        weights.log(),
        weights.new_zeros(*weights.shape, 1),
        weights.new_ones(*weights.shape[:-1], 1),
        family,
    )


@pytest.mark.parametrize("prior", [StickBreaking(3.0), SparseDirichlet(6.0)])
def test_densities_of_weights_integrate_to_one(prior: Prior) -> None:
    bound = GMMLayer(1, 3, "tied_spherical", prior).priors["weights"]
    edge = (torch.arange(1500) + 0.5) / 1500
    first, share = torch.meshgrid(edge, edge, indexing="ij")
    rest = 1 - first
    weights = torch.stack([first, rest * share, rest * (1 - share)], -1)
    density = bound.log_prob(mixture_of(weights)).exp() * rest
    assert float(density.mean()) == pytest.approx(1, rel=2e-3)


def test_stick_breaking_of_one_component() -> None:
    layer = GMMLayer(2, 1, priors="stick_breaking")
    assert layer.log_prior() == 0
    layer.log_prior().backward()
    assert torch.isfinite(layer.mixture_logits.grad).all()


@pytest.mark.parametrize("prior", ["stick_breaking", "sparse_dirichlet"])
def test_a_weight_of_zero_has_a_density_and_a_gradient(prior: str) -> None:
    layer = GMMLayer(2, 4, priors=prior)
    with torch.no_grad():
        layer.mixture_logits.copy_(torch.tensor([0.0, -800.0, 1.0, -900.0]))
    layer.log_prior().backward()
    assert torch.isfinite(layer.log_prior())
    assert torch.isfinite(layer.mixture_logits.grad).all()


ALONE = [*SCALES, "independent_normal", "stick_breaking", "sparse_dirichlet"]
GRADIENTS = [(f, p) for f in FAMILIES for p in ALONE] + [("full", "lkj"), ("tied", "lkj")]


@pytest.mark.parametrize(("family", "prior"), GRADIENTS)
def test_gradcheck(family: str, prior: str, generator: torch.Generator) -> None:
    layer = random_layer(family, prior, generator=generator)
    names = [name for name, _ in layer.named_parameters()]
    inputs = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    (one,) = layer.all_priors

    def density(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        scale = layer.covariance.scale(given["raw_scale"])
        mixture = (given["mixture_logits"], given["means"], scale, layer.covariance)
        return one.log_prob(MixtureOfGaussians(*mixture))

    assert torch.autograd.gradcheck(density, tuple(inputs))


# -- defaults -------------------------------------------------------------------------------------


@over_families
@pytest.mark.parametrize("prior", [*SCALES, "independent_normal"])
def test_defaults_follow_the_units_of_columns(
    prior: str, family: str, generator: torch.Generator
) -> None:
    x = rows(60, 2, generator)
    isotropic = "spherical" in family and prior != "independent_normal"
    unit = torch.tensor([1e3, 1e3] if isotropic else [1e-3, 1e4])
    priors = []
    for data in (x, x * unit + 5 * unit):
        layer = GMMLayer(2, 3, family, prior)
        resolve_priors(layer, data)
        priors.append(layer.all_priors[0])
    first, other = priors
    per = unit[0] if isotropic else unit
    if prior == "independent_normal":
        order = other.loc[:, 0].argsort()
        expected = (first.loc * unit + 5 * unit)[first.loc[:, 0].argsort()]
        assert torch.allclose(other.loc[order], expected, rtol=1e-9)
        assert torch.allclose(other.scale_tril, first.scale_tril * unit.diag_embed(), rtol=1e-9)
        variance = x.var(0, correction=0)
        factor = first.scale_tril.squeeze(0)
        assert torch.allclose(factor @ factor.mT, (0.1 * variance).diag_embed(), rtol=1e-9)
    elif prior == "log_normal":
        assert torch.allclose(other.loc, first.loc + per.log(), rtol=1e-9)
    else:
        squared = prior == "inverse_gamma"
        assert torch.allclose(other.scale, first.scale * (per.square() if squared else per))


def test_scales_of_constant_features_are_one() -> None:
    layer = GMMLayer(2, 2, priors="half_cauchy")
    resolve_priors(layer, torch.stack([torch.randn(30), torch.full((30,), 1e8)], -1))
    assert torch.equal(layer.priors["scales"].scale[:, 1], torch.ones(2))
    layer = GMMLayer(2, 2, priors="independent_normal")
    resolve_priors(layer, torch.stack([torch.randn(30), torch.full((30,), 1e8)], -1))
    assert torch.isfinite(layer.log_prior())


def clusters(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    centre = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    return centre, (centre + torch.randn(40, 3, 2, generator=generator)).flatten(0, 1)


def test_centroids_and_the_order_of_a_start(generator: torch.Generator) -> None:
    centre, x = clusters(generator)
    prior = IndependentNormal(loc=centre.roll(1, 0))
    for spec in ("independent_normal", prior):
        layer = GMMLayer(2, 3, priors=spec)
        initialize_layer(layer, x, generator=0)
        loc = layer.priors["means"].loc
        assert torch.cdist(loc, centre).amin(-1).max() < 1
        # Each component starts at its own centre.
        assert (layer.means - loc).abs().max() < 1.5
    # So it does where the parameters are given.
    layer = GMMLayer(2, 3, priors="independent_normal")
    with torch.no_grad():
        layer.means.copy_(centre.flip(0))
    resolve_priors(layer, x)
    assert (layer.means - layer.priors["means"].loc).abs().max() < 1.5


def test_more_components_than_rows_and_batches_of_rows(generator: torch.Generator) -> None:
    layer = GMMLayer(2, 5, priors="independent_normal")
    resolve_priors(layer, torch.randn(3, 2, generator=generator))
    assert torch.isfinite(layer.log_prior())
    _, x = clusters(generator)
    both = torch.stack([x, x + 100], 1)
    layer = GMMLayer(2, 3, priors="independent_normal", batch_shape=(2,))
    initialize_layer(layer, both, generator=0)
    loc = layer.priors["means"].loc
    assert loc.shape == (2, 3, 2)
    gap = torch.cdist(loc[0] + 100, loc[1]).amin(-1)
    assert gap.max() < 1e-6
    missing = x.clone()
    missing[::7, 0] = math.nan
    layer = GMMLayer(2, 3, priors="independent_normal")
    resolve_priors(layer, missing, missing="em")
    assert torch.isfinite(layer.log_prior())


# -- EM -------------------------------------------------------------------------------------------


def test_em_refuses_and_can_leave_out(generator: torch.Generator) -> None:
    _, x = clusters(generator)
    bayes = ["dirichlet", "independent_normal", "half_cauchy", "lkj"]
    words = "no closed form for EM: use fit=sgd, fit=em_then_sgd or fit=nuts"
    with pytest.raises(InvalidArgumentError, match=words):
        fit_em(GMMLayer(2, 3, priors=bayes), x)
    fitted = GMMLayer(2, 3, priors=bayes)
    result = fit_em(fitted, x, conjugate_only=True, generator=0, num_restarts=2)
    assert result.converged
    assert torch.isfinite(fitted.log_prior())
    plain = GMMLayer(2, 3, priors="dirichlet")
    fit_em(plain, x, generator=0, num_restarts=2)
    order = fitted.means[:, 0].argsort(), plain.means[:, 0].argsort()
    assert torch.allclose(fitted.means[order[0]], plain.means[order[1]], atol=1e-3)


def test_modes_that_are_not_there() -> None:
    def mode(prior: Prior, k: int) -> bool:
        (one,) = GMMLayer(2, k, priors=prior).all_priors
        return one.has_mode

    assert mode(SparseDirichlet(4.0), 3)
    assert not mode(SparseDirichlet(2.0), 3)
    assert mode(StickBreaking(1.0), 2)
    assert not mode(StickBreaking(1.0), 3)
    assert mode(StickBreaking(3.0), 4)
    assert not mode(StickBreaking(0.5), 2)
    assert mode(StickBreaking(0.5), 1)
    assert mode(HalfCauchy(), 3)
