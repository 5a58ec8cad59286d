"""The log posterior over one vector: its volume by numbers, its gradient by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import StickBreakingTransform

from gmm_lightning import GMMLayer
from gmm_lightning.bayes import LogPosterior, RawVector, log_jacobian
from gmm_lightning.covariances import registry
from gmm_lightning.em import MixtureParameters
from gmm_lightning.errors import InvalidArgumentError

D, K = 3, 3


def drawn_layer(family: str, **options) -> GMMLayer:
    torch.manual_seed(5)
    layer = GMMLayer(D, K, family, dtype=torch.float64, **options)
    with torch.no_grad():
        layer.mixture_logits.copy_(torch.randn(K))
        layer.raw_scale.copy_(0.3 * torch.randn(layer.raw_scale.shape))
    return layer


def free_of_covariances(layer: GMMLayer, raw: Tensor, of: str) -> Tensor:
    """The elements that a prior is a density of."""
    dense = layer.covariance.covariance_matrix(layer.covariance.scale(raw), D)
    if layer.covariance.axis_aligned:
        variance = dense.diagonal(dim1=-2, dim2=-1)
        variance = variance[..., :1] if raw.dim() == 2 else variance
        return variance.flatten() if of == "covariances" else variance.sqrt().flatten()
    rows, columns = torch.tril_indices(D, D)
    if of == "covariances":
        return dense[..., rows, columns].flatten()
    rows, columns = torch.tril_indices(D, D, -1)
    deviation = dense.diagonal(dim1=-2, dim2=-1).sqrt()
    correlation = dense / deviation.unsqueeze(-1) / deviation.unsqueeze(-2)
    if of == "factors":
        correlation = torch.linalg.cholesky(correlation)
    return torch.cat([deviation.flatten(), correlation[..., rows, columns].flatten()])


def log_volume(layer: GMMLayer, of: str) -> Tensor:
    """By a numerical Jacobian of everything natural, the weights but for the last."""
    vector = RawVector(layer)

    def natural(v: Tensor) -> Tensor:
        parameters = vector.parameters(v.unsqueeze(0))
        weights = parameters.mixture_logits.softmax(-1)[0, :-1]
        covariances = free_of_covariances(layer, parameters.raw_scale, of)
        return torch.cat([weights, parameters.means.flatten(), covariances])

    start = vector.from_parameters(MixtureParameters.from_layer(layer))[0]
    matrix = torch.autograd.functional.jacobian(natural, start)
    assert matrix.shape == (vector.size, vector.size)
    return torch.linalg.slogdet(matrix).logabsdet


@pytest.mark.parametrize("family", registry.names)
def test_the_volume_is_that_of_the_jacobian(family: str) -> None:
    layer = drawn_layer(family)
    torch.testing.assert_close(log_jacobian(layer)[0], log_volume(layer, "covariances"))


@pytest.mark.parametrize("slots", [("scales",), ("scales", "correlations"), ("correlations",)])
@pytest.mark.parametrize("family", registry.names)
def test_priors_on_deviations_have_theirs(family: str, slots: tuple[str, ...]) -> None:
    layer = drawn_layer(family)
    for slot in slots:
        layer.priors[slot] = torch.nn.Identity()
    of = "factors" if "correlations" in slots else "correlations"
    torch.testing.assert_close(log_jacobian(layer)[0], log_volume(layer, of))


def test_weights_agree_with_another_transform() -> None:
    # The volume of a stick-breaking step by torch, and that between its coordinates and ours.
    layer = drawn_layer("tied_spherical")
    vector, transform = RawVector(layer), StickBreakingTransform()
    weights = layer.weights.detach()

    def coordinates(first: Tensor) -> Tensor:
        whole = torch.cat([first, 1 - first.sum(-1, keepdim=True)])
        own = MixtureParameters.from_layer(layer)._replace(mixture_logits=whole.log()[None])
        return vector.from_parameters(own)[0, : K - 1]

    sticks = transform.inv(weights)
    theirs = transform.log_abs_det_jacobian(sticks, weights)
    between = torch.autograd.functional.jacobian(lambda s: coordinates(transform(s)[:-1]), sticks)
    ours = weights.log().sum() + torch.tensor(K).log() / 2
    torch.testing.assert_close(ours + torch.linalg.slogdet(between).logabsdet, theirs)


@pytest.mark.parametrize("family", registry.names)
def test_vectors_go_there_and_back(family: str) -> None:
    layer = drawn_layer(family)
    vector = RawVector(layer)
    assert vector.size == layer.num_free_parameters
    v = torch.randn(5, vector.size, dtype=torch.float64)
    torch.testing.assert_close(vector.from_parameters(vector.parameters(v)), v)


@pytest.mark.parametrize("priors", [None, "niw", ["dirichlet", "normal", "inverse_wishart"]])
@pytest.mark.parametrize("family", registry.names)
def test_value_and_gradient_are_those_of_the_layer(family: str, priors) -> None:
    layer = drawn_layer(family, priors=priors)
    x = torch.randn(60, D, dtype=torch.float64)
    posterior = LogPosterior(layer, x)
    own, v = posterior.layer, torch.tensor(posterior.start()).requires_grad_()
    parameters = posterior.vector.parameters(v[None])
    mixture = posterior.distribution(parameters)
    expected = mixture.log_prob(x[:, None]).sum() + log_jacobian(own, parameters).sum()
    if priors:
        expected = expected + own.priors.log_prob(mixture).sum()
    (slope,) = torch.autograd.grad(expected, v)
    value, gradient = posterior(posterior.start())
    assert value == pytest.approx(float(expected.detach()), rel=1e-10)
    torch.testing.assert_close(torch.tensor(gradient), slope, rtol=1e-9, atol=1e-9)


def test_noise_has_a_volume_and_a_prior() -> None:
    layer = drawn_layer("full", noise="uniform", priors="niw")
    x = torch.randn(60, D, dtype=torch.float64)
    posterior = LogPosterior(layer, x)
    start = torch.tensor(posterior.start())[None].requires_grad_()
    assert posterior.size == layer.num_free_parameters
    assert torch.autograd.gradcheck(lambda v: _FromGradient.apply(posterior, v), start)


class _FromGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, posterior, v):
        value, ctx.gradient = posterior.of_vectors(v)
        return value

    @staticmethod
    def backward(ctx, g):
        return None, g[:, None] * ctx.gradient


def test_what_no_sampler_keeps_is_refused() -> None:
    x = torch.randn(60, D, dtype=torch.float64)
    with pytest.raises(InvalidArgumentError, match="without projections"):
        LogPosterior(GMMLayer(D, K, freeze="means"), x)
    with pytest.raises(InvalidArgumentError, match="one mixture"):
        LogPosterior(GMMLayer(D, K, batch_shape=(2,)), x[:, None])


@pytest.mark.parametrize("rows", [60, 3000])
@pytest.mark.parametrize("family", registry.names)
def test_a_step_too_far_has_no_density(family: str, rows: int) -> None:
    # A sampler takes such a step back: nothing may be raised.
    posterior = LogPosterior(drawn_layer(family, priors="niw"), torch.randn(rows, D))
    for factor in (1e2, 1e4, 1e160, float("inf")):
        vector = factor * torch.randn(posterior.size, dtype=torch.float64)
        value, gradient = posterior(vector.numpy())
        assert value < -1e4 or value != value
        assert gradient.shape == (posterior.size,)
