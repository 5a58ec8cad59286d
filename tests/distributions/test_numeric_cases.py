"""Numbers that were computed elsewhere, with scipy and scikit-learn."""

from __future__ import annotations

import pytest
import torch

from gmm_lightning import GMMLayer, MixtureOfGaussians
from gmm_lightning.distributions import (
    Confidence,
    condition,
    confidence_radius,
    impute,
    in_confidence_region,
    kl_variational,
    log_prob_observed,
    reduce,
)

NAN = float("nan")


def set_c() -> MixtureOfGaussians:
    covariance = torch.tensor([[[0.5, -1.0], [-1.0, 5.0]], [[5.0, 1.0], [1.0, 0.5]]])
    means = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    return MixtureOfGaussians(torch.zeros(2), means, torch.linalg.cholesky(covariance))


@pytest.mark.parametrize(
    ("k", "d", "family", "expected"),
    [
        (2, 3, "full", 19),
        (2, 3, "diag", 13),
        (3, 2, "full", 17),
        (2, 5, "spherical", 13),
        (2, 5, "diag", 21),
        (2, 5, "tied", 26),
        (2, 5, "full", 41),
        # The codes of mclust that are families here: EII, VII, EEI, VVI, EEE, VVV.
        (3, 4, "tied_spherical", 15),
        (3, 4, "spherical", 17),
        (3, 4, "tied_diag", 18),
        (3, 4, "diag", 26),
        (3, 4, "tied", 24),
        (3, 4, "full", 44),
    ],
)
def test_free_parameters(k: int, d: int, family: str, expected: int) -> None:
    assert GMMLayer(d, k, family).num_free_parameters == expected


def test_condition_on_the_first_feature(double: None) -> None:
    # Case 13: component 2 given x1 = 2.
    conditional = condition(set_c(), [0], torch.tensor([2.0])).component(1)
    torch.testing.assert_close(conditional.means, torch.tensor([[-1.0]]), rtol=0, atol=1e-12)
    # 0.5 - 1/5.
    torch.testing.assert_close(conditional.component_covariances, torch.tensor([[[0.3]]]))


def test_a_missing_first_feature(double: None) -> None:
    # Cases 13 and 19: what is missing is integrated out, and guessed by regression.
    x = torch.tensor([[NAN, 1.0], [2.0, NAN], [NAN, NAN]])
    score = log_prob_observed(set_c(), x)
    torch.testing.assert_close(score[0], torch.tensor(-2.36050077), rtol=0, atol=1e-8)
    assert float(score[2]) == 0.0
    guess = impute(set_c(), x)
    torch.testing.assert_close(guess[0], torch.tensor([0.32848901, 1.0]), rtol=0, atol=1e-8)
    torch.testing.assert_close(guess[2], torch.tensor([1.0, 0.0]))


def test_two_as_one() -> None:
    # "Collapse to one Gaussian" of tests/golden/README.md, through the reduction of mixtures.
    means = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    mixture = MixtureOfGaussians(
        torch.tensor([0.25, 0.75]).log(), means, torch.eye(2).repeat(2, 1, 1)
    )
    one = reduce(mixture, 1)
    torch.testing.assert_close(one.means, torch.tensor([[2.5, 3.5]]))
    expected = torch.tensor([[[1.75, 0.75], [0.75, 1.75]]])
    torch.testing.assert_close(one.component_covariances, expected)
    assert float(kl_variational(one, one)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_regions_hold_their_mass(d: int, generator: torch.Generator) -> None:
    # Case 17: within 1 %, seven standard errors of the share.
    factor = torch.eye(d) + 0.5 * torch.randn(d, d, generator=generator).tril(-1)
    one = MixtureOfGaussians(torch.zeros(1), torch.randn(1, d, generator=generator), factor[None])
    x = one.sample(40_000, generator=generator)
    assert isinstance(x, torch.Tensor)
    for mass in (0.5, 0.9, 0.95):
        share = float(in_confidence_region(one, x, mass).double().mean())
        assert share == pytest.approx(mass, abs=0.01 if mass < 0.95 else 0.008)
        inside = one.sample(2000, within=Confidence(0.0, mass), generator=generator)
        assert isinstance(inside, torch.Tensor)
        radius = float(confidence_radius(mass, d))
        assert float(one.mahalanobis(inside).max()) <= radius * (1 + 1e-9)
