from __future__ import annotations

import math

import pytest
import torch
from support.covering import covering
from support.random_layers import BATCHES, FAMILIES, random_layer

from gmm_lightning import MixtureOfGaussians, _chunking
from gmm_lightning.distributions import (
    condition,
    impute,
    log_prob_observed,
    marginal,
    regress,
)
from gmm_lightning.errors import InvalidArgumentError

over_families = pytest.mark.parametrize("family", FAMILIES)


def mixture_of(
    family: str, generator: torch.Generator, d: int = 4, batch: tuple[int, ...] = ()
) -> MixtureOfGaussians:
    return random_layer(family, generator=generator, num_features=d, batch=batch).distribution()


@pytest.mark.parametrize(
    ("family", "known", "batch"), covering(FAMILIES, [[0], [3, 1], [2, 0, 3], [1, 2]], BATCHES)
)
def test_joint_is_marginal_times_conditional(
    family: str, known: list[int], batch: tuple[int, ...], generator: torch.Generator
) -> None:
    mixture = mixture_of(family, generator, batch=batch)
    rest = [i for i in range(4) if i not in known]
    x = 2 * torch.randn(5, *batch, 4, generator=generator)
    conditional = condition(mixture, known, x[..., known])
    assert conditional.batch_shape == (5, *batch)
    assert conditional.covariance is mixture.covariance
    joint = marginal(mixture, known).log_prob(x[..., known]) + conditional.log_prob(x[..., rest])
    # Two factorisations of one covariance, whose condition number is in the thousands.
    torch.testing.assert_close(joint, mixture.log_prob(x), rtol=1e-10, atol=1e-10)


def set_c() -> MixtureOfGaussians:
    covariance = torch.tensor([[[0.5, -1.0], [-1.0, 5.0]], [[5.0, 1.0], [1.0, 0.5]]])
    means = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    return MixtureOfGaussians(torch.zeros(2), means, torch.linalg.cholesky(covariance))


def test_the_known_case(double: None) -> None:
    """Numbers computed with scipy and scikit-learn, to eight digits; others are fractions."""
    conditional = condition(set_c(), [1], torch.tensor([1.0]))
    torch.testing.assert_close(
        conditional.means.flatten(), torch.tensor([0.0, 6.0]), rtol=0, atol=1e-12
    )
    variances = conditional.component_covariances.flatten()
    # 0.5 - 1/5 and 5 - 1/0.5.
    torch.testing.assert_close(variances, torch.tensor([0.3, 3.0]), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        conditional.weights, torch.tensor([0.94525183, 0.05474817]), rtol=0, atol=1e-8
    )
    mean, _ = regress(set_c(), [1], torch.tensor([1.0]), covariance=False)
    torch.testing.assert_close(mean, torch.tensor([0.32848901]), rtol=0, atol=1e-8)
    score = marginal(set_c(), [1]).log_prob(torch.tensor([1.0]))
    torch.testing.assert_close(score, torch.tensor(-2.36050077), rtol=0, atol=1e-8)


def test_condition_on_the_first_feature(double: None) -> None:
    # Component 2 given x1 = 2; its variance is 0.5 - 1 / 5.
    conditional = condition(set_c(), [0], torch.tensor([2.0])).component(1)
    torch.testing.assert_close(conditional.means, torch.tensor([[-1.0]]), rtol=0, atol=1e-12)
    torch.testing.assert_close(conditional.component_covariances, torch.tensor([[[0.3]]]))


def test_a_missing_first_feature(double: None) -> None:
    """Missing entries are integrated out of the density, and imputed by regression."""
    x = torch.tensor([[math.nan, 1.0], [2.0, math.nan], [math.nan, math.nan]])
    score = log_prob_observed(set_c(), x)
    torch.testing.assert_close(score[0], torch.tensor(-2.36050077), rtol=0, atol=1e-8)
    assert float(score[2]) == 0.0
    filled = impute(set_c(), x)
    torch.testing.assert_close(filled[0], torch.tensor([0.32848901, 1.0]), rtol=0, atol=1e-8)
    torch.testing.assert_close(filled[2], torch.tensor([1.0, 0.0]))


@over_families
def test_gradients_flow(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator, num_features=3)
    values = torch.randn(2, 2, generator=generator, requires_grad=True)
    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def density(logits: torch.Tensor, means: torch.Tensor, raw: torch.Tensor, v: torch.Tensor):
        mixture = MixtureOfGaussians(logits, means, layer.covariance.scale(raw), layer.covariance)
        return condition(mixture, [2, 0], v).log_prob(torch.zeros(1))

    assert torch.autograd.gradcheck(density, (*parameters, values))


@over_families
def test_regression_is_the_moments_of_the_conditional(
    family: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixture = mixture_of(family, generator)
    x = torch.randn(7, 2, generator=generator)
    conditional = condition(mixture, [1, 3], x)
    monkeypatch.setattr(_chunking, "MEMORY_BYTES", 30 * 8)
    monkeypatch.setattr(_chunking, "CACHE_BYTES", 30 * 8)
    mean, spread = regress(mixture, [1, 3], x)
    # Rows in other chunks: products are summed in another order.
    torch.testing.assert_close(mean, conditional.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(spread, conditional.covariance_matrix, rtol=1e-12, atol=1e-12)
    assert regress(mixture, [1, 3], x[:0])[0].shape == (0, 2)


@pytest.mark.parametrize(
    ("indices", "words"),
    [
        ([4], r"in \[0, 4\), got \[4\]"),
        ([0, 0], r"must differ, got \[0, 0\]"),
        ([0.5], "must be integers"),
        ([], "between 1 and 3 of 4"),
        ([0, 1, 2, 3], "between 1 and 3 of 4"),
        ([1, -3], r"must differ, got \[1, 1\]"),
    ],
)
def test_refuses_indices(indices: list[int], words: str, generator: torch.Generator) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        condition(mixture_of("full", generator), indices, torch.zeros(len(indices)))


def test_refuses_values(generator: torch.Generator) -> None:
    mixture = mixture_of("full", generator, batch=(3,))
    with pytest.raises(InvalidArgumentError, match=r"the 2 features \[0, 1\].*shape \(5, 3\)"):
        condition(mixture, [0, 1], torch.zeros(5, 3))
    with pytest.raises(InvalidArgumentError, match=r"shape \(5, 2\) do not fit .* \(3,\)"):
        condition(mixture, [0, 1], torch.zeros(5, 2))
