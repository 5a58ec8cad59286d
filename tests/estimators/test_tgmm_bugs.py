"""The mistakes of tgmm 0.4.3, one test each: what its door does here instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tgmm_rows import MEANS, blobs, given

from gmm_lightning.errors import CheckpointError
from gmm_lightning.estimators.tgmm import GaussianMixture, GMMInitializer

X = blobs()


def test_01_a_stream_after_a_fit_keeps_the_fit() -> None:
    """One batch of a single cluster took nearly all of the weight."""
    model = GaussianMixture(**given("full")).fit(X)
    before = model.weights_
    # A sixth of the rows, all of the second cluster.
    model.partial_fit(X[-20:])
    assert (model.weights_ - before).abs().max() < 0.25
    assert (model.weights_ > 0.1).all()


def test_02_a_stream_after_mini_batches_conserves_mass() -> None:
    """Weights summed to 5.56."""
    options = {"step_size": "auto", "batch_size": 30, "random_state": 0, "tol": 1e-3}
    model = GaussianMixture(**given("full", **options)).fit(X)
    for part in X.split(25):
        model.partial_fit(part)
        assert float(model.weights_.sum()) == pytest.approx(1.0, abs=1e-12)


def test_03_blended_moments_have_their_spread_between_means() -> None:
    """Two batches with no spread of their own, about different centres."""
    model = GaussianMixture(1, init_means=torch.zeros(1, 1).double(), step_size=0.5, device="cpu")
    model.means_ = torch.zeros(1, 1).double()
    noise = 1e-3 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).double()
    for centre in (-1.0, 1.0):
        model.partial_fit(noise + centre)
    share = 0.5
    # Var = E Var + Var E, of the unit start and two batches of weight 1/2 each time.
    mean = (0 * share - 1 * (1 - share)) * share + 1 * (1 - share)
    second = (1 * share + 1 * (1 - share)) * share + 1 * (1 - share)
    assert float(model.covariances_) == pytest.approx(second - mean**2, rel=1e-2)


def test_04_sparse_weights_sum_to_one() -> None:
    """Empty components were clamped, and the weights summed to 1.0135."""
    model = GaussianMixture(
        6, weight_concentration_prior=0.05, random_state=0, max_iter=200, device="cpu"
    ).fit(X)
    assert float(model.weights_.sum()) == pytest.approx(1.0, abs=1e-12)
    assert float(model.weights_.min()) < 0.05


def test_05_fits_with_priors_follow_the_posterior() -> None:
    """The curve that decided about stopping and restarts fell by up to 0.45 a step."""
    options = {"mean_prior": MEANS + 2, "mean_precision_prior": 200.0, "tol": 1e-9}
    model = GaussianMixture(**given("full", max_iter=500, **options)).fit(X)
    assert (np.diff(model.log_likelihood_history_) >= -1e-12).all()
    log_prior = float(model.layer_.log_prior().detach()) / len(X)
    assert model.lower_bound_ == pytest.approx(model.score(X) + log_prior)


def test_06_a_ball_has_the_shares_of_the_mass_in_it() -> None:
    """The far component kept its share of the weights."""
    model = GaussianMixture(2, device="cpu")
    model.means_ = torch.tensor([[0.0, 0.0], [4.0, 0.0]])
    torch.manual_seed(0)
    _, component = model.sample(4000, center_point=torch.zeros(2), center_radius=2.0)
    # By scipy's noncentral chi-square: P(|x| < 2) = 0.8647 and 0.0139, a share of 0.016.
    assert float((component == 1).float().mean()) == pytest.approx(0.016, abs=0.01)


def test_07_ranges_up_to_one_and_no_draws() -> None:
    model = GaussianMixture(**given("full")).fit(X)
    x, component = model.sample(50, confidence_range=(0.95, 1.0))
    assert x.shape == (50, 2)
    assert component.shape == (50,)
    assert model.sample(0)[0].shape == (0, 2)


@pytest.mark.parametrize("means", ["random", "kmeans", "kpp", "points", "maxdist"])
@pytest.mark.parametrize("covariances", ["empirical", "eye", "global", "random"])
def test_08_one_feature(means: str, covariances: str) -> None:
    options = {"init_means": means, "init_covariances": covariances, "random_state": 0}
    model = GaussianMixture(2, device="cpu", **options).fit(X[:, 0])
    assert model.means_.shape == (2, 1)
    assert model.predict(X[:, 0]).shape == (len(X),)
    assert GMMInitializer.maxdist(X, 1).shape == (1, 2)


def test_09_arrays() -> None:
    model = GaussianMixture(2, random_state=0, device="cpu").fit(X.numpy())
    assert model.predict(X.numpy()).shape == (len(X),)
    assert model.score(X.numpy()) == model.score(X)


def test_10_the_global_generator_is_not_seeded() -> None:
    before = torch.get_rng_state()
    GaussianMixture(2, random_state=0, device="cpu").fit(X)
    assert torch.equal(torch.get_rng_state(), before)


def test_11_importing_changes_no_picture() -> None:
    """It set a theme of seaborn and the format of figures for the whole process."""
    code = (
        "import matplotlib as m, sys\nbefore = dict(m.rcParams)\n"
        "from gmm_lightning.estimators import tgmm\ntgmm.GaussianMixture, tgmm.plot_gmm\n"
        "assert dict(m.rcParams) == before and 'seaborn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_12_criteria_of_a_mixture_with_an_empty_component() -> None:
    """Its evaluation was NaN as soon as one component was empty."""
    means = torch.cat([MEANS, torch.full((1, 2), 500.0, dtype=MEANS.dtype)])
    model = GaussianMixture(3, init_means=means, init_covariances="eye", device="cpu").fit(X)
    assert len(model.predict(X).unique()) < 3
    values = [model.bic(X), model.aic(X), model.icl(X), model.icl(X, "soft"), model.score(X)]
    assert np.isfinite(values).all()


def test_13_files_keep_the_history_and_run_no_code(tmp_path: Path) -> None:
    model = GaussianMixture(**given("full")).fit(X)
    model.save(tmp_path / "model.pth")
    loaded = GaussianMixture.load(tmp_path / "model.pth")
    assert torch.equal(loaded.log_likelihood_history_, model.log_likelihood_history_)
    torch.save({"means_": _Runs(tmp_path / "ran")}, tmp_path / "hostile.pth")
    with pytest.raises(CheckpointError, match="more than tensors and plain values"):
        GaussianMixture.load(tmp_path / "hostile.pth")
    assert not (tmp_path / "ran").exists()


class _Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_14_iterations_and_convergence_are_counted() -> None:
    """`n_iter_` was one too small, and mini-batches had always converged."""
    model = GaussianMixture(**given("full", max_iter=1))
    with pytest.warns(UserWarning, match="not converged after 1 iterations"):
        model.fit(X)
    assert model.n_iter_ == 1
    assert not model.converged_
    online = GaussianMixture(**given("full", step_size="auto", batch_size=10, max_iter=1))
    with pytest.warns(UserWarning, match="not converged"):
        online.fit(X)
    assert not online.converged_


def test_15_small_units_keep_their_covariances() -> None:
    """1e-6 was added to variances of 1e-16."""
    # The rule of tgmm depends on units: the other one does not.
    options = {"random_state": 0, "convergence": "aitken", "tol": 1e-9, "device": "cpu"}
    small = GaussianMixture(2, **options).fit(1e-8 * X)
    large = GaussianMixture(2, **options).fit(X)
    # Both add at most a millionth of the smallest variance of a feature.
    torch.testing.assert_close(small.covariances_ * 1e16, large.covariances_, rtol=1e-4, atol=1e-5)


def test_16_a_singular_covariance_does_not_end_a_fit() -> None:
    """It raised within an E-step, and every restart was lost."""
    x = torch.cat([X, torch.zeros(10, 2, dtype=X.dtype) + 9])
    options = {"reg_covar": 0.0, "random_state": 0, "n_init": 3, "device": "cpu"}
    model = GaussianMixture(3, **options).fit(x)
    assert torch.isfinite(model.covariances_).all()
    assert torch.linalg.eigvalsh(model.covariances_).min() > 0
