"""A stream as a data module: the fit of an array, whatever the rows are kept in."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.lightning_runs import adam, distance, same, state, trainer
from torch import Tensor

from gmm_lightning import GMMLayer
from gmm_lightning.datasets import open_rows
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.training import (
    ArrayDataModule,
    EMCallback,
    GMMModule,
    InitializeCallback,
    RowLoader,
    StreamDataModule,
    loader,
)
from gmm_lightning.training.loader import shard

KINDS = ("npy", "npz", "csv", "parquet", "folder")


def write(folder: Path, kind: str, x: Tensor) -> Path:
    """Rows as one file, or as shards."""
    array = x.numpy()
    path = folder / f"rows.{kind}"
    if kind == "npy":
        np.save(path, array)
    elif kind == "npz":
        np.savez(path, x=array)
    elif kind == "csv":
        names = [f"x{j}" for j in range(x.shape[1])]
        np.savetxt(path, array, delimiter=",", header=",".join(names), comments="", fmt="%.17g")
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({f"x{j}": array[:, j] for j in range(x.shape[1])})
        pq.write_table(table, path, row_group_size=30)
    else:
        path.mkdir()
        for i, part in enumerate(np.array_split(array, 3)):
            np.save(path / f"{i}.npy", part)
    return path


def fitted(data: Any, fit: str = "em", priors: Any = "niw", passes: int = 4) -> GMMModule:
    fresh = GMMModule(
        GMMLayer(data.num_features, 3, priors=priors), adam() if fit == "sgd" else None
    )
    em = [EMCallback()] if fit == "em" else []
    trainer(InitializeCallback(), *em, max_epochs=passes).fit(fresh, datamodule=data)
    return fresh


@pytest.mark.parametrize(
    ("kind", "standardize"), [(kind, i % 2 == 0) for i, kind in enumerate(KINDS)]
)
def test_it_is_the_fit_of_the_array(
    x: Tensor, tmp_path: Path, kind: str, standardize: bool
) -> None:
    options: dict[str, Any] = {"standardize": standardize, "batch_size": 20}
    expected = fitted(ArrayDataModule(x, **options))
    data = StreamDataModule(write(tmp_path, kind, x), **options)
    # The same sums of float64 numbers, in the same order.
    assert distance(state(fitted(data)), state(expected)) < 1e-12


def test_float32_is_read_as_it_is(x: Tensor, tmp_path: Path) -> None:
    single = x.float()
    data = StreamDataModule(write(tmp_path, "npy", single), batch_size=20, standardize=True)
    assert {batch.x.dtype for batch in data.train_dataloader()} == {torch.float32}
    expected = fitted(ArrayDataModule(single, batch_size=20, standardize=True))
    assert distance(state(fitted(data)), state(expected)) < 1e-12


def test_validation_and_test_are_files_of_their_own(x: Tensor, tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        (tmp_path / name).mkdir()
    paths = [
        write(tmp_path / "train", "csv", x[:80]),
        write(tmp_path / "val", "npy", x[80:95]),
        write(tmp_path / "test", "parquet", x[95:]),
    ]
    data = StreamDataModule(paths[0], val_path=paths[1], test_path=paths[2], batch_size=20)
    parts = {name: data.part(name) for name in ("train", "val", "test")}
    assert [part.num_rows for part in parts.values() if part is not None] == [80, 15, 6]
    fresh = GMMModule(GMMLayer(2, 3))
    run = trainer(InitializeCallback(), EMCallback())
    run.fit(fresh, datamodule=data)
    expected = fresh.log_prob(x[80:95]).mean().detach()
    torch.testing.assert_close(run.callback_metrics["val/log_likelihood"], expected)
    assert data.part("nothing") is None
    assert StreamDataModule(paths[0]).val_dataloader() == []


def test_what_it_says_of_itself(x: Tensor, tmp_path: Path) -> None:
    data = StreamDataModule(write(tmp_path, "csv", x), batch_size=7)
    array = ArrayDataModule(x)
    assert (data.num_train_rows, data.num_features, data.total_weight) == (101, 2, 101)
    assert (data.name, data.columns, data.classes) == ("rows", ("x0", "x1"), None)
    for ours, theirs in zip(data.units(), array.units(), strict=True):
        assert torch.equal(ours, theirs)
    for n in (1, 10, 101, 1000):
        assert torch.equal(data.some_rows(n), array.some_rows(n))
        assert len(data.some_rows(n)) <= n


# -- loaders ---------------------------------------------------------------------------------------


def numbered(folder: Path, n: int) -> Path:
    np.save(folder / "n.npy", np.arange(2.0 * n).reshape(n, 2) // 2)
    return folder / "n.npy"


def loaders(path: Path, world: int, batch_size: int, epoch: int | None = None) -> list[RowLoader]:
    return [
        RowLoader(
            open_rows(path),
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


@pytest.mark.parametrize("epoch", [None, 2])
@pytest.mark.parametrize("n", [1, 11, 101])
def test_every_row_once_and_equally_many_batches(
    tmp_path: Path, n: int, epoch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "BLOCK_ROWS", 12)
    path = numbered(tmp_path, n)
    for world, batch_size in ((1, 4), (2, 1), (3, 200), (7, 4)):
        made = loaders(path, world, batch_size, epoch)
        per_rank = [list(one) for one in made]
        assert {len(batches) for batches in per_rank} == {len(one) for one in made}
        assert len({len(one) for one in made}) == 1
        seen = [i for batches in per_rank for batch in batches for i in numbers(batch.x)]
        assert sorted(seen) == list(range(n))
        for step in zip(*per_rank, strict=True):
            together = sum(len(batch.x) for batch in step)
            assert {batch.num_global_rows for batch in step} == {together}
            assert together > 0
        if epoch is None:
            for rank, batches in enumerate(per_rank):
                own = [i for batch in batches for i in numbers(batch.x)]
                assert own == list(shard(n, rank, world))


def test_shuffled_steps_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "BLOCK_ROWS", 12)
    path = numbered(tmp_path, 101)
    (alone,) = ([numbers(b.x) for b in one] for one in loaders(path, 1, 5, epoch=2))
    for world in (2, 3):
        ranks = [[numbers(b.x) for b in one] for one in loaders(path, world, 5, epoch=2)]
        assert [[i for part in step for i in part] for step in zip(*ranks, strict=True)] == alone
    (other,) = ([numbers(b.x) for b in one] for one in loaders(path, 1, 5, epoch=3))
    assert other != alone
    # Blocks of ten rows in an order of their own, and so are the rows of each.
    assert [len({i // 10 for i in step}) for step in alone] == [1] * 21
    assert alone != [sorted(step) for step in alone]


def test_gradient_descent_reads_every_row(x: Tensor, tmp_path: Path) -> None:
    data = StreamDataModule(write(tmp_path, "npy", x), batch_size=20, shuffle=True)
    first, again = (state(fitted(data, "sgd")) for _ in range(2))
    assert same(first, again)
    # One block: the rows of a step are drawn from all of them.
    assert distance(first, state(fitted(data, "sgd", passes=1))) > 0


def test_nothing_is_left_when_a_fit_fails(x: Tensor, tmp_path: Path) -> None:
    path = write(tmp_path, "csv", x)
    data = StreamDataModule(path, batch_size=10)
    fresh = GMMModule(GMMLayer(2, 3))

    class Spoil(InitializeCallback):
        def on_train_start(self, *_: Any) -> None:
            path.write_text(path.read_text().replace("\n", "\nx,1\n", 50)[: path.stat().st_size])

    with pytest.raises(InvalidDataError, match=r"rows\.csv: line \d+, column x0: expected a num"):
        trainer(Spoil(), EMCallback()).fit(fresh, datamodule=data)
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())


@pytest.mark.parametrize("path", [None, ""])
def test_no_path(path: str | None) -> None:
    with pytest.raises(InvalidArgumentError, match=r"data=stream data\.path=big\.npy"):
        StreamDataModule(path)


def test_a_batch_size_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="batch_size must be an integer >= 1, got 0"):
        StreamDataModule(numbered(tmp_path, 3), batch_size=0)
