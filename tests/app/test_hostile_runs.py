"""Run folders that somebody else wrote: nothing in them is run, resolved, or written elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from gmm_lightning import GMMLayer
from gmm_lightning.app.fitting import phases_of
from gmm_lightning.app.resume import resume_overrides
from gmm_lightning.app.runs import load_run
from gmm_lightning.app.trust import built_in_targets, settle
from gmm_lightning.errors import CheckpointError, GMMError, InvalidArgumentError
from gmm_lightning.plotting import save_figure
from gmm_lightning.training import ArrayDataModule, GMMModule, draw_mixture

SECRET = "hunter2"
# What an attacker would like to have built; each would leave a trace.
BOMB = "_target_: torch.save, obj: 1, f: MARK"
SPAWN = "_target_: setuptools._distutils.spawn.spawn, cmd: [touch, MARK]"
DATA = "_target_: gmm_lightning.training.ArrayDataModule.builtin"


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists if anything was run."""
    path = tmp_path / "RAN"
    monkeypatch.setenv("GMM_SECRET", SECRET)
    monkeypatch.setattr(os, "system", lambda *a: path.write_text(str(a)))
    return path


def refusal(call: Callable[[], Any], mark: Path) -> str:
    """The one sentence in which something is refused, with nothing run and no secret in it."""
    with pytest.raises(GMMError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    assert SECRET not in said
    assert len(said) < 600
    assert not mark.exists()
    return said


# -- the data of a run, from .hydra/config.yaml ------------------------------------------------


def escaped(settings: str) -> str:
    """An interpolation that is a text the first time and a mapping the second time."""
    return r"\${oc.create:" + f'"{{{settings}}}"' + "}"


SETTINGS = {
    "an escaped interpolation": f"data: {{{DATA}, name: '{escaped(SPAWN)}'}}",
    "escaped twice": f"data: {{{DATA}, name: '\\\\{escaped(BOMB)}'}}",
    "in a key": f"data: {{{DATA}, '{escaped(BOMB)}': faithful}}",
    "in a list": f"data: {{{DATA}, name: ['{escaped(BOMB)}']}}",
    "an interpolation": f"data: {{{DATA}, name: '${{oc.create:\"{{{BOMB}}}\"}}'}}",
    "through another key": f"x: '${{oc.create:\"{{{BOMB}}}\"}}'\ndata: {{{DATA}, name: '${{x}}'}}",
    "in two halves": f"a: '$'\nb: '{{oc.env:GMM_SECRET}}'\ndata: {{{DATA}, name: '${{a}}${{b}}'}}",
    "the environment": f"data: {{{DATA}, name: '${{oc.env:GMM_SECRET}}'}}",
    "the environment, decoded": f"data: {{{DATA}, name: '${{oc.decode:${{oc.env:GMM_SECRET}}}}'}}",
    "the environment, behind a name": (
        f"s: '${{oc.env:GMM_SECRET}}'\ndata: {{{DATA}, name: '${{s}}'}}"
    ),
    "a circle": f"a: '${{b}}'\nb: '${{a}}'\ndata: {{{DATA}, name: '${{a}}'}}",
    "another class": f"data: {{{BOMB}}}",
    "a class behind a class": "data: {_target_: gmm_lightning.app.command.os.system, command: id}",
    "a class of ours that is no data": (
        "data: {_target_: gmm_lightning.training.EpochCheckpoint, dirpath: .}"
    ),
    "a method": "data: {_target_: gmm_lightning.training.ArrayDataModule.load_from_checkpoint}",
    "a list as class": "data: {_target_: [os.system]}",
    "a class inside": f"data: {{{DATA}, name: {{{BOMB}}}}}",
    "a class in a list": f"data: {{{DATA}, name: [{{{BOMB}}}]}}",
    "Hydra's arguments": f"data: {{{DATA}, _args_: [faithful]}}",
    "Hydra's conversion": f"data: {{{DATA}, name: {{_convert_: object}}}}",
    "no class": "data: {name: faithful}",
    "a text": "data: hello",
    "a list": "[1, 2]",
    "nothing": "",
    "no data": "x: 1",
    "an unknown argument": f"data: {{{DATA}, nope: 1}}",
    "a wrong type": f"data: {{{DATA}, name: faithful, batch_size: many}}",
    "a number as name": f"data: {{{DATA}, name: 7}}",
    "broken yaml": "data: {",
    "a yaml tag": "data: !!python/object/apply:os.system [touch MARK]",
    "yaml bytes": "data: !!binary aGVsbG8=",
    "a date": "data: 2020-02-30",
    "a NUL": "data: \0",
    "aliases": "a: &a [1]\ndata: [*a, *a]",
    "deep nesting": "data: " + "[" * 100_000,
    "a long number": "data: " + "9" * 10_000,
    "numbers as keys": "data: {1: 2}",
    "a device": ("data: {_target_: gmm_lightning.training.ArrayDataModule.file, path: /dev/zero}"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_stored_data_are_ours_and_plain(copied: Path, mark: Path, case: str) -> None:
    (copied / ".hydra" / "config.yaml").write_text(SETTINGS[case].replace("MARK", str(mark)))
    refusal(load_run(str(copied)).training_data, mark)


def test_references_to_other_settings_are_followed(copied: Path) -> None:
    text = "seed: 5\nfit: {rows: 7}\ndata: {%s, name: faithful, %s}"
    references = "seed: '${seed}', batch_size: '${fit.rows}'"
    (copied / ".hydra" / "config.yaml").write_text(text % (DATA, references))
    data = load_run(str(copied)).training_data()
    assert data.batch_size == 7
    assert data.columns == ("eruptions", "waiting")


def test_a_folder_of_too_much_text(copied: Path, mark: Path) -> None:
    with (copied / ".hydra" / "config.yaml").open("w") as file:
        file.truncate(1 << 40)
    assert "no run writes more" in refusal(load_run(str(copied)).training_data, mark)


def test_the_launch_folder_is_not_resolved(copied: Path, mark: Path) -> None:
    settings = copied / ".hydra" / "hydra.yaml"
    settings.write_text("hydra: {runtime: {cwd: '${oc.env:GMM_SECRET}'}}")
    refusal(load_run(str(copied)).training_data, mark)
    settings.write_text("hydra: {runtime: [")
    assert "damaged" in refusal(load_run(str(copied)).training_data, mark)


# -- the overrides of a run, from .hydra/overrides.yaml ----------------------------------------

OVERRIDES = (
    # classes
    "+callbacks.x._target_=os.system",
    "+callbacks.x={_target_:os.system,command:id}",
    "+callbacks.x={y:[{_target_:os.system}]}",
    "+callbacks.x._target_=gmm_lightning.app.command.shutil.rmtree",
    "+callbacks.x._target_=torch.save",
    "+callbacks.x._target_=lightning.pytorch.callbacks.LambdaCallback",
    "data._target_=os.system",
    "data._target_=lightning.pytorch.loggers.CSVLogger",
    "model._target_=builtins.exec",
    "++data.seed._target_=os.getpid",
    "+callbacks.x._args_=[1]",
    "+callbacks.x={_args_:[1]}",
    "+callbacks.stop._recursive_=false",
    "+callbacks.x._target_.y=gmm_lightning.training.GracefulStop",
    # interpolations
    r"""data.name="\${oc.create:\"{_target_: torch.load, f: evil.pt}\"}\"""",
    "data.name='${oc.env:GMM_SECRET}'",
    "+callbacks.x='${oc.create:\"{_target_:torch.save,obj:1,f:MARK}\"}'",
    "+callbacks.y._target_='${x}'",
    "+x='${seed}'",
    "+x={'${oc.env:GMM_SECRET}':1}",
    "+x.${seed}=1",
    # Hydra takes the backslashes away
    r"+callbacks.x=$\{oc.create:\{_target_:os.system\,command:id\}\}",
    r"data.name=$\{oc.env:GMM_SECRET\}",
    r"data.name=str($\{oc.env:GMM_SECRET\})",
    r"+x={a:[$\{oc.env:GMM_SECRET\}]}",
    r"+x={$\{oc.env:GMM_SECRET\}:1}",
    # what Hydra acts on
    "--config-dir=evil",
    "-m",
    "--multirun",
    "++ hydra.searchpath=[file://evil]",
    "+data@hydra.callbacks.x=file",
    "data@callbacks.x=file",
    "seed=1,2",
    "seed=range(1,3)",
    "seed=choice(1,2)",
    "seed=glob(*)",
    "cov=../../../../../../../evil",
    "cov=/evil",
    "+data/../x=1",
    "cov=[",
    "",
    "=",
    # places
    "callbacks.checkpoint.dirpath=/elsewhere",
    "callbacks.checkpoint.dirpath=elsewhere",
    "callbacks.checkpoint.dirpath=",
    "callbacks.checkpoint.dirpath=null",
    "callbacks.checkpoint.dirpath=run/../elsewhere",
    "callbacks.checkpoint={dirpath:/elsewhere}",
    "logger.save_dir=/elsewhere",
    "logger.save_dir=~",
    "~logger.save_dir",
    "logger.name=../x",
    "logger.version=..",
    # TensorBoardLogger puts the environment there
    "logger.name=$GMM_SECRET",
    "logger.version=%GMM_SECRET%",
    "callbacks.checkpoint.dirpath=run/$GMM_SECRET",
    "paths.output_dir=/elsewhere",
    "paths.checkpoints=elsewhere",
    "trainer.default_root_dir=/elsewhere",
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder that looks like a run."""
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    return folder


def store(run: Path, *overrides: str) -> None:
    (run / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))


@pytest.mark.parametrize("override", OVERRIDES)
def test_stored_overrides_run_nothing_and_stay_inside(
    run: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    monkeypatch.chdir(run.parent)
    store(run, "cov=diag", override.replace("MARK", str(mark)))
    said = refusal(lambda: resume_overrides(run, []), mark)
    assert re.search(r"overrides\.yaml (sets|holds)", said)
    # What is typed is the user's own.
    key = override.split("=", 1)[0].lstrip("+~")
    if key.isidentifier():
        assert f"{key}=1" in resume_overrides(run, [f"{key}=1"])


@pytest.mark.parametrize(
    "override",
    [
        "priors=[dirichlet,niw]",
        "data.columns=[km/h,'~ a']",
        "data.separator='/'",
        "logger._target_=lightning.pytorch.loggers.CSVLogger",
        "model.optimizer={_target_:torch.optim.Adam,_partial_:true,lr:0.1}",
        "~model.layer.priors.dirichlet",
        "callbacks.checkpoint.dirpath=run/checkpoints",
        "fit.tol=1e-7",
        "+data.x='it\\'s'",
        "logger=null",
    ],
)
def test_what_people_type_is_taken_from_a_stored_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    monkeypatch.chdir(run.parent)
    store(run, override)
    assert resume_overrides(run, [])[0] == override


@pytest.mark.parametrize("name", ["train.log", "checkpoints/evil.ckpt", "tensorboard"])
def test_a_run_with_links_is_not_continued(run: Path, mark: Path, name: str) -> None:
    store(run, "cov=diag")
    (run / name).symlink_to(run.parent / "victim")
    assert f"{name} is a link" in refusal(lambda: resume_overrides(run, []), mark)


@pytest.mark.parametrize("name", ["train.log", ".lock", "tensorboard/hparams.yaml"])
def test_a_run_with_a_pipe_or_a_second_name_is_not_continued(
    run: Path, mark: Path, name: str
) -> None:
    store(run, "cov=diag")
    (run / "tensorboard").mkdir()
    os.mkfifo(run / name)
    assert "neither a file nor a folder" in refusal(lambda: resume_overrides(run, []), mark)
    (run / name).unlink()
    victim = run.parent / "victim"
    victim.touch()
    os.link(victim, run / name)
    assert f"{name} is a link" in refusal(lambda: resume_overrides(run, []), mark)


def test_a_folder_that_cannot_be_looked_into(
    run: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(run, "cov=diag")
    scandir = os.scandir

    def fail(path: Any) -> Any:
        if Path(path).name == "checkpoints":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    assert "cannot look into" in refusal(lambda: resume_overrides(run, []), mark)


@pytest.mark.parametrize("name", ["${oc.env:GMM_SECRET}", "$GMM_SECRET", "x${GMM_SECRET}"])
def test_a_folder_with_the_name_of_a_variable(run: Path, mark: Path, name: str) -> None:
    store(run, "cov=diag")
    moved = run.rename(run.with_name(name))
    assert "rename the folder" in refusal(lambda: resume_overrides(moved, []), mark)


def test_a_launch_folder_with_the_name_of_a_variable(run: Path, mark: Path) -> None:
    store(run, "data=file", "data.path=rows.csv")
    (run / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {cwd: '/x/${oc.env:GMM_SECRET}'}}")
    assert "hydra.yaml names a folder" in refusal(lambda: resume_overrides(run, []), mark)


def test_overrides_of_another_kind(run: Path, mark: Path) -> None:
    for text in ("a: 1", "[[x]]", "[1]", "!!python/object/apply:os.system [id]", "- &a x\n- *a"):
        (run / ".hydra" / "overrides.yaml").write_text(text)
        refusal(lambda: resume_overrides(run, []), mark)


def test_settings_of_the_stored_process_are_left_out(run: Path) -> None:
    store(
        run,
        "+hydra.callbacks.x._target_=os.system",
        "hydra.job_logging.handlers.console={'()':os.system,command:id}",
        "hydra/job_logging=none",
        "hydra.searchpath=[file://evil]",
        "cov=diag",
    )
    words = resume_overrides(run, [])
    assert words[0] == "cov=diag"
    assert [word.split("=")[0] for word in words[1:]] == ["resume", "hydra.run.dir"]


# -- what remains is judged once more ----------------------------------------------------------


@pytest.mark.parametrize(
    "hostile",
    [
        {"data": {"name": "\\${oc.env:GMM_SECRET}"}},
        {"data": {"name": "${a}${b}"}, "a": "$", "b": "{oc.env:GMM_SECRET}"},
        {"callbacks": [{"x": "\\${oc.create:'{_target_: os.system}'}"}]},
        {"model": {"\\${x}": 1}},
        {"a": "${b}", "b": "${a}"},
    ],
)
def test_nothing_is_left_to_resolve_when_something_is_built(
    mark: Path, hostile: dict[str, Any]
) -> None:
    config = OmegaConf.create(hostile)
    assert isinstance(config, DictConfig)
    refusal(lambda: settle(config), mark)


def test_every_phase_is_settled(composed: Callable[..., DictConfig]) -> None:
    config = composed("data=faithful", "fit=em_then_sgd", "fit.sgd.max_iter=9", "fit.max_iter=4")
    first, second = phases_of(config)
    assert (first.trainer.max_epochs, second.trainer.max_epochs) == (4, 9)
    assert "${" not in OmegaConf.to_yaml(first) + OmegaConf.to_yaml(second)
    config.fit.then.model.optimizer["lr"] = "\\${oc.env:HOME}"
    with pytest.raises(InvalidArgumentError, match=r"interpolation left in .*optimizer\.lr"):
        phases_of(config)


def test_built_in_classes_are_classes_of_known_homes() -> None:
    for target in built_in_targets():
        found = get_object(target)
        owner = getattr(found, "__self__", found)
        assert isinstance(owner, type)
        assert owner.__module__.split(".")[0] in ("gmm_lightning", "lightning", "torch")


# -- records -----------------------------------------------------------------------------------

RECORDS = {
    "no numbers": '{"num_rows": 5}',
    "texts": '{"num_rows": "5", "log_likelihood": "x", "bic": 1, "converged": true}',
    "nesting": "[" * 100_000,
    "truth": '{"num_rows": true, "log_likelihood": 1.0, "bic": 1.0, "converged": true}',
    "a list": "[]",
    "a number": "3",
    "half": '{"num_rows": ',
    "a long number": '{"num_rows": ' + "9" * 10_000 + "}",
    "bytes": "\udcff",
}


@pytest.mark.parametrize("case", RECORDS)
@pytest.mark.parametrize("name", ["metrics.json", "density.json"])
def test_damaged_records_are_named(copied: Path, mark: Path, name: str, case: str) -> None:
    (copied / name).write_text(RECORDS[case], errors="surrogateescape")

    def read() -> None:
        load_run(str(copied)).threshold(0.1)

    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        read()
    refusal(read, mark)


def test_a_threshold_needs_ascending_quantiles(copied: Path) -> None:
    for levels, values in (
        ([0.1, 0.05], [1, 2]),
        ([0.1, 0.2], [2, 1]),
        ([], []),
        ([0.1], [1, 2]),
        ([0.1], ["NaN"]),
        ([0.1], ["Infinity"]),
        ([0.1], [10**400]),
        ([5, 6], [1, 2]),
        (["true"], [1]),
    ):
        text = f'{{"probability": {levels}, "log_density": {values}}}'.replace("'", "")
        (copied / "density.json").write_text(text)
        with pytest.raises(CheckpointError, match="holds no quantiles"):
            load_run(str(copied)).threshold(0.1)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no files of the system")
@pytest.mark.parametrize("name", ["metrics.json", "density.json", ".hydra/config.yaml"])
@pytest.mark.parametrize("target", ["/proc/self/environ", "/proc/self/pagemap"])
def test_files_of_the_system_are_not_read(copied: Path, mark: Path, name: str, target: str) -> None:
    """They claim to be empty; one holds the environment, the other goes on for 2**37 bytes."""
    (copied / name).unlink()
    (copied / name).symlink_to(target)

    def read() -> None:
        finished = load_run(str(copied))
        finished.threshold(0.1)
        finished.training_data()

    refusal(read, mark)
    link = copied / "rows.csv"
    link.symlink_to(target)
    (copied / ".hydra" / "config.yaml").unlink()
    (copied / ".hydra" / "config.yaml").write_text(
        f"data: {{_target_: gmm_lightning.training.ArrayDataModule.file, path: {link}}}"
    )
    with pytest.raises(GMMError, match=r"rows\.csv is empty|is damaged"):
        read()


def test_names_in_pictures_are_no_formulas(tmp_path: Path) -> None:
    """A formula that cannot be read would end a run before its report is written."""
    x = torch.randn(20, 2)
    data = ArrayDataModule(x, columns=[r"$\frac$", "b$^$"], name="$_$")
    figure = draw_mixture(GMMModule(GMMLayer(2, 2)), data)
    assert save_figure(figure, tmp_path / "a.png").stat().st_size > 0
