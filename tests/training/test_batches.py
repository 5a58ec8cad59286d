"""What a batch may be, for a `GMMModule` and for a layer inside a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import lightning as L
import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader
from support.evidence import LabelEvidence
from support.lightning_runs import adam, distance, state, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from gmm_lightning import GMMLayer
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import Batch
from gmm_lightning.training import EMCallback, GMMModule, InitializeCallback, StepwiseEMCallback
from gmm_lightning.training.batches import as_global_batch

# Lightning's advice about a fit without validation.
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


class Sample(NamedTuple):
    x: Tensor
    y: Tensor


KINDS: dict[str, Callable[[Tensor], Any]] = {
    "rows": lambda x: x,
    "array": lambda x: x.numpy(),
    "tuple": lambda x: (x, x.sum(-1)),
    "list": lambda x: [x],
    "three": lambda x: [x, x.sum(-1), torch.arange(len(x))],
    "mapping": lambda x: {"y": x.sum(-1), "x": x, "path": ["a"] * len(x)},
    "named tuple": lambda x: Sample(x, x.sum(-1)),
    "batch": Batch,
}


class Loader:
    """Batches of one kind, re-iterable, as many rows as it says."""

    def __init__(self, x: Tensor, kind: str) -> None:
        self.dataset, self.kind = x, kind

    def __len__(self) -> int:
        return -(-len(self.dataset) // 20)

    def __iter__(self) -> Iterator[Any]:
        return map(KINDS[self.kind], self.dataset.split(20))


def module(fit: str, **options: Any) -> GMMModule:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return GMMModule(GMMLayer(2, 3, **options), adam() if fit == "sgd" else None)


WAYS: dict[str, list[Any]] = {"em": [EMCallback], "stepwise": [StepwiseEMCallback], "sgd": []}


def outcome(x: Tensor, kind: str, fit: str) -> str:
    """Everything that comes of one pass over batches of a kind, and of predicting them."""
    run, made = trainer(*(callback() for callback in WAYS[fit]), max_epochs=1), module(fit)
    run.fit(made, Loader(x, kind), Loader(x, kind))
    parts: Any = run.predict(made, Loader(x, kind))
    return f"{state(made)} {run.callback_metrics} {[part.log_prob for part in parts]}"


@pytest.mark.parametrize("fit", WAYS)
def test_every_kind_of_batch_gives_the_same_fit(x: Tensor, fit: str) -> None:
    expected = outcome(x, "rows", fit)
    for kind in KINDS:
        assert outcome(x, kind, fit) == expected, kind


def test_the_entries_of_a_mapping_are_those_of_a_batch() -> None:
    item = {"x": torch.zeros(4, 2), "weight": torch.ones(4), "labels": torch.arange(4)}
    batch = as_global_batch(item | {"day": torch.arange(4.0), "scale": torch.ones(3), "n": 4}, 2)
    assert torch.equal(batch.weight, item["weight"])  # pyright: ignore
    assert batch.labels is item["labels"]
    assert batch.extra is not None
    assert list(batch.extra) == ["day"]
    assert batch.num_global_rows == 8


def test_labels_and_weights_of_a_mapping_are_used(x: Tensor) -> None:
    made = module("em")
    made.layer.evidence = LabelEvidence(3)
    labels = torch.arange(len(x)) % 3
    em = EMCallback()
    batches = [{"x": x, "labels": labels, "weight": 1.0 + (labels == 0)}]
    trainer(em, max_epochs=1).fit(made, DataLoader(batches, batch_size=None))  # pyright: ignore
    assert em.counts is not None
    expected = torch.bincount(labels).double() * torch.tensor([2.0, 1.0, 1.0])
    assert torch.equal(em.counts, expected)


BAD: dict[str, tuple[Any, str]] = {
    "no x": ({"image": torch.zeros(2, 2), 5: 3}, r"a dict of 2 \('image' \(Tensor\), 5 \(int\)\)"),
    "empty mapping": ({}, "a dict of 0"),
    "text as x": ({"x": ["a"]}, r"a dict of 1 \('x' \(list\)\)"),
    "two batches": ([[torch.zeros(2, 2)], [torch.zeros(2, 2)]], r"a list of 2 \(list, list\)"),
    "empty": ((), "a tuple of 0"),
    "text": ("rows", "a str"),
    "nothing": (None, "a NoneType"),
    "text first": (("a", torch.zeros(2, 2)), r"a tuple of 2 \(str, Tensor\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_anything_else_is_refused_in_one_sentence(name: str) -> None:
    item, words = BAD[name]
    with pytest.raises(InvalidDataError, match=rf"expected each batch .* got {words}; .*collate"):
        as_global_batch(item, 1)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"weight": -torch.ones(4)}, r"sample_weight must be finite and >= 0; .* row\(s\) 0, 1"),
        ({"weight": torch.ones(3)}, r"sample_weight must broadcast to \(4,\), got shape \(3,\)"),
        ({"labels": torch.ones(3)}, r"labels of a batch must be .*\(4, ...\).*got shape \(3,\)"),
    ],
)
def test_weights_and_labels_of_a_mapping_fit_its_rows(part: Any, words: str) -> None:
    with pytest.raises(InvalidDataError, match=words):
        as_global_batch({"x": torch.zeros(4, 2)} | part, 1)


def test_the_rows_of_a_batch_have_a_shape(x: Tensor) -> None:
    wrong = DataLoader(torch.zeros(20, 3), batch_size=20)  # pyright: ignore
    for fit, em in (("em", [EMCallback()]), ("sgd", [])):
        with pytest.raises(InvalidDataError, match=r"expected .* got .*\(20, 3\)"):
            trainer(*em, max_epochs=1).fit(module(fit), wrong)


def test_loaders_side_by_side_are_refused_by_a_module(x: Tensor) -> None:
    loaders = [DataLoader(TensorDataset(x), batch_size=20)] * 2
    words = r"reads one training loader, got a {} of .*ConcatDataset"
    for given, kind in ((loaders, "list"), (dict(enumerate(loaders)), "dict")):
        with pytest.raises(InvalidArgumentError, match="GMMModule " + words.format(kind)):
            trainer(EMCallback(), max_epochs=1).fit(module("em"), given)
    with pytest.raises(InvalidArgumentError, match="GMMModule " + words.format("list")):
        trainer(max_epochs=1).fit(module("sgd"), list(x.split(20)))  # pyright: ignore

    class Both(L.LightningDataModule):
        def train_dataloader(self) -> Any:
            return CombinedLoader(loaders, "min_size").iterables

    with pytest.raises(InvalidArgumentError, match="InitializeCallback " + words.format("list")):
        trainer(InitializeCallback(), EMCallback()).fit(module("em"), datamodule=Both())


class Pair(L.LightningModule):
    """Labelled rows from one loader, others from a second one; the density sees both."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.density = nn.Linear(2, 2), GMMLayer(2, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        z = self.encoder(torch.cat([labelled[0], unlabelled["image"]]))
        return z.square().mean() - self.density(z).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(0.001)(self.parameters())


@pytest.mark.parametrize("callback", [EMCallback, StepwiseEMCallback])
def test_a_layer_inside_a_model_takes_the_batches_of_its_own_step(x: Tensor, callback: Any) -> None:
    images: Any = [{"image": row} for row in x[:60]]
    loaders = {
        "labelled": DataLoader(TensorDataset(x, x.sum(-1)), batch_size=20, shuffle=True),
        "unlabelled": DataLoader(images, batch_size=12),
    }
    em = callback(target="density")
    start = InitializeCallback(target="density")
    run = trainer(start, em, max_epochs=2)
    run.fit(Pair(), CombinedLoader(loaders, "min_size"))
    assert len(em.history) == 2
    # Five batches of each: 20 and 12 rows.
    total = em._pass_weight if callback is StepwiseEMCallback else em.counts.sum()
    assert float(total) == pytest.approx(160)
    # The longer one is read to its end, the shorter one again.
    em = callback(target="density")
    trainer(InitializeCallback(target="density"), em, max_epochs=1).fit(Pair(), loaders)
    total = em._pass_weight if callback is StepwiseEMCallback else em.counts.sum()
    assert float(total) == pytest.approx(len(x) + 6 * 12)


def test_a_sampler_that_pads_is_found_among_several_loaders(x: Tensor) -> None:
    sampler = DistributedSampler(TensorDataset(x), 2, 0)
    padded = DataLoader(TensorDataset(x), sampler=sampler, batch_size=20)
    loaders = {"labelled": DataLoader(TensorDataset(x), batch_size=20), "unlabelled": padded}
    run = trainer(EMCallback(target="density"), use_distributed_sampler=False, max_epochs=1)
    with pytest.raises(InvalidArgumentError, match="repeats rows"):
        run.fit(Pair(), loaders)


def test_a_start_reads_combined_loaders_and_leaves_them_to_the_fit(x: Tensor) -> None:
    def run(*start: L.Callback) -> Pair:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            made = Pair()
        loader = DataLoader(TensorDataset(x), batch_size=20)
        images: Any = DataLoader([{"image": row} for row in x], batch_size=20)
        done = trainer(*start, max_epochs=1)
        done.fit(made, {"labelled": loader, "unlabelled": images})
        assert done.global_step == 6
        return made

    start = InitializeCallback("kmeans", target="density")
    assert distance(state(run(start).density), state(run().density)) > 0.1
