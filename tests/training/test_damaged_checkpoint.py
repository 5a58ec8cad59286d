"""Checkpoints that a disk or a stranger has changed: read as they were, or refused in a line."""

from __future__ import annotations

import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from support.damage import flipped, header_bits, some_bits, survivors, truncated
from support.lightning_runs import adam, fitted, trainer
from torch import nn
from torch.utils.data import DataLoader

from gmm_lightning import GMMLayer
from gmm_lightning.errors import CheckpointError, GMMError
from gmm_lightning.training import EpochCheckpoint, GMMModule, read_checkpoint

Contents = dict[str, Any]
SAVED: dict[str, Path] = {}


@pytest.fixture
def saved(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a fit with priors and units, to be damaged."""
    if not SAVED:
        folder = tmp_path_factory.mktemp("good")
        x = torch.randn(60, 2)
        options: dict[str, Any] = {"data": {"standardize": True}, "priors": ["dirichlet", "niw"]}
        fitted(x, "em", EpochCheckpoint(folder / "em"), **options)
        fitted(x, "sgd", EpochCheckpoint(folder / "sgd"), **options)
        SAVED.update({kind: folder / kind / "last.ckpt" for kind in ("em", "sgd")})
    return Path(shutil.copy(SAVED["em"], tmp_path / "last.ckpt"))


def read(path: Path) -> Contents:
    """All that is read of a checkpoint."""
    module = GMMModule.load_from_checkpoint(path)
    return {"state": dict(module.state_dict()), "data": module.data, "all": read_checkpoint(path)}


# -- damage ---------------------------------------------------------------------------------------


def test_no_changed_bit_is_a_changed_parameter(saved: Path) -> None:
    whole = saved.read_bytes()
    bits = [*some_bits(whole, 30, seed=1), *header_bits(saved, 50, seed=2)]
    refused, harmless = survivors(saved, flipped(whole, bits), lambda: read(saved))
    # Padding and the fields of headers that nobody reads are harmless.
    assert refused > 30
    assert refused + harmless == len(bits)


@pytest.mark.slow
def test_no_changed_bit_is_a_changed_parameter_anywhere(saved: Path) -> None:
    whole = saved.read_bytes()
    bits = [*some_bits(whole, 450, seed=3), *header_bits(saved, 2000, seed=4)]
    refused, harmless = survivors(saved, flipped(whole, bits), lambda: read(saved))
    assert refused > 1000
    assert refused + harmless == len(bits)


@pytest.mark.parametrize("count", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_a_shorter_file_is_refused(saved: Path, count: int) -> None:
    cut = truncated(saved.read_bytes(), count)
    assert survivors(saved, cut, lambda: read(saved)) == (count, 0)


def test_every_bit_of_every_parameter_counts(saved: Path) -> None:
    whole = saved.read_bytes()
    means = torch.load(saved, weights_only=True)["state_dict"]["layer.means"]
    at = 8 * whole.index(means.numpy().tobytes())
    bits = [at + i for i in (0, 9, 47)]
    assert survivors(saved, flipped(whole, bits), lambda: read(saved)) == (3, 0)


def rewrite(path: Path, compression: int, more: bytes = b"", external_attr: int = 0) -> None:
    """The same records in an archive of another kind."""
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = compression, external_attr
            archive.writestr(info, content)
        archive.comment = more


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: p.write_bytes(p.read_bytes() + b"\0"), "it has no end"),
        (lambda p: p.write_bytes(b"0" + p.read_bytes()), "no archive as torch writes it"),
        (lambda p: rewrite(p, zipfile.ZIP_DEFLATED), "a record is compressed"),
        # torch reads nothing into the memory of a record that is marked as a folder.
        (lambda p: rewrite(p, zipfile.ZIP_STORED, external_attr=0x10), "is marked as a folder"),
        (lambda p: rewrite(p, zipfile.ZIP_STORED, b"comment"), "it has no end"),
        (
            lambda p: torch.save({}, p, _use_new_zipfile_serialization=False),
            "no archive as torch writes it",
        ),
    ],
    ids=["longer", "before", "compressed", "folders", "comment", "old"],
)
def test_an_archive_of_another_kind(saved: Path, damage: Callable[[Path], Any], said: str) -> None:
    damage(saved)
    with pytest.raises(CheckpointError, match=f"^{saved} is .*{said}"):
        GMMModule.load_from_checkpoint(saved)


def test_plain_records_are_read(saved: Path) -> None:
    whole = read(saved)
    rewrite(saved, zipfile.ZIP_STORED)
    assert read(saved).keys() == whole.keys()


# -- contents of a stranger -----------------------------------------------------------------------


def put(*keys: Any) -> Callable[[Contents], None]:
    """Put a value, the last one, under the keys before it."""
    *path, last, value = keys

    def change(contents: Contents) -> None:
        for key in path:
            contents = contents[key]
        contents[last] = value

    return change


def drop(*keys: Any) -> Callable[[Contents], None]:
    """Leave an entry out."""
    *path, last = keys

    def change(contents: Contents) -> None:
        for key in path:
            contents = contents[key]
        del contents[last]

    return change


STATE, LAYER, DATA = "state_dict", ("gmm_lightning", "layer"), ("gmm_lightning", "data")
HOSTILE: dict[str, tuple[Callable[[Contents], None], str]] = {
    "nan": (put(STATE, "layer.means", torch.full((3, 2), torch.nan)), "layer.means must be finite"),
    "inf": (put(STATE, "layer.mixture_logits", torch.full((3,), -torch.inf)), "must be finite"),
    "vast": (
        put(STATE, "layer.raw_scale", torch.full((3, 2, 2), 1e4)),
        "layer.raw_scale must be finite, of positive definite covariances",
    ),
    "tiny": (put(STATE, "layer.raw_scale", torch.full((3, 2, 2), -1e4)), "positive definite"),
    "zero unit": (
        put(STATE, "standardize.scale", torch.tensor([1.0, 0.0])),
        "standardize.scale must be finite and > 0",
    ),
    "negative unit": (put(STATE, "standardize.scale", -torch.ones(2)), "finite and > 0"),
    "nan centre": (put(STATE, "standardize.loc", torch.full((2,), torch.nan)), "must be finite"),
    "negative length": (put(STATE, "layer.local_scale", -torch.ones(2)), "finite and >= 0, or NaN"),
    "infinite prior": (
        put(STATE, "layer.priors.weights.concentration", torch.full((3,), torch.inf)),
        "must be finite, or NaN",
    ),
    "complex": (
        put(STATE, "layer.means", torch.zeros(3, 2, dtype=torch.complex64)),
        r"layer.means is complex64 \(3, 2\) and should be float",
    ),
    "integers": (put(STATE, "layer.means", torch.zeros(3, 2, dtype=torch.int64)), "is int64"),
    "shape": (put(STATE, "layer.means", torch.zeros(2, 3)), r"is float\d\d \(2, 3\) and should be"),
    "repeated": (
        put(STATE, "layer.means", torch.zeros(1).expand(10**6, 10**6)),
        "smaller than the tensors that it claims",
    ),
    "meta": (put(STATE, "layer.means", torch.zeros(3, 2, device="meta")), "smaller than"),
    "sparse": (put(STATE, "layer.means", torch.eye(2).to_sparse()), "smaller than"),
    "no tensor": (put(STATE, "layer.means", [0.0]), "a state dict of tensors by name"),
    "missing": (drop(STATE, "layer.means"), r"layer.means is absent and should be"),
    "another": (put(STATE, "layer.more", torch.zeros(1)), r"layer.more is .* be absent"),
    "state": (put(STATE, "hello"), "was not written by gmm_lightning"),
    "no state": (drop(STATE), "was not written by gmm_lightning"),
    "no description": (drop("gmm_lightning"), "was not written by a GMMModule .* of its class"),
    "no layer": (drop(*LAYER), "does not describe its layer"),
    "components": (put(*LAYER, "num_components", 10**9), "more than the .* bytes that the file"),
    "huge": (put(*LAYER, "num_components", 10**30), "num_components must be an integer"),
    "features": (put(*LAYER, "num_features", 20_000), "more than the .* bytes that the file"),
    "axes": (put(*LAYER, "batch_shape", [1] * 10**5), "at most 64 sizes, got 100000"),
    "batch": (put(*LAYER, "batch_shape", [10**4, 10**4]), "more than the .* bytes that the file"),
    "nested batch": (put(*LAYER, "batch_shape", [[2]]), "a size in batch_shape must be an integer"),
    "boolean": (put(*LAYER, "num_components", True), "num_components must be an integer"),
    "tensor": (put(*LAYER, "num_components", torch.tensor(3)), "expected names and numbers"),
    "family": (put(*LAYER, "covariance", {"name": "os.system"}), "unknown covariance 'os.system'"),
    "plain family": (put(*LAYER, "covariance", "full"), "name and the settings of a covariance"),
    "floor": (put(*LAYER, "covariance", "reg_covar", -1.0), "reg_covar of the covariance must be"),
    "priors": (put(*LAYER, "priors", [{"name": "niw"}] * 10**5), "'niw' and 'niw' are both on"),
    "no list": (put(*LAYER, "priors", {"name": "niw"}), "expected a list of priors"),
    "prior": (put(*LAYER, "priors", [{"name": "niw", "df": 10**400}]), "cannot be used"),
    "prior text": (put(*LAYER, "priors", [{"name": "niw", "loc": "\x1b[2J"}]), "cannot be used"),
    "no dtype": (drop(*LAYER, "dtype"), "'dtype' is missing or unknown"),
    "more": (put(*LAYER, "device", "cuda"), "cannot be used"),
    "phase": (put("gmm_lightning", "phase", "one"), "phase must be an integer >= 0, got 'one'"),
    "passes": (put("gmm_lightning", "passes_before", -3), "passes_before must be an integer >= 0"),
    "data": (put("gmm_lightning", "data", 7), "the columns and the classes of its data as text"),
    "name": (put(*DATA, "name", 7), "the columns and the classes of its data as text"),
    "columns": (put(*DATA, "columns", 5), "the columns and the classes of its data as text"),
    "numbered": (put(*DATA, "columns", [1, 2]), "the columns and the classes of its data as text"),
    "few columns": (put(*DATA, "columns", ["a"]), "it names 1 columns of 2 features"),
    "classes": (put(*DATA, "classes", "ab"), "the columns and the classes of its data as text"),
}


def deep(contents: Contents) -> None:
    """A description without end, which holds itself."""
    contents["gmm_lightning"]["layer"]["batch_shape"] = nested = []
    nested.append(nested)


def many(depth: int) -> list[Any]:
    """A list of 2**depth numbers in a few bytes: each list holds the one before it twice."""
    held: list[Any] = [1.0]
    for _ in range(depth):
        held = [held, held]
    return held


def called(**attributes: Any) -> Contents:
    """A state whose own methods are hidden."""
    state = OrderedDict({"layer.means": torch.zeros(3, 2)})
    vars(state).update(attributes)
    return state


CLAIMS, FILLS = "smaller than the tensors that it claims", "memory that it does not fill"
HOSTILE |= {
    "endless": (deep, CLAIMS),
    "many sizes": (put(*LAYER, "batch_shape", many(60)), CLAIMS),
    "many numbers": (put(*LAYER, "priors", [{"name": "niw", "loc": many(60)}]), CLAIMS),
    "many states": (put("callbacks", {"x": many(60)}), CLAIMS),
    "a vast moment": (put("optimizer_states", [torch.zeros(1).expand(10**6, 10**6)]), CLAIMS),
    "bytes": (put(STATE, "layer.means", torch.zeros(3, 2).to(torch.float8_e4m3fn)), FILLS),
    "methods": (put(STATE, called(values=torch.Size)), CLAIMS),
    "half a letter": (put(*DATA, "columns", ["a", "\ud800"]), "columns and the classes .* as text"),
    "a long name": (put(STATE, "b" * 10**5, torch.zeros(1)), "b{100} is float32"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_contents_are_one_sentence(
    saved: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, said = HOSTILE[name]
    contents = torch.load(saved, weights_only=True)
    change(contents)
    torch.save(contents, saved)
    made = GMMLayer.__init__

    def small(self: GMMLayer, num_features: int, num_components: int, **others: Any) -> None:
        # Nothing is made that the file does not hold.
        assert num_features * num_components < 100
        made(self, num_features, num_components, **others)

    monkeypatch.setattr(GMMLayer, "__init__", small)
    with pytest.raises(CheckpointError, match=said) as caught:
        GMMModule.load_from_checkpoint(saved)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "call",
    [
        b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R",
        b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R",
        b"ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R",
        b"ctorch\nTensor\nK\x02\x85\x81",
        b"ctorch.storage\nUntypedStorage\nJ\xff\xff\xff\x7f\x85R",
        b"c_codecs\nencode\nX\x01\0\0\0aX\x08\0\0\0punycode\x86R",
    ],
)
def test_memory_of_a_number_is_not_taken(
    saved: Path, call: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch calls these harmless; each takes gigabytes, or what was in memory before."""
    with zipfile.ZipFile(saved) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(saved, "w") as archive:
        for name, content in records.items():
            hostile = b"\x80\x02" + call + b"."
            archive.writestr(name, hostile if name.endswith("data.pkl") else content)
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(CheckpointError, match=FILLS):
        GMMModule.load_from_checkpoint(saved)


def test_a_checkpoint_of_any_other_module(tmp_path: Path) -> None:
    """Lightning's own loading of it stays as it is."""

    class Mine(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.density = nn.Linear(3, 2), GMMLayer(2, 3)

        def training_step(self, batch: Any) -> torch.Tensor:
            return -self.density(self.encoder(batch)).mean()

        def configure_optimizers(self) -> Any:
            return adam()(self.parameters())

    run, mine, path = trainer(max_epochs=1), Mine(), tmp_path / "mine.ckpt"
    run.fit(mine, DataLoader(torch.randn(20, 3), batch_size=10))
    run.save_checkpoint(path)
    with pytest.raises(CheckpointError, match="load_from_checkpoint of its class"):
        GMMModule.load_from_checkpoint(path)
    again = Mine.load_from_checkpoint(path)
    assert torch.equal(again.density.means, mine.density.means)


# -- going on -------------------------------------------------------------------------------------

RESUMED: dict[str, tuple[str, Callable[[Contents], None], str]] = {
    "epoch": ("em", put("epoch", "two"), "epoch must be an integer >= 0, got 'two'"),
    "step": ("em", put("global_step", None), "global_step must be an integer"),
    "loops": ("em", put("loops", []), "holds no loops of a fit"),
    "counter": (
        "em",
        put("loops", "fit_loop", "epoch_progress", "current", "started", []),
        r"started must be an integer >= 0, got \[\]",
    ),
    "callbacks": ("em", drop("callbacks"), "holds no callbacks of a fit"),
    "optimizers": ("sgd", put("optimizer_states", {}), "holds no optimizer_states of a fit"),
    "no description": ("em", drop("gmm_lightning"), "was not written by a GMMModule"),
    "nan": (
        "em",
        put(STATE, "layer.means", torch.full((3, 2), torch.nan)),
        "layer.means must be finite",
    ),
    "complex": (
        "sgd",
        put(STATE, "layer.means", torch.zeros(3, 2, dtype=torch.complex64)),
        "is complex64",
    ),
}


def resume(path: Path, kind: str) -> None:
    x = torch.randn(60, 2)
    options: dict[str, Any] = {"data": {"standardize": True}, "priors": ["dirichlet", "niw"]}
    fitted(x, kind, ckpt_path=path, max_epochs=6, **options)


@pytest.mark.parametrize("name", RESUMED)
def test_a_fit_does_not_go_on_from_hostile_contents(saved: Path, name: str) -> None:
    kind, change, said = RESUMED[name]
    contents = torch.load(SAVED[kind], weights_only=True)
    change(contents)
    torch.save(contents, saved)
    with pytest.raises(CheckpointError, match=said) as caught:
        resume(saved, kind)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        lambda state, victim: state.update(best_model_path=f"local://{victim}"),
        lambda state, victim: state.update(best_model_path=f"{state['dirpath']}/../victim"),
        lambda state, victim: state.update(last_model_path=f"simplecache::{victim}"),
        lambda state, victim: state.update(best_k_models={f"{state['dirpath']}/../victim": 0.0}),
    ],
    ids=["server", "above", "chain", "among the best"],
)
def test_no_state_has_files_elsewhere_removed(
    saved: Path, tmp_path: Path, change: Callable[[Contents, Path], None]
) -> None:
    """Lightning's own callback removes the file that was the best, a folder with all in it."""
    contents = torch.load(saved, weights_only=True)
    victim = tmp_path / "victim"
    victim.mkdir()
    best = ModelCheckpoint(dirpath=tmp_path / "best")
    state = {**best.state_dict(), "dirpath": str(tmp_path / "best")}
    change(state, victim)
    contents["callbacks"][best.state_key] = state
    torch.save(contents, saved)
    x = torch.randn(60, 2)
    options: dict[str, Any] = {"data": {"standardize": True}, "priors": ["dirichlet", "niw"]}
    with pytest.raises(CheckpointError, match="would remove a file of another place"):
        fitted(x, "em", best, ckpt_path=saved, max_epochs=6, **options)
    assert victim.exists()


def test_a_fit_does_not_go_on_from_a_damaged_file(saved: Path) -> None:
    resume(saved, "em")
    whole = saved.read_bytes()
    state = torch.load(saved, weights_only=True)["callbacks"]["EMCallback"]
    at = 8 * whole.index(state["updater"]["accepted"].numpy().tobytes())
    saved.write_bytes(next(flipped(whole, [at + 3])))
    with pytest.raises(GMMError, match=r"last\.ckpt is truncated, damaged"):
        resume(saved, "em")
