"""The configuration: every file composes, and names what the registries hold."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from gmm_lightning.app.configs import config_dir
from gmm_lightning.app.supervised import supervise
from gmm_lightning.app.trust import built_in_targets
from gmm_lightning.covariances import registry as covariances
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.evidence import registry as evidences
from gmm_lightning.initializers import registry as initializers
from gmm_lightning.noise import registry as noises
from gmm_lightning.priors import registry as priors
from gmm_lightning.projections import registry as projections
from gmm_lightning.training import ArrayDataModule, GMMModule

Compose = Callable[..., DictConfig]

FOLDER = Path(config_dir())
GROUPS = {
    group.name: sorted(p.stem for p in group.glob("*.yaml"))
    for group in FOLDER.iterdir()
    if group.is_dir()
}
COMMANDS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
OPTIONS = [(group, option) for group in sorted(GROUPS) for option in GROUPS[group]]
# Commands read other groups than training does.
TRAINING = [(g, o) for g, o in OPTIONS if g not in ("hydra", "within")]


# The words of the command line.
PROMISED = (
    "cov priors evidence noise projections init fit data model trainer callbacks logger experiment "
    "debug paths hydra"
)


# The registries of plug-ins, and where the file of one of them takes its place.
PLUG_INS: dict[str, tuple[Any, str]] = {
    "cov": (covariances, "model.layer.covariance"),
    "priors": (priors, "model.layer.priors.{}"),
    "evidence": (evidences, "model.layer.evidence"),
    "noise": (noises, "model.layer.noise"),
    "projections": (projections, "model.layer.projections.{}"),
    "init": (initializers, "callbacks.initialize.initializer"),
}

# Several plug-ins at once.
RECIPES = {"priors": {"bayes", "bayes_raw", "conjugate"}}


# Files with several priors.


def stored(group: str, option: str) -> Any:
    """The configuration in one file, by itself."""
    return OmegaConf.load(FOLDER / group / f"{option}.yaml")


def test_there_is_something_to_check() -> None:
    assert set(PROMISED.split()) <= set(GROUPS)
    assert all(GROUPS.values())
    assert {path.suffix for path in FOLDER.rglob("*") if path.is_file()} == {".yaml"}


@pytest.mark.parametrize("group", PLUG_INS)
def test_options_are_the_registered_names(group: str) -> None:
    registry, _ = PLUG_INS[group]
    others = {"none", "run", *RECIPES.get(group, ()), *registry.aliases}
    assert set(GROUPS[group]) - others == set(registry.names)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_composes(composed: Compose, name: str, tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(config_dir(), version_base="1.3"):
        config = compose(name, return_hydra_config=True)
    assert config


@pytest.mark.parametrize(("group", "option"), TRAINING)
def test_every_option_composes_and_instantiates(composed: Compose, group: str, option: str) -> None:
    config = composed("data=faithful", f"{group}={option}")
    plain: Any = OmegaConf.to_container(config, resolve=True)
    for node in nodes(plain):
        assert node["_target_"] in built_in_targets()
        target = get_object(node["_target_"])
        accepted = inspect.signature(target).parameters
        if any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
            continue
        given = {key for key in node if not key.startswith("_")}
        assert given <= set(accepted), f"{node['_target_']}: {given - set(accepted)}"
    if group in PLUG_INS and option in PLUG_INS[group][0].names:
        place = PLUG_INS[group][1].format(option)
        assert OmegaConf.select(config, place) == stored(group, option)
    config.model.layer.num_features = 2
    if group == "evidence":
        # Which the labels of the data say.
        supervise(config, ArrayDataModule.builtin("penguins"))
    assert isinstance(instantiate(config.model, _convert_="all"), GMMModule)
    callbacks = [instantiate(c, _convert_="all") for c in config.callbacks.values() if c]
    if (
        group == "logger"
        and option in ("mlflow", "wandb")
        and importlib.util.find_spec(option) is None
    ):
        # What is not installed, the logger says.
        with pytest.raises(InstantiationException, match=f"Requirement '{option}.* not met"):
            instantiate(config.logger)
        return
    logger = instantiate(config.logger) if config.logger else False
    if option == "gpu" and not torch.cuda.is_available():
        # What this machine lacks, Lightning says.
        with pytest.raises(Exception, match="gpu") as caught:
            instantiate(config.trainer, callbacks=callbacks, logger=logger)
        assert isinstance(caught.value.__cause__, MisconfigurationException)
    else:
        instantiate(config.trainer, callbacks=callbacks, logger=logger)


def nodes(config: Any) -> Iterator[dict[str, Any]]:
    """Every part that names a class."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield config
        for value in config.values():
            yield from nodes(value)
    elif isinstance(config, list):
        for value in config:
            yield from nodes(value)


@pytest.mark.parametrize("option", [o for o in GROUPS["data"] if o not in ("file", "stream")])
def test_every_data_set_instantiates(composed: Compose, option: str) -> None:
    data = instantiate(composed(f"data={option}").data, _convert_="all")
    assert data.num_train_rows > data.num_features > 1
    assert data.standardize


def test_fields_of_a_family_reach_it(composed: Compose) -> None:
    base = "model.layer.covariance"
    config = composed("cov=tied_diag", f"{base}.reg_covar=0.25", f"{base}.relative_floor=1e-3")
    family = instantiate(config.model.layer.covariance)
    assert family == covariances.get("tied_diag")(reg_covar=0.25, relative_floor=1e-3)


@pytest.mark.parametrize("group", PLUG_INS)
def test_every_field_of_a_plug_in_is_in_its_file(group: str) -> None:
    registry, _ = PLUG_INS[group]
    for name in registry.names:
        config, kind = stored(group, name), registry.get(name)
        assert get_object(config["_target_"]) is kind
        assert set(config) - {"_target_"} == set(inspect.signature(kind).parameters), name


def test_defaults_of_a_plug_in_are_those_of_its_class() -> None:
    for name in covariances.names:
        assert instantiate(stored("cov", name)) == covariances.get(name)()
    for name in priors.names:
        prior = instantiate(stored("priors", name))
        # What a layer makes of None may be written out as its value.
        written = {k: v for k, v in prior.config().items() if v is not None}
        for key, value in priors.get(name)().config().items():
            assert value is None or written[key] == value, (name, key)


def test_defaults_of_noise_are_those_of_its_class() -> None:
    for name in noises.names:
        assert instantiate(stored("noise", name)).config() == noises.get(name)().config()


def test_priors_combine_and_reach_the_layer(composed: Compose) -> None:
    config = composed(
        "priors=[dirichlet,niw]",
        "model.layer.num_features=2",
        "model.layer.priors.dirichlet.concentration=3",
        "model.layer.priors.niw.loc=[1,2]",
    )
    layer = instantiate(config.model, _convert_="all").layer
    assert {prior.name for prior in layer.all_priors} == {"dirichlet", "niw"}
    assert layer.priors["weights"].concentration.tolist() == [3.0] * 26
    assert layer.priors["components"].loc.tolist() == [[1.0, 2.0]] * 26


@pytest.mark.parametrize("recipe", ["bayes", "bayes_raw"])
def test_recipes_of_priors(composed: Compose, recipe: str) -> None:
    size = "model.layer.num_features=2"
    layer = instantiate(composed(f"priors={recipe}", size).model, _convert_="all").layer
    names = ["dirichlet", "half_cauchy", "independent_normal", "lkj"]
    assert sorted(prior.name for prior in layer.all_priors) == names
    # What the raw one leaves open are the centroids alone.
    assert [prior.name for prior in layer.all_priors if not prior.resolved] == (
        ["independent_normal", "half_cauchy"] if recipe == "bayes" else ["independent_normal"]
    )
    with pytest.raises(Exception, match=r"leave it out .*~model\.layer\.priors\.lkj"):
        instantiate(composed(f"priors={recipe}", size, "cov=diag").model, _convert_="all")
    without = composed(f"priors={recipe}", size, "cov=diag", "~model.layer.priors.lkj")
    layer = instantiate(without.model, _convert_="all").layer
    assert sorted(prior.name for prior in layer.all_priors) == names[:-1]


def test_a_list_with_the_same_subject_twice_is_refused(composed: Compose) -> None:
    config = composed("priors=[niw,inverse_wishart]", "model.layer.num_features=2")
    with pytest.raises(Exception, match="are both on the covariances") as caught:
        instantiate(config.model, _convert_="all")
    assert isinstance(caught.value.__cause__, InvalidArgumentError)


@pytest.mark.parametrize("option", GROUPS["experiment"])
def test_the_command_line_wins_over_an_experiment(composed: Compose, option: str) -> None:
    config = composed(
        f"experiment={option}", "cov=spherical", "model.layer.num_components=7", "seed=3"
    )
    assert config.model.layer.covariance._target_.endswith("SphericalCovariance")
    assert config.model.layer.num_components == 7
    assert config.data.seed == config.callbacks.initialize.seed == config.seed == 3


# -- what a stored configuration may build ----------------------------------------------------


def test_the_package_holds_the_files_when_it_is_installed() -> None:
    spec = importlib.util.find_spec("gmm_lightning")
    assert spec is not None
    assert (FOLDER / "train.yaml").is_file()
