"""Shards: every row exactly once, and as many batches on every process."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from gmm_lightning.rows import ArrayRows, Batch
from gmm_lightning.training.loader import RowLoader, shard

SIZES = (1, 2, 3, 5, 9, 11, 16, 101)
WORLDS = (1, 2, 3, 4, 7)
BATCHES = (1, 2, 4, 10, 200)
over_worlds = pytest.mark.parametrize("world", WORLDS)


def rows(n: int) -> ArrayRows:
    """Rows that carry their own number, as labels do."""
    x = torch.arange(n, dtype=torch.float64).unsqueeze(-1).repeat(1, 2)
    return ArrayRows(Batch(x, labels=torch.arange(n)))


def loaders(n: int, world: int, batch_size: int, epoch: int | None = None) -> list[RowLoader]:
    return [
        RowLoader(
            rows(n),
            batch_size,
            rank=rank,
            world_size=world,
            epoch=None if epoch is None else lambda: epoch,
            seed=3,
        )
        for rank in range(world)
    ]


def numbers(x: Tensor) -> list[int]:
    return [int(v) for v in x[:, 0]]


@over_worlds
def test_shards_are_a_partition_in_order_and_even(world: int) -> None:
    for n in SIZES:
        parts = [shard(n, rank, world) for rank in range(world)]
        assert [i for part in parts for i in part] == list(range(n))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("epoch", [None, 0, 4])
@over_worlds
def test_every_row_once_and_equally_many_batches(world: int, epoch: int | None) -> None:
    for n, batch_size in itertools.product(SIZES, BATCHES):
        per_rank = [list(loader) for loader in loaders(n, world, batch_size, epoch)]
        lengths = {len(loader) for loader in loaders(n, world, batch_size, epoch)}
        assert {len(batches) for batches in per_rank} == lengths
        assert len(lengths) == 1
        seen = [i for batches in per_rank for batch in batches for i in numbers(batch.x)]
        assert sorted(seen) == list(range(n))
        for step in zip(*per_rank, strict=True):
            together = sum(len(batch.x) for batch in step)
            assert {batch.num_global_rows for batch in step} == {together}
            assert together > 0
            assert max(len(batch.x) for batch in step) <= batch_size
            # What belongs to rows goes with them, into empty batches too.
            assert all(batch.labels.tolist() == numbers(batch.x) for batch in step)


@over_worlds
def test_in_order_batches_are_views(world: int) -> None:
    for n, batch_size in itertools.product(SIZES, BATCHES):
        source = rows(n)
        memory = source.batch.x.untyped_storage().data_ptr()
        for rank in range(world):
            batches = list(RowLoader(source, batch_size, rank=rank, world_size=world))
            part = shard(n, rank, world)
            assert [i for batch in batches for i in numbers(batch.x)] == list(part)
            assert {b.x.untyped_storage().data_ptr() for b in batches} <= {memory}


@pytest.mark.parametrize("world", [2, 3, 7])
@pytest.mark.parametrize(("n", "batch_size"), [(11, 4), (101, 10), (3, 2), (1, 5)])
def test_shuffled_steps_do_not_depend_on_the_number_of_processes(
    n: int, batch_size: int, world: int
) -> None:
    alone = [numbers(batch.x) for batch in loaders(n, 1, batch_size, epoch=2)[0]]
    ranks = [[numbers(b.x) for b in loader] for loader in loaders(n, world, batch_size, epoch=2)]
    together = [[i for part in step for i in part] for step in zip(*ranks, strict=True)]
    assert together == alone


def order(seed: int, epoch: int, n: int = 50) -> list[int]:
    return numbers(next(iter(RowLoader(rows(n), n, epoch=lambda: epoch, seed=seed))).x)


def test_the_permutation_is_a_function_of_seed_and_epoch() -> None:
    torch.manual_seed(1)
    first = order(0, 5)
    torch.manual_seed(2)
    assert order(0, 5) == first
    # No two of (seed, epoch) share a permutation, in particular not seed + epoch = constant.
    drawn = {tuple(order(seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(drawn) == 25
    assert all(sorted(permutation) == list(range(50)) for permutation in drawn)


def test_the_epoch_is_asked_for_at_the_start_of_each_pass() -> None:
    now = [0]
    loader = RowLoader(rows(50), 50, epoch=lambda: now[0], seed=1)
    first = [numbers(batch.x) for batch in loader]
    assert [numbers(batch.x) for batch in loader] == first
    now[0] = 1
    assert [numbers(batch.x) for batch in loader] != first


def test_the_global_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    list(RowLoader(rows(20), 3, epoch=lambda: 1, seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)
