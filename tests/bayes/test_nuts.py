"""Draws by NUTS against closed forms."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch
from torch import Tensor

from gmm_lightning import GMMLayer
from gmm_lightning.bayes import PosteriorDraws, align, effective_size, fit_gibbs, fit_nuts
from gmm_lightning.bayes.nuts import warn_of_divergences
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.priors import (
    Dirichlet,
    HalfCauchy,
    IndependentNormal,
    NormalInverseWishart,
)


def has_nutpie() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            import nutpie  # noqa: F401
        except ImportError:
            return False
    return True


pytestmark = pytest.mark.usefixtures("double")
needs_nutpie = pytest.mark.skipif(not has_nutpie(), reason="needs nutpie")


def error_of_mean(draws: torch.Tensor) -> torch.Tensor:
    """Monte-Carlo error of the mean of draws `(C, S, ...)`, by batch means."""
    batches = draws.unflatten(1, (20, -1)).mean(2).flatten(0, 1)
    return batches.std(0) / len(batches) ** 0.5


@pytest.mark.slow
@needs_nutpie
def test_one_component_has_its_closed_form() -> None:
    torch.manual_seed(0)
    d, n, kappa, df = 2, 60, 0.5, 6.0
    x = torch.randn(n, d) @ torch.tensor([[1.0, 0.4], [0.0, 0.7]]) + 2.0
    loc, psi = torch.tensor([1.0, -1.0]), torch.tensor([[2.0, 0.3], [0.3, 1.0]])
    prior = NormalInverseWishart(loc=loc, mean_precision=kappa, df=df, scale_matrix=psi)
    draws = fit_nuts(
        GMMLayer(d, 1, priors=prior), x, num_draws=600, warmup=200, num_chains=2, generator=1
    )
    assert draws.means.shape == (2, 600, 1, d)
    mean = x.mean(0)
    gap = (mean - loc).unsqueeze(-1)
    scatter = (x - mean).T @ (x - mean)
    scale = psi + scatter + kappa * n / (kappa + n) * gap @ gap.T
    expected_mean = (kappa * loc + n * mean) / (kappa + n)
    # Gelman et al. (2013), Bayesian Data Analysis, section 3.6.
    expected = scale / (df + n - d - 1)
    apart = (draws.means[:, :, 0].mean((0, 1)) - expected_mean).abs()
    assert bool((apart < 4 * error_of_mean(draws.means[:, :, 0])).all())
    covariances = draws.covariance_matrix[:, :, 0]
    apart = (covariances.mean((0, 1)) - expected).abs()
    assert bool((apart < 4 * error_of_mean(covariances)).all())
    # The variances of the draws: those of a mean have a closed form as well.
    spread = draws.means[:, :, 0].flatten(0, 1).var(0)
    assert torch.allclose(spread, expected.diagonal() / (kappa + n), rtol=0.2)


@needs_nutpie
def test_draws_have_the_likelihood_of_their_parameters() -> None:
    torch.manual_seed(0)
    x = torch.cat([torch.randn(40, 2) - 3, torch.randn(60, 2) + 3])
    layer = GMMLayer(
        2, 2, "diag", priors=NormalInverseWishart(convention="fraley_raftery"), dtype=torch.float32
    )
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    draws = fit_nuts(layer, x, num_draws=50, warmup=100, num_chains=2, generator=3)
    again = fit_nuts(layer, x, num_draws=50, warmup=100, num_chains=2, generator=3)
    assert torch.equal(draws.means, again.means)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, before[name]) or bool(value.isnan().all())
    at = GMMLayer.from_parameters(
        draws.weights[1, 7], draws.means[1, 7], draws.covariance_matrix[1, 7], "diag"
    )
    assert float(draws.log_likelihood[1, 7]) == pytest.approx(
        float(at.log_prob(x).sum().detach()), rel=1e-8
    )
    assert abs(float(draws.weights.mean((0, 1)).amax()) - 0.6) < 0.05


def test_a_posterior_that_is_not_proper_is_refused() -> None:
    x = torch.randn(30, 2)
    with pytest.raises(InvalidArgumentError, match="a prior on the covariances, got none"):
        fit_nuts(GMMLayer(2, 2), x)
    with pytest.raises(InvalidArgumentError, match="a prior on the means"):
        fit_nuts(GMMLayer(2, 2, priors="iw"), x)
    with pytest.raises(InvalidArgumentError, match="without noise"):
        fit_nuts(GMMLayer(2, 2, priors="niw", noise="uniform"), x)
    with pytest.raises(InvalidArgumentError, match="target_accept"):
        fit_nuts(GMMLayer(2, 2, priors="niw"), x, target_accept=1.0)


def test_divergences_are_told() -> None:
    with pytest.warns(UserWarning, match=r"2 of 8 draws \(25.0 %\) end in a divergence"):
        warn_of_divergences(torch.tensor([[True, True, False, False], [False] * 4]))


def test_the_missing_extra_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "nutpie"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nutpie", None)
    with pytest.raises(ImportError, match=r"pip install 'gmm-lightning\[bayes\]'"):
        fit_nuts(GMMLayer(2, 1, priors="niw"), torch.randn(30, 2))


@pytest.mark.slow
@needs_nutpie
def test_half_cauchy_scales_by_quadrature() -> None:
    """One standard deviation and one mean, whose posterior is an integral over a grid."""
    x = torch.tensor([[0.3], [1.9], [2.2], [-0.4], [1.1], [0.8]])
    priors = [HalfCauchy(0.7), IndependentNormal(loc=[[0.0]], covariance=[4.0])]
    draws = fit_nuts(
        GMMLayer(1, 1, "diag", priors=priors), x, num_draws=1500, warmup=500, num_chains=2,
        generator=0,
    )  # fmt: skip
    sigma = torch.linspace(1e-3, 30, 6000)[:, None]
    mean = torch.linspace(-8, 8, 801)
    log_density = torch.distributions.HalfCauchy(0.7).log_prob(sigma)
    log_density = log_density + torch.distributions.Normal(0.0, 2.0).log_prob(mean)
    for row in x:
        log_density = log_density + torch.distributions.Normal(mean, sigma).log_prob(row)
    share = log_density.flatten().softmax(0).view_as(log_density)
    deviation = draws.covariance_matrix[..., 0, 0, 0].sqrt()
    for values, expected in (
        (deviation, (share * sigma).sum()),
        (draws.means[..., 0, 0], (share * mean).sum()),
    ):
        error = float(values.std()) / effective_size(values) ** 0.5
        assert abs(float(values.mean() - expected)) < 4 * error


@needs_nutpie
def test_improper_priors_are_refused() -> None:
    niw = NormalInverseWishart(df=0.5, scale_matrix=torch.eye(2), loc=[0.0, 0.0])
    with pytest.raises(InvalidArgumentError, match="proper priors"):
        fit_nuts(GMMLayer(2, 1, priors=niw), torch.randn(20, 2), num_draws=5, warmup=5)


@pytest.mark.slow
@needs_nutpie
@pytest.mark.parametrize("family", ["full", "tied", "diag"])
def test_nuts_and_gibbs_agree(family: str) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.cat([torch.randn(40, 2, generator=generator) + s for s in (0.0, 7.0)])
    niw = NormalInverseWishart(
        loc=[3.0, 3.0], mean_precision=0.1, df=5.0, scale_matrix=2 * torch.eye(2)
    )
    layer = GMMLayer(2, 2, family, priors=[Dirichlet(2.0), niw])
    ours = align(fit_gibbs(layer, x, num_draws=2000, warmup=200, generator=0)).draws
    theirs = align(fit_nuts(layer, x, num_draws=700, warmup=500, generator=0)).draws
    for draw in (ours, theirs):
        assert float(draw.means[..., 0, 0].std()) < 1.0
    order = [int(d.means.mean((0, 1))[:, 0].argmax()) for d in (ours, theirs)]

    def quantities(draws: PosteriorDraws, k: int) -> list[Tensor]:
        return [
            draws.log_likelihood,
            draws.weights[..., k],
            draws.means[..., k, 1],
            draws.covariance_matrix[..., k, 0, 0].log(),
        ]

    pairs = zip(quantities(ours, order[0]), quantities(theirs, order[1]), strict=True)
    for one, other in pairs:
        error = sum(float(v.var()) / effective_size(v) for v in (one, other)) ** 0.5
        assert abs(float(one.mean() - other.mean())) < 3 * error
