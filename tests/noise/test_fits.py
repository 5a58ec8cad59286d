"""Noise in whole fits: what it is for, how it starts, and the ways of training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.evidence import LabelEvidence
from support.lightning_runs import adam, same, state, trainer
from torch import Tensor

from gmm_lightning import GMMLayer, StepwiseEM, e_step, fit_em
from gmm_lightning.em import initialize_layer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.interop import export_module, to_sklearn
from gmm_lightning.metrics import ICL
from gmm_lightning.noise import Uniform
from gmm_lightning.plotting import plot_mixture
from gmm_lightning.rows import Batch
from gmm_lightning.training import (
    ArrayDataModule,
    EMCallback,
    EpochCheckpoint,
    GMMModule,
    InitializeCallback,
    StepwiseEMCallback,
)

pytestmark = pytest.mark.usefixtures("double")


def clusters_in_a_box() -> tuple[Tensor, Tensor]:
    """Two clusters of 200 rows and 100 rows anywhere, and where they are from."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(500, 2, generator=generator)
    x[:200] -= 4.0
    x[200:400] += 4.0
    x[400:] = 40 * torch.rand(100, 2, generator=generator) - 20
    return x, torch.tensor([0] * 200 + [1] * 200 + [-1] * 100)


def noise_weight(layer: GMMLayer) -> float:
    assert layer.noise is not None
    return float(layer.noise.weight.detach())


@pytest.mark.parametrize("family", ["full", "tied_diag"])
def test_clusters_are_found_among_the_noise(family: str) -> None:
    x, z = clusters_in_a_box()
    layer = GMMLayer(2, 2, family, noise="uniform")
    result = fit_em(layer, x, generator=0)
    assert result.converged
    assert result.degenerate == []
    # Rows of noise near a cluster are its own: 4 % of the box.
    assert 0.17 < noise_weight(layer) < 0.21
    assert float((layer.predict(x) == -1)[z == -1].double().mean()) > 0.9
    centres = layer.means.detach()[layer.means.detach()[:, 0].argsort()]
    # Seven standard errors of a mean of 200 rows.
    assert (centres - torch.tensor([[-4.0, -4.0], [4.0, 4.0]])).abs().max() < 0.5
    plain = GMMLayer(2, 2, family)
    assert fit_em(plain, x, generator=0).objective < result.objective
    assert layer.num_free_parameters == plain.num_free_parameters + 1


@pytest.mark.parametrize("family", ["full", "diag", "tied"])
@pytest.mark.parametrize("soft", [False, True])
def test_marked_rows_start_as_noise(family: str, soft: bool) -> None:
    x, z = clusters_in_a_box()
    given = torch.nn.functional.one_hot(z % 3, 3)[:, :2].double() if soft else z
    layer = GMMLayer(2, 2, family, noise="uniform")
    initialize_layer(layer, x, given)
    assert noise_weight(layer) == pytest.approx(0.2, rel=1e-12)
    alone = GMMLayer(2, 2, family)
    initialize_layer(alone, x[:400], z[:400])
    for name, value in alone.named_parameters():
        own = layer.get_parameter(name)
        # Sums with 100 rows of weight 0 more.
        torch.testing.assert_close(own, value, rtol=1e-10, atol=1e-10)
    initialize_layer(layer, x, z.clamp(min=0))
    assert noise_weight(layer) == pytest.approx(0.05, rel=1e-12)


def test_marks_without_noise_or_without_the_rest_are_refused() -> None:
    x, z = clusters_in_a_box()
    with pytest.raises(InvalidArgumentError, match=r'noise="uniform"'):
        fit_em(GMMLayer(2, 2), x, initializer=z)
    with pytest.raises(InvalidArgumentError, match="every row as noise"):
        fit_em(GMMLayer(2, 2, noise="uniform"), x, initializer=torch.full((500,), -1))
    with pytest.raises(InvalidArgumentError, match="or -1 for noise"):
        fit_em(GMMLayer(2, 2, noise="uniform"), x, initializer=torch.full((500,), -2))


def test_a_mixture_of_noise_alone_keeps_its_components() -> None:
    """Far from every component no Gaussian has a share, and nothing becomes NaN."""
    layer = GMMLayer(2, 2, noise=Uniform(low=[-1e4, -1e4], high=[1e4, 1e4]))
    x = 9e3 + torch.rand(50, 2)
    fit_em(layer, x, initializer=None, max_iter=5)
    assert all(bool(torch.isfinite(p).all()) for p in layer.parameters())
    assert noise_weight(layer) == pytest.approx(1.0, abs=1e-12)


def test_moved_components_do_not_go_to_noise() -> None:
    x, z = clusters_in_a_box()
    start = z.clone()
    start[:20] = 2
    moved = []
    for seed in range(8):
        layer = GMMLayer(2, 3, noise="uniform")
        initialize_layer(layer, x, start)
        with torch.no_grad():
            # So far away that it holds no row.
            layer.means[2] = torch.tensor([1e3, 1e3])
        result = fit_em(layer, x, initializer=None, collapse="reseed", max_iter=1, generator=seed)
        assert [event.action for event in result.events] == ["reseeded"]  # pyright: ignore
        moved.append(layer.means[2].detach())
    # The rows of the clusters lie within five deviations of their centres.
    centres = torch.tensor([[-4.0, -4.0], [4.0, 4.0]])
    assert float(torch.cdist(torch.stack(moved), centres).amin(1).max()) < 5


# -- ways of training ---------------------------------------------------------------------------


def trained(x: Tensor, callback: Any, optimizer: Any = None, **options: Any) -> GMMModule:
    module = GMMModule(GMMLayer(2, 2, noise="uniform"), optimizer)
    callbacks = [InitializeCallback(seed=0), *([callback] if callback else [])]
    callbacks += options.pop("callbacks", [])
    data = ArrayDataModule(x, batch_size=options.pop("batch_size", 128), standardize=True)
    resume = options.pop("resume", None)
    run = trainer(*callbacks, **options)
    run.fit(module, datamodule=data, ckpt_path=resume, weights_only=resume and True)
    return module


def test_the_callback_is_fit_em(tmp_path: Any) -> None:
    x, _ = clusters_in_a_box()
    module = trained(x, EMCallback(), max_epochs=200, batch_size=500)
    layer = GMMLayer(2, 2, noise="uniform")
    z = module.standardize(x)
    fit_em(layer, z, generator=torch.Generator().manual_seed(0), tol=1e-9)
    # Both stop where 1e-5 nats per row remain at most.
    assert noise_weight(module.layer) == pytest.approx(noise_weight(layer), abs=5e-3)
    own = module.log_prob(x).detach()
    assert float(own.mean()) == pytest.approx(
        float(layer(z).mean().detach() + module.standardize.log_abs_det), abs=1e-4
    )
    assert torch.equal(module.predict(x), module.layer.predict(z))
    assert torch.equal(module.noise_probability(x), module.layer.noise_probability(z))


@pytest.mark.parametrize("way", ["em", "stepwise", "sgd"])
def test_a_resumed_fit_is_the_whole_one(way: str, tmp_path: Any) -> None:
    x, _ = clusters_in_a_box()

    def go(epochs: int, folder: str, resume: Any = None) -> GMMModule:
        made = {"em": EMCallback, "stepwise": StepwiseEMCallback, "sgd": lambda: None}[way]()
        optimizer = adam() if way == "sgd" else None
        saving = [EpochCheckpoint(tmp_path / folder)]
        return trained(x, made, optimizer, max_epochs=epochs, callbacks=saving, resume=resume)

    whole = go(4, "whole")
    go(2, "half")
    assert same(state(go(4, "half", tmp_path / "half" / "last.ckpt")), state(whole))
    assert noise_weight(whole.layer) != pytest.approx(0.05, abs=1e-6)
    read = GMMModule.load_from_checkpoint(tmp_path / "whole" / "last.ckpt")
    assert torch.equal(read.log_prob(x), whole.log_prob(x))


def test_predictions_name_the_noise() -> None:
    x, _ = clusters_in_a_box()
    module = trained(x, EMCallback(), max_epochs=30)
    found: Any = trainer().predict(module, ArrayDataModule(x, batch_size=100))
    component = torch.cat([part.component for part in found])
    responsibilities = torch.cat([part.responsibilities for part in found])
    assert torch.equal(component, module.predict(x))
    assert responsibilities.shape == (500, 2)
    total = responsibilities.sum(-1) + module.noise_probability(x)
    torch.testing.assert_close(total, torch.ones(500), rtol=1e-12, atol=0)


def test_stepwise_em_finds_the_weight() -> None:
    x, _ = clusters_in_a_box()
    layer = GMMLayer(2, 2, noise="uniform")
    initialize_layer(layer, x, generator=0)
    stream, generator = StepwiseEM(layer), torch.Generator().manual_seed(0)
    for _ in range(60):
        stream.partial_fit(x[torch.randperm(500, generator=generator)[:150]])
    assert 0.15 < noise_weight(layer) < 0.23
    stream.reset_components(torch.tensor([True, False]))
    running: Any = stream.state_dict()["running"]
    assert float(running["counts"].sum() + running["noise"]) == pytest.approx(1.0, rel=1e-12)


# -- other uses ---------------------------------------------------------------------------------


def test_criteria_count_the_noise() -> None:
    x, _ = clusters_in_a_box()
    layer = GMMLayer(2, 2, noise="uniform")
    fit_em(layer, x, generator=0)
    joint = layer.log_joint_with_noise(x).detach()
    metric = ICL(layer)
    metric.update(joint)
    share = joint.softmax(-1)
    entropy = -(share * share.clamp(min=1e-300).log()).sum()
    p, n = layer.num_free_parameters, torch.tensor(500.0)
    expected = -2 * layer(x).sum() + p * n.log() + 2 * entropy
    assert p == 12
    assert float(metric.compute()) == pytest.approx(float(expected.detach()), rel=1e-12)


@pytest.mark.parametrize(
    ("noise", "output"),
    [
        ("uniform", "predict"),
        ("gaussian", "responsibilities"),
        pytest.param("uniform", "log_prob", marks=pytest.mark.slow),
        pytest.param("gaussian", "log_prob", marks=pytest.mark.slow),
    ],
)
def test_noise_is_exported(noise: str, output: str) -> None:
    x, _ = clusters_in_a_box()
    layer = GMMLayer(2, 2, noise=noise)
    fit_em(layer, x, max_iter=5, generator=0)
    module = export_module(layer, output)
    program = torch.export.export(module, (x[:4],), dynamic_shapes=({0: torch.export.Dim("rows")},))
    expected = getattr(layer, output)(x).detach()
    torch.testing.assert_close(module(x).to(expected), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(program.module()(x).to(expected), expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(InvalidArgumentError, match="no place for the layer's noise"):
        to_sklearn(layer)


def test_pictures_mark_the_noise() -> None:
    x, _ = clusters_in_a_box()
    layer = GMMLayer(2, 2, noise="uniform")
    fit_em(layer, x, generator=0)
    number = int((layer.predict(x) == -1).sum())
    for options in ({}, {"noise": layer.noise_probability(x) > 0.5}, {"labels": "predicted"}):
        legend = plot_mixture(layer, x, **options).get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == [f"noise ({number})"]


def test_the_path_has_the_weight_of_the_noise() -> None:
    x, _ = clusters_in_a_box()
    layer = GMMLayer(2, 2, noise="uniform")
    result = fit_em(layer, x, generator=0, record=True, stopping="responsibilities", tol=1e-3)
    assert result.converged
    assert result.trajectory is not None
    weight = result.trajectory.noise_weight
    assert weight is not None
    assert weight.shape == (len(result.history),)
    assert float(weight[0]) == pytest.approx(0.05, rel=1e-12)
    assert float(weight[-1]) == noise_weight(layer)


class KnownRows(LabelEvidence):
    """Labels, of which a row has none if it may be noise."""

    def log_noise(self, batch: Batch) -> Tensor:
        assert batch.labels is not None
        return torch.where(batch.labels == self.unlabelled, 0.0, -torch.inf)


@pytest.mark.parametrize("family", ["full", "tied"])
def test_a_labelled_row_is_no_noise(family: str) -> None:
    x, z = clusters_in_a_box()
    # The first row of noise is labelled, and all other rows of noise are not.
    labels = z.clone()
    labels[labels < 0] = 2
    labels[400] = 1
    layer = GMMLayer(2, 2, family, noise="uniform")
    layer.evidence = KnownRows(2, unlabelled=2)
    initialize_layer(layer, x, z.clamp(min=0))
    rows = Batch(x, labels=labels)
    stats = e_step(layer, rows)
    probability = layer.noise_probability(rows).detach()
    assert torch.equal(probability[labels < 2], torch.zeros(401))
    assert float(stats.noise) == pytest.approx(float(probability.sum()), rel=1e-12)
    assert float(stats.total_weight) == pytest.approx(500.0, rel=1e-12)
    assert torch.equal(layer.responsibilities(rows)[400].detach(), torch.tensor([0.0, 1.0]))
