"""What each kind of noise is by itself, and which arguments it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import MultivariateNormal

from gmm_lightning import GMMLayer, MixtureClassifier, fit_classifier, fit_em, resolve_priors
from gmm_lightning.errors import GMMError, InvalidArgumentError, UnresolvedNoiseError
from gmm_lightning.noise import Gaussian, Noise, Uniform
from gmm_lightning.rows import Batch

pytestmark = pytest.mark.usefixtures("double")


def resolved(noise: Noise, x: Tensor, weight: Tensor | None = None) -> Any:
    layer = GMMLayer(x.shape[-1], 1, noise=noise)
    resolve_priors(layer, x, weight)
    return layer.noise


# -- uniform ------------------------------------------------------------------------------------


def test_the_box_is_that_of_the_rows_with_weight(generator: Generator) -> None:
    x = torch.randn(50, 3, generator=generator)
    weight = torch.ones(50)
    far = x[:, 1].argmax()
    weight[far] = 0.0
    noise = resolved(Uniform(), x, weight)
    kept = x[weight > 0]
    assert torch.equal(noise.low, kept.amin(0))
    assert torch.equal(noise.high, kept.amax(0))
    # The box is closed: its corners belong to it, and what lies beyond has no density.
    corners = torch.stack([noise.low, noise.high, noise.high + 1e-9])
    volume = (kept.amax(0) - kept.amin(0)).prod()
    expected = torch.tensor([1.0, 1.0, 0.0]) / volume
    torch.testing.assert_close(noise.log_density(corners).exp(), expected, rtol=1e-13, atol=0)
    assert float(noise.log_density(x[far : far + 1])) == -math.inf
    resolve_priors(GMMLayer(3, 1, noise=noise), x)


def test_batches_of_a_stream_have_the_box_of_all_rows(generator: Generator) -> None:
    x = torch.randn(40, 2, generator=generator)
    whole, parts = GMMLayer(2, 1, noise="uniform"), GMMLayer(2, 1, noise="uniform")
    resolve_priors(whole, x)
    resolve_priors(parts, [Batch(x[:15]), Batch(x[15:])])
    assert whole.noise is not None
    assert parts.noise is not None
    for name, value in whole.noise.state_dict().items():
        assert torch.equal(value, parts.noise.state_dict()[name]), name


def test_rows_at_the_edge_are_inside_in_float32(generator: Generator) -> None:
    x = torch.randn(300, 2, generator=generator) * 1e3 + 1e5
    for family in ("full", "tied"):
        layer = GMMLayer(2, 1, family, noise="uniform", dtype=torch.float32)
        fit_em(layer, x, max_iter=3)
        assert layer.noise is not None
        # As the kernels see them: rounded to the layer.
        assert bool(torch.isfinite(layer.noise.log_density(x.float())).all())


def test_a_constant_feature_has_density_one() -> None:
    x = torch.tensor([[0.0, 7.0], [4.0, 7.0], [1.0, 7.0]])
    density = resolved(Uniform(), x).log_density(torch.tensor([[1.0, 7.0], [1.0, 7.1]])).exp()
    assert density.tolist() == pytest.approx([0.25, 0.0])
    wide = resolved(Gaussian(factor=2.0), x)
    line = torch.distributions.Normal(x[:, 0].mean(), (2 * x[:, 0].var(correction=0)).sqrt())
    # The factor of a constant is that of a variance of 1 / (2 pi).
    torch.testing.assert_close(wide.log_density(x), line.log_prob(x[:, 0]), rtol=1e-12, atol=1e-12)


def test_each_class_has_the_box_of_its_rows(generator: Generator) -> None:
    x = torch.randn(60, 2, generator=generator)
    y = torch.arange(60) % 2
    x[y == 1] += 30.0
    layer = GMMLayer(2, 1, noise="uniform", batch_shape=(2,))
    fit_classifier(MixtureClassifier(layer), x, y, max_iter=5)
    noise: Any = layer.noise
    for c in (0, 1):
        assert torch.equal(noise.low[c], x[y == c].amin(0))
        assert torch.equal(noise.high[c], x[y == c].amax(0))


# -- gaussian -----------------------------------------------------------------------------------


def test_the_covariance_is_that_of_all_rows(generator: Generator) -> None:
    # Far away, so that sums of squares would cancel.
    x = torch.randn(200, 3, generator=generator) @ torch.randn(3, 3, generator=generator) + 1e6
    weight = torch.rand(200, generator=generator)
    noise = resolved(Gaussian(factor=3.0), x, weight)
    mean = (weight.unsqueeze(-1) * x).sum(0) / weight.sum()
    covariance = torch.cov(x.T, correction=0, aweights=weight)
    torch.testing.assert_close(noise.mean, mean, rtol=1e-14, atol=0)
    found = noise.scale_tril @ noise.scale_tril.mT
    # Differences of numbers of size 1e6 keep ten digits.
    torch.testing.assert_close(found, 3 * covariance, rtol=1e-9, atol=1e-9)
    dense = MultivariateNormal(noise.mean, scale_tril=noise.scale_tril)
    torch.testing.assert_close(noise.log_density(x), dense.log_prob(x), rtol=1e-11, atol=1e-11)


def test_columns_that_follow_from_each_other_have_a_density(generator: Generator) -> None:
    x = torch.randn(100, 2, generator=generator)
    x = torch.cat([x, x.sum(-1, keepdim=True)], -1)
    assert bool(torch.isfinite(resolved(Gaussian(), x).log_density(x)).all())


# -- draws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [Uniform(0.4), Gaussian(0.4)], ids=["uniform", "gaussian"])
def test_draws_have_noise_in_its_share(noise: Noise, generator: Generator) -> None:
    x = torch.randn(100, 2, generator=generator)
    layer = GMMLayer(2, 2, noise=noise, batch_shape=(2,))
    resolve_priors(layer, x.unsqueeze(1))
    drawn, z = layer.sample_with_noise((3, 4000), return_component=True, generator=1)
    assert isinstance(drawn, Tensor)
    assert drawn.shape == (3, 4000, 2, 2)
    assert z.shape == (3, 4000, 2)
    assert set(z.unique().tolist()) == {-1, 0, 1}
    # 24,000 draws: five standard errors of a share of 0.4 are 0.016.
    assert float((z == -1).double().mean()) == pytest.approx(0.4, abs=0.016)
    own = drawn[..., 0, :][z[..., 0] == -1]
    if isinstance(noise, Uniform):
        box: Any = layer.noise
        assert bool(((own >= box.low[0]) & (own <= box.high[0])).all())
    else:
        # 4,800 draws of standard deviation 2.
        assert own.std(0).tolist() == pytest.approx((2 * x.std(0, correction=0)).tolist(), rel=0.06)
    again, _ = layer.sample_with_noise((3, 4000), return_component=True, generator=1)
    assert torch.equal(again, drawn)
    assert layer.sample(5).shape == (5, 2, 2)


def test_a_volume_has_no_draws() -> None:
    layer = GMMLayer(2, 2, noise=Uniform(volume=3.0))
    with pytest.raises(InvalidArgumentError, match="no box to draw from"):
        layer.sample_with_noise(3)
    assert layer.sample(3).shape == (3, 2)


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Uniform(0), "weight of the noise must be a finite number > 0"),
        (lambda: Uniform(1), "must be below 1"),
        (lambda: Gaussian("much"), "weight of the noise"),  # pyright: ignore
        (lambda: Uniform(fixed=1), "fixed must be True or False"),  # pyright: ignore
        (lambda: Uniform(concentration=0.5), ">= 1"),
        (lambda: Uniform(concentration=[1, 2, 3]), "one number or two"),
        (lambda: Uniform(fixed=True, concentration=2), "leave one of them out"),
        (lambda: Uniform(volume=-1), "volume must be a finite number > 0"),
        (lambda: Uniform(volume=1, low=[0, 0]), "a volume or a box"),
        (lambda: GMMLayer(2, 2, noise=Uniform(low=[1, 1], high=[0, 2])), "low <= high"),
        (lambda: GMMLayer(2, 2, noise=Uniform(low=[1, 1, 1])), r"must broadcast to \(2,\)"),
        (lambda: GMMLayer(2, 2, noise=Uniform(low="here")), "takes numbers, got low"),
        (lambda: GMMLayer(2, 2, noise=Uniform(high=[math.nan, 1])), "must be finite"),
        (lambda: GMMLayer(2, 2, noise="loud"), "known are: gaussian, uniform"),
        (lambda: GMMLayer(2, 2, noise=3), "got int"),  # pyright: ignore
        (lambda: Gaussian(factor=0), "factor must be"),
        (
            lambda: GMMLayer(2, 2, noise=Gaussian(covariance=[[1, 2], [2, 1]])),
            "positive definite",
        ),
        (
            lambda: fit_em(GMMLayer(2, 1, noise=Uniform(low=[9, 9])), torch.zeros(5, 2)),
            "holds no row",
        ),
    ],
)
def test_bad_arguments_are_refused_in_a_sentence(make: Any, words: str) -> None:
    with pytest.raises(GMMError, match=words):
        make()


def test_a_density_that_waits_for_data_is_not_guessed() -> None:
    for noise in ("uniform", "gaussian"):
        layer = GMMLayer(2, 2, noise=noise)
        with pytest.raises(UnresolvedNoiseError, match=r"fit the layer"):
            layer(torch.zeros(1, 2))


def test_what_is_given_keeps_its_digits_and_needs_no_memory() -> None:
    torch.set_default_dtype(torch.float32)
    noise = Uniform(0.1, low=[0.1, 0.2], high=[0.3, 0.4])
    layer = GMMLayer(2, 2, noise=noise, dtype=torch.float64)
    own: Any = layer.noise
    assert own.low.tolist() == [0.1, 0.2]
    assert float(own.weight.detach()) == pytest.approx(0.1, rel=1e-15)
    with torch.device("meta"):
        hidden = GMMLayer(2, 2, noise=noise)
    assert hidden.noise is not None
    assert hidden.noise.logit.is_meta
    hidden.to_empty(device="cpu").reset_parameters()
    assert float(hidden.noise.weight.detach()) == pytest.approx(0.1, rel=1e-6)
    x = torch.tensor([[0.2, 0.3]])
    hidden.double()(x)
