"""Initializers return assignments that do not depend on the units of the data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.covering import covering
from support.random_layers import FAMILIES, INITIALIZERS, finite, rows
from torch import Generator, Tensor

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.em import MixtureModel, initialization
from gmm_lightning.em.initialization import as_initializer
from gmm_lightning.em.row_assignment import assign_rows
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.initializers import (
    DistanceTable,
    Given,
    Initializer,
    KMeans,
    Mixed,
    kmeans_plus_plus_seeds,
    registry,
    standardize,
)
from gmm_lightning.initializers.base import draw_rows
from gmm_lightning.rows import Batch, as_source

pytestmark = pytest.mark.usefixtures("double")
over_initializers = pytest.mark.parametrize("name", INITIALIZERS)


def seeded(seed: int = 5) -> Generator:
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def assignments(name: str, x: Tensor, k: int, weight: Tensor | None = None) -> Tensor:
    """What an initializer gives for rows in the user's units, as responsibilities."""
    with torch.random.fork_rng():  # The parameters of a new layer are random too.
        layer = GMMLayer(x.shape[1], k)
    weight = torch.ones(len(x)) if weight is None else weight
    model = MixtureModel.from_layer(layer)
    found = assign_rows(model, as_initializer(name), Batch(x, weight), k, seeded())[:, 0]
    return found if found.is_floating_point() else torch.nn.functional.one_hot(found, k).double()


def starts(
    initializer: Initializer, x: Tensor, k: int, weight: Tensor, number: int, generator: Generator
) -> Tensor:
    """Several starts from one set of rows."""
    return initializer.assign_many(x[None], k, weight[None], number, generator)[0]


@over_initializers
def test_assignments_are_valid(name: str, generator: Generator) -> None:
    x = rows(50, 2, generator)
    x = (x - x.mean(0)) / x.std(0)
    found = registry.create(name).assign(x, 4, torch.ones(50), generator)
    if found.is_floating_point():
        assert found.shape == (50, 4)
        assert (found >= 0).all()
        assert torch.allclose(found.sum(-1), torch.ones(50), rtol=1e-14)
    else:
        assert found.shape == (50,)
        assert sorted(set(found.tolist())) == [0, 1, 2, 3]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", [name for name in registry.names if name != "mixed"])
def test_many_starts_equal_one_after_the_other(
    name: str, weighted: bool, generator: Generator
) -> None:
    for n, d, k in ((7, 1, 7), (90, 2, 4), (700, 5, 130)):
        initializer = registry.create(name)
        if isinstance(initializer, Given):
            initializer = Given(torch.arange(n) % k)
        x = torch.randn(n, d, generator=generator)
        weight = torch.rand(n, generator=generator) if weighted else torch.ones(n)
        one, many = seeded(), seeded()
        expected = torch.stack([initializer.assign(x, k, weight, one) for _ in range(5)])
        assert torch.equal(starts(initializer, x, k, weight, 5, many), expected)
        assert torch.equal(one.get_state(), many.get_state())


@over_initializers
def test_how_many_rows_an_initializer_wants(name: str) -> None:
    for k in (1, 30, 1 << 20):
        most = registry.create(name).max_rows(k)
        assert most is None or most >= k
    # Only responsibilities take memory by the component.
    assert (registry.create(name).max_rows(256) is None) == (name != "random")


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "times 1e-8": lambda x: x * 1e-8,
    "times 1e12": lambda x: x * 1e12,
    "plus 1e8": lambda x: x + 1e8,
    "features apart": lambda x: x * torch.tensor([1e-6, 1e6]) + torch.tensor([0.0, 1e9]),
    "mirrored": lambda x: -x,
}


@pytest.mark.parametrize("change", CHANGES)
@over_initializers
def test_units_do_not_matter(name: str, change: str, generator: Generator) -> None:
    x = rows(60, 2, generator)
    expected = assignments(name, x, 3)
    found = assignments(name, CHANGES[change](x), 3)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


@over_initializers
def test_a_generator_decides(name: str, generator: Generator) -> None:
    x = rows(40, 2, generator)
    before = torch.random.get_rng_state()
    assert torch.equal(assignments(name, x, 3), assignments(name, x, 3))
    assert torch.equal(torch.random.get_rng_state(), before)


@over_initializers
def test_without_a_generator_the_global_state_decides(name: str) -> None:
    x = torch.randn(40, 2)
    layers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        layer = GMMLayer(2, 3)
        fit_em(layer, x, initializer=name, max_iter=0)
        layers.append(layer.means.detach())
    assert torch.equal(layers[0], layers[1])
    assert not torch.equal(layers[0], layers[2]) or name == "maxdist"


NASTY: dict[str, Tensor] = {
    "duplicates": torch.tensor([[0.0, 0.0], [1.0, 2.0]]).repeat_interleave(10, 0),
    "one distinct row": torch.full((9, 2), 0.1),
    "as many rows as components": torch.tensor([[0.0, 1.0], [2.0, 3.0], [5.0, 5.0], [9.0, 1.0]]),
    "a constant column": torch.cat([torch.arange(12.0)[:, None], torch.full((12, 1), 7.3)], 1),
    "a constant column far away": torch.cat(
        [torch.arange(12.0)[:, None], torch.full((12, 1), 1e8 + 0.1)], 1
    ),
    "one feature": torch.arange(10.0)[:, None] ** 2,
    "an outlier": torch.cat([torch.arange(20.0).reshape(10, 2), torch.full((1, 2), 1e10)]),
    "collinear": torch.arange(10.0)[:, None] * torch.ones(3),
}


@pytest.mark.parametrize("data", NASTY)
@pytest.mark.parametrize("k", [1, 4])
@over_initializers
def test_nasty_rows(name: str, k: int, data: str) -> None:
    x = NASTY[data].double()
    found = assignments(name, x, k)
    assert found.shape == (len(x), k)
    assert torch.allclose(found.sum(-1), torch.ones(len(x)), rtol=1e-14)


@pytest.mark.parametrize(
    ("family", "name", "data", "k"), covering(FAMILIES, INITIALIZERS, NASTY, [4, 1])
)
def test_nasty_rows_are_fitted(family: str, name: str, data: str, k: int) -> None:
    x = NASTY[data].double()
    layer = GMMLayer(x.shape[1], k, family)
    fit_em(layer, x, initializer=name, max_iter=3, generator=seeded())
    assert finite(layer)


@over_initializers
def test_distinct_rows_all_get_a_component(name: str) -> None:
    if as_initializer(name).assign(torch.zeros(2, 1), 1, torch.ones(2), None).is_floating_point():
        return
    # Four well separated groups, four components, seeds far apart: nobody shares.
    if name in ("kmeans", "kmeans_plus_plus", "maxdist"):
        centres = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]])
        x = centres.repeat_interleave(8, 0) + 0.01 * torch.randn(32, 2)
        labels = assignments(name, x, 4).argmax(-1).reshape(4, 8)
        assert (labels == labels[:, :1]).all()
        assert len(set(labels[:, 0].tolist())) == 4


@over_initializers
def test_rows_of_weight_zero_are_not_there(name: str, generator: Generator) -> None:
    x = rows(40, 2, generator)
    weight = torch.ones(40)
    weight[::4] = 0.0
    spoilt = x.clone()
    spoilt[::4] = 1e6 * torch.randn(10, 2)
    kept = weight > 0
    expected = assignments(name, x[kept], 3)
    found = assignments(name, spoilt, 3, weight)
    assert torch.equal(found[kept], expected)


def test_weights_draw_seeds() -> None:
    weight = torch.tensor([0.0, 1e-12, 1.0, 1.0])
    for seed in range(20):
        drawn = draw_rows(weight, 2, seeded(seed))
        assert sorted(drawn.tolist()) == [2, 3]
    # More rows than candidates: those of probability zero come last.
    assert draw_rows(weight, 4, seeded())[3] == 0
    many = torch.cat([draw_rows(torch.tensor([3.0, 1.0]), 1, seeded(s)) for s in range(2000)])
    share = float((many == 0).double().mean())
    # Five standard errors of a share of 3/4.
    assert abs(share - 0.75) < 5 * (0.75 * 0.25 / 2000) ** 0.5


def test_light_rows_are_no_seeds() -> None:
    # Heavy rows near each other, and many far ones that weigh next to nothing.
    x = torch.cat([torch.tensor([[0.0], [1.0]]), 50 + torch.randn(30, 1)])
    weight = torch.full((32,), 1e-12)
    weight[:2] = 1.0
    for seed in range(10):
        centres = kmeans_plus_plus_seeds(DistanceTable(x[None], weight[None]), 2, 1, seeded(seed))[
            0
        ]
        assert sorted(centres[:, 0].tolist()) == [0.0, 1.0]


def test_standard_units_are_weighted(generator: Generator) -> None:
    x = torch.cat([rows(40, 2, generator) + 1e6, torch.full((40, 1), 0.1)], 1)
    weight = torch.rand(40, generator=generator)
    found = standardize(x, weight)[:, :2]
    share = (weight / weight.sum()).unsqueeze(-1)
    # Rows at 1e6 are exact to 1e-10.
    assert torch.allclose((share * found).sum(0), torch.zeros(2), atol=1e-10)
    assert torch.allclose((share * found.square()).sum(0), torch.ones(2), rtol=1e-12)
    assert standardize(x, weight)[:, 2].std() == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_given_labels_and_responsibilities_agree(family: str, generator: Generator) -> None:
    x = rows(30, 2, generator)
    labels = torch.arange(30) % 3
    hot = torch.nn.functional.one_hot(labels, 3)
    fitted = []
    for spec in (labels, hot, hot.double(), Given(labels), labels.tolist(), labels.cpu().numpy()):
        layer = GMMLayer(2, 3, family)
        fit_em(layer, x, initializer=spec, max_iter=0)
        fitted.append([p.detach().clone() for p in layer.parameters()])
    for other in fitted[1:]:
        assert all(torch.equal(a, b) for a, b in zip(fitted[0], other, strict=True))
    means = torch.stack([x[labels == k].mean(0) for k in range(3)])
    assert torch.allclose(fitted[0][1], means, rtol=1e-13)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[::-1],
        lambda a: a.astype(">i8"),
        lambda a: a.astype(np.uint8),
        lambda a: np.broadcast_to(a, a.shape),
    ],
    ids=["negative stride", "big-endian", "uint8", "read-only"],
)
def test_given_labels_of_any_array(change: Callable[[np.ndarray], np.ndarray]) -> None:
    labels = np.arange(12) % 3
    x = torch.randn(12, 2, device="cpu")
    fitted = []
    for spec in (change(labels), change(labels).astype(np.int64).copy()):
        layer = GMMLayer(2, 3)
        fit_em(layer, x, initializer=spec, max_iter=0)
        fitted.append(layer.means.detach())
    assert torch.equal(*fitted)


def test_given_for_a_batch_is_shared() -> None:
    x, labels = torch.randn(12, 2), torch.arange(12) % 3
    one, many = GMMLayer(2, 3), GMMLayer(2, 3, batch_shape=(2,))
    fit_em(one, x, initializer=labels, max_iter=0)
    fit_em(many, x[:, None], initializer=labels, max_iter=0)
    for a, b in zip(one.parameters(), many.parameters(), strict=True):
        assert torch.allclose(b, a.expand_as(b), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("kmean", "unknown initializer 'kmean'; known are: given, kmeans"),
        ("given", "needs assignments"),
        (torch.arange(6), r"must be in \[0, 3\), or -1 for noise, got values from 0 to 5"),
        (torch.tensor([0, 1, -2, 0, 1, 2]), r"or -1 for noise, got values from -2 to 2"),
        (torch.zeros(6), r"labels|indices .*\(6,\) .*float"),
        (torch.zeros(5, dtype=torch.long), r"shape \(6,\)"),
        (torch.full((6, 3), float("nan")), "finite and >= 0"),
        (torch.full((6, 3), -1.0), "finite and >= 0"),
        (torch.ones(6, 4), r"\(6, 3\)"),
        (3.5, "expected component indices"),
    ],
)
def test_refuses_assignments(spec: object, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        fit_em(GMMLayer(2, 3), torch.randn(6, 2), initializer=spec)


def test_refuses_an_object() -> None:
    with pytest.raises(InvalidDataError, match="initializer must hold numbers"):
        fit_em(GMMLayer(2, 3), torch.randn(6, 2), initializer=object())


def test_more_components_than_rows() -> None:
    for name in INITIALIZERS:
        with pytest.raises(InvalidDataError, match=r"6 rows to fit, .* num_components=7 needs"):
            fit_em(GMMLayer(2, 7), torch.randn(6, 2), initializer=name)
    with pytest.raises(InvalidDataError, match="there are 2 rows to fit"):
        fit_em(GMMLayer(2, 3), torch.randn(6, 2), sample_weight=[1.0, 1.0, 0, 0, 0, 0])


class First(Initializer):
    """A third party's: component k is row k, everybody else is in component 0."""

    def assign(
        self, x: Tensor, num_components: int, weight: Tensor, generator: Generator | None
    ) -> Tensor:
        labels = torch.zeros(len(x), dtype=torch.long)
        labels[:num_components] = torch.arange(num_components)
        return labels


def test_an_initializer_of_a_third_party() -> None:
    x = torch.randn(9, 2)
    layer = GMMLayer(2, 3)
    fit_em(layer, x, initializer=First(), max_iter=0)
    assert torch.allclose(layer.means[1:], x[1:3], rtol=1e-14)
    assert repr(First()) == "First()"


def test_a_large_data_set_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initialization, "_MIN_ROWS", 50)
    monkeypatch.setattr(initialization, "_MAX_ROWS", 50)
    seen = []

    class Spy(First):
        def assign(self, x: Tensor, *rest: object) -> Tensor:
            seen.append(len(x))
            return super().assign(x, *rest)

    x = torch.randn(200, 2)
    fit_em(GMMLayer(2, 3), x, initializer=Spy(), max_iter=0)
    fit_em(GMMLayer(2, 3), list(x.split(33)), initializer=Spy(), max_iter=0)
    assert seen == [50, 50]
    whole, parts = (as_source(data, num_features=2) for data in (x, list(x.split(33))))
    assert torch.equal(whole.sample(50, seeded()).x, parts.sample(50, seeded()).x)


def test_mixed_starts_differ() -> None:
    x = torch.cat([torch.randn(30, 2), torch.randn(30, 2) + 9])
    weight = torch.ones(60)
    assert torch.equal(
        starts(Mixed(), x, 2, weight, 1, seeded()),
        starts(KMeans(), x, 2, weight, 1, seeded()),
    )
    # k-means of two clusters finds one partition from every seed.
    labels = starts(Mixed([KMeans()]), x, 2, weight, 6, seeded())
    canonical = {tuple((own == own[0]).tolist()) for own in labels}
    assert len(canonical) > 1
    soft = starts(Mixed([KMeans(), registry.create("random")]), x, 2, weight, 3, seeded())
    assert soft.shape == (3, 60, 2)
    assert torch.allclose(soft.sum(-1), weight)
    with pytest.raises(InvalidArgumentError, match="one initializer at least"):
        Mixed([])


def test_whitened_kmeans_does_not_see_a_correlation() -> None:
    z = torch.cat([torch.randn(60, 2) - torch.tensor([3.0, 0.0]), torch.randn(60, 2) + 3])
    sheared = z @ torch.tensor([[1.0, 50.0], [0.0, 1.0]])
    labels = KMeans(whiten=True).assign(sheared, 2, torch.ones(120), seeded())
    same = KMeans(whiten=True).assign(z, 2, torch.ones(120), seeded())
    assert torch.equal(labels == labels[0], same == same[0])


def test_a_row_far_away_is_no_seed() -> None:
    x = torch.cat([torch.randn(300, 2), torch.randn(300, 2) + 8, torch.full((2, 2), 1e4)])
    for seed in range(10):
        labels = KMeans().assign(x, 2, torch.ones(602), Generator().manual_seed(seed))
        assert labels[:300].bincount(minlength=2).max() > 290
        assert labels[0] != labels[400]
