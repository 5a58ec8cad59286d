"""Start and failure of every command: an error is one sentence on stderr, exit code 1."""

from __future__ import annotations

import sys
import time
from functools import partial
from importlib import import_module
from typing import Any, NoReturn

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from gmm_lightning.app.configs import config_dir
from gmm_lightning.app.preflight import check_command_line
from gmm_lightning.app.processes import Interrupted, discard_unstarted_run, rank_from_environment
from gmm_lightning.errors import GMMError, printable

# Messages of gloo and NCCL when another process has ended.
_LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")


def run(name: str) -> None:
    """Run a command under Hydra: the function `name` of the module `gmm_lightning.app.<name>`.

    The module takes seconds to load, so it is imported after the command line was checked.
    """
    started = time.time()
    try:
        resumed = check_command_line(name)
    except GMMError as error:
        _fail(name, error)
    settings = list((resumed / ".hydra").glob("*.yaml")) if resumed is not None else []
    stored = {path: path.read_bytes() for path in settings}

    def guarded(config: Any) -> None:
        try:
            getattr(import_module(f"gmm_lightning.app.{name}"), name)(config)
        except Interrupted as stop:
            if rank_from_environment() == 0:
                print(f"gmm-{name}: {stop}", file=sys.stderr)
            raise SystemExit(128 + stop.signum) from None
        except Exception as error:
            # Hydra has overwritten the settings; a run that cannot go on gets its old ones back.
            for path, content in stored.items():
                path.write_bytes(content)
            reason = _user_error(error)
            if reason is None:
                raise
            if name == "train":
                discard_unstarted_run(started)
            _fail(name, reason)

    hydra.main(version_base="1.3", config_path=config_dir(), config_name=name)(guarded)()


train = partial(run, "train")
evaluate = partial(run, "evaluate")
predict = partial(run, "predict")
sample = partial(run, "sample")
show = partial(run, "show")


def _user_error(error: BaseException) -> BaseException | None:
    """The user's mistake behind an exception, or None when it is our bug."""
    # Lightning takes seconds to load, and is not needed to explain an error before that.
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    theirs = () if lightning is None else (lightning.MisconfigurationException,)
    known = (GMMError, *theirs, HydraException, OmegaConfBaseException, OSError)
    cause = error.__cause__
    if isinstance(error, HydraException) and "Error locating target" in str(error):
        return error
    if isinstance(error, HydraException) and cause is not None:
        # Hydra wraps what a constructor raised: a wrong value of a setting.
        return cause if isinstance(cause, (*known, TypeError, ValueError, ImportError)) else None
    if isinstance(error, RuntimeError) and any(word in str(error) for word in _LOST_PEER):
        return RuntimeError("another process of this run ended, so this one stops as well")
    return error if isinstance(error, known) else None


def _fail(name: str, reason: BaseException) -> NoReturn:
    """Exit with code 1 and one sentence on stderr."""
    sentence = printable(" ".join(str(reason).split())) or type(reason).__name__
    # Lightning's message does not name the option of this command.
    if "gpu" in sentence.lower() and ("machine only has" in sentence or "No supported" in sentence):
        sentence += " (on the processor: trainer.accelerator=cpu)"
    sys.stdout.flush()
    raise SystemExit(f"gmm-{name}: {sentence}")
