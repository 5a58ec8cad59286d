"""Variational Bayes by a callback: passes of `fit_vb`, resumed, logged and refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.lightning_runs import same, state, trainer

from gmm_lightning import GMMLayer
from gmm_lightning.em import (
    MixtureModel,
    MixtureParameters,
    conjugate_prior,
    counted_statistics,
    e_step,
)
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.priors import Dirichlet, NormalInverseWishart
from gmm_lightning.training import (
    ArrayDataModule,
    EpochCheckpoint,
    GMMModule,
    InitializeCallback,
    VBCallback,
)

pytestmark = pytest.mark.usefixtures("double")

RNG = np.random.default_rng(1)
X = np.concatenate([RNG.normal(size=(50, 2)) + s for s in ([0, 0], [6, 0], [0, 6])])


def module(**options: object) -> GMMModule:
    niw = NormalInverseWishart(convention="fraley_raftery")
    return GMMModule(GMMLayer(2, 4, priors=[Dirichlet(0.2), niw], **options))


def fit(own: GMMModule, *callbacks: object, epochs: int, **options: object) -> VBCallback:
    ckpt_path = options.pop("ckpt_path", None)
    callback = next(c for c in callbacks if isinstance(c, VBCallback))
    run = trainer(InitializeCallback("kmeans"), *callbacks, max_epochs=epochs, **options)
    data = ArrayDataModule(X, batch_size=40)
    run.fit(own, datamodule=data, ckpt_path=ckpt_path, weights_only=ckpt_path and True)
    return callback


@torch.no_grad()
def test_passes_are_those_of_the_posterior() -> None:
    own = module()
    callback = fit(own, VBCallback(), epochs=6)
    # By hand, from the start that both have.
    layer = module().layer
    start = GMMModule(layer)
    run = trainer(InitializeCallback("kmeans"), max_epochs=0)
    run.fit(start, datamodule=ArrayDataModule(X, batch_size=40))
    model = MixtureModel.from_layer(layer)
    prior = conjugate_prior(model, 4)
    posterior = prior.updated(
        counted_statistics(model, MixtureParameters.from_layer(layer), len(X))
    )
    bounds = []
    for _ in range(6):
        expected = posterior.expected_parameters(torch.float64)
        expected.parameters.write_to(layer)
        stats = e_step(layer, X).reshape((1,))
        bounds.append(float(posterior.bound(prior, stats, expected.log_total)) / len(X))
        last, posterior = posterior, prior.updated(stats)
    np.testing.assert_allclose(callback.history, bounds, rtol=1e-12)
    assert callback.posterior is not None
    for name, value in last.tensors().items():
        torch.testing.assert_close(callback.posterior.tensors()[name], value)
    weights = last.weights.mean()[0]
    torch.testing.assert_close(own.layer.weights.detach(), weights)


def test_the_bound_rises_until_it_has_converged() -> None:
    callback = fit(module(), VBCallback(tol=1e-6), epochs=300)
    assert callback.converged
    gains = np.diff(callback.history)
    assert (gains >= -1e-12).all()
    assert callback.outcome()["bound"] == pytest.approx(callback.history[-1])


def test_a_resumed_fit_is_one_fit(tmp_path: Path) -> None:
    whole, parts = module(), module()
    fit(whole, VBCallback(), epochs=5)
    fit(parts, VBCallback(), EpochCheckpoint(tmp_path), epochs=2)
    again = module()
    fit(again, VBCallback(), epochs=5, ckpt_path=str(tmp_path / "last.ckpt"))
    assert same(state(again), state(whole))


def test_what_has_no_posterior_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="priors=conjugate"):
        fit(GMMModule(GMMLayer(2, 3)), VBCallback(), epochs=1)
    with pytest.raises(InvalidArgumentError, match="proper"):
        fit(GMMModule(GMMLayer(2, 3, priors=NormalInverseWishart(df=0.5))), VBCallback(), epochs=1)
    with pytest.raises(InvalidArgumentError, match="aitken, gain or relative"):
        VBCallback(stopping="responsibilities")
