"""Distribution functions, quantiles and scores, against scipy, integrals and draws."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats
from support.random_layers import BATCHES, FAMILIES, random_layer, rounding
from torch import Tensor

from gmm_lightning import MixtureOfGaussians
from gmm_lightning.distributions import (
    cdf,
    crps,
    energy_score,
    interval,
    probability_integral_transform,
    quantile,
)
from gmm_lightning.errors import InvalidArgumentError

double = pytest.mark.usefixtures("double")
# Both halves, both tails; 1 - 2^-40 is a number of float64 to the last digit.
PROBABILITIES = (1e-300, 1e-30, 1e-9, 0.05, 0.31, 0.5, 0.7, 0.999, 1 - 2.0**-40)


def line(weights: list[float], means: list[float], scale: list[float]) -> MixtureOfGaussians:
    """A mixture of one feature."""
    columns = (torch.tensor(v) for v in (weights, means, scale))
    w, m, s = columns
    return MixtureOfGaussians(w.log(), m[:, None], s[:, None, None])


THREE = ([0.2, 0.5, 0.3], [-2.0, 0.5, 4.0], [0.3, 1.5, 0.8])
MIXTURES: dict[str, tuple[list[float], list[float], list[float]]] = {
    "one": ([1.0], [1.5], [2.0]),
    "three": THREE,
    "apart": ([0.4, 0.6], [-1e4, 1e4], [1e-2, 3.0]),
    "of all widths": ([0.3, 0.3, 0.4], [0.0, 0.0, 0.0], [1e-6, 1.0, 1e6]),
    "with a weight of 0": ([0.5, 0.0, 0.5], [-1.0, 1e6, 1.0], [1.0, 1.0, 0.5]),
}


def log_tails(mixture: MixtureOfGaussians, x: float) -> tuple[float, float]:
    """`log F(x)` and `log (1 - F(x))` by scipy."""
    w = mixture.weights.numpy()
    z = (x - mixture.means.squeeze(-1).numpy()) / mixture.scale_tril[:, 0, 0].numpy()
    return tuple(float(special.logsumexp(special.log_ndtr(t), b=w)) for t in (z, -z))


def components(mixture: MixtureOfGaussians, row: int) -> list[tuple[float, float, float]]:
    """Weights, means and deviations of one mixture of a batch."""
    parts = (mixture.weights, mixture.means[..., 0], mixture.scale_tril[..., 0, 0])
    flat = [p.detach().reshape(-1, mixture.num_components)[row].tolist() for p in parts]
    return list(zip(*flat, strict=True))


# -- distribution function and quantiles --------------------------------------------------------


@double
@pytest.mark.parametrize("name", MIXTURES)
def test_cdf_equals_scipy_in_the_lower_tail_too(name: str) -> None:
    mixture = line(*MIXTURES[name])
    w, m, s = (np.array(v) for v in MIXTURES[name])
    x = np.concatenate([m - 30 * s, m - 5 * s, m, m + s, [0.0]])
    expected = (w * special.ndtr((x[:, None] - m) / s)).sum(-1)
    # z^2 / 2 = 450 has an absolute rounding of 450 eps, which is a relative one of e^-450.
    torch.testing.assert_close(
        cdf(mixture, torch.from_numpy(x)[:, None]), torch.from_numpy(expected), rtol=1e-12, atol=0
    )


@double
@pytest.mark.parametrize("p", PROBABILITIES)
@pytest.mark.parametrize("name", MIXTURES)
def test_quantile_inverts_the_nearer_tail(name: str, p: float) -> None:
    """`log F(x) = log p` for scipy's F, or x is within rounding of where it is."""
    mixture = line(*MIXTURES[name])
    x = quantile(mixture, p)
    assert x.shape == (1,)
    tail, asked = (0, p) if p <= 0.5 else (1, 1 - p)

    def gap(at: float) -> float:
        return log_tails(mixture, at)[tail] - float(np.log(asked))

    # Steeper than this a change of x by its rounding is more than the tolerance in log p: far
    # components make F jump between neighbouring numbers.
    width = 4 * np.finfo(float).eps * abs(float(x))
    jump = abs(gap(float(x) + width) - gap(float(x) - width))
    assert abs(gap(float(x))) <= 1e-12 + jump


@double
@pytest.mark.parametrize("p", PROBABILITIES)
def test_quantile_equals_the_root_that_scipy_finds(p: float) -> None:
    mixture = line(*THREE)
    tail, asked = (0, p) if p <= 0.5 else (1, 1 - p)

    def gap(x: float) -> float:
        return log_tails(mixture, x)[tail] - float(np.log(asked))

    root = optimize.brentq(gap, -100, 100, xtol=1e-14, rtol=1e-15)
    assert float(quantile(mixture, p)) == pytest.approx(root, rel=1e-12, abs=1e-12)


@double
def test_quantile_of_one_gaussian_is_that_of_scipy() -> None:
    p = torch.tensor(PROBABILITIES[:-1])
    expected = torch.from_numpy(stats.norm.ppf(p.numpy(), 1.5, 2.0))
    torch.testing.assert_close(
        quantile(line(*MIXTURES["one"]), p).squeeze(-1), expected, rtol=1e-12, atol=1e-12
    )


@double
def test_quantile_keeps_its_digits_far_from_the_origin() -> None:
    near, far = line(*THREE), line(THREE[0], [m + 1e9 for m in THREE[1]], THREE[2])
    p = torch.tensor(PROBABILITIES)
    # A number near 1e9 has an absolute rounding of 1.2e-7.
    torch.testing.assert_close(quantile(far, p) - 1e9, quantile(near, p), rtol=0, atol=5e-7)


@double
def test_quantile_between_components_that_touch_nowhere() -> None:
    """F is 0.5 on a whole interval: any point of it will do, and no gradient is infinite."""
    mixture = line([0.5, 0.5], [-1e6, 1e6], [1e-3, 1e-3])
    mixture.means.requires_grad_()
    x = quantile(mixture, 0.5)
    assert x.detach().abs() < 1e6
    x.sum().backward()
    assert torch.isfinite(mixture.means.grad).all()


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_all_families_and_batches(
    family: str, batch: tuple[int, ...], generator: torch.Generator
) -> None:
    layer = random_layer(family, num_features=1, batch=batch, generator=generator)
    p = torch.rand(5, *batch, generator=generator, device=generator.device)
    x = quantile(layer, p)
    assert x.shape == (5, *batch, 1)
    # float64 quantiles, rounded to the dtype of the layer: F moves by its density times that.
    torch.testing.assert_close(cdf(layer, x), p, rtol=0, atol=rounding(1e-13))
    pit = probability_integral_transform(layer, x)
    torch.testing.assert_close(pit.squeeze(-1), p, rtol=0, atol=rounding(1e-13))
    low, high = interval(layer, 0.8)
    assert low.shape == high.shape == (*batch, 1)
    for end, expected in ((low, 0.1), (high, 0.9)):
        at = cdf(layer, end)
        torch.testing.assert_close(at, torch.full_like(at, expected), rtol=0, atol=rounding(1e-13))


def test_certain_and_impossible(double: None) -> None:
    mixture = line(*THREE)
    mixture.means.requires_grad_()
    x = quantile(mixture, torch.tensor([0.0, 1.0, 0.5]))
    assert x.squeeze(-1).tolist()[:2] == [-torch.inf, torch.inf]
    (grad,) = torch.autograd.grad(x[2], mixture.means)
    assert torch.isfinite(grad).all()


def test_a_mixture_of_nan_ends_and_gives_nan() -> None:
    mixture = line([0.5, 0.5], [float("nan"), 0.0], [1.0, 1.0])
    assert quantile(mixture, 0.3).isnan().all()


def test_float32_is_solved_in_float64() -> None:
    wide = line(*THREE)
    w, m, s = (p.to(torch.float32) for p in (wide.mixture_logits, wide.means, wide.scale))
    p = torch.tensor([1e-30, 0.3, 1 - 2.0**-20], dtype=torch.float32)
    x = quantile(MixtureOfGaussians(w, m, s), p)
    assert x.dtype == torch.float32
    exact = quantile(MixtureOfGaussians(w.double(), m.double(), s.double()), p.double())
    # One rounding to float32.
    torch.testing.assert_close(x.double(), exact.double(), rtol=1.2e-7, atol=0)


# -- scores -------------------------------------------------------------------------------------


@double
@pytest.mark.parametrize("y", [-40.0, -2.0, 0.1, 3.0, 500.0])
def test_crps_is_the_integral(y: float) -> None:
    mixture = line(*THREE)
    w, m, s = (np.array(v) for v in THREE)

    def distribution(x: float) -> float:
        return float((w * special.ndtr((x - m) / s)).sum())

    def square(x: float) -> float:
        return (distribution(x) - (x >= y)) ** 2

    ends = sorted({-60.0, *m, y, min(-60.0, y - 1), max(60.0, y + 1)})
    expected = sum(
        integrate.quad(square, a, b, epsabs=1e-13, limit=200)[0] for a, b in pairwise(ends)
    )
    # What the quadrature promises.
    assert float(crps(mixture, torch.tensor([y]))) == pytest.approx(expected, abs=1e-9, rel=1e-10)


@double
def test_crps_of_one_gaussian_is_the_known_formula() -> None:
    y = torch.linspace(-5, 8, 14)
    z = (y.numpy() - 1.5) / 2.0
    expected = 2.0 * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - np.pi**-0.5)
    torch.testing.assert_close(
        crps(line(*MIXTURES["one"]), y[:, None]), torch.from_numpy(expected), rtol=1e-13, atol=1e-13
    )


def test_crps_without_spread_is_the_absolute_error(double: None) -> None:
    mixture = line([1.0], [2.0], [1e-12])
    assert float(crps(mixture, torch.tensor([5.0]))) == pytest.approx(3.0, rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_mixture_for_each_row(family: str, generator: torch.Generator) -> None:
    """A batch equals its mixtures one by one, as a head gives them."""
    layer = random_layer(family, num_features=1, batch=(4,), generator=generator)
    mixture = layer.distribution()
    y = torch.randn(4, 1, generator=generator, device=generator.device)
    for function in (cdf, crps):
        found = function(mixture, y)
        assert found.shape == (4,)
        for i in range(4):
            w, m, s = (torch.tensor(c) for c in zip(*components(mixture, i), strict=True))
            alone = MixtureOfGaussians(w.log(), m[:, None], s[:, None, None])
            torch.testing.assert_close(
                found[i], function(alone, y[i]), rtol=rounding(1e-12), atol=0
            )


@double
@pytest.mark.parametrize("family", FAMILIES)
def test_energy_score_is_unbiased(family: str, generator: torch.Generator) -> None:
    """With one feature its mean is the CRPS; twenty parts give their own standard error."""
    layer = random_layer(family, num_features=1, generator=generator)
    y = torch.tensor([[-3.0], [0.0], [2.0]])
    with torch.no_grad():
        parts = torch.stack([energy_score(layer, y, 2000, generator) for _ in range(20)])
        exact = crps(layer, y)
    error = parts.std(0) / 20**0.5
    assert ((parts.mean(0) - exact).abs() <= 4 * error).all()
    assert (error < 0.01 * exact + 0.02).all()  # able to fail


@double
def test_energy_score_of_two_draws_is_unbiased(generator: torch.Generator) -> None:
    """An estimator that divided by m instead of m - 1 would be off by half of the spread."""
    mixture = line(*THREE)
    y = torch.zeros(20_000, 1)
    scores = energy_score(mixture, y, 2, generator)
    assert scores.shape == (20_000,)
    gap = scores.mean() - crps(mixture, y[0])
    assert gap.abs() <= 4 * scores.std() / 20_000**0.5


@double
def test_energy_score_is_least_for_the_truth_in_batches(
    generator: torch.Generator,
) -> None:
    means = torch.randn(300, 2, 3, generator=generator)
    factor = torch.eye(3).expand(300, 2, 3, 3)
    truth = MixtureOfGaussians(torch.zeros(300, 2), means, factor)
    y = truth.sample(generator=generator)
    assert isinstance(y, Tensor)
    scores = {
        width: energy_score(
            MixtureOfGaussians(torch.zeros(300, 2), means, width * factor), y, 200, generator
        ).mean()
        for width in (0.3, 1.0, 3.0)
    }
    assert min(scores, key=scores.__getitem__) == 1.0
    assert energy_score(truth, y.expand(5, 300, 3), 10, generator).shape == (5, 300)


@double
def test_energy_score_has_the_gradient_of_the_crps(generator: torch.Generator) -> None:
    logits = torch.tensor([0.3, -0.4], requires_grad=True)
    means = torch.tensor([[-1.0], [1.5]], requires_grad=True)
    factor = torch.tensor([[[0.8]], [[1.2]]], requires_grad=True)
    own = [logits, means, factor]
    y = torch.tensor([0.7])
    exact = torch.autograd.grad(crps(MixtureOfGaussians(*own), y), own)
    parts = []
    for _ in range(20):
        score = energy_score(MixtureOfGaussians(*own), y, 4000, generator)
        parts.append(torch.cat([g.flatten() for g in torch.autograd.grad(score, own)]))
    estimates = torch.stack(parts)
    error = estimates.std(0) / 20**0.5
    gap = (estimates.mean(0) - torch.cat([g.flatten() for g in exact])).abs()
    assert (gap <= 4 * error).all()
    assert error.max() < 0.02


# -- probability integral transform -------------------------------------------------------------


@double
@pytest.mark.parametrize("family", FAMILIES)
def test_pit_is_the_sequence_of_conditional_cdfs(family: str, generator: torch.Generator) -> None:
    mixture = random_layer(family, num_features=3, generator=generator).distribution()
    y = torch.randn(6, 3, generator=generator)
    u = probability_integral_transform(mixture, y)
    known = mixture.marginal([0])
    torch.testing.assert_close(u[:, 0], cdf(known, y[:, :1]), rtol=1e-12, atol=1e-14)
    for d in (1, 2):
        given = mixture.marginal(list(range(d + 1))).condition(list(range(d)), y[:, :d])
        torch.testing.assert_close(u[:, d], cdf(given, y[:, d : d + 1]), rtol=1e-10, atol=1e-12)


@double
def test_pit_of_own_draws_is_uniform_and_independent(generator: torch.Generator) -> None:
    layer = random_layer("full", num_features=2, generator=generator)
    y = layer.sample(4000, generator=generator)
    assert isinstance(y, Tensor)
    u = probability_integral_transform(layer, y).detach().numpy()
    # Fixed seeds: at 1e-4 a right transform fails one of ten thousand of them.
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    assert stats.pearsonr(u[:, 0], u[:, 1]).pvalue > 1e-4


@double
def test_pit_of_rows_far_out_is_0_and_1(generator: torch.Generator) -> None:
    layer = random_layer("full", num_features=2, generator=generator)
    far = torch.tensor([[-1e8, 0.0], [1e8, 0.0], [-1e300, 1e300]])
    u = probability_integral_transform(layer, far)
    assert u[:, 0].tolist() == [0.0, 1.0, 0.0]


# -- gradients ----------------------------------------------------------------------------------

FUNCTIONS: dict[str, Callable[[MixtureOfGaussians, Tensor], Tensor]] = {
    "cdf": cdf,
    "crps": crps,
    "pit": probability_integral_transform,
    "quantile": lambda mixture, y: quantile(mixture, y.squeeze(-1).sigmoid()),
    "upper quantile": lambda mixture, y: quantile(mixture, 1 - 1e-3 * y.squeeze(-1).sigmoid()),
}


@double
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradcheck(name: str, generator: torch.Generator) -> None:
    logits = torch.randn(2, 3, generator=generator).requires_grad_()
    means = torch.randn(2, 3, 1, generator=generator).requires_grad_()
    raw = (0.3 * torch.randn(2, 3, 1, 1, generator=generator)).requires_grad_()
    y = torch.randn(4, 2, 1, generator=generator).requires_grad_()

    def of(*own: Tensor) -> Tensor:
        return FUNCTIONS[name](MixtureOfGaussians(own[0], own[1], own[2].exp()), own[3])

    assert torch.autograd.gradcheck(of, (logits, means, raw, y))


@double
def test_pit_gradcheck_in_the_plane(generator: torch.Generator) -> None:
    logits = torch.randn(2, generator=generator).requires_grad_()
    means = torch.randn(2, 2, generator=generator).requires_grad_()
    raw = torch.randn(2, 2, 2, generator=generator).requires_grad_()
    y = torch.randn(3, 2, generator=generator).requires_grad_()

    def of(logits: Tensor, means: Tensor, raw: Tensor, y: Tensor) -> Tensor:
        factor = torch.eye(2) + 0.3 * raw.tril(-1)
        return probability_integral_transform(MixtureOfGaussians(logits, means, factor), y)

    assert torch.autograd.gradcheck(of, (logits, means, raw, y))


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [cdf, crps, quantile, interval])
def test_several_features_are_referred_to_the_marginal(
    function: Callable[..., object], generator: torch.Generator
) -> None:
    layer = random_layer("full", num_features=2, generator=generator)
    argument = torch.full((5, 2), 0.5, device=generator.device)
    with pytest.raises(
        InvalidArgumentError, match=r"one feature, got 2; .* mixture.marginal\(\[i\]"
    ):
        function(layer, argument)


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (1.5, r"in \[0, 1\], got values from 1.5 to 1.5"),
        (-0.1, r"in \[0, 1\]"),
        (float("nan"), r"in \[0, 1\]"),
        ("half", "probabilities as numbers, got 'half'"),
        (torch.full((4,), 0.5), r"shape \(4,\) do not fit the batch shape \(3,\) .* p\[:, None\]"),
    ],
)
def test_refuses_probabilities(p: object, words: str, generator: torch.Generator) -> None:
    layer = random_layer("full", num_features=1, batch=(3,), generator=generator)
    for function in (quantile, interval):
        with pytest.raises(InvalidArgumentError, match=words):
            function(layer, p)


def test_refuses_rows_and_draws_that_do_not_fit(generator: torch.Generator) -> None:
    layer = random_layer("full", num_features=2, generator=generator)
    rows = torch.zeros(4, 3, device=generator.device)
    for function in (probability_integral_transform, energy_score):
        with pytest.raises(InvalidArgumentError, match="2 features in the last axis"):
            function(layer, rows)
    for few in (1, 2.5, True, None):
        with pytest.raises(InvalidArgumentError, match="num_draws must be an integer >= 2"):
            energy_score(layer, rows[:, :2], few)
