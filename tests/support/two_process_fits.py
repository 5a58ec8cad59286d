"""Fits for test_ddp.py, in two processes and in one: `python two_process_fits.py FOLDER`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.utilities.distributed import gather_all_tensors

from gmm_lightning import GMMLayer
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.evidence import Labels
from gmm_lightning.noise import Uniform
from gmm_lightning.priors import Dirichlet, NormalInverseWishart
from gmm_lightning.training import (
    ArrayDataModule,
    CovarianceFloorCallback,
    EMCallback,
    EpochCheckpoint,
    GMMModule,
    InitializeCallback,
    Prediction,
    StepwiseEMCallback,
    StreamDataModule,
    VBCallback,
)
from support.evidence import LabelEvidence
from support.lightning_runs import adam, fitted, state, trainer

Result = dict[str, Tensor]


def rows(n: int) -> Tensor:
    """Three clusters, the same in every process."""
    generator = torch.Generator().manual_seed(7)
    centre = torch.tensor([[0.0, 0.0], [4.0, 1.0], [1.0, 5.0]])
    noise = torch.randn(n, 2, generator=generator)
    return centre[torch.randint(3, (n,), generator=generator)] + noise


def numbers(module: torch.nn.Module, run: L.Trainer) -> Result:
    """Everything that must not depend on the number of processes."""
    logged = {f"logged {k}": v for k, v in run.callback_metrics.items() if k != "train/nll"}
    return state(module) | logged | {"epoch": torch.tensor(run.current_epoch)}


def simple(n: int, fit: str, num_components: int = 3, **data: Any) -> Callable[..., Result]:
    def check(folder: Path, **options: Any) -> Result:
        return numbers(
            *fitted(
                rows(n),
                fit,
                num_components=num_components,
                priors="dirichlet" if n < 3 else ["dirichlet", "niw"],
                data=data,
                **options,
            )
        )

    return check


def degenerate(folder: Path, **options: Any) -> Result:
    """Two rows far away, in a component of their own: half of it is read by each process."""
    x = rows(52)
    x[[0, -1]] = torch.tensor([[40.0, 40.0], [40.1, 40.2]])
    labels = (x[:, 0] > 20).long()
    module, callback = GMMModule(GMMLayer(2, 2)), EMCallback(tol=1e-5)
    run = trainer(InitializeCallback(labels), callback, max_epochs=20, **options)
    run.fit(module, datamodule=ArrayDataModule(x, batch_size=10))
    assert callback.degenerate == [(1,)]
    return numbers(module, run)


def noisy(fit: str) -> Callable[..., Result]:
    """Noise in the box of all rows, the outermost of which only one process reads."""

    def check(folder: Path, **options: Any) -> Result:
        noise = Uniform(concentration=2.0)
        module = GMMModule(GMMLayer(2, 2, noise=noise), adam() if fit == "sgd" else None)
        em = [EMCallback()] if fit == "em" else []
        run = trainer(InitializeCallback(), *em, max_epochs=3, **options)
        data = ArrayDataModule(rows(51), batch_size=10, shuffle=fit == "sgd")
        run.fit(module, datamodule=data)
        return numbers(module, run)

    return check


def variational(folder: Path, **options: Any) -> Result:
    """The posterior, and the layer that it leaves."""
    niw = NormalInverseWishart(convention="fraley_raftery")
    layer, callback = GMMLayer(2, 3, priors=[Dirichlet(0.5), niw]), VBCallback()
    module = GMMModule(layer)
    run = trainer(InitializeCallback(), callback, max_epochs=5, **options)
    data = ArrayDataModule(rows(101), batch_size=20, val_fraction=0.2, standardize=True)
    run.fit(module, datamodule=data)
    assert callback.posterior is not None
    return numbers(module, run) | {f"of {k}": v for k, v in callback.posterior.tensors().items()}


def constrained(fit: str) -> Callable[..., Result]:
    """Frozen parts stay as they are in all processes, and bounds hold."""

    def check(folder: Path, **options: Any) -> Result:
        frozen = {"means": [1], "weights": [0]}
        layer = GMMLayer(2, 3, priors="niw", freeze=frozen, bounds={"variance": (0.3, 1.5)})
        layer.set_parameters(torch.tensor([0.2, 0.4, 0.4]), means := rows(3), None)
        module = GMMModule(layer, adam(0.05) if fit == "sgd" else None)
        callbacks = [EMCallback(tol=None)] if fit == "em" else []
        run = trainer(InitializeCallback("kmeans"), *callbacks, max_epochs=3, **options)
        data = ArrayDataModule(rows(101), batch_size=20, shuffle=fit == "sgd")
        run.fit(module, datamodule=data)
        assert torch.equal(layer.means[1], means[1])
        return {k: v for k, v in numbers(module, run).items() if "projections" not in k}

    return check


def incomplete(fit: str) -> Callable[..., Result]:
    """Rows with missing entries and errors, of which the processes have different shares."""

    def check(folder: Path, **options: Any) -> Result:
        x, index = rows(51), torch.arange(51)
        x[index % 3 == 0, 1] = torch.nan
        x[40:, 0] = torch.nan
        data = ArrayDataModule(
            x * torch.tensor([1.0, 20.0]),
            missing="em",
            error_covariance=(index[:, None] % 5) * torch.tensor([0.1, 3.0]),
            standardize=True,
            val_fraction=0.2,
            batch_size=10,
            shuffle=fit == "sgd",
        )
        module = GMMModule(GMMLayer(2, 2, priors="niw"), adam() if fit == "sgd" else None)
        em = [EMCallback()] if fit == "em" else []
        run = trainer(InitializeCallback(), *em, max_epochs=3, **options)
        run.fit(module, datamodule=data)
        return numbers(module, run)

    return check


def resumed(fit: str) -> Callable[..., Result]:
    def check(folder: Path, **options: Any) -> Result:
        arguments: dict[str, Any] = {"priors": "niw", "data": {"batch_size": 10}}
        fitted(rows(51), fit, EpochCheckpoint(folder / fit), max_epochs=2, **arguments, **options)
        module, run = fitted(
            rows(51),
            fit,
            EpochCheckpoint(folder / fit),
            max_epochs=4,
            ckpt_path=folder / fit / "last.ckpt",
            **arguments,
            **options,
        )
        return numbers(module, run)

    return check


class Mixed(L.LightningModule):
    """A network by gradient and its density by EM."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.density = GMMLayer(2, 3)
        self.extra = nn.Parameter(torch.ones(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        log_prob = self.density(self.encoder(batch.x)) - self.extra**2
        return -log_prob.sum() * self.trainer.world_size / batch.num_global_rows

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Lightning asks why there is a loader, even an empty one, and no step."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(0.01)(self.parameters())


def inside(*callbacks: type[L.Callback], frozen: bool = False) -> Callable[..., Result]:
    """A start from the latents of all processes, then the network and its density together."""

    def check(folder: Path, **options: Any) -> Result:
        model = Mixed()
        with torch.no_grad():
            # Whatever each process drew: DDP hands out the numbers of the first one.
            model.encoder.weight.copy_(torch.tensor([[1.0, 0.5], [-0.3, 0.8]]))
            model.encoder.bias.zero_()
        model.encoder.requires_grad_(requires_grad=not frozen)
        made = [callback(target="density") for callback in callbacks]
        start = InitializeCallback("kmeans", target="density")
        run = trainer(start, *made, max_epochs=3, accumulate_grad_batches=2, **options)
        # Shuffled, a step holds the same rows whatever the number of processes.
        run.fit(model, datamodule=ArrayDataModule(rows(51), batch_size=10, shuffle=True))
        histories = [torch.tensor(getattr(callback, "history", [])) for callback in made]
        return numbers(model, run) | {"history": torch.cat(histories)}

    return check


def streamed(n: int, fit: str, num_components: int = 3, **data: Any) -> Callable[..., Result]:
    """The same from a file, each process reading its own part of it."""

    def check(folder: Path, **options: Any) -> Result:
        rank = os.environ.get("LOCAL_RANK", "0")
        path = folder / f"{fit}-{n}-{rank}.csv"
        # A weight for each row, 0 among them.
        table = torch.cat([rows(n), (torch.arange(n)[:, None] + 1) % 4], 1)
        np.savetxt(path, table.numpy(), delimiter=",", header="a,b,w", comments="", fmt="%.17g")
        datamodule = StreamDataModule(path, shuffle=fit == "sgd", **data)
        layer = GMMLayer(2, num_components, priors="dirichlet" if n < 3 else ["dirichlet", "niw"])
        module = GMMModule(layer, adam() if fit == "sgd" else None)
        em = [EMCallback()] if fit == "em" else []
        run = trainer(InitializeCallback(), *em, max_epochs=3, **options)
        run.fit(module, datamodule=datamodule)
        return numbers(module, run)

    return check


# Components of rows; 3 stands for rows without a label.
LABELS = (torch.arange(51) * 7) % 4
START = torch.arange(51) % 3


def labelled_layer() -> GMMLayer:
    """A mixture whose evidence reads labels."""
    layer = GMMLayer(2, 3, priors="niw")
    layer.evidence = LabelEvidence(3, unlabelled=3)
    return layer


def labelled(kind: str) -> Callable[..., Result]:
    """Rows with labels from memory (hard or soft ones) or from shards, resumed after two passes."""

    def check(folder: Path, **options: Any) -> Result:
        own = folder / f"labels-{kind}-{os.environ.get('LOCAL_RANK', '0')}"
        if kind == "shards":
            own.mkdir()
            table = torch.cat([rows(51), LABELS[:, None]], 1).numpy()
            for i, part in enumerate(np.array_split(table, 3)):
                np.savetxt(own / f"{i}.csv", part, "%.17g", ",", header="a,b,kind", comments="")
            datamodule = StreamDataModule(own, label="kind", batch_size=10)
        else:
            labels = soft_labels() if kind == "soft" else LABELS
            datamodule = ArrayDataModule(rows(51), labels=labels, batch_size=10)
        checkpoint = folder / f"labels-{kind}" / "last.ckpt"
        for passes, resume in ((2, None), (4, checkpoint)):
            module = GMMModule(labelled_layer())
            saving = EpochCheckpoint(checkpoint.parent)
            run = trainer(
                InitializeCallback(START), EMCallback(), saving, max_epochs=passes, **options
            )
            run.fit(module, datamodule=datamodule, ckpt_path=resume, weights_only=resume and True)
        return numbers(module, run)

    return check


def supervised(fit: str) -> Callable[..., Result]:
    """Rows of which some have labels, from a file: two components for one of the classes."""

    def check(folder: Path, **options: Any) -> Result:
        path = folder / f"supervised-{fit}-{os.environ.get('LOCAL_RANK', '0')}.csv"
        kinds = ["", "oak", "fir", ""]
        lines = (f"{a!r},{b!r},{kinds[i % 4]}" for i, (a, b) in enumerate(rows(51).tolist()))
        path.write_text("a,b,kind\n" + "\n".join(lines) + "\n")
        how: dict[str, Any] = {"label": "kind", "unlabeled_weight": 0.5, "batch_size": 10}
        data: Any = StreamDataModule(path, shuffle=fit == "sgd", val_path=path, **how)
        if fit == "em":
            data = ArrayDataModule.file(path, val_fraction=0.2, standardize=True, **how)
        layer = GMMLayer(2, 3, priors="niw", evidence=Labels([0, 1, 1], confidence=0.9))
        module = GMMModule(layer, adam() if fit == "sgd" else None)
        em = [EMCallback()] if fit == "em" else []
        run = trainer(InitializeCallback(), *em, max_epochs=3, **options)
        run.fit(module, datamodule=data)
        return numbers(module, run) | {"class": module.predict_class(rows(51))}

    return check


def soft_labels() -> Tensor:
    """Nine tenths for the labelled component; equal ones without a label."""
    one_hot = nn.functional.one_hot(LABELS, 4)[:, :3] + 0.05
    return one_hot / one_hot.sum(-1, keepdim=True)


def evaluated(folder: Path, **options: Any) -> Result:
    """A test, a validation and predictions: each process has its own share of the rows."""
    parts = {"val_fraction": 0.2, "test_fraction": 0.3, "sample_weight": torch.arange(51) % 4}
    data = ArrayDataModule(rows(51), batch_size=7, **parts)
    module = GMMModule(
        GMMLayer.from_parameters(torch.ones(3), rows(3), torch.eye(2).repeat(3, 1, 1))
    )
    run = trainer(**options)
    (test,), (val,) = (f(module, data, verbose=False) for f in (run.test, run.validate))
    found: Any = run.predict(module, data)
    result = {name: torch.tensor(value) for name, value in (test | val).items()}
    for name in Prediction._fields:
        own = torch.cat([getattr(part, name) for part in found])
        several = run.world_size > 1
        result[name] = torch.cat(gather_all_tensors(own)) if several else own
    return result


CHECKS: dict[str, Callable[..., Result]] = {
    "em": simple(101, "em", batch_size=20, val_fraction=0.2, standardize=True),
    "em, one batch, weighted": simple(101, "em", sample_weight=torch.arange(101) % 4),
    "em, degenerate": degenerate,
    "em, noise": noisy("em"),
    "sgd, noise": noisy("sgd"),
    "em, missing": incomplete("em"),
    "sgd, missing": incomplete("sgd"),
    "em, one row": simple(1, "em", num_components=1),
    "em, one row for validation": simple(5, "em", num_components=1, val_fraction=0.2),
    "sgd": simple(101, "sgd", batch_size=20, val_fraction=0.2, standardize=True),
    "sgd, one row": simple(1, "sgd", num_components=1),
    "em, constrained": constrained("em"),
    "sgd, constrained": constrained("sgd"),
    "em resumed": resumed("em"),
    "sgd resumed": resumed("sgd"),
    "vb": variational,
    "inside, em": inside(EMCallback),
    "inside, em, network frozen": inside(EMCallback, frozen=True),
    "inside, stepwise": inside(StepwiseEMCallback),
    "inside, gradient": inside(CovarianceFloorCallback),
    "sgd, weighted": simple(
        101, "sgd", batch_size=20, val_fraction=0.2, sample_weight=torch.arange(101) % 4
    ),
    "em, labels": labelled("hard"),
    "em, soft labels": labelled("soft"),
    "em, supervised": supervised("em"),
    "sgd streamed, supervised": supervised("sgd"),
    "evaluated": evaluated,
    "em streamed, labels": labelled("shards"),
    "em streamed, weighted": streamed(101, "em", weight="w", batch_size=20, standardize=True),
    "em streamed, one row": streamed(1, "em", num_components=1, columns=["a", "b"]),
    "sgd streamed": streamed(101, "sgd", weight="w", batch_size=20, standardize=True),
}


def padded() -> str:
    """What is said of a plain DataLoader, which Lightning gives a sampler that pads."""
    data = DataLoader(TensorDataset(rows(11)), batch_size=4)
    try:
        trainer(EMCallback(), devices=2).fit(GMMModule(GMMLayer(2, 2)), data)
    except InvalidArgumentError as error:
        return str(error)
    return "accepted"


def failing(folder: Path) -> str:
    """What a process says whose own rows are fine, when a row of the other one is not."""
    path = folder / f"bad-{os.environ.get('LOCAL_RANK', '0')}.npy"
    np.save(path, rows(51).numpy())

    class Spoil(L.Callback):
        def on_train_start(self, *_: Any) -> None:
            # Among the rows of the second process.
            np.load(path, mmap_mode="r+")[45, 1] = np.nan

    data = StreamDataModule(path, batch_size=5)
    try:
        trainer(InitializeCallback(), Spoil(), EMCallback(), devices=2).fit(
            GMMModule(GMMLayer(2, 2)), datamodule=data
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def run(folder: Path, **options: Any) -> dict[str, Result]:
    """Every check."""
    results: dict[str, Result] = {}
    for name, check in CHECKS.items():
        # What a process draws for itself must not matter.
        torch.manual_seed(int(os.environ.get("LOCAL_RANK", "0")))
        results[name] = check(folder, **options)
    return results


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    everything: dict[str, Any] = dict(run(out, devices=2))
    rank = os.environ.get("LOCAL_RANK", "0")
    torch.save(everything, out / f"rank{rank}.pt")
    # All processes refuse alike.
    message = padded()
    if rank == "0":
        (out / "padded.txt").write_text(message)
    # Last, since the failure of one ends the other.
    message = failing(out)
    (out / f"failing{rank}.txt").write_text(message)
    sys.exit(1)
