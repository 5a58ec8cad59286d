"""Words, None and NaN in the place of numbers, and numbers that few formulas survive."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import chi, chi2
from support.goodness_of_fit import SIGNIFICANCE

from gmm_lightning._validation import is_number, require_integer, require_number
from gmm_lightning.distributions import (
    Ball,
    Box,
    Confidence,
    HalfSpace,
    MixtureOfGaussians,
    Shell,
    Where,
    affine,
    chi_quantile,
    confidence_radius,
    ellipses,
    entropy,
    from_sigma_points,
    in_confidence_region,
    kl_divergence,
    modes,
    prune,
    reduce,
    regress,
    score_function,
    sigma_points,
    unscented,
)
from gmm_lightning.errors import GMMError, InvalidArgumentError, InvalidDataError

NOT_NUMBERS = ["a", None, math.nan, True, [1.0], 10**400, 1j, torch.ones(1)]


@pytest.fixture
def mixture() -> MixtureOfGaussians:
    means = torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    identity = torch.eye(2, dtype=torch.float64)
    return MixtureOfGaussians(means.new_zeros(2), means, identity.repeat(2, 1, 1))


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_what_is_no_number(value: Any) -> None:
    assert not is_number(value)
    with pytest.raises(InvalidArgumentError, match="x must be a finite number, got"):
        require_number("x", value)
    with pytest.raises(InvalidArgumentError, match="x must be an integer >= 0, got"):
        require_integer("x", value if value != 1j else 1.0, least=0)


@pytest.mark.parametrize("value", [1, 1.0, np.float32(1), np.int64(1), torch.tensor(1.0)])
def test_what_is_one(value: Any) -> None:
    assert require_number("x", value, above=0, most=1) == 1.0
    with pytest.raises(InvalidArgumentError, match="x must be a finite number > 1 and <= 2, got"):
        require_number("x", value, above=1, most=2)


WRONG: dict[str, Callable[[Any, Any], object]] = {
    "ellipses": lambda m, v: ellipses(m, v),
    "prune": lambda m, v: prune(m, v),
    "reduce": lambda m, v: reduce(m, v),
    "max_iter": lambda m, v: modes(m, max_iter=v),
    "tol": lambda m, v: modes(m, tol=v),
    "alpha": lambda m, v: sigma_points(m, v),
    "kappa": lambda m, v: sigma_points(m, 1.0, v),
    "beta": lambda m, v: unscented(m, lambda x: x, beta=v),
    "probability": lambda m, v: in_confidence_region(m, torch.zeros(2), v),
    "draws": lambda m, v: in_confidence_region(m, m.means, 0.5, kind="density", num_samples=v),
    "num_features": lambda m, v: confidence_radius(0.5, v),
    "entropy": lambda m, v: entropy(m, v),
    "kl": lambda m, v: kl_divergence(m, m, v),
    "score": lambda m, v: score_function(m, lambda x: x.sum(-1), v),
    "radius": lambda m, v: Ball([0.0, 0.0], v),
    "offset": lambda m, v: HalfSpace([1.0, 0.0], v),
    "max_draws": lambda m, v: Where(lambda x: x > 0, max_draws=v),
    "confidence": lambda m, v: Confidence(0.0, v),
    "temperature": lambda m, v: m.sample(2, temperature=v),
    "first mixture": lambda m, v: modes(v),
    "second mixture": lambda m, v: kl_divergence(m, v),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("value", ["a", None, math.nan, -math.inf])
def test_wrong_numbers_are_typed(
    mixture: MixtureOfGaussians, call: Callable[[Any, Any], object], value: Any
) -> None:
    with pytest.raises(InvalidArgumentError):
        call(mixture, value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: reduce(m, 1.5), "num_components must be an integer >= 1, got 1.5"),
        (lambda m: modes(m, max_iter=2.5), "max_iter must be an integer >= 1, got 2.5"),
        (lambda m: sigma_points(m, 1e-200), r"alpha\^2 \(D \+ kappa\) must be a finite number > 0"),
        (lambda m: affine(m, torch.eye(2), torch.ones(3)), r"offset \(\*B, M\).*got shapes"),
        (lambda m: affine(m, torch.ones(3, 2, 2)), "batch shape"),
        (lambda m: affine(m, torch.zeros(0, 2)), r"shape \(M, 2\) with M <= 2, got shape \(0, 2\)"),
        (lambda m: affine(m, "a"), "a matrix as numbers, got 'a'"),
        (lambda m: affine(m, torch.eye(2), "a"), "an offset as numbers, got 'a'"),
        (lambda m: affine(m, torch.eye(2), math.nan), "must be finite"),
        (lambda m: confidence_radius("a", 2), "a probability as numbers"),
        (lambda m: confidence_radius(1.5, 2), r"in \[0, 1\], got 1.5"),
        (lambda m: from_sigma_points(torch.zeros(5), torch.zeros(1)), "2 D . 1 points"),
        (lambda m: modes("a"), "mixture must be a mixture or a layer with one, got 'a'"),
    ],
)
def test_what_the_message_says(
    mixture: MixtureOfGaussians, call: Callable[[Any], object], said: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        call(mixture)


def test_what_has_no_closed_form_names_what_estimates_it(mixture: MixtureOfGaussians) -> None:
    for call, said in (
        (mixture.entropy, "entropy_bounds"),
        (lambda: mixture.mode, "modes"),
        (lambda: torch.distributions.kl_divergence(mixture, mixture), "kl_variational"),
    ):
        with pytest.raises(NotImplementedError, match=said) as caught:
            call()
        assert isinstance(caught.value, GMMError)


def test_values_keep_their_digits(mixture: MixtureOfGaussians) -> None:
    """A list of Python's floats is not rounded to float32 on its way."""
    torch.set_default_dtype(torch.float32)
    factor = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]], dtype=torch.float64)
    reference = MixtureOfGaussians(factor.new_zeros(1), factor.new_zeros(1, 2), factor)
    assert reference.condition([0], [0.1]).mean.item() == pytest.approx(0.06, rel=1e-15)


# -- rows beyond all components -----------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "far"), [(torch.float64, 1e200), (torch.float32, 1e25)])
def test_nothing_is_known_beyond_all_components(dtype: torch.dtype, far: float) -> None:
    mixture = MixtureOfGaussians(
        torch.zeros(2, dtype=dtype),
        torch.zeros(2, 2, dtype=dtype),
        torch.eye(2, dtype=dtype).repeat(2, 1, 1),
    )
    values = torch.tensor([[0.0], [far], [-far]], dtype=dtype)
    for call in (mixture.condition, lambda i, v: regress(mixture, i, v)):
        with pytest.raises(InvalidDataError, match="2 of 3 rows of values lie so far"):
            call([0], values)
    # NaN goes through, and a density looks at nothing.
    assert mixture.condition([0], torch.full((1, 1), math.nan, dtype=dtype)).mean.isnan().all()
    row = torch.tensor([far, 0.0], dtype=dtype)
    assert mixture.log_prob(row) == -math.inf
    assert mixture.responsibilities(row).isnan().all()
    assert mixture.grad_log_prob(row).isnan().all()


@pytest.mark.slow
def test_a_graph_of_a_conditional_is_not_broken(mixture: MixtureOfGaussians) -> None:
    def mean(values: torch.Tensor) -> torch.Tensor:
        return mixture.condition([0], values).mean

    values = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    compiled = torch.compile(mean, backend="eager")
    assert torch.equal(compiled(values), mean(values))


# -- the smallest and the largest regions -------------------------------------------------------


@pytest.mark.parametrize("num_features", [1, 2, 5])
@pytest.mark.parametrize("radius", [1e-300, 1e-200, 1e-20, 1e160, 1e308])
@pytest.mark.parametrize("center", [0.0, 0.5])
def test_balls_of_any_size(num_features: int, radius: float, center: float) -> None:
    identity = torch.eye(num_features, dtype=torch.float64)
    mixture = MixtureOfGaussians(
        identity.new_zeros(2),
        torch.stack([0 * identity[0], 3 * identity[0]]),
        identity[None].repeat(2, 1, 1),
    )
    ball = Ball([center] * num_features, radius)
    generator = torch.Generator().manual_seed(0)
    x, z = mixture.sample(2000, within=ball, return_component=True, generator=generator)
    assert ball.contains(x).all()
    if radius > 1:
        share, depth = 0.5, None
    else:
        # The densities at the centre say which component it is.
        log = mixture.log_joint(torch.full((num_features,), center, dtype=torch.float64))
        share, depth = float(log.softmax(-1)[0]), x.abs().amax(-1)
    assert stats.binomtest(int((z == 0).sum()), 2000, share).pvalue > SIGNIFICANCE
    if depth is not None and center == 0:
        assert float((x / radius).norm(dim=-1).max()) > 0.9
        uniform = (x / radius).norm(dim=-1) ** num_features
        assert stats.kstest(uniform.numpy(), "uniform").pvalue > SIGNIFICANCE


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1.0, 1e200])
def test_a_half_space_has_no_unit(mixture: MixtureOfGaussians, scale: float) -> None:
    seeds = (torch.Generator().manual_seed(0) for _ in range(2))
    plane, same = HalfSpace([scale, 0.0], 2 * scale), HalfSpace([1.0, 0.0], 2.0)
    x, y = (
        mixture.sample(50, within=p, generator=s) for p, s in zip((plane, same), seeds, strict=True)
    )
    assert torch.allclose(x, y)
    assert plane.contains(x).all()


def test_a_thin_box_between_two_floats(mixture: MixtureOfGaussians) -> None:
    low = 0.7
    box = Box([low, -1.0], [math.nextafter(low, 1.0), 1.0])
    assert box.contains(mixture.sample(100, within=box)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_coldest_soft_choice_is_a_choice(dtype: torch.dtype) -> None:
    logits = torch.zeros(2, dtype=dtype, requires_grad=True)
    means = torch.tensor([[-5.0], [5.0]], dtype=dtype)
    mixture = MixtureOfGaussians(logits, means, torch.full((2, 1, 1), 1e-3, dtype=dtype))
    x = mixture.rsample(100, relaxed=1e-320)
    assert torch.allclose(x.abs(), torch.tensor(5.0, dtype=dtype), atol=0.1)
    x.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# -- the chi distribution ----------------------------------------------------------------------


@pytest.mark.parametrize("num_features", [1, 2, 100])
def test_the_radius_of_a_mass(num_features: int) -> None:
    masses = [0.0, 1e-300, 1e-10, 0.3, 0.95, 1 - 1e-12, 1.0]
    reference = chi(num_features)
    wanted = [reference.ppf(p) if p < 0.5 else reference.isf(1 - p) for p in masses]
    np.testing.assert_allclose(chi_quantile(masses, num_features), wanted, rtol=1e-9)


@pytest.mark.parametrize("num_features", [1, 2, 10])
def test_what_lies_beyond_a_radius(num_features: int) -> None:
    reference = chi2(num_features)
    for radius in (0.0, 2.0, 8.0, 20.0):
        found = Shell(radius).reach(num_features)
        assert reference.logsf(found**2) - reference.logsf(radius**2) == pytest.approx(
            math.log(0.01), rel=1e-6
        )
    # Exact in the plane, and close elsewhere.
    far = Shell(60.0).reach(num_features)
    assert far == pytest.approx(math.sqrt(3600 - 2 * math.log(0.01)), rel=1e-12)
