"""Rows in memory or in batches: the same sums, the same fit, and messages that name rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.random_layers import FAMILIES, parameters, rows
from torch.utils.data import DataLoader, TensorDataset

from gmm_lightning import GMMLayer, fit_em, resolve_priors
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import Batch, as_source

pytestmark = pytest.mark.usefixtures("double")


class Batches:
    """A re-iterable that counts how often it was read."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts, self.reads = parts, 0

    def __iter__(self) -> Iterator[Any]:
        self.reads += 1
        yield from self.parts


@pytest.mark.parametrize(
    ("family", "size"),
    [*((family, 7) for family in FAMILIES), ("full", 1000), ("tied", 100), ("spherical", 1)],
)
def test_batches_fit_as_the_whole(family: str, size: int, generator: torch.Generator) -> None:
    # "Any batches" of tests/golden/README.md, ragged last batches included.
    n = 250 if size > 7 else 40
    x, start = rows(n, 2, generator), torch.arange(n) % 3
    fitted = []
    for data in (x, list(x.split(size)), Batches([x[:0], *x.split(size), x[:0]])):
        layer = GMMLayer(2, 3, family, ["dirichlet", "niw"])
        result = fit_em(layer, data, initializer=start, max_iter=10, tol=0.0)
        fitted.append([*parameters(layer), torch.tensor(result.history)])
    for other in fitted[1:]:
        for a, b in zip(fitted[0], other, strict=True):
            # Sums in another order round by 1e-14; an iteration carries that on, up to tenfold.
            assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
def test_chunks_fit_as_the_whole(chunk_size: int, generator: torch.Generator) -> None:
    x, start = rows(40, 2, generator), torch.arange(40) % 3
    fitted = []
    for size in (None, chunk_size):
        layer = GMMLayer(2, 3)
        fit_em(layer, x, initializer=start, max_iter=10, tol=0.0, chunk_size=size)
        fitted.append(parameters(layer))
    for a, b in zip(*fitted, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


def test_everything_that_can_be_read_again(generator: torch.Generator) -> None:
    x = rows(30, 2, generator).cpu()
    start = torch.arange(30) % 3
    parts = list(x.split(8))
    loader = DataLoader(TensorDataset(x), batch_size=8)
    sources: list[Any] = [
        parts,
        tuple(parts),
        loader,
        DataLoader(x, batch_size=8),
        [(p,) for p in parts],
        [[p] for p in parts],
        [p.numpy() for p in parts],
        [p.float() if i == 1 else p for i, p in enumerate(parts)][:1] + parts[1:],
        Batches(parts),
        np.asarray(x),
    ]
    expected = None
    for source in sources:
        layer = GMMLayer(2, 3)
        fit_em(layer, source, initializer=start, max_iter=4)
        expected = expected or parameters(layer)
        for a, b in zip(expected, parameters(layer), strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)


def test_an_iterable_is_read_once_per_pass(generator: torch.Generator) -> None:
    x = rows(30, 2, generator)
    data = Batches(list(x.split(8)))
    layer = GMMLayer(2, 3)
    result = fit_em(layer, data, initializer=None, max_iter=5, tol=0.0)
    # The checks and the local scale at first, then an E-step for every entry of the history.
    assert data.reads == 2 + len(result.history) == 8


def test_one_shot_iterators_are_refused(generator: torch.Generator) -> None:
    parts = list(rows(30, 2, generator).split(8))
    for once in ((p for p in parts), iter(parts), map(torch.clone, parts), zip(parts, strict=True)):
        with pytest.raises(InvalidDataError, match="can be read only once"):
            fit_em(GMMLayer(2, 3), once)
    with pytest.raises(InvalidDataError, match="can be read only once"):
        resolve_priors(GMMLayer(2, 3, priors="niw"), iter(parts))


@pytest.mark.parametrize("data", [[], [torch.zeros(0, 2)], torch.zeros(0, 2), np.zeros((0, 2))])
def test_no_rows(data: Any) -> None:
    with pytest.raises(InvalidDataError, match=r"no rows to fit|expected rows of shape"):
        fit_em(GMMLayer(2, 3), data)


def test_an_empty_batch_comes_first(generator: torch.Generator) -> None:
    x = rows(30, 2, generator)
    layer = GMMLayer(2, 3, priors="niw")
    resolve_priors(layer, [x[:0], x])
    twin = GMMLayer(2, 3, priors="niw")
    resolve_priors(twin, x)
    for a, b in zip(layer.buffers(), twin.buffers(), strict=True):
        assert torch.allclose(a, b, rtol=1e-13)


def test_bad_rows_are_counted_over_batches(generator: torch.Generator) -> None:
    x = rows(30, 2, generator)
    x[11, 1], x[29, 0] = float("nan"), float("inf")
    with pytest.raises(InvalidDataError, match=r"row\(s\) 11, 29;"):
        fit_em(GMMLayer(2, 3), x)
    with pytest.raises(InvalidDataError, match=r"row\(s\) 11;"):
        fit_em(GMMLayer(2, 3), list(x.split(8)))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([torch.zeros(4, 2), torch.zeros(4, 3)], r"\(N, 2\), got an array of shape \(4, 3\)"),
        ([(torch.zeros(4, 2), torch.zeros(4))], "just the rows; got 2 arrays"),
        ([(torch.zeros(4, 2), np.zeros(4))], "just the rows; got 2 arrays"),
        ([{"x": torch.zeros(4, 2)}], "must hold numbers"),
        ("abc", "must hold numbers"),
        ({"x": torch.zeros(4, 2)}, "must hold numbers"),
    ],
    ids=["width", "pair", "pair of kinds", "dictionaries", "text", "a dictionary"],
)
def test_refuses_batches(data: Any, words: str) -> None:
    with pytest.raises(InvalidDataError, match=words):
        fit_em(GMMLayer(2, 3), data)


def test_weights_go_with_rows_in_memory(generator: torch.Generator) -> None:
    x = rows(30, 2, generator)
    with pytest.raises(InvalidArgumentError, match="rows in memory"):
        fit_em(GMMLayer(2, 3), list(x.split(8)), sample_weight=torch.ones(30))
    with pytest.raises(InvalidArgumentError, match=r"carry their own.*Batch\(x, weight\)"):
        fit_em(GMMLayer(2, 3), Batch(x), sample_weight=torch.ones(30))


def test_what_is_rows_in_memory() -> None:
    t = torch.zeros(3, 2)
    for array in (t, t.numpy(), t.tolist(), [t[0], t[1]], [[1, 2]], Batch(t)):
        assert as_source(array, num_features=2).in_memory
    for batches in ([t], (t, t), [t.numpy()], [(t,)], [Batch(t)], DataLoader(t)):
        assert not as_source(batches, num_features=2).in_memory


def test_a_sample_keeps_order_and_all_that_belongs_to_rows(generator: torch.Generator) -> None:
    x = torch.arange(40.0)[:, None]
    batch = Batch(x, x[:, 0] + 1, torch.arange(40), {"error": -x})
    for given in (batch, list(batch.split(7))):
        sample = as_source(given, num_features=1).sample(10, generator)
        assert sample.x.shape == (10, 1)
        assert torch.equal(sample.weight, sample.x[:, 0] + 1)
        assert torch.equal(sample.labels, sample.x[:, 0].long())
        assert torch.equal(sample.extra["error"], -sample.x)
        assert (sample.x[:, 0].diff() > 0).all()
    whole = as_source(list(x.split(7)), num_features=1).sample(40, generator)
    assert torch.equal(whole.x, x)
    assert whole.weight is None


def test_batches_of_which_some_have_weights() -> None:
    x = torch.arange(6.0)[:, None]
    parts = [Batch(x[:2]), Batch(x[2:], torch.tensor([1.0, 0.0, 2.0, 0.5]))]
    source = as_source(parts, num_features=1)
    assert source.total_weight == 5.5
    assert source.sample(6, None).weight.tolist() == [1.0, 1.0, 1.0, 0.0, 2.0, 0.5]
    drawn = source.sample(5, torch.Generator().manual_seed(0))
    assert drawn.weight.tolist() == [[1.0, 1.0, 1.0, 0.0, 2.0, 0.5][int(i)] for i in drawn.x]


def test_rows_from_any_row_on(generator: torch.Generator) -> None:
    x = rows(50, 2, generator)
    for given in (x, list(x.split(8))):
        source = as_source(given, num_features=2)
        assert torch.equal(torch.cat([b.x for b in source.read(7, 41, 5)]), x[7:41])
        assert max(b.num_rows for b in source.read(7, 41, 5)) == 5
        assert torch.equal(source.every(7), x[::7])
        assert len(source.some(11)) <= 11


def test_rows_stay_where_they_are() -> None:
    x = torch.zeros(6, 2)
    batch = next(iter(as_source(x, num_features=2)))
    assert batch.x.data_ptr() == x.data_ptr()
    assert next(batch.split(4)).x.data_ptr() == x.data_ptr()
