"""Losses against closed forms, torch.distributions and Monte Carlo; their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.covering import covering
from support.random_layers import BATCHES, FAMILIES, random_layer, rounding, rows
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from gmm_lightning import GMMLayer, MixtureOfGaussians
from gmm_lightning.covariances import registry
from gmm_lightning.errors import GMMError, InvalidArgumentError, InvalidDataError
from gmm_lightning.losses import (
    count_nonfinite,
    covariance_penalty,
    dagmm_energy,
    kl_to_components,
    kl_to_mixture,
    negative_log_likelihood,
    responsibility_entropy,
)

over_families = pytest.mark.parametrize("family", FAMILIES)
over_batches = pytest.mark.parametrize("batch", BATCHES, ids=str)
# Every family, and every batch with some of them; the other pairs are slow.
family_and_batch = pytest.mark.parametrize(
    ("family", "batch"), covering(FAMILIES, [(), (2,)], strength=1)
)


def codes(
    generator: torch.Generator, batch: tuple[int, ...], n: int = 5, d: int = 2
) -> tuple[Tensor, Tensor]:
    """Means and standard deviations `(n, *batch, d)` of Gaussian posteriors."""
    mean = rows(n, d, generator, batch)
    noise = torch.randn(mean.shape, generator=generator, device=generator.device)
    return mean, (0.5 * noise - 0.3).exp()


# -- negative log-likelihood ----------------------------------------------------------------


@over_batches
@over_families
def test_likelihood_is_that_of_torch(family: str, batch: tuple, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator, batch=batch)
    x = rows(7, 2, generator, batch)
    expected = -layer.distribution().to_torch().log_prob(x)
    close = {"rtol": rounding(1e-10)}
    for mixture in (layer, layer.distribution()):
        each = negative_log_likelihood(mixture, x, "none")
        torch.testing.assert_close(each, expected, **close, atol=rounding(1e-10))
        torch.testing.assert_close(
            negative_log_likelihood(mixture, x), expected.mean(), **close, atol=0.0
        )
        torch.testing.assert_close(
            negative_log_likelihood(mixture, x, "sum"), expected.sum(), **close, atol=0.0
        )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_are_named_or_skipped(
    bad: float, generator: torch.Generator
) -> None:
    layer, twin = (random_layer("full", generator=generator) for _ in range(2))
    twin.load_state_dict(layer.state_dict())
    x = rows(6, 2, generator)
    x[1, 0] = x[4, 1] = bad
    with pytest.raises(InvalidDataError, match=r"row\(s\) 1, 4"):
        negative_log_likelihood(layer, x)
    kept = x[[0, 2, 3, 5]]
    loss = negative_log_likelihood(layer, x, skip_nonfinite=True)
    expected = negative_log_likelihood(twin, kept)
    assert int(count_nonfinite(x)) == 2
    torch.testing.assert_close(loss, expected, rtol=rounding(1e-13), atol=0.0)
    loss.backward()
    expected.backward()
    for mine, theirs in zip(layer.parameters(), twin.parameters(), strict=True):
        # Sums in another order.
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=rounding(1e-13))
    each = negative_log_likelihood(layer, x, "none", skip_nonfinite=True)
    assert each[1] == each[4] == 0
    assert each.count_nonzero() == 4


def test_targets_of_a_batch_of_mixtures_are_skipped_one_by_one(
    generator: torch.Generator,
) -> None:
    layer = random_layer("diag", generator=generator, batch=(4,))
    y = rows(1, 2, generator, (4,))[0]
    expected = negative_log_likelihood(layer, y, "none")[[0, 1, 3]].mean()
    y[2] = math.nan
    loss = negative_log_likelihood(layer, y, skip_nonfinite=True)
    torch.testing.assert_close(loss, expected, rtol=rounding(1e-13), atol=0.0)
    loss.backward()
    assert layer.means.grad is not None
    assert not bool(layer.means.grad[2].any())
    assert bool(layer.means.grad[[0, 1, 3]].any(-1).any(-1).all())


def test_a_batch_without_a_finite_row_has_no_loss(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    loss = negative_log_likelihood(layer, torch.full((3, 2), math.nan), skip_nonfinite=True)
    loss.backward()
    assert loss.item() == 0
    assert not any(bool(p.grad.any()) for p in layer.parameters() if p.grad is not None)


def test_the_likelihood_compiles_whole(generator: torch.Generator) -> None:
    mixture = random_layer("full", generator=generator).distribution()
    logits, means, scale = (
        p.detach() for p in (mixture.mixture_logits, mixture.means, mixture.scale)
    )

    def loss(logits: Tensor, means: Tensor, scale: Tensor, x: Tensor) -> Tensor:
        return negative_log_likelihood(
            MixtureOfGaussians(logits, means, scale), x, skip_nonfinite=True
        )

    x = rows(6, 2, generator)
    x[2] = math.nan
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    found, expected = compiled(logits, means, scale, x), loss(logits, means, scale, x)
    torch.testing.assert_close(found, expected)


# -- energy ---------------------------------------------------------------------------------


@over_batches
@over_families
def test_energy_by_its_formula(family: str, batch: tuple, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator, batch=batch)
    z = rows(7, 2, generator, batch)
    variances = layer.covariance_matrix.diagonal(dim1=-2, dim2=-1)
    assert variances.shape == (*batch, 3, 2)
    penalty = (1 / variances).sum((-2, -1))
    expected = -layer(z).mean(0) + 0.3 * penalty
    close = {"rtol": rounding(1e-12), "atol": rounding(1e-12)}
    torch.testing.assert_close(dagmm_energy(layer, z, 0.3), expected, **close)
    torch.testing.assert_close(covariance_penalty(layer), penalty, **close)


# -- divergence to a mixture ----------------------------------------------------------------


@over_batches
@over_families
def test_divergence_to_each_component_is_that_of_torch(
    family: str, batch: tuple, generator: torch.Generator
) -> None:
    layer = random_layer(family, generator=generator, batch=batch)
    mean, scale = codes(generator, batch)
    q = MultivariateNormal(mean.unsqueeze(-2), scale_tril=scale.diag_embed().unsqueeze(-3))
    p = MultivariateNormal(layer.means, scale_tril=layer.scale_tril)
    found = kl_to_components(mean, scale, layer)
    assert found.shape == (5, *batch, 3)
    torch.testing.assert_close(
        found, kl_divergence(q, p), rtol=rounding(1e-11), atol=rounding(1e-11)
    )


@over_families
def test_the_bound_is_exact_for_one_component(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator, num_components=1)
    mean, scale = codes(generator, ())
    q = Independent(Normal(mean, scale), 1)
    p = MultivariateNormal(layer.means[0], scale_tril=layer.scale_tril[0])
    expected = kl_divergence(MultivariateNormal(mean, scale_tril=scale.diag_embed()), p)
    close = {"rtol": rounding(1e-11), "atol": rounding(1e-11)}
    torch.testing.assert_close(kl_to_mixture(mean, scale, layer), expected, **close)
    # Six standard errors of as many plain draws; mirrored ones do better.
    z = q.sample((20_000,))
    spread = (q.log_prob(z) - p.log_prob(z)).std(0) / math.sqrt(20_000)
    drawn = kl_to_mixture(mean, scale, layer, num_samples=20_000, generator=generator)
    assert bool(((drawn - expected).abs() < 6 * spread).all())


@family_and_batch
def test_draws_lie_below_the_bounds(family: str, batch: tuple, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator, batch=batch)
    mean, scale = codes(generator, batch)
    q, p = Independent(Normal(mean, scale), 1), layer.distribution()
    z = q.sample((20_000,))
    log_ratio = q.log_prob(z) - p.log_prob(z)
    error = log_ratio.std(0) / math.sqrt(len(z))
    drawn = kl_to_mixture(mean, scale, layer, num_samples=20_000, generator=generator)
    # Of the difference of two estimates: sqrt(2), and six deviations of that.
    assert bool(((drawn - log_ratio.mean(0)).abs() < 6 * math.sqrt(2) * error).all())
    least = kl_to_mixture(mean, scale, layer)
    assert least.shape == (5, *batch)
    assert bool((least > drawn - 6 * error).all())
    # VaDE's choice of responsibilities can only be worse, and so can any other.
    slack = rounding(1e-12)
    for gamma in (p.responsibilities(z[0]), torch.full((5, *batch, 3), 1 / 3)):
        bound = kl_to_mixture(mean, scale, layer, responsibilities=gamma)
        assert bool((bound >= least - slack).all())
    best = (p.log_weights - kl_to_components(mean, scale, p)).softmax(-1)
    torch.testing.assert_close(
        kl_to_mixture(mean, scale, layer, responsibilities=best),
        least,
        rtol=rounding(1e-11),
        atol=rounding(1e-11),
    )


def full_codes(
    generator: torch.Generator, batch: tuple[int, ...], n: int = 5, d: int = 2
) -> tuple[Tensor, Tensor]:
    """Means and lower Cholesky factors `(n, *batch, d, d)` of Gaussian posteriors."""
    mean, scale = codes(generator, batch, n, d)
    below = torch.randn(*mean.shape, d, generator=generator, device=generator.device).tril(-1)
    return mean, below + scale.diag_embed()


@over_batches
@over_families
def test_full_covariances_are_those_of_torch(
    family: str, batch: tuple, generator: torch.Generator
) -> None:
    layer = random_layer(family, generator=generator, batch=batch)
    mean, factor = full_codes(generator, batch)
    q = MultivariateNormal(mean.unsqueeze(-2), scale_tril=factor.unsqueeze(-3))
    p = MultivariateNormal(layer.means, scale_tril=layer.scale_tril)
    close = {"rtol": rounding(1e-11), "atol": rounding(1e-11)}
    torch.testing.assert_close(kl_to_components(mean, factor, layer), kl_divergence(q, p), **close)
    # A factor without entries below the diagonal is what its deviations are.
    scale = factor.diagonal(dim1=-2, dim2=-1)
    gamma = layer.responsibilities(mean).detach()
    for options in ({}, {"responsibilities": gamma}, {"num_samples": 3}):
        one, other = (
            kl_to_mixture(
                mean,
                form,
                layer,
                **options,
                generator=torch.Generator(generator.device).manual_seed(0),
            )
            for form in (scale, scale.diag_embed())
        )
        torch.testing.assert_close(one, other, **close)


@over_families
def test_full_covariances_below_their_bounds(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator)
    mean, factor = full_codes(generator, ())
    q, p = MultivariateNormal(mean, scale_tril=factor), layer.distribution()
    z = q.sample((20_000,))
    log_ratio = q.log_prob(z) - p.log_prob(z)
    error = log_ratio.std(0) / math.sqrt(len(z))
    drawn = kl_to_mixture(mean, factor, layer, num_samples=20_000, generator=generator)
    # Of the difference of two estimates: sqrt(2), and six deviations of that.
    assert bool(((drawn - log_ratio.mean(0)).abs() < 6 * math.sqrt(2) * error).all())
    least = kl_to_mixture(mean, factor, layer)
    bound = kl_to_mixture(mean, factor, layer, responsibilities=p.responsibilities(mean))
    assert bool((least > drawn - 6 * error).all())
    assert bool((bound >= least - rounding(1e-12)).all())
    # With one component the bound is the divergence.
    one = p.component(0)
    exact = kl_divergence(q, MultivariateNormal(one.means[0], scale_tril=one.scale_tril[0]))
    close = {"rtol": rounding(1e-11), "atol": rounding(1e-11)}
    torch.testing.assert_close(kl_to_mixture(mean, factor, one), exact, **close)


def test_the_bound_of_vade_by_its_formula(double: None, generator: torch.Generator) -> None:
    # Jiang et al. (2017), equation (9), negated and without the decoder, for a diagonal mixture.
    layer = random_layer("diag", generator=generator)
    mean, scale = codes(generator, ())
    gamma = layer.responsibilities(mean)
    gap = (mean.unsqueeze(-2) - layer.means).square() / layer.scale.square()
    ratio = (scale.unsqueeze(-2) / layer.scale).square()
    inner = (2 * layer.scale.log() + ratio + gap).sum(-1)
    expected = 0.5 * (gamma * inner).sum(-1)
    expected = expected - (gamma * (layer.weights / gamma).log()).sum(-1)
    expected = expected - 0.5 * (1 + 2 * scale.log()).sum(-1)
    found = kl_to_mixture(mean, scale, layer, responsibilities=gamma)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_mirrored_draws_know_the_mean(double: None, generator: torch.Generator) -> None:
    # log p of one Gaussian is a parabola: mirrored pairs lose its odd part, so that far from
    # its centre they vary less than independent draws, whose variance is 4 gap^2 / n there.
    layer = random_layer("full", generator=generator, num_components=1)
    layer.set_parameters(means=torch.zeros(1, 2), covariance_matrix=torch.eye(2)[None])
    mean, scale = torch.full((400, 2), 30.0), torch.ones(400, 2)
    drawn = kl_to_mixture(mean, scale, layer, num_samples=2, generator=generator)
    # Exactly: 0.5 (mean of two equal chi-squares of 2 degrees - 2), of deviation 1.
    assert bool(((drawn - 900.0).abs() < 12).all())
    odd = kl_to_mixture(mean, scale, layer, num_samples=3, generator=generator)
    assert odd.shape == (400,)


def test_a_responsibility_of_zero_adds_nothing(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator, num_components=2)
    mean, scale = codes(generator, ())
    gamma = torch.tensor([[1.0, 0.0]]).repeat(5, 1).requires_grad_()
    bound = kl_to_mixture(mean, scale, layer, responsibilities=gamma)
    expected = kl_to_components(mean, scale, layer)[:, 0] - layer.weights[0].log()
    torch.testing.assert_close(bound, expected, rtol=rounding(1e-12), atol=rounding(1e-12))
    bound.sum().backward()
    assert gamma.grad is not None
    assert bool(torch.isfinite(gamma.grad).all())


@family_and_batch
def test_gradients(double: None, family: str, batch: tuple, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator, batch=batch, num_components=2)
    mean, scale = codes(generator, batch, n=2)
    below = torch.randn(*mean.shape, 2, generator=generator).tril(-1)
    covariance = registry.create(family)

    def losses(
        mean: Tensor, log_scale: Tensor, below: Tensor, logits: Tensor, means: Tensor, raw: Tensor
    ) -> tuple:
        mixture = MixtureOfGaussians(logits, means, covariance.scale(raw), covariance)
        again = torch.Generator(mean.device).manual_seed(1)
        scale, below = log_scale.exp(), below.tril(-1)
        gamma = mixture.responsibilities(mean)
        return (
            negative_log_likelihood(mixture, mean),
            dagmm_energy(mixture, mean),
            kl_to_mixture(mean, scale, mixture),
            kl_to_mixture(mean, scale, mixture, responsibilities=gamma),
            kl_to_mixture(mean, scale, mixture, num_samples=3, generator=again),
            kl_to_mixture(mean, below + scale.diag_embed(), mixture),
            kl_to_mixture(mean, below + scale.diag_embed(), mixture, responsibilities=gamma),
            kl_to_mixture(
                mean, below + scale.diag_embed(), mixture, num_samples=2, generator=again
            ),
            responsibility_entropy(mixture, mean),
        )

    parameters = (mean, scale.log(), below, layer.mixture_logits, layer.means, layer.raw_scale)
    leaves = [p.detach().clone().requires_grad_() for p in parameters]
    assert torch.autograd.gradcheck(losses, leaves)


def test_half_precision_codes_under_autocast(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator).float()
    mean, scale = codes(generator, ())
    mean, scale = mean.bfloat16(), scale.bfloat16()
    expected = kl_to_mixture(mean.float(), scale.float(), layer)
    with torch.autocast(mean.device.type, dtype=torch.bfloat16):
        found = kl_to_mixture(mean, scale, layer)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


# -- responsibilities -----------------------------------------------------------------------


@over_batches
@over_families
def test_entropy_of_responsibilities(family: str, batch: tuple, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator, batch=batch)
    x = rows(7, 2, generator, batch)
    r = layer.responsibilities(x).detach().cpu().numpy()
    expected = -np.sum(r * np.log(np.where(r > 0, r, 1.0)), -1).mean(0)
    found = responsibility_entropy(layer, x)
    assert found.shape == batch
    np.testing.assert_allclose(found.detach().cpu(), expected, atol=rounding(1e-13))


def test_entropy_with_a_component_of_no_weight(double: None) -> None:
    logits = torch.tensor([0.0, 0.0, -math.inf], requires_grad=True)
    mixture = MixtureOfGaussians(logits, torch.zeros(3, 1), torch.ones(3, 1, 1))
    entropy = responsibility_entropy(mixture, torch.zeros(4, 1))
    assert entropy.item() == pytest.approx(math.log(2), rel=1e-15)


# -- bad input ------------------------------------------------------------------------------

X, ONE = torch.zeros(4, 2), torch.ones(4, 2)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda p: negative_log_likelihood(p, torch.zeros(4, 3)), r"2 features.*\(4, 3\)"),
        (lambda p: negative_log_likelihood(p, X, "median"), "median.*mean, sum, none"),
        (lambda p: negative_log_likelihood("p", X), "mixture must be a mixture or a layer"),
        (lambda p: dagmm_energy(p, X, -1.0), r"penalty must be .* >= 0, got -1"),
        (lambda p: dagmm_energy(p, X, math.nan), "penalty must be"),
        (lambda p: kl_to_mixture(X, ONE[:2], p), r"same shape, got \(4, 2\) and \(2, 2\)"),
        (lambda p: kl_to_mixture(X, torch.ones(4, 2, 2), p), r"torch.linalg.cholesky\(covariance"),
        (lambda p: kl_to_mixture(X, torch.zeros(4, 2, 2), p), "must be > 0 everywhere"),
        (lambda p: kl_to_mixture(X, torch.ones(2, 2), p), r"factors of shape \(4, 2, 2\)"),
        (lambda p: kl_to_mixture(X[:, :1], ONE[:, :1], p), "2 features"),
        (lambda p: kl_to_mixture(X, ONE, p, num_samples=0), "num_samples must be"),
        (lambda p: kl_to_mixture([0.0, 0.0], ONE, p), r"same shape, got \(2,\) and \(4, 2\)"),
        (lambda p: kl_to_mixture(X, ONE, p, responsibilities="p"), "responsibilities as numbers"),
        (
            lambda p: kl_to_mixture(X, ONE, p, responsibilities=torch.ones(4, 2)),
            r"\(4, 3\), got \(4, 2\)",
        ),
        (
            lambda p: kl_to_mixture(X, ONE, p, num_samples=2, responsibilities=torch.ones(4, 3)),
            "belong to the bound",
        ),
        (lambda p: responsibility_entropy(p, torch.zeros(4, 3)), "2 features"),
    ],
)
def test_refusals(call: object, said: str) -> None:
    assert callable(call)
    with pytest.raises(InvalidArgumentError, match=said) as caught:
        call(GMMLayer(2, 3))
    assert isinstance(caught.value, GMMError)


def test_responsibilities_and_scales_are_checked() -> None:
    mixture = MixtureOfGaussians(torch.zeros(3), torch.zeros(3, 2), torch.eye(2).repeat(3, 1, 1))
    mean, scale = torch.zeros(5, 2), torch.ones(5, 2)
    for wrong in (torch.ones(5, 3), -torch.ones(5, 3)):
        with pytest.raises(InvalidArgumentError, match="with sum 1 for every row"):
            kl_to_mixture(mean, scale, mixture, responsibilities=wrong)
    for sign in (0.0, -1.0):
        with pytest.raises(InvalidArgumentError, match="scale must be > 0"):
            kl_to_mixture(mean, sign * scale, mixture)
