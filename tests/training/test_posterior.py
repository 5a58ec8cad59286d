"""Draws from the posterior by a callback: in the user's units, in a file, once."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from support.lightning_runs import same, state, trainer

from gmm_lightning import GMMLayer
from gmm_lightning.bayes import Gibbs, PosteriorDraws
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.priors import Dirichlet, NormalInverseWishart
from gmm_lightning.training import (
    ArrayDataModule,
    EpochCheckpoint,
    GMMModule,
    InitializeCallback,
    PosteriorCallback,
)

pytestmark = pytest.mark.usefixtures("double")

RNG = np.random.default_rng(1)
X = np.concatenate([RNG.normal(size=(50, 2)) + s for s in ([0, 0], [8, 0])]) * [1.0, 10.0] + 5.0
SAMPLER = Gibbs(num_draws=120, warmup=30, num_chains=2)


def module() -> GMMModule:
    niw = NormalInverseWishart(convention="fraley_raftery")
    return GMMModule(GMMLayer(2, 2, priors=[Dirichlet(1.0), niw]))


def fit(own: GMMModule, *callbacks: object, **options: object) -> PosteriorCallback:
    ckpt_path = options.pop("ckpt_path", None)
    callback = next(c for c in callbacks if isinstance(c, PosteriorCallback))
    run = trainer(InitializeCallback("kmeans"), *callbacks, max_epochs=1, **options)
    data = ArrayDataModule(X, batch_size=30, standardize=True)
    run.fit(own, datamodule=data, ckpt_path=ckpt_path, weights_only=ckpt_path and True)
    return callback


def test_the_draws_are_in_the_units_of_the_user(tmp_path: Path) -> None:
    own, path = module(), tmp_path / "folder" / "posterior.npz"
    callback = fit(own, PosteriorCallback(SAMPLER, path=path, progress=False))
    assert callback.converged
    draws = callback.draws
    assert draws is not None
    assert draws.means.shape == (2, 120, 2, 2)
    stored = PosteriorDraws.load(path)
    assert torch.equal(stored.means, draws.means)
    assert path.with_suffix(".nc").exists() == (importlib.util.find_spec("arviz") is not None)
    means = draws.means.mean((0, 1))
    order = means[:, 0].argsort()
    expected = torch.from_numpy(np.stack([X[:50].mean(0), X[50:].mean(0)]))
    # The posterior of a mean is as wide as the error of a mean of 50 rows: 0.14 of a deviation.
    error = 5 * torch.tensor([1.0, 10.0]) / 50**0.5
    assert ((means[order] - expected).abs() < error).all()
    # The layer has the mean of the draws, and says so in the user's units.
    mixture = own.distribution()
    torch.testing.assert_close(mixture.means.detach(), means)
    outcome = callback.outcome()
    assert outcome["rhat"] < 1.05
    assert outcome["disagreeing_draws"] == 0.0
    assert len(callback.history) == 1


def test_a_checkpoint_is_not_drawn_again(tmp_path: Path) -> None:
    own = module()
    fit(own, PosteriorCallback(SAMPLER, progress=False), EpochCheckpoint(tmp_path))
    again = module()
    callback = PosteriorCallback(SAMPLER, progress=False, seed=7)
    fit(again, callback, ckpt_path=str(tmp_path / "last.ckpt"))
    assert callback.draws is None
    assert same(state(again), state(own))


def test_what_cannot_be_drawn_is_refused() -> None:
    callback = PosteriorCallback(SAMPLER, progress=False)
    with pytest.raises(InvalidArgumentError, match="closed form"):
        fit(GMMModule(GMMLayer(2, 2, priors=["half_cauchy", "independent_normal"])), callback)
    with pytest.raises(InvalidArgumentError, match="missing entries"):
        fit(module(), PosteriorCallback(SAMPLER, missing="em", progress=False))
    with pytest.raises(InvalidArgumentError, match="sampler"):
        PosteriorCallback("gibbs")  # type: ignore[arg-type]
