"""`torch.distributions.kl_divergence` of Gaussians and mixtures: exact, or refused in words."""

from __future__ import annotations

import pytest
import torch
from support.random_layers import BATCHES, FAMILIES, random_layer
from torch import Generator, Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from gmm_lightning import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError, NoClosedFormError

pytestmark = pytest.mark.usefixtures("double")

# Two ways through a dozen operations on factors of a condition number of tens.
CLOSE = {"rtol": 1e-11, "atol": 1e-11}


def gaussians(batch: tuple[int, ...], generator: Generator) -> dict[str, Distribution]:
    """Gaussians of two features, of every kind that torch has."""

    def noise(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, generator=generator)

    mean, spread = noise(2), noise(2).exp()
    factor = noise(2, 2).tril(-1) + spread.diag_embed()
    return {
        "full": MultivariateNormal(mean, scale_tril=factor),
        "covariance": MultivariateNormal(mean, factor @ factor.mT),
        "low rank": LowRankMultivariateNormal(mean, noise(2, 1), spread),
        "independent": Independent(Normal(mean, spread), 1),
    }


def as_full(q: Distribution) -> MultivariateNormal:
    if isinstance(q, Independent):
        return MultivariateNormal(q.mean, scale_tril=q.stddev.diag_embed())
    assert isinstance(q, MultivariateNormal | LowRankMultivariateNormal)
    return MultivariateNormal(q.mean, scale_tril=q.scale_tril)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_component_has_the_closed_form(
    family: str, batch: tuple[int, ...], generator: Generator
) -> None:
    layer = random_layer(family, generator=generator, batch=batch, num_components=1)
    mixture = layer.distribution()
    single = MultivariateNormal(
        mixture.means[..., 0, :], mixture.component_covariances[..., 0, :, :]
    )
    for other in ((), batch, (4, *batch)):
        for q in gaussians(other, generator).values():
            full = as_full(q)
            found = kl_divergence(q, mixture)
            torch.testing.assert_close(found, kl_divergence(full, single), **CLOSE)
            back = kl_divergence(mixture, q)
            torch.testing.assert_close(back, kl_divergence(single, full), **CLOSE)
    assert not bool(kl_divergence(mixture, mixture).abs().gt(1e-12).any())
    kl_divergence(gaussians(batch, generator)["full"], mixture).sum().backward()
    assert layer.means.grad is not None


def test_one_feature() -> None:
    mixture = MixtureOfGaussians(torch.zeros(1), torch.ones(1, 1), torch.full((1, 1), 2.0), "diag")
    p, q = Normal(torch.zeros(3), 1.0), Normal(1.0, 2.0)
    torch.testing.assert_close(kl_divergence(p, mixture), kl_divergence(p, q), **CLOSE)
    torch.testing.assert_close(kl_divergence(mixture, p), kl_divergence(q, p), **CLOSE)


def test_several_components_name_the_estimates(generator: Generator) -> None:
    mixture = random_layer("full", generator=generator).distribution()
    others = [*gaussians((), generator).values(), mixture, mixture.to_torch()]
    for pair in [(q, mixture) for q in others] + [(mixture, q) for q in others]:
        with pytest.raises(NoClosedFormError, match=r"losses\.kl_to_mixture.*kl_variational"):
            kl_divergence(*pair)


def test_other_numbers_of_features(generator: Generator) -> None:
    mixture = random_layer("diag", generator=generator, num_components=1).distribution()
    with pytest.raises(InvalidArgumentError, match="equally many features, got 3 and 2"):
        kl_divergence(MultivariateNormal(torch.zeros(3), torch.eye(3)), mixture)
    with pytest.raises(InvalidArgumentError, match="equally many features, got 1 and 2"):
        kl_divergence(Normal(torch.zeros(2), 1.0), mixture)
