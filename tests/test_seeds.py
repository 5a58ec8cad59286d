"""A seed is a generator: everywhere where one is taken, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.random_layers import parameters

from gmm_lightning import GMMLayer, MixtureClassifier, fit_classifier, fit_em
from gmm_lightning.distributions import (
    energy_score,
    entropy,
    impute,
    in_confidence_region,
    kl_divergence,
    score_function,
)
from gmm_lightning.em import initialize_layer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.losses import kl_to_mixture
from gmm_lightning.metrics import EnergyScore
from gmm_lightning.training import GMMModule

pytestmark = pytest.mark.usefixtures("double")

X = torch.tensor(np.random.default_rng(3).normal(size=(40, 2)))
GAPS = X.masked_fill(X > 0.5, torch.nan)


def mixture() -> GMMLayer:
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])
    return GMMLayer.from_parameters(torch.ones(3), means, torch.eye(2).repeat(3, 1, 1))


def fitted(generator: Any) -> Any:
    layer = mixture()
    fit_em(layer, X, initializer="random", collapse="reseed", max_iter=2, generator=generator)
    return torch.cat([p.flatten() for p in parameters(layer)])


def initialized(generator: Any) -> Any:
    layer = mixture()
    initialize_layer(layer, X, "random_from_data", generator=generator)
    return layer.means.detach()


def classified(generator: Any) -> Any:
    classifier = MixtureClassifier(GMMLayer(2, 3, batch_shape=(2,)))
    options: dict[str, Any] = {"initializer": "random", "max_iter": 2}
    fit_classifier(classifier, X, torch.arange(40) % 2, generator=generator, **options)
    return classifier.layer.means.detach()


def scored(generator: Any) -> Any:
    metric = EnergyScore(10, generator)
    metric.update(mixture(), X)
    first = metric.compute()
    metric.update(mixture(), X)
    # A second update draws anew.
    assert metric.compute() != first
    return first


def estimated(function: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda generator: torch.stack(tuple(function(generator)))


DRAWS: dict[str, Callable[[Any], Any]] = {
    "fit_em": fitted,
    "initialize_layer": initialized,
    "fit_classifier": classified,
    "sample": lambda g: mixture().sample(9, generator=g),
    "quasi": lambda g: mixture().sample(9, quasi=True, generator=g),
    "rsample": lambda g: mixture().rsample(9, generator=g).detach(),
    "relaxed": lambda g: mixture().rsample(9, relaxed=0.5, generator=g).detach(),
    "module": lambda g: GMMModule(mixture()).sample(9, generator=g),
    "impute": lambda g: impute(mixture(), GAPS, kind="draw", generator=g),
    "entropy": estimated(lambda g: entropy(mixture(), 50, generator=g)),
    "divergence": estimated(lambda g: kl_divergence(mixture(), mixture(), 50, generator=g)),
    "energy score": lambda g: energy_score(mixture(), X, 10, generator=g).detach(),
    "region": lambda g: in_confidence_region(
        mixture(), X, 0.5, kind="density", num_samples=20, generator=g
    ),
    "score function": lambda g: score_function(
        mixture(), lambda x: x.sum(-1), 20, generator=g
    ).detach(),
    "loss": lambda g: kl_to_mixture(
        X, torch.ones_like(X), mixture(), num_samples=9, generator=g
    ).detach(),
    "metric": scored,
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_seed_is_a_generator_with_that_seed(draw: Callable[[Any], Any]) -> None:
    device = mixture().means.device
    expected = draw(torch.Generator(device).manual_seed(7))
    for seed in (7, np.int64(7)):
        assert torch.equal(draw(seed), expected)
    for wrong in (True, -1, 1.5, "7", np.random.default_rng(0)):
        with pytest.raises(InvalidArgumentError, match=r"generator must be a torch.Generator, a s"):
            draw(wrong)


def test_rows_of_different_patterns_are_imputed_by_different_draws() -> None:
    nan = torch.nan
    x = torch.tensor([[nan, 0.0], [0.0, nan], [nan, nan]])
    single = GMMLayer.from_parameters(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    filled = impute(single, x, kind="draw", generator=7)
    drawn = filled[x.isnan()]
    assert len(drawn.unique()) == len(drawn)
