"""Start and failure of every command: an error is one sentence on stderr, exit code 1."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig

from gmm_lightning.app.configs import config_dir
from gmm_lightning.app.console import prepare_console
from gmm_lightning.app.failures import explain
from gmm_lightning.app.preflight import check_command_line
from gmm_lightning.app.processes import Interrupted, rank_from_environment


def run(name: str) -> None:
    """Run a command under Hydra: the function `name` of the module `gmm_lightning.app.<name>`.

    The module takes seconds to load, so it is imported after the command line was checked.
    """
    prepare_console(required=name != "train")

    def guarded(config: Any) -> None:
        folder = Path(HydraConfig.get().runtime.output_dir) if name == "train" else None
        try:
            getattr(import_module(f"gmm_lightning.app.{name}"), name)(config)
        except Interrupted as stop:
            if rank_from_environment() == 0:
                print(f"gmm-{name}: {stop}", file=sys.stderr)
            raise SystemExit(128 + stop.signum) from None
        except Exception as error:
            _fail(name, error, folder)

    # Hydra shows its own errors as tracebacks unless it is told to hand them on.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        check_command_line(name)
        hydra.main(version_base="1.3", config_path=config_dir(), config_name=name)(guarded)()
        if sys.stdout is not None:
            sys.stdout.flush()
    except Exception as error:
        _fail(name, error)


train = partial(run, "train")
evaluate = partial(run, "evaluate")
predict = partial(run, "predict")
sample = partial(run, "sample")
show = partial(run, "show")


def _fail(name: str, error: Exception, folder: Path | None = None) -> NoReturn:
    """Exit with code 1 and one sentence on stderr, or raise again what is our bug."""
    sentence = explain(error, folder)
    if sentence is None:
        raise error
    # Lightning's message does not name the option of this command.
    if "gpu" in sentence.lower() and ("machine only has" in sentence or "No supported" in sentence):
        sentence += " (on the processor: trainer.accelerator=cpu)"
    raise SystemExit(f"gmm-{name}: {sentence}")
