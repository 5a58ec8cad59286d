"""Gibbs sampling is exact in its posterior: calibration, getting it right, beside others."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from gmm_lightning import GMMLayer, fit_vb
from gmm_lightning.bayes import (
    PosteriorDraws,
    align,
    effective_size,
    fit_gibbs,
    invariants,
    rhat,
)
from gmm_lightning.covariances import registry as families
from gmm_lightning.em import MixtureModel, MixturePosterior, conjugate_prior
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.priors import Dirichlet, NormalInverseWishart, StickBreaking

pytestmark = pytest.mark.usefixtures("double")

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(size=(30, 2)) + s for s in ([0, 0], [7, 0], [0, 7])])


def make(family: str = "full", k: int = 3, weights: Any = None) -> GMMLayer:
    niw = NormalInverseWishart(
        loc=[1.0, 1.0], mean_precision=0.3, df=6.0, scale_matrix=[[3.0, 0.5], [0.5, 2.0]]
    )
    return GMMLayer(2, k, family, priors=[weights or Dirichlet(1.5), niw])


def prior_of(layer: GMMLayer) -> MixturePosterior:
    return conjugate_prior(MixtureModel.from_layer(layer), layer.num_components)


@pytest.mark.parametrize("family", families.names)
def test_of_one_component_the_draws_are_independent_and_exact(family: str) -> None:
    layer = make(family, k=1)
    draws = fit_gibbs(layer, X[:15], num_draws=2000, warmup=0, num_chains=2, generator=0)
    exact = fit_vb(make(family, k=1), X[:15]).posterior
    same = exact.sample(4000, torch.Generator().manual_seed(1))
    pairs = [(draws.means[..., 0, d].flatten(), same.means[..., 0, d].flatten()) for d in (0, 1)]
    covariance = same.component_covariances[:, 0, 0]
    pairs += [
        (draws.covariance_matrix[..., 0, i, i].flatten(), covariance[:, i, i]) for i in (0, 1)
    ]
    for ours, theirs in pairs:
        assert stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 1e-3
    assert effective_size(draws.means[..., 0, 0]) > 3000


def simulate(
    prior: MixturePosterior, num_rows: int, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Parameters drawn from a prior, and rows of them."""
    mixture = prior.sample(1, generator)
    rows = torch.as_tensor(mixture.sample(num_rows, generator=generator)).reshape(num_rows, -1)
    weights = mixture.weights[0, 0]
    k, d = mixture.means.shape[-2:]
    covariance = mixture.component_covariances[0, 0].expand(k, d, d)
    truth = {"weights": weights, "means": mixture.means[0, 0], "covariance_matrix": covariance}
    truth["log_likelihood"] = mixture.log_prob(rows[:, None, None]).sum()
    return truth, rows


def labelless(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Quantities that do not depend on the labels, with an axis of draws or without."""
    weights, means = values["weights"], values["means"]
    variance = values["covariance_matrix"].diagonal(dim1=-2, dim2=-1)
    center = (weights.unsqueeze(-1) * means).sum(-2)
    return {
        "log likelihood": values["log_likelihood"],
        "largest weight": weights.amax(-1),
        "mean": center[..., 0],
        "spread": (weights.unsqueeze(-1) * (variance + means.square())).sum(-2)[..., 1],
    }


def ranks(family: str, weights: Any, truths: int, draws: int, seed: int) -> dict[str, list[int]]:
    """Ranks of truths among draws of their posteriors (Talts et al. 2018)."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[int]] = {}
    thin = 6
    for _ in range(truths):
        layer = make(family, k=2, weights=weights())
        truth, rows = simulate(prior_of(layer), 12, generator)
        drawn = fit_gibbs(
            layer,
            rows,
            num_draws=draws,
            warmup=40,
            num_chains=1,
            thin=thin,
            initializer="random",
            generator=generator,
        )
        own = {name: getattr(drawn, name)[0] for name in truth}
        for name, values in labelless(own).items():
            found.setdefault(name, []).append(int((values < labelless(truth)[name]).sum()))
    return found


@pytest.mark.parametrize("family", ["full", "tied_diag"])
def test_ranks_are_uniform(family: str) -> None:
    check_ranks(ranks(family, lambda: Dirichlet(1.5), truths=40, draws=15, seed=0), 15)


@pytest.mark.slow
@pytest.mark.parametrize("family", families.names)
@pytest.mark.parametrize("weights", [lambda: Dirichlet(1.5), lambda: StickBreaking(2.0)])
def test_ranks_are_uniform_for_every_family(family: str, weights: Any) -> None:
    found = ranks(family, weights, truths=200, draws=19, seed=1)
    check_ranks(found, 19)
    # Pooled coverage of central 90 % intervals: ranks 1 to 18 of 0 to 19.
    inside = np.mean([1 <= r <= 18 for values in found.values() for r in values])
    assert abs(inside - 0.9) < 0.05


def check_ranks(found: dict[str, list[int]], draws: int) -> None:
    """Uniform on 0 to `draws`, by a chi-square test of each quantity."""
    for name, values in found.items():
        groups = min(draws + 1, len(values) // 8)
        edges = np.linspace(-0.5, draws + 0.5, groups + 1)
        counts, _ = np.histogram(values, edges)
        share = np.diff(np.floor(edges)) / (draws + 1)
        # Of some dozens of tests in all, with fixed seeds.
        assert stats.chisquare(counts, share * len(values)).pvalue > 1e-3, name


@pytest.mark.parametrize("family", ["full", "diag", "tied_spherical"])
def test_getting_it_right(family: str) -> None:
    """Draws of parameters and rows by turns have the prior as their marginal (Geweke 2004)."""
    generator = torch.Generator().manual_seed(3)
    layer = make(family, k=2)
    prior = prior_of(layer)
    _, rows = simulate(prior, 6, generator)
    chain: dict[str, list[float]] = {}
    draws: PosteriorDraws | None = None
    options = {"num_draws": 1, "warmup": 0, "num_chains": 1, "initializer": "random"}
    for _ in range(400):
        draws = fit_gibbs(make(family, k=2), rows, start=draws, generator=generator, **options)
        # A resumed run goes on with its own random numbers.
        generator.manual_seed(int(torch.randint(2**40, (), generator=generator)))
        rows = torch.as_tensor(draws.mixture().sample(6, generator=generator)).reshape(6, 2)
        values = {
            "weights": draws.weights[0, -1],
            "means": draws.means[0, -1],
            "covariance_matrix": draws.covariance_matrix[0, -1],
            "log_likelihood": torch.zeros(()),
        }
        for name, value in labelless(values).items():
            chain.setdefault(name, []).append(float(value))
    exact = prior.sample(4000, generator)
    expected = labelless(
        {
            "weights": exact.weights[:, 0],
            "means": exact.means[:, 0],
            "covariance_matrix": exact.component_covariances[:, 0].expand(4000, 2, 2, 2),
            "log_likelihood": torch.zeros(4000),
        }
    )
    for name in ("largest weight", "mean"):
        values = np.asarray(chain[name])
        size = effective_size(torch.tensor(values)[None])
        error = math.hypot(values.std() / size**0.5, float(expected[name].std()) / 4000**0.5)
        assert abs(values.mean() - float(expected[name].mean())) < 4 * error, name


def test_clear_clusters_are_those_of_the_variational_posterior() -> None:
    draws = fit_gibbs(make(), X, num_draws=600, warmup=100, generator=0)
    aligned, disagreeing = align(draws)
    assert disagreeing == 0.0
    assert all(rhat(values) < 1.05 for values in invariants(draws).values())
    own = fit_vb(make(), X, generator=0, tol=1e-9).posterior
    order = own.components.loc[0].sum(-1).argsort()
    means = aligned.means.mean((0, 1))
    theirs = own.components.loc[0][order]
    ours = means[means.sum(-1).argsort()]
    # Clusters apart: the factors of the variational posterior are independent indeed.
    error = aligned.means.flatten(0, 1).std(0).max() / effective_size(draws.log_likelihood) ** 0.5
    assert float((ours - theirs).abs().max()) < 5 * float(error)


def test_a_process_finds_four_of_twenty_components() -> None:
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]])
    generator = torch.Generator().manual_seed(0)
    x = (centres[:, None] + torch.randn(4, 60, 2, generator=generator)).reshape(-1, 2)
    process = StickBreaking(concentration_shape=1.0, concentration_rate=4.0)
    niw = NormalInverseWishart(convention="fraley_raftery")
    layer = GMMLayer(2, 20, priors=[process, niw])
    draws = fit_gibbs(layer, x, num_draws=1000, warmup=500, num_chains=2, generator=0)
    assert int((draws.weights > 0.02).sum(-1).flatten().mode().values) == 4


def test_one_run_and_two_are_the_same() -> None:
    options = {"num_chains": 2, "generator": 5}
    layer = make(k=3, weights=StickBreaking(concentration_shape=1.0, concentration_rate=2.0))
    whole = fit_gibbs(layer, X, num_draws=9, warmup=4, thin=2, **options)
    first = fit_gibbs(layer, X, num_draws=4, warmup=4, thin=2, **options)
    rest = fit_gibbs(layer, X, num_draws=5, thin=2, start=first)
    joined = PosteriorDraws.concatenate(first, rest)
    for name in ("weights", "means", "covariance_matrix", "log_likelihood"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
    again = fit_gibbs(layer, X, num_draws=9, warmup=4, thin=2, chunk_size=17, **options)
    assert again.means.shape == whole.means.shape


def test_an_interrupt_keeps_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    from gmm_lightning.bayes import gibbs

    calls = 0
    sweep = gibbs._Chains.sweep

    def interrupted(self: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return sweep(self)

    monkeypatch.setattr(gibbs._Chains, "sweep", interrupted)
    with pytest.warns(UserWarning, match="6 of 50 draws"):
        draws = fit_gibbs(make(), X, num_draws=50, warmup=5, num_chains=2, generator=0)
    assert draws.num_draws == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_draws": 0}, "num_draws"),
        ({"thin": 0}, "thin"),
        ({"warmup": -1}, "warmup"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, int], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        fit_gibbs(make(), X, **options)


def test_what_has_no_conditionals_is_named() -> None:
    with pytest.raises(InvalidArgumentError, match="closed form"):
        fit_gibbs(GMMLayer(2, 3, priors=["half_cauchy", "lkj", "independent_normal"]), X)
    with pytest.raises(InvalidArgumentError, match="batch shape"):
        fit_gibbs(GMMLayer(2, 3, batch_shape=(2,)), X)
    draws = fit_gibbs(make(), X, num_draws=4, warmup=0, generator=0)
    with pytest.raises(InvalidArgumentError, match="state of random numbers"):
        fit_gibbs(make(), X, start=dataclasses.replace(draws, state=None))
