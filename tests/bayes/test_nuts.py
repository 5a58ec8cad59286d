"""Draws by NUTS against closed forms."""

from __future__ import annotations

import sys
import warnings

import pytest
import torch

from gmm_lightning import GMMLayer
from gmm_lightning.bayes import fit_nuts
from gmm_lightning.bayes.nuts import warn_of_divergences
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.priors import NormalInverseWishart


def has_nutpie() -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            import nutpie  # noqa: F401
        except ImportError:
            return False
    return True


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
    layer = GMMLayer(2, 2, "diag", priors="niw", dtype=torch.float32)
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
