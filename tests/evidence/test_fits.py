"""Fits with labels: their start, their fixed points, and the ways of training."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import multivariate_normal
from support.covering import covering
from support.random_layers import FAMILIES, random_layer, rows
from torch import Generator, Tensor

from gmm_lightning import GMMLayer, StepwiseEM, e_step, fit_em, m_step
from gmm_lightning.em import initialize_layer, tempered_responsibilities_
from gmm_lightning.errors import GMMError, InvalidArgumentError, InvalidDataError
from gmm_lightning.evidence import Labels, labels_of
from gmm_lightning.noise import Uniform
from gmm_lightning.rows import Batch

pytestmark = pytest.mark.usefixtures("double")

CENTRES = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 5.0], [9.0, 9.0]]).double()
KINDS = ("known", "partly", "soft", "doubtful")


def clusters(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Rows of four clusters, and which one each is from."""
    which = torch.arange(n) % 4
    return CENTRES[which] + torch.randn(n, 2, generator=generator), which


def labels_of_kind(kind: str, classes: Tensor, generator: Generator) -> Tensor:
    """Labels of two or three classes: all, two of five, or as uncertain numbers."""
    known = torch.rand(len(classes), generator=generator) < 0.4
    if kind == "known":
        return classes
    if kind == "soft":
        soft = torch.nn.functional.one_hot(classes) + 0.3
        soft[~known] = torch.nan
        return soft
    return torch.where(known, classes, -1)


def evidence_of(kind: str) -> Labels:
    return Labels([0, 1, 1], confidence=0.8 if kind == "doubtful" else 1.0)


def labelled_layer(
    family: str, kind: str, generator: Generator, batch: tuple[int, ...] = ()
) -> GMMLayer:
    layer = random_layer(family, batch=batch, generator=generator)
    layer.evidence = evidence_of(kind)
    return layer


over_all = pytest.mark.parametrize(
    ("family", "kind", "batch"), covering(FAMILIES, KINDS, ((), (2, 3)))
)


def with_kind(kind: str, x: Tensor, generator: Generator) -> Batch:
    return Batch(x, labels=labels_of_kind(kind, torch.arange(len(x)) % 2, generator))


# -- one step -----------------------------------------------------------------------------------


@over_all
def test_statistics_are_those_of_rows_one_by_one(
    family: str, kind: str, batch: tuple[int, ...], generator: Generator
) -> None:
    layer = labelled_layer(family, kind, generator, batch)
    whole = with_kind(kind, rows(24, 2, generator, batch), generator)
    stats = e_step(layer, whole)
    single = [e_step(layer, part) for part in whole.split(1)]
    # Sums of 24 rows in another order.
    close: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-11}
    for name in ("counts", "first", "second", "log_likelihood"):
        total = sum(getattr(one.about(stats.shift, layer.covariance), name) for one in single)
        assert torch.allclose(torch.as_tensor(total), getattr(stats, name), **close), name
    # By the density: the sum over components of what the rows and their labels say.
    joint = layer.log_joint(whole)
    assert torch.allclose(stats.log_likelihood, joint.logsumexp(-1).sum(0), **close)
    assert torch.allclose(stats.counts, joint.softmax(-1).sum(0), **close)
    # A row of weight two is two rows.
    weight = torch.arange(24) % 3
    again = torch.arange(24).repeat_interleave(weight)
    weighed = e_step(layer, whole._replace(weight=weight.reshape(-1, *[1] * len(batch))))
    repeated = e_step(layer, whole.at(again))
    assert torch.allclose(weighed.counts, repeated.counts, **close)
    assert torch.allclose(weighed.second, repeated.second, **close)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_known_row_has_no_share_of_other_classes(family: str, generator: Generator) -> None:
    layer, x = labelled_layer(family, "known", generator), rows(12, 2, generator)
    # Even where the components of its class have no weight, and are far away.
    layer.set_parameters(torch.tensor([1.0, 0.0, 0.0]), layer.means.detach() + 30 * torch.eye(3, 2))
    labels = torch.arange(12) % 2
    counts = e_step(layer, Batch(x[labels == 1], labels=labels[labels == 1])).counts
    assert counts[0] == 0
    assert counts.sum().item() == pytest.approx(6, rel=1e-14)


def test_labels_and_noise_and_temperature(generator: Generator) -> None:
    x, which = clusters(40, generator)
    layer = GMMLayer(2, 4, noise=Uniform(0.2), evidence=Labels([0, 1, 2, 2]))
    initialize_layer(layer, Batch(x, labels=which.clamp(max=2)))
    labels = torch.where(which < 2, which, -1)
    for responsibilities in (None, tempered_responsibilities_(0.3)):
        how = {} if responsibilities is None else {"responsibilities": responsibilities}
        stats = e_step(layer, Batch(x, labels=labels), **how)
        unlabelled = e_step(layer, x[labels < 0], **how)
        # Labelled rows are no noise.
        assert torch.allclose(stats.noise, unlabelled.noise, rtol=1e-12)
        assert stats.total_weight.item() == pytest.approx(40, rel=1e-12)


# -- whole fits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_known_classes_of_one_component_need_a_single_step(
    family: str, generator: Generator
) -> None:
    x, which = clusters(200, generator)
    layer = GMMLayer(2, 4, family)
    result = fit_em(layer, x, labels=which)
    assert result.converged
    assert result.num_iterations <= 1
    for c in range(4):
        own = x[which == c]
        assert torch.allclose(layer.means[c], own.mean(0), rtol=1e-12, atol=1e-12)
        if family == "full":
            assert torch.allclose(layer.covariance_matrix[c], own.T.cov(correction=0), rtol=1e-12)
    assert torch.equal(layer.predict_class(x), layer.predict(x))


def slow_em(x: Tensor, labels: Tensor, classes: list[int], layer: GMMLayer, steps: int) -> Tensor:
    """Means after some steps of EM with labels, row by row, with scipy's densities."""
    k, n = len(classes), len(x)
    weights, means = layer.weights.tolist(), layer.means.detach().clone()
    covariances = layer.covariance_matrix.detach().clone()
    for _ in range(steps):
        shares = torch.zeros(n, k)
        for i in range(n):
            for j in range(k):
                if labels[i] in (-1, classes[j]):
                    normal = multivariate_normal(means[j].numpy(), covariances[j].numpy())
                    shares[i, j] = weights[j] * float(normal.pdf(x[i].numpy()))
        shares = shares / shares.sum(-1, keepdim=True)
        weights = shares.mean(0).tolist()
        for j in range(k):
            share = shares[:, j] / shares[:, j].sum()
            means[j] = share @ x
            covariances[j] = (share * (x - means[j]).T) @ (x - means[j])
    return means


def test_em_equals_a_slow_loop(generator: Generator) -> None:
    x, which = clusters(40, generator)
    labels = labels_of_kind("partly", which.clamp(max=2), generator)
    layer = GMMLayer(2, 4, evidence=Labels([0, 1, 2, 2]))
    initialize_layer(layer, Batch(x, labels=labels), generator=0)
    expected = slow_em(x, labels, [0, 1, 2, 2], layer, steps=3)
    how: dict[str, Any] = {"acceleration": None, "max_iter": 3, "tol": 0.0}
    fit_em(layer, x, labels=labels, initializer=None, **how)
    assert torch.allclose(layer.means, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("family", "kind"), covering(FAMILIES, KINDS))
def test_the_objective_rises_to_where_its_gradient_is_zero(
    family: str, kind: str, generator: Generator
) -> None:
    x, which = clusters(120, generator)
    labels = labels_of_kind(kind, (which > 0).long(), generator)
    layer = GMMLayer(2, 3, family, priors="niw", evidence=evidence_of(kind))
    result = fit_em(layer, x, labels=labels, tol=1e-13, max_iter=2000, generator=0)
    assert result.converged
    history = torch.tensor(result.history)
    # Each value is a mean of 120 rows, rounded by some eps.
    assert (history.diff() > -1e-13).all()
    objective = layer.objective(Batch(x, labels=labels))
    assert float(objective.detach()) == pytest.approx(float(result.objective), rel=1e-9)
    gradients = torch.autograd.grad(objective, list(layer.parameters()))
    # What remains to be gained is 1e-13 nats, so a gradient g with curvature of about 1: g^2 / 2.
    assert max(float(g.abs().max()) for g in gradients) < 2e-6


def test_labels_divide_components_that_overlap(generator: Generator) -> None:
    """Two classes at the same place, one of them wider: only labels tell them apart."""
    x = torch.cat([torch.randn(300, 2, generator=generator) * s for s in (0.5, 3.0)])
    classes = torch.arange(600) // 300
    labels = torch.where(torch.arange(600) % 5 == 0, classes, -1)
    layer = GMMLayer(2, 4)
    fit_em(layer, x, labels=labels, generator=0)
    evidence = labels_of(layer.evidence)
    assert evidence is not None
    assert evidence.class_of_component == [0, 0, 1, 1]
    probability = layer.class_probabilities(torch.tensor([[0.2, 0.1], [4.0, -4.0]]))
    assert probability[0, 0] > 0.7
    assert probability[1, 1] > 0.99
    assert torch.equal(layer.predict_class(x), layer.class_probabilities(x).argmax(-1))


@pytest.mark.parametrize("initializer", ["mixed", "kmeans", "random", "maxdist"])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_components_of_a_class_start_at_its_rows(
    initializer: str, batch: tuple[int, ...], generator: Generator
) -> None:
    x, which = clusters(160, generator)
    labels = torch.where(torch.arange(160) % 3 < 2, (which >= 2).long(), -1)
    layer = GMMLayer(2, 4, evidence=Labels([0, 1, 0, 1]), batch_shape=batch)
    expanded = x.reshape(160, *[1] * len(batch), 2)
    initialize_layer(layer, Batch(expanded, labels=labels), initializer, generator=0)
    distance = (layer.means.unsqueeze(-2) - CENTRES).norm(dim=-1).reshape(-1, 4, 4)
    if initializer != "random":
        # One component at each cluster, those of the class's components.
        nearest = distance.argmin(-1)
        for one in nearest.tolist():
            assert {one[0], one[2]} == {0, 1}
            assert {one[1], one[3]} == {2, 3}
    middle = torch.stack([CENTRES[:2].mean(0), CENTRES[2:].mean(0)])
    own = (layer.means.reshape(-1, 2, 2, 2).mean(1) - middle).norm(dim=-1)
    assert own.max() < 1.0


def test_a_single_row_of_each_class_is_enough(generator: Generator) -> None:
    x, which = clusters(400, generator)
    labels = torch.full((400,), -1)
    labels[:4] = which[:4]
    layer = GMMLayer(2, 4)
    fit_em(layer, x, labels=labels)
    assert (layer.predict_class(x) == which).double().mean() > 0.97


def test_several_starts_and_mixtures_side_by_side(generator: Generator) -> None:
    x, which = clusters(120, generator)
    labels = labels_of_kind("partly", which // 2, generator)
    several = GMMLayer(2, 4, evidence=Labels.of_classes(2, 2), batch_shape=(2,))
    shared = torch.stack([x, x + 1], 1)
    result = fit_em(several, shared, labels=labels, num_restarts=3, generator=0)
    assert result.objective.shape == (2,)
    for i in range(2):
        alone = GMMLayer(2, 4, evidence=Labels.of_classes(2, 2))
        best = fit_em(alone, shared[:, i], labels=labels, num_restarts=3, generator=1)
        assert float(best.objective) == pytest.approx(float(result.objective[i]), abs=1e-4)


def test_unlabelled_rows_may_weigh_less(generator: Generator) -> None:
    x, which = clusters(100, generator)
    labels = labels_of_kind("partly", which, generator)
    how: dict[str, Any] = {"max_iter": 5, "tol": 0.0, "generator": 0}
    fits = []
    for weight, options in (
        (None, {"unlabeled_weight": 0.3}),
        (torch.where(labels < 0, 0.3, 1.0), {}),
        (torch.full((100,), 2.0), {"unlabeled_weight": 0.3}),
    ):
        layer = GMMLayer(2, 4, priors="niw" if weight is None or weight.max() == 1 else None)
        fit_em(layer, x, labels=labels, sample_weight=weight, **options, **how)
        fits.append(layer)
    assert torch.equal(fits[0].means, fits[1].means)
    # Weights multiply, and without a prior their scale has no effect.
    plain = GMMLayer(2, 4)
    fit_em(plain, x, labels=labels, sample_weight=torch.where(labels < 0, 0.3, 1.0), **how)
    assert torch.allclose(fits[2].means, plain.means, rtol=1e-10, atol=1e-10)
    # Without any weight they are not there.
    none, known = GMMLayer(2, 4), GMMLayer(2, 4)
    fit_em(none, x, labels=labels, unlabeled_weight=0.0, **how)
    fit_em(known, x[labels >= 0], labels=labels[labels >= 0], **how)
    assert torch.allclose(none.means, known.means, rtol=1e-10, atol=1e-10)


def test_stepwise_em_reads_labels(generator: Generator) -> None:
    x, which = clusters(80, generator)
    labels = labels_of_kind("partly", which, generator)
    layer = GMMLayer(2, 4, evidence=Labels([0, 1, 2, 3]))
    initialize_layer(layer, Batch(x, labels=labels))
    other = GMMLayer.from_config(layer.to_config())
    other.load_state_dict(layer.state_dict())
    StepwiseEM(layer).partial_fit(x, labels=labels)
    # The first batch counts as a whole.
    m_step(other, e_step(other, Batch(x, labels=labels)))
    assert torch.allclose(layer.means, other.means, rtol=1e-12)


# -- as a module --------------------------------------------------------------------------------


def test_gradients_of_the_objective_with_labels(generator: Generator) -> None:
    x = rows(7, 2, generator)
    for kind in ("partly", "soft", "doubtful"):
        layer = labelled_layer("full", kind, generator)
        batch = with_kind(kind, x, generator)

        def objective(means: Tensor, layer: GMMLayer = layer, batch: Batch = batch) -> Tensor:
            own = {"means": means}
            return torch.func.functional_call(layer, own, (batch,)).sum()

        assert torch.autograd.gradcheck(objective, layer.means.detach().requires_grad_())


def test_copies_are_the_same(generator: Generator) -> None:
    layer = labelled_layer("tied", "doubtful", generator)
    batch = with_kind("doubtful", rows(9, 2, generator), generator)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin.log_prob(batch), layer.log_prob(batch))
    # Classes are a setting, not a state: a state dict is that of a layer without labels.
    assert layer.state_dict().keys() == GMMLayer(2, 3, "tied").state_dict().keys()
    half = copy.deepcopy(layer).float()
    assert half.log_prob(Batch(batch.x.float(), labels=batch.labels)).dtype == torch.float32


def test_a_layer_with_labels_compiles_as_one_graph(generator: Generator) -> None:
    layer = labelled_layer("diag", "doubtful", generator)
    batch = with_kind("doubtful", rows(9, 2, generator), generator)
    compiled = torch.compile(layer.log_prob, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(batch), layer.log_prob(batch), rtol=1e-12)


def test_a_folder_holds_the_classes(tmp_path: Path, generator: Generator) -> None:
    pytest.importorskip("safetensors")
    x, which = clusters(60, generator)
    layer = GMMLayer(2, 4, "diag", evidence=Labels([0, 1, 1, 0], 0.9))
    fit_em(layer, x, labels=(which > 1).long(), generator=0)
    layer.save_pretrained(tmp_path)
    twin = GMMLayer.from_pretrained(tmp_path)
    assert repr(twin.evidence) == repr(layer.evidence)
    assert torch.equal(twin.predict_class(x), layer.predict_class(x))


# -- mistakes -----------------------------------------------------------------------------------

Y = torch.arange(40) % 4
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"labels": Y[:39]}, r"labels must be of shape \(40,\) or \(40, C\), .* got \(39,\)"),
    ({"labels": torch.where(Y == 2, 0, Y)}, "no row has a label of class 2, and each of the 4"),
    ({"labels": torch.where(Y == 1, 7, Y)}, "4 components cannot be divided equally among 8"),
    ({"labels": torch.where(Y == 1, -3, Y)}, r"classes from 0 to 3, or -1 where not known"),
    ({"labels": torch.full((40,), -1)}, "no row has a label: leave labels out, or label some"),
    ({"labels": Y + 0.5}, "4 components cannot be divided|classes from 0 to"),
    ({"labels": ["a", "b"] * 20}, "labels must hold numbers"),
    ({"labels": torch.full((40, 4), -0.1)}, "soft labels must be finite and >= 0"),
    ({"labels": torch.zeros(40, 4)}, "no row has a label of class 0, 1, 2, 3"),
    ({"labels": Y % 3}, "4 components cannot be divided equally among 3 classes"),
    ({"labels": Y, "unlabeled_weight": -1.0}, "unlabeled_weight must be a finite number >= 0"),
    (
        {"labels": Y, "sample_weight": (Y != 3).double()},
        "no row has a label of class 3",
    ),
]


@pytest.mark.parametrize(("options", "words"), MISTAKES)
def test_mistakes_are_named_and_leave_the_layer_alone(
    options: dict[str, Any], words: str, generator: Generator
) -> None:
    x, _ = clusters(40, generator)
    layer = GMMLayer(2, 4)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.raises(GMMError, match=words) as caught:
        fit_em(layer, x, **options)
    assert len(str(caught.value).splitlines()) == 1
    assert layer.evidence is None
    for name, value in layer.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num())


def test_labels_and_what_they_do_not_go_with(generator: Generator) -> None:
    x, which = clusters(40, generator)
    layer = GMMLayer(2, 4)
    for rows_ in (Batch(x), [x[:20], x[20:]]):
        with pytest.raises(InvalidArgumentError, match="labels go with rows in memory; batches"):
            fit_em(layer, rows_, labels=which)
    # Rows that cannot be used, and a stream whose first batch need not have all classes.
    with pytest.raises(InvalidDataError, match="missing"):
        fit_em(layer, x.log(), labels=which)
    with pytest.raises(InvalidArgumentError, match="the classes must be known before the first"):
        StepwiseEM(layer).partial_fit(x, labels=which)
    assert layer.evidence is None
    layer.evidence = torch.nn.Linear(2, 4)
    with pytest.raises(InvalidArgumentError, match="other evidence, which reads no labels"):
        fit_em(layer, x, labels=which)
    layer.evidence = Labels([0, 0, 1, 1])
    for fit in (fit_em, initialize_layer):
        with pytest.raises(InvalidDataError, match="has labels as evidence, and the rows have no"):
            fit(layer, x)
    layer.evidence = Labels.of_classes(2, [1, 3])
    labels = torch.full((40,), -1)
    labels[:4] = torch.tensor([0, 0, 1, 1])
    with pytest.raises(InvalidDataError, match=r"2 row\(s\) have the label 1, fewer than the 3"):
        fit_em(layer, x, labels=labels)
