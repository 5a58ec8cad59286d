"""Fits through tgmm's door: priors, options, streams; each against a formula or an invariant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.tgmm_rows import MEANS, SCALES, TYPES, blobs, given
from torch import Tensor

from gmm_lightning.estimators.tgmm import GaussianMixture

X = blobs()


def scatter_of(x: Tensor, resp: Tensor, means: Tensor) -> Tensor:
    """Scatter `(K, D, D)` about means, row by row."""
    total = torch.zeros(len(means), x.shape[1], x.shape[1], dtype=x.dtype)
    for row, r in zip(x, resp, strict=True):
        for k, mean in enumerate(means):
            total[k] += r[k] * torch.outer(row - mean, row - mean)
    return total


def in_form(matrices: Tensor, divisor: Tensor, kind: str) -> Tensor:
    """Numerators `(K, D, D)` over divisors `(K,)`, pooled and reduced as a type asks."""
    if kind.startswith("tied"):
        matrices = matrices.sum(0)
    divided = matrices / divisor.reshape(*divisor.shape, 1, 1)
    if kind.endswith("full"):
        return divided
    variances = divided.diagonal(dim1=-2, dim2=-1)
    return variances if kind.endswith("diag") else variances.mean(-1)


@pytest.mark.parametrize("convention", ["mode", "expected_precision"])
@pytest.mark.parametrize("with_means", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_an_m_step_with_priors(kind: str, with_means: bool, convention: str) -> None:
    kappa, nu, mu0, d, k = 3.0, 6.0, torch.ones(2, dtype=torch.float64), 2, 2
    options: dict[str, Any] = {"covariance_prior": SCALES[kind], "degrees_of_freedom_prior": nu}
    if with_means:
        options |= {"mean_prior": mu0, "mean_precision_prior": kappa}
    # The first E-step: unit Gaussians of equal weight at the given means.
    resp = (-0.5 * (X[:, None] - MEANS).square().sum(-1)).softmax(-1)
    model = GaussianMixture(**given(kind, max_iter=1, prior_convention=convention, **options))
    with pytest.warns(UserWarning, match="not converged"):
        model.fit(X)

    n = resp.sum(0)
    average = (resp.T @ X) / n[:, None]
    numerator = scatter_of(X, resp, average)
    means = average
    if with_means:
        means = (n[:, None] * average + kappa * mu0) / (n[:, None] + kappa)
        gap = average - mu0
        factor = kappa * n / (kappa + n)
        numerator = numerator + factor[:, None, None] * gap[:, :, None] * gap[:, None, :]
    tied = kind.startswith("tied")
    psi = 0.8 * torch.eye(2, dtype=torch.float64)
    numerator = numerator + (psi / k if tied else psi)
    divisor = (n.sum() if tied else n) + nu
    if convention == "mode":
        divisor = divisor + d + 1 + (k if tied else 1) * with_means
    torch.testing.assert_close(model.weights_, n / n.sum())
    torch.testing.assert_close(model.means_, means)
    torch.testing.assert_close(model.covariances_, in_form(numerator, divisor, kind))


def test_a_prior_on_means_alone_gives_the_mode() -> None:
    """tgmm leaves the pull of the prior out of the covariances: no density has that mode."""
    mu0 = torch.ones(2, dtype=torch.float64)
    arguments = given("full", mean_prior=mu0, mean_precision_prior=3.0, tol=1e-12)
    model = GaussianMixture(**arguments, convergence="aitken").fit(X)
    layer = model.layer_
    layer.objective(X).backward()
    assert layer.means.grad.abs().max() < 1e-5
    assert layer.raw_scale.grad.abs().max() < 1e-5


@pytest.mark.parametrize("kind", TYPES)
def test_weights_count_rows(kind: str) -> None:
    twice = torch.cat([X, X[:40]])
    weight = torch.ones(len(X))
    weight[:40] = 2
    arguments = given(kind, tol=1e-10)
    a = GaussianMixture(**arguments).fit(X, sample_weight=weight)
    b = GaussianMixture(**arguments).fit(twice)
    torch.testing.assert_close(a.means_, b.means_, rtol=0, atol=1e-6)


def test_rows_without_weight_do_not_matter_for_the_start() -> None:
    far = torch.cat([X, torch.full((3, 2), 1e6, dtype=X.dtype)])
    weight = torch.cat([torch.ones(len(X)), torch.zeros(3)])
    model = GaussianMixture(2, random_state=0, device="cpu").fit(far, sample_weight=weight)
    assert model.initial_means_.abs().max() < 10


def test_classification_em_and_annealing() -> None:
    hard = GaussianMixture(**given("full", algorithm="cem")).fit(X)
    resp = torch.nn.functional.one_hot(hard.predict(X), 2).double()
    torch.testing.assert_close(hard.means_, (resp.T @ X) / resp.sum(0)[:, None])
    annealed = GaussianMixture(**given("full", temperature=(0.25, 4))).fit(X)
    schedule = annealed.annealing_schedule_
    assert schedule[:5] == pytest.approx([0.25, 0.25**0.75, 0.5, 0.25**0.25, 1.0])
    assert len(schedule) == annealed.n_iter_ + 1


@pytest.mark.parametrize("convergence", ["relative", "aitken"])
def test_fits_stop(convergence: str) -> None:
    model = GaussianMixture(**given("full", convergence=convergence, tol=1e-6)).fit(X)
    longer = GaussianMixture(**given("full", convergence=convergence, tol=1e-12)).fit(X)
    assert model.converged_
    assert model.n_iter_ < longer.n_iter_
    assert (np.diff(model.log_likelihood_history_) > -1e-12).all()


def test_the_best_of_several_starts() -> None:
    model = GaussianMixture(3, n_init=4, random_state=7, init_means="random", device="cpu").fit(X)
    alone = [
        GaussianMixture(3, random_state=7 + i, init_means="random", device="cpu").fit(X)
        for i in range(4)
    ]
    best = max(alone, key=lambda one: (not one.result_.degenerate, one.lower_bound_))
    assert model.lower_bound_ == best.lower_bound_
    assert model.best_random_state_ == best.best_random_state_
    again = GaussianMixture(
        3, random_state=model.best_random_state_, init_means="random", device="cpu"
    ).fit(X)
    assert torch.equal(again.means_, model.means_)


def test_a_warm_start_goes_on() -> None:
    model = GaussianMixture(**given("full", tol=1e-8)).fit(X)
    steps = model.n_iter_
    model.fit(X, warm_start=True)
    assert model.n_iter_ <= 3 < steps
    torch.testing.assert_close(model.initial_means_, model.means_, rtol=0, atol=1e-2)


def test_chunks_do_not_change_a_fit() -> None:
    a = GaussianMixture(**given("full")).fit(X)
    b = GaussianMixture(**given("full", batch_size=7)).fit(X)
    torch.testing.assert_close(a.means_, b.means_)


@pytest.mark.parametrize("step_size", ["auto", 0.2, lambda t: (t + 3) ** -0.6])
def test_fits_by_mini_batches(step_size: Any) -> None:
    whole = GaussianMixture(**given("full")).fit(X)
    options = {"step_size": step_size, "batch_size": 30, "tol": 1e-3, "random_state": 0}
    model = GaussianMixture(**given("full", **options)).fit(X)
    assert model.converged_
    assert len(model.log_likelihood_history_) == model.n_iter_ + 1
    assert float(model.weights_.sum()) == pytest.approx(1.0)
    # Steps that do not fall to zero stay about as far from the optimum as one batch is.
    assert model.score(X) > whole.score(X) - 0.05


def test_mini_batches_with_noise_and_missing_entries() -> None:
    online = {"step_size": "auto", "batch_size": 30, "tol": 1e-3, "random_state": 0}
    noisy = GaussianMixture(**given("full", noise=True, **online)).fit(X)
    assert bool(torch.isfinite(noisy.noise_bounds_).all())
    assert noisy.partial_fit(X[:20]).predict_proba(X).shape == (len(X), 3)
    x = X.clone()
    x[::4, 1] = torch.nan
    holes = GaussianMixture(**given("full", missing="em", **online)).fit(x)
    assert np.isfinite(holes.partial_fit(x[:20]).score(x))


def test_missing_entries() -> None:
    x = X.clone()
    x[::3, 0] = torch.nan
    x[1::7, 1] = torch.nan
    model = GaussianMixture(**given("full", missing="em", tol=1e-10)).fit(x)
    layer = model.layer_
    layer.log_prob(x, missing="marginalize").mean().backward()
    assert layer.means.grad.abs().max() < 1e-4
    filled = model.impute(x)
    known = ~torch.isnan(x)
    assert torch.equal(filled[known], x[known])
    assert torch.isfinite(filled).all()
    assert model.predict(x).shape == (len(x),)
    assert np.isfinite([model.bic(x), model.aic(x), model.icl(x)]).all()
    complete = GaussianMixture(**given("full", missing="em")).fit(X)
    assert torch.equal(complete.means_, GaussianMixture(**given("full")).fit(X).means_)


def test_noise() -> None:
    generator = torch.Generator().manual_seed(3)
    far = 20 * torch.rand(30, 2, generator=generator, dtype=X.dtype) - 10
    x = torch.cat([X, far])
    model = GaussianMixture(**given("full", noise=True, tol=1e-9)).fit(x)
    assert 0.05 < float(model.noise_weight_) < 0.4
    torch.testing.assert_close(model.weights_.sum() + model.noise_weight_, torch.tensor(1.0).to(x))
    torch.testing.assert_close(model.noise_bounds_, torch.stack([x.amin(0), x.amax(0)]))
    proba = model.predict_proba(x)
    assert proba.shape == (len(x), 3)
    torch.testing.assert_close(model.noise_proba(x), proba[:, -1])
    assert (model.predict(x)[-30:] == -1).float().mean() > 0.5
    # One parameter more, the weight of the noise.
    assert model.layer_.num_free_parameters == 12
    volume = float((x.amax(0) - x.amin(0)).prod())
    given_volume = GaussianMixture(**given("full", noise=True, noise_volume=volume, tol=1e-9))
    torch.testing.assert_close(given_volume.fit(x).means_, model.means_)
    mask = torch.arange(len(x)) >= len(X)
    marked = GaussianMixture(2, noise=True, noise_init=mask, random_state=0, device="cpu").fit(x)
    labelled = GaussianMixture(
        2, noise=True, noise_init=torch.where(mask, -1, 0), random_state=0, device="cpu"
    ).fit(x)
    assert torch.equal(marked.means_, labelled.means_)
    assert marked.initial_means_.abs().max() < 5
    draws, components = model.sample(200)
    assert set(components.tolist()) == {-1, 0, 1}
    assert draws.shape == (200, 2)


def test_dtype_device_and_kinds_of_rows() -> None:
    single = GaussianMixture(2, random_state=0, device="cpu").fit(X.float())
    assert single.dtype == torch.float32 == single.predict_proba(X.float()).dtype
    arrays = GaussianMixture(2, random_state=0, device="cpu").fit(X.numpy())
    tensors = GaussianMixture(2, random_state=0, device="cpu").fit(X)
    assert arrays.dtype == torch.float64
    assert torch.equal(arrays.means_, tensors.means_)
    whole = GaussianMixture(2, random_state=0, device="cpu").fit([[0, 1], [5, 5], [1, 0], [6, 5]])
    assert whole.dtype == torch.float64


def test_parameters_can_be_assigned() -> None:
    model = GaussianMixture(2, device="cpu")
    model.means_ = MEANS
    model.weights_ = torch.tensor([0.2, 0.8])
    model.covariances_ = torch.eye(2).repeat(2, 1, 1) * 4
    torch.testing.assert_close(model.covariances_[1], torch.eye(2).to(MEANS) * 4)
    torch.testing.assert_close(model.weights_, torch.tensor([0.2, 0.8]).to(MEANS))
    model.partial_fit(X)
    assert model.means_.shape == (2, 2)
