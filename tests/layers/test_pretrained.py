"""Folders with a layer in them: bit for bit back, and refused in words where they are not ours."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support.covering import covering
from support.damage import flipped, some_bits, survivors, truncated
from support.random_layers import FAMILIES, cases, make_priors, random_layer, rows
from torch import nn

from gmm_lightning import DensityHead, GMMLayer, MixtureOfGaussians, fit_em
from gmm_lightning.covariances import Covariance, FullCovariance
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.errors import CheckpointError, InvalidArgumentError
from gmm_lightning.layers import pretrained
from gmm_lightning.layers.pretrained import PretrainedMixin
from gmm_lightning.priors import NormalInverseWishart
from gmm_lightning.projections import Projection
from gmm_lightning.statistics import Moments

pytest.importorskip("safetensors")


def assert_the_same(twin: PretrainedMixin, module: PretrainedMixin) -> None:
    assert twin is not module
    assert repr(twin) == repr(module)
    assert twin.to_config() == module.to_config()
    state = twin.state_dict()
    assert state.keys() == module.state_dict().keys()
    for name, value in module.state_dict().items():
        assert state[name].dtype == value.dtype
        assert torch.equal(state[name].nan_to_num(-7.5), value.nan_to_num(-7.5)), name


@pytest.fixture
def folder(tmp_path: Path, generator: torch.Generator) -> Path:
    """A layer of three components and two features, saved."""
    random_layer("full", "niw", generator=generator).save_pretrained(tmp_path / "layer")
    return tmp_path / "layer"


# -- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "batch"), covering(cases("gradient"), [(), (2, 3)], strength=1), ids=str
)
def test_a_layer_comes_back_bit_for_bit(
    case: tuple[str, str], batch: tuple[int, ...], tmp_path: Path, generator: torch.Generator
) -> None:
    family, prior = case
    layer = random_layer(family, prior, generator=generator, batch=batch)
    layer.save_pretrained(tmp_path)
    twin = GMMLayer.from_pretrained(tmp_path)
    assert_the_same(twin, layer)
    x = rows(7, 2, generator, batch)
    assert torch.equal(twin(x), layer(x))
    assert torch.equal(twin.log_prior(), layer.log_prior())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_settings_and_hyper_parameters_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    """Given values, open ones, and fields of the family; a third of 1 has no short decimal."""
    prior = NormalInverseWishart(loc=[1 / 3, -2 / 7], df=5.1)
    layer = GMMLayer(2, 3, FullCovariance(reg_covar=1 / 3), ["dirichlet", prior], dtype=dtype)
    layer.save_pretrained(tmp_path / "not" / "there" / "yet")
    twin = GMMLayer.from_pretrained(tmp_path / "not" / "there" / "yet")
    assert_the_same(twin, layer)
    assert twin.covariance == layer.covariance
    # Hyper-parameters that are still open stay so: the next fit resolves them.
    assert not twin.all_priors[1].resolved


def test_a_fit_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, generator: torch.Generator
) -> None:
    layer = random_layer("tied", "dirichlet+niw", generator=generator)
    x = rows(60, 2, generator)
    fit_em(layer, x, initializer=None, max_iter=3, tol=0)
    layer.save_pretrained(tmp_path)
    twin = GMMLayer.from_pretrained(tmp_path)
    for one in (layer, twin):
        fit_em(one, x, initializer=None, max_iter=3, tol=0)
    assert_the_same(twin, layer)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_comes_back_bit_for_bit(
    family: str, shared: bool, tmp_path: Path, generator: torch.Generator
) -> None:
    head = DensityHead(
        4, 2, 3, family, make_priors("dirichlet+niw"), shared_scale=shared, scale_range=1 / 7 + 50
    )
    head.initialize_from(random_layer(family, generator=generator))
    nn.init.normal_(head.linear.weight)
    head.save_pretrained(tmp_path)
    twin = DensityHead.from_pretrained(tmp_path)
    assert_the_same(twin, head)
    h, y = rows(5, 4, generator), rows(5, 2, generator)
    assert torch.equal(twin.log_prob(h, y), head.log_prob(h, y))
    with pytest.raises(CheckpointError, match="describes a DensityHead, not a GMMLayer"):
        GMMLayer.from_pretrained(tmp_path)


def test_writing_over_a_folder_replaces_it(folder: Path, generator: torch.Generator) -> None:
    (folder / "notes.txt").write_text("mine")
    layer = random_layer("diag", generator=generator, num_components=5)
    layer.save_pretrained(folder)
    assert_the_same(GMMLayer.from_pretrained(folder), layer)
    assert (folder / "notes.txt").read_text() == "mine"


def test_the_random_state_stays(folder: Path) -> None:
    before = torch.random.get_rng_state()
    GMMLayer.from_pretrained(folder).save_pretrained(folder)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_derived_class_comes_back_as_itself(tmp_path: Path) -> None:
    class Mine(GMMLayer):
        pass

    Mine(2, 3).save_pretrained(tmp_path)
    assert type(Mine.from_pretrained(tmp_path)) is Mine
    with pytest.raises(CheckpointError, match="describes a Mine, not a GMMLayer"):
        GMMLayer.from_pretrained(tmp_path)


# -- interrupted ----------------------------------------------------------------------------------


def test_what_interrupts_the_writing_leaves_the_old_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(*_: Any, **__: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained.json, "dumps", full_disk)
    with pytest.raises(OSError, match="No space"):
        GMMLayer(4, 7).save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# -- not ours -------------------------------------------------------------------------------------


def edit(folder: Path, **changes: Any) -> None:
    """Change a configuration knowingly, without its digests."""
    config = json.loads((folder / "config.json").read_text())
    config["config"] |= changes
    del config["sha256"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"there is no {name} in"):
        GMMLayer.from_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"there is no config\.json"):
        GMMLayer.from_pretrained(folder / "nowhere")


@pytest.mark.parametrize("keep", [0, 5, 40, -8])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_truncated_file(folder: Path, name: str, keep: int) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=f"{name} is truncated"):
        GMMLayer.from_pretrained(folder)


def test_a_foreign_file(folder: Path) -> None:
    edit(folder)
    (folder / "model.safetensors").write_bytes(b"\x80\x04cos\nsystem\n" * 20)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        GMMLayer.from_pretrained(folder)
    for text in ("[1, 2]", '{"model_type": "bert"}', "null", '"config"'):
        (folder / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match="was not written by save_pretrained"):
            GMMLayer.from_pretrained(folder)
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="not JSON"):
        GMMLayer.from_pretrained(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"covariance": {"name": "os.system"}},
        {"covariance": {"_target_": "os.system", "name": "full"}},
        {"covariance": "full"},
        {"priors": [{"name": "niw", "loc": "rm -rf"}]},
        {"priors": 3},
        {"device": "meta"},
        {"evidence": "os.system"},
        {"dtype": "int8"},
        {"dtype": []},
        {"batch_shape": "abc"},
        {"num_features": 2.0},
        {"num_components": -1},
    ],
    ids=str,
)
def test_a_description_is_never_instantiated_blindly(folder: Path, change: dict[str, Any]) -> None:
    edit(folder, **change)
    with pytest.raises(CheckpointError, match="description of the GMMLayer cannot be used"):
        GMMLayer.from_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"config": [change]}))
    with pytest.raises(CheckpointError, match="description of the GMMLayer cannot be used"):
        GMMLayer.from_pretrained(folder)


def test_tensors_that_do_not_fit_name_both_shapes(
    folder: Path, tmp_path: Path, generator: torch.Generator
) -> None:
    def put(layer: GMMLayer) -> None:
        layer.save_pretrained(tmp_path / "other")
        (tmp_path / "other" / "model.safetensors").replace(folder / "model.safetensors")

    dtype = torch.get_default_dtype()
    edit(folder)
    put(random_layer("full", "niw", generator=generator, num_features=4))
    with pytest.raises(
        CheckpointError, match=r"local_scale is \S+ \(4,\) and should be \S+ \(2,\)"
    ):
        GMMLayer.from_pretrained(folder)
    put(random_layer("full", generator=generator))
    with pytest.raises(CheckpointError, match=r"priors\S+ is absent and should be"):
        GMMLayer.from_pretrained(folder)
    put(random_layer("full", "dirichlet+niw", generator=generator))
    with pytest.raises(CheckpointError, match=r"priors\S+ is \S+ \(.*\) and should be absent"):
        GMMLayer.from_pretrained(folder)
    other = torch.float32 if dtype == torch.float64 else torch.float64
    put(random_layer("full", "niw", generator=generator).to(other))
    with pytest.raises(CheckpointError, match=r"is float\d\d \(.*\) and should be float\d\d"):
        GMMLayer.from_pretrained(folder)


# -- what cannot be written -----------------------------------------------------------------------


def test_without_safetensors_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for call in (
        lambda: GMMLayer.from_pretrained(folder),
        lambda: GMMLayer(2, 3).save_pretrained(folder),
    ):
        with pytest.raises(InvalidArgumentError, match=r"pip install gmm-lightning\[export\]"):
            call()


class Shift(nn.Module):
    """Evidence without parameters."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., :1].expand(*x.shape[:-1], 3)


class Idle(Projection):
    """A projection that no registry knows."""

    name = "idle"

    def forward(self, moments: Moments, covariance: Covariance, present: MixtureDensity) -> Moments:
        return moments


def test_parts_that_a_description_does_not_hold_are_refused(tmp_path: Path) -> None:
    layer = GMMLayer(2, 3)
    layer.evidence = Shift()
    with pytest.raises(InvalidArgumentError, match=r"evidence \(Shift\) is no part"):
        layer.save_pretrained(tmp_path)
    layer.evidence = None
    layer.projections.append(Idle())
    with pytest.raises(InvalidArgumentError, match=r"projections.0 \(Idle\) is no part"):
        layer.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_families_and_priors_of_others_are_refused(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Renamed(FullCovariance):
        name = "renamed"

    @dataclass(frozen=True)
    class Derived(FullCovariance):
        """Has the name of the registered one."""

    class OwnPrior(NormalInverseWishart):
        def log_prob(self, mixture: MixtureOfGaussians) -> torch.Tensor:
            return 2 * super().log_prob(mixture)

    with pytest.raises(CheckpointError, match="unknown covariance 'renamed'; known are"):
        GMMLayer(2, 3, Renamed()).save_pretrained(tmp_path)
    with pytest.raises(InvalidArgumentError, match=r"Derived.* is not registered"):
        GMMLayer(2, 3, Derived()).save_pretrained(tmp_path)
    with pytest.raises(InvalidArgumentError, match=r"priors.components \(OwnPrior\)"):
        GMMLayer(2, 3, "full", OwnPrior()).save_pretrained(tmp_path)


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "layer").write_text("a file")
    with pytest.raises(InvalidArgumentError, match="expected a folder"):
        GMMLayer(2, 3).save_pretrained(tmp_path / "layer")
    with pytest.raises(CheckpointError, match=r"there is no config\.json"):
        GMMLayer.from_pretrained(tmp_path / "layer")


@pytest.mark.parametrize(
    "change",
    [{"num_components": 10**15}, {"batch_shape": [10**6]}, {"num_features": 20_000}],
    ids=str,
)
def test_sizes_that_the_tensors_do_not_have_are_never_made(
    folder: Path, change: dict[str, Any]
) -> None:
    edit(folder, **change)
    with pytest.raises(CheckpointError, match=r"describes more than the .* bytes that the file"):
        GMMLayer.from_pretrained(folder)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"name": ' + "9" * 5000 + "}"], ids=len)
def test_a_description_without_end(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="truncated or not JSON"):
        GMMLayer.from_pretrained(folder)


@pytest.mark.parametrize("depth", [*range(900, 1000, 7), 10_000])
def test_a_nested_description(folder: Path, depth: int) -> None:
    path = folder / "config.json"
    nested = f'"batch_shape": {"[" * depth}{"]" * depth}'
    path.write_text(path.read_text().replace('"batch_shape": []', nested))
    with pytest.raises(CheckpointError, match="truncated"):
        GMMLayer.from_pretrained(folder)


def test_a_head_of_other_sizes_is_never_made(tmp_path: Path) -> None:
    for shared in (False, True):
        DensityHead(4, 2, 3, shared_scale=shared).save_pretrained(tmp_path)
        edit(tmp_path, in_features=10**9)
        with pytest.raises(CheckpointError, match=r"describes more than the .* bytes"):
            DensityHead.from_pretrained(tmp_path)


# -- damage ---------------------------------------------------------------------------------------

FEW = (16, 4)
MANY = pytest.param((450, 40), marks=pytest.mark.slow)


@pytest.mark.parametrize("counts", [FEW, MANY], ids=str)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_no_changed_bit_is_a_changed_layer(
    folder: Path, name: str, counts: tuple[int, int]
) -> None:
    def read() -> dict[str, Any]:
        layer = GMMLayer.from_pretrained(folder)
        return {"state": dict(layer.state_dict()), "config": layer.to_config()}

    path, (flips, cuts) = folder / name, counts
    whole = path.read_bytes()
    bits = some_bits(whole, flips, seed=5)
    assert survivors(path, flipped(whole, bits), read) == (flips, 0)
    # Without the newline at its end a configuration is the same.
    last = int(whole.endswith(b"\n"))
    assert survivors(path, truncated(whole, cuts), read) == (cuts - last, last)


def test_what_was_edited_is_named_and_how_to_go_on(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"reg_covar": 0.0', '"reg_covar": 0.5'))
    with pytest.raises(CheckpointError, match=r"config\.json is truncated, damaged or edited.*sha"):
        GMMLayer.from_pretrained(folder)
    # Its layout is not part of what is compared, and the digests may be left out.
    config = json.loads(path.read_text())
    config["config"]["covariance"]["reg_covar"] = 0.0
    path.write_text(json.dumps(config))
    assert GMMLayer.from_pretrained(folder).covariance == FullCovariance()
    edit(folder, covariance={"name": "full", "reg_covar": 0.5})
    assert GMMLayer.from_pretrained(folder).covariance == FullCovariance(reg_covar=0.5)


@pytest.mark.parametrize("digests", [3, [], {}, {"config.json": 1}, None], ids=str)
def test_digests_that_are_none(folder: Path, digests: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": digests}))
    with pytest.raises(CheckpointError, match="not that of the sha256"):
        GMMLayer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("means", torch.nan, "means must be finite"),
        ("raw_scale", 1e4, "raw_scale must be finite, of positive definite covariances"),
        ("local_scale", -1.0, "local_scale must be finite and >= 0, or NaN"),
        ("parametrization.unit", 0.0, "parametrization.unit must be finite and > 0"),
        ("linear.weight", torch.inf, "linear.weight must be finite"),
    ],
)
def test_values_that_no_fit_ends_with(tmp_path: Path, name: str, value: float, said: str) -> None:
    module = DensityHead(4, 2, 3) if "." in name else GMMLayer(2, 3)
    module.state_dict()[name].fill_(value)
    module.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors is damaged, or .*: {said}"):
        type(module).from_pretrained(tmp_path)


def test_a_planted_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("config.json", "model.safetensors"):
        (folder / f"{name}.partial").symlink_to(victim)
    GMMLayer.from_pretrained(folder).save_pretrained(folder)
    assert victim.read_text() == "mine"
    GMMLayer.from_pretrained(folder)


def test_places_that_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidArgumentError, match="cannot write into"):
        GMMLayer(2, 3).save_pretrained(tmp_path / "file" / "below")
    (tmp_path / "taken" / "config.json").mkdir(parents=True)
    with pytest.raises(InvalidArgumentError, match="must not be folders"):
        GMMLayer(2, 3).save_pretrained(tmp_path / "taken")
    assert not (tmp_path / "taken" / "model.safetensors").exists()


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="no files of the system")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_files_of_the_system_are_not_read(tmp_path: Path, name: str) -> None:
    """This one claims to be empty, and goes on for 2**37 bytes."""
    GMMLayer(2, 3).save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/proc/self/pagemap")
    with pytest.raises(CheckpointError, match=f"{name} is truncated: it is empty"):
        GMMLayer.from_pretrained(tmp_path)
