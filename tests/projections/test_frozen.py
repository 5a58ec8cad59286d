"""Parts of a mixture that stay what they are, bit for bit, whatever trains the others."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from support.projections import gain_within, tensors
from support.random_layers import BATCHES, FAMILIES, random_layer, rows
from torch import Generator, Tensor

from gmm_lightning import (
    ArrayDataModule,
    EMCallback,
    GMMLayer,
    GMMModule,
    MixtureClassifier,
    StepwiseEM,
    e_step,
    fit_classifier,
    fit_em,
    m_step,
)
from gmm_lightning.covariances import registry as covariances
from gmm_lightning.em import Collapsed, MixtureModel, MixtureParameters, Reseed
from gmm_lightning.em.policy import Candidates
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.priors import NormalMeans
from gmm_lightning.projections import Frozen
from gmm_lightning.rows import Batch

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)
HELD = {"weights": "mixture_logits", "means": "means", "covariances": "raw_scale"}
SPECS: tuple[Any, ...] = (
    ["weights"],
    ["means"],
    ["covariances"],
    ["components"],
    ["covariances", {"means": [2]}],
    [{"weights": [1], "means": [0, 2]}],
    {"components": [1]},
)
# Every other family with each of them; the others are slow.
FROZEN_CASES = [
    pytest.param(family, spec, marks=[pytest.mark.slow] if (i + j) % 2 else [])
    for i, family in enumerate(FAMILIES)
    for j, spec in enumerate(SPECS)
]


def can_freeze(family: str, spec: Any) -> bool:
    return not (covariances.create(family).tied and spec == {"components": [1]})


def fixed_values(layer: GMMLayer) -> list[Tensor]:
    """The values of all that is frozen."""
    frozen = layer.projections.frozen
    assert frozen is not None
    parts = [(frozen.is_fixed(part), layer.get_parameter(name)) for part, name in HELD.items()]
    return [value.detach()[mask].clone() for mask, value in parts]


def assert_frozen(layer: GMMLayer, before: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(fixed_values(layer), before, strict=True))


@pytest.mark.parametrize(("family", "spec"), FROZEN_CASES)
def test_em_leaves_frozen_parts_bit_for_bit(family: str, spec: Any, generator: Generator) -> None:
    """The objective rises to a maximum over all other parameters, from many starts."""
    if not can_freeze(family, spec):
        with pytest.raises(InvalidArgumentError, match="frozen as a whole"):
            GMMLayer(2, 3, family, freeze=spec)
        return
    x = rows(90, 2, generator)
    layer = random_layer(family, "dirichlet+niw", generator=generator)
    layer.freeze(spec)
    before, whole = fixed_values(layer), tensors(layer)
    options = {"tol": 0.0, "max_iter": 60, "generator": generator}
    result = fit_em(layer, x, initializer="random_from_data", num_restarts=2, **options)
    assert_frozen(layer, before)
    assert not all(torch.equal(a, b) for a, b in zip(tensors(layer), whole, strict=True))
    # Rounding of a mean over the rows.
    assert min(torch.tensor(result.history).diff().tolist(), default=0.0) > -1e-13
    if result.converged:
        # Steps of 1e-4 along the gradient or at random: a gain per length of their square at most.
        assert gain_within(layer, x, 1e-4, generator) < 1e-6


@pytest.mark.parametrize("prior", ["none", "normal", "niw"])
def test_a_covariance_is_taken_about_its_frozen_mean(prior: str, generator: Generator) -> None:
    """One component: `S = sum (x - mu)(x - mu)' / n`, with the pseudo-rows of a prior."""
    x, mu = rows(40, 2, generator), torch.tensor([[0.3, -0.2]])
    layer = random_layer("full", prior, generator=generator, num_components=1, given=True)
    layer.set_parameters(means=mu)
    layer.freeze("means")
    m_step(layer, e_step(layer, x))
    gap = x - mu
    scatter, dof = gap.mT @ gap, 40.0
    if prior != "none":
        loc, kappa = torch.tensor([0.7, -0.4]), 2.5
        scatter, dof = scatter + kappa * torch.outer(mu[0] - loc, mu[0] - loc), dof + 1
    if prior == "niw":
        scatter = scatter + torch.tensor([[2.0, 0.6], [0.6, 1.5]])
        dof += 7.0 + 2 + 1
    # Sums of forty products of numbers of order one.
    torch.testing.assert_close(
        layer.covariance_matrix[0].detach(), scatter / dof, rtol=1e-12, atol=1e-12
    )


def test_a_background_mixture_is_adapted(generator: Generator) -> None:
    """Reynolds, Quatieri and Dunn (2000): `a m + (1 - a) mu` with `a = n / (n + r)`."""
    background = random_layer("diag", generator=generator)
    loc, relevance = background.means.detach().clone(), 16.0
    prior = NormalMeans(loc=loc, mean_precision=relevance)
    adapted = GMMLayer(2, 3, "diag", priors=prior)
    adapted.take_parameters(background)
    adapted.freeze(["weights", "covariances"])
    stats = e_step(adapted, rows(30, 2, generator))
    m_step(adapted, stats)
    share = (stats.counts / (stats.counts + relevance)).unsqueeze(-1)
    seen = stats.shift + stats.first / stats.counts.unsqueeze(-1)
    expected = share * seen + (1 - share) * loc
    torch.testing.assert_close(adapted.means.detach(), expected, rtol=1e-13, atol=1e-13)
    assert torch.equal(adapted.mixture_logits, background.mixture_logits)
    assert torch.equal(adapted.raw_scale, background.raw_scale)


def test_frozen_parts_and_bounds_beside_noise(generator: Generator) -> None:
    """Weights are those among the Gaussians; a copy of the parameters has the noise, too."""
    x = torch.cat([rows(80, 2, generator), 30 * torch.rand(20, 2, generator=generator) - 15])
    layer = GMMLayer(2, 3, noise="uniform", bounds={"variance": (0.3, 2.0)})
    layer.set_parameters(weights=[0.2, 0.3, 0.5], means=[[0.0, 0.0], [4.0, 1.0], [1.0, 4.0]])
    layer.freeze([{"weights": [0], "means": [1]}])
    before = fixed_values(layer)
    result = fit_em(layer, x, initializer=None, tol=0.0, max_iter=60)
    assert_frozen(layer, before)
    assert min(torch.tensor(result.history).diff().tolist()) > -1e-13
    twin = GMMLayer(2, 3, noise="uniform")
    twin.take_parameters(layer)
    assert torch.equal(twin(x), layer(x))


def test_frozen_weights_leave_the_rest_to_the_others(generator: Generator) -> None:
    layer = random_layer("full", generator=generator)
    layer.set_parameters(weights=[0.2, 0.3, 0.5])
    layer.freeze({"weights": [1]})
    stats = e_step(layer, rows(50, 2, generator))
    m_step(layer, stats)
    counts = stats.counts[[0, 2]]
    expected = torch.tensor([0.0, 0.3, 0.0])
    expected[[0, 2]] = 0.7 * counts / counts.sum()
    torch.testing.assert_close(layer.weights.detach(), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("batch", BATCHES[1:], ids=str)
def test_a_batch_is_a_loop(batch: tuple[int, ...], generator: Generator) -> None:
    x = rows(60, 2, generator, batch)
    layer = random_layer("diag", batch=batch, generator=generator)
    layer.freeze([{"means": [0], "weights": [2]}])
    single = [copy.deepcopy(p).detach().flatten(0, len(batch) - 1) for p in layer.parameters()]
    fit_em(layer, x, initializer=None, tol=0.0, max_iter=12)
    for m, own in enumerate(x.reshape(len(x), -1, 2).unbind(1)):
        one = GMMLayer(2, 3, "diag")
        with torch.no_grad():
            for p, value in zip(one.parameters(), single, strict=True):
                p.copy_(value[m])
        one.freeze([{"means": [0], "weights": [2]}])
        fit_em(one, own, initializer=None, tol=0.0, max_iter=12)
        whole = [p.detach().flatten(0, len(batch) - 1)[m] for p in layer.parameters()]
        for a, b in zip(whole, one.parameters(), strict=True):
            torch.testing.assert_close(a, b.detach(), rtol=1e-9, atol=1e-9)


def test_a_start_gives_each_frozen_mean_the_cluster_about_it(generator: Generator) -> None:
    """The free covariance and weight of a component are of the rows at its frozen mean."""
    centres = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0], [20.0, 20.0]])
    sizes, spread = [30, 60, 90, 120], [0.2, 0.4, 0.8, 1.6]
    parts = [
        c + s * torch.randn(n, 2, generator=generator)
        for c, n, s in zip(centres, sizes, spread, strict=True)
    ]
    x = torch.cat(parts)
    for frozen in ([0, 1, 2, 3], [1, 3]):
        for initializer in ("kmeans", "kmeans_plus_plus"):
            layer = GMMLayer(2, 4, "spherical")
            layer.set_parameters(means=centres)
            layer.freeze({"means": frozen})
            fit_em(layer, x, initializer=initializer, max_iter=0, generator=generator)
            weights, std = layer.weights.detach(), layer.scale.detach()
            for k in frozen:
                assert float(weights[k]) == pytest.approx(sizes[k] / 300, abs=0.1)
                assert float(std[k]) < 2.5


@pytest.mark.parametrize("collapse", ["floor", "reseed", "raise"])
def test_collapse_policies_leave_frozen_components(collapse: str, generator: Generator) -> None:
    """One without rows and below the floor stays, and is no event."""
    x = rows(60, 2, generator)
    layer = random_layer("full", generator=generator)
    layer.set_parameters(
        means=[[500.0, 0.0], [0.0, 0.0], [3.0, 1.0]],
        covariance_matrix=torch.stack([torch.eye(2) * s for s in (1e-14, 1.0, 1.0)]),
    )
    layer.freeze({"components": [0]})
    before = fixed_values(layer)
    result = fit_em(layer, x, initializer=None, collapse=collapse, generator=generator)
    assert_frozen(layer, before)
    assert result.events == []


def test_a_frozen_mean_is_not_moved(generator: Generator) -> None:
    layer = random_layer("full", generator=generator)
    layer.freeze([{"means": [0], "covariances": [1]}])
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    every = torch.ones(1, 3, dtype=torch.bool)
    number, nothing = torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.bool)
    found = Collapsed(every, every, number, number, nothing)
    rest = Candidates(Batch(rows(30, 2, generator)), generator)
    repair = Reseed().handle(model, parameters, found, torch.zeros(1, 3).long(), rest)
    assert repair.reseeded.tolist() == [[False, True, True]]
    assert torch.equal(repair.parameters.means[:, 0], parameters.means[:, 0])
    assert torch.equal(repair.parameters.raw_scale[:, 1], parameters.raw_scale[:, 1])


def trainer(folder: Path, **options: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return L.Trainer(accelerator="cpu", default_root_dir=folder, **quiet, **options)


@pytest.mark.parametrize("spec", [["weights"], ["means", {"covariances": [1]}]], ids=str)
@pytest.mark.parametrize("kind", ["adamw", "sgd", "em"])
def test_training_leaves_frozen_parts(
    kind: str, spec: Any, tmp_path: Path, generator: Generator
) -> None:
    """Also weight decay, momentum and clipping, and what goes on from a checkpoint."""
    x = rows(80, 2, generator).float()
    layer = random_layer("full", generator=generator).float()
    layer.freeze(spec)
    before, whole = fixed_values(layer), tensors(layer)
    optimizers = {
        "adamw": partial(torch.optim.AdamW, lr=0.05, weight_decay=0.3),
        "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1),
    }
    callbacks = [EMCallback(tol=None)] if kind == "em" else []
    data = ArrayDataModule(x, batch_size=32)
    options = {"callbacks": callbacks, "enable_checkpointing": False}
    options |= {} if kind == "em" else {"gradient_clip_val": 1.0}
    first = trainer(tmp_path, max_epochs=3, **options)
    first.fit(GMMModule(layer, optimizers.get(kind)), data)
    assert_frozen(layer, before)
    first.save_checkpoint(tmp_path / "half.ckpt")
    again = GMMModule.load_from_checkpoint(tmp_path / "half.ckpt").layer
    assert_frozen(again, before)
    callbacks = [EMCallback(tol=None)] if kind == "em" else []
    second = trainer(tmp_path, max_epochs=5, **options | {"callbacks": callbacks})
    module = GMMModule(again, optimizers.get(kind)).train()
    second.fit(module, data, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert_frozen(module.layer, before)
    assert not all(torch.equal(a, b) for a, b in zip(tensors(module.layer), whole, strict=True))


def test_stepwise_em_and_classifiers_leave_frozen_parts(generator: Generator) -> None:
    layer = random_layer("full", generator=generator)
    layer.freeze(["weights", {"means": [1]}])
    before, stream = fixed_values(layer), StepwiseEM(layer)
    for _ in range(4):
        stream.partial_fit(rows(20, 2, generator))
    assert_frozen(layer, before)
    many = random_layer("full", batch=(2,), num_components=2, generator=generator)
    many.freeze({"means": [0]})
    before = fixed_values(many)
    x = rows(60, 2, generator)
    fit_classifier(MixtureClassifier(many), x, torch.arange(60) % 2, generator=generator)
    assert_frozen(many, before)


def test_values_are_taken_when_they_are_given(generator: Generator) -> None:
    """A fit without them is refused; `set_parameters` and `from_parameters` give them."""
    layer, x = GMMLayer(2, 3, freeze=["means"]), rows(40, 2, generator)
    whole = tensors(layer)
    for attempt in (fit_em, e_step):
        with pytest.raises(InvalidArgumentError, match="the frozen means have no value yet"):
            attempt(layer, x)
    assert all(torch.equal(a, b) for a, b in zip(tensors(layer), whole, strict=True))
    means = torch.tensor([[0.0, 0.0], [4.0, 0.8], [1.2, 4.4]])
    layer.set_parameters(means=means)
    fit_em(layer, x, generator=generator)
    assert torch.equal(layer.means, means)
    given = (layer.weights, means, layer.covariance_matrix)
    twin = GMMLayer.from_parameters(*given, freeze=["means"])
    fit_em(twin, x, max_iter=2, generator=generator)
    assert torch.equal(twin.means, means)
    # Frozen again at other values, and freed.
    layer.set_parameters(means=means + 1)
    m_step(layer, e_step(layer, x))
    assert torch.equal(layer.means, means + 1)
    layer.freeze([])
    m_step(layer, e_step(layer, x))
    assert not torch.equal(layer.means, means + 1)
    layer.freeze("means")
    layer.reset_parameters()
    with pytest.raises(InvalidArgumentError, match="no value yet"):
        fit_em(layer, x)


def test_a_new_order_takes_frozen_parts_along(generator: Generator) -> None:
    layer = random_layer("full", generator=generator)
    layer.freeze([{"means": [0], "weights": [0]}])
    before, x = layer.means[0].detach().clone(), rows(30, 2, generator)
    layer.reorder_components([2, 0, 1])
    fit_em(layer, x, initializer=None, max_iter=3)
    assert torch.equal(layer.means[1], before)
    assert repr(layer.projections.frozen).startswith("Frozen(weights=[1], means=[1]")
    many = random_layer("full", batch=(2,), generator=generator)
    many.freeze({"means": [0]})
    with pytest.raises(InvalidArgumentError, match="one order for all"):
        many.reorder_components([[0, 1, 2], [2, 1, 0]])


def test_free_parameters_are_counted() -> None:
    """Of 2 features and 3 components: 2 weights, 6 means, 9 of full covariances."""
    counts = {
        ("weights",): 15,
        ("means",): 11,
        ("covariances",): 8,
        ("components",): 2,
        ("weights", "components"): 0,
    }
    for spec, expected in counts.items():
        layer = GMMLayer(2, 3, freeze=list(spec))
        assert layer.num_free_parameters == expected
    assert GMMLayer(2, 3, freeze={"components": [1], "weights": [0]}).num_free_parameters == 11
    assert GMMLayer(2, 3, freeze={"weights": [0, 1]}).num_free_parameters == 15
    assert GMMLayer(2, 3, "tied", freeze="covariances").num_free_parameters == 8
    assert GMMLayer(2, 3, "spherical", freeze="covariances").num_free_parameters == 8


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("mean", "unknown part to freeze 'mean'; known are: weights, means, covariances"),
        (["means", 3], "unknown part to freeze 3"),
        ({"means": [3]}, "numbered 0 to 2, got means=\\[3\\]"),
        ({"means": [-1]}, "a component of means must be an integer >= 0, got -1"),
        ({"means": [0.5]}, "a component of means must be an integer"),
        ({"means": 1}, "numbers of the components whose means are frozen in a list, got 1"),
        ({"means": "all"}, "in a list, got 'all'"),
        ({"colour": [0]}, "unknown part to freeze 'colour'"),
    ],
)
def test_refuses_what_is_no_part(spec: Any, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        GMMLayer(2, 3, freeze=spec)
    layer = GMMLayer(2, 3)
    with pytest.raises(InvalidArgumentError, match=words):
        layer.freeze(spec)
    assert layer.projections.frozen is None


def test_names_in_any_combination_freeze_the_same() -> None:
    for spec in (["components"], ["means", "covariances"], {"components": [0, 1, 2]}):
        layer = GMMLayer(2, 3, freeze=spec)
        assert layer.num_free_parameters == 2
    both = Frozen.of([{"means": [0]}, {"components": [2]}, "weights"])
    assert both.config() == {"weights": True, "means": [0, 2], "covariances": [2]}


def test_a_layer_on_meta_has_no_values_yet() -> None:
    layer = GMMLayer(2, 3, freeze=["means"], bounds={"variance": (0.1, 2.0)}, device="meta")
    layer.to_empty(device="cpu")
    layer.reset_parameters()
    layer.set_parameters(means=torch.zeros(3, 2))
    layer.require_constrained()


@pytest.mark.parametrize("other", [GMMLayer(3, 2), GMMLayer(2, 3), GMMLayer(2, 2, "diag"), None])
def test_parameters_of_other_layers_are_not_taken(other: Any) -> None:
    layer = GMMLayer(2, 2)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    with pytest.raises(InvalidArgumentError, match="expected a layer of 'full' covariances"):
        layer.take_parameters(other)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
