"""How every command starts and how it fails: one sentence on stderr, exit code 1."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from gmm_lightning.app.configs import config_dir
from gmm_lightning.app.preflight import check_command_line
from gmm_lightning.app.processes import Interrupted, rank_from_environment
from gmm_lightning.errors import GMMError

# How gloo and NCCL say that another process is gone.
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")


def run(name: str, task: Callable[[Any], object]) -> None:
    """Run a command under Hydra.

    Args:
        name: name of the configuration and of the command.
        task: takes the composed configuration.
    """
    import hydra

    started = time.time()
    try:
        resumed = check_command_line(name)
    except GMMError as error:
        fail(name, error)
    settings = settings_of(resumed)

    def guarded(config: Any) -> None:
        try:
            task(config)
        except Interrupted as stop:
            if rank_from_environment() == 0:
                print(f"gmm-{name}: {stop}", file=sys.stderr)
            raise SystemExit(128 + stop.signum) from None
        except Exception as error:
            # Hydra has written what was typed now; a run that cannot go on keeps what it had.
            for path, content in settings.items():
                path.write_bytes(content)
            reason = user_error(error)
            if reason is None:
                raise
            if name == "train":
                discard_unstarted_run(started)
            fail(name, reason)

    hydra.main(version_base="1.3", config_path=config_dir(), config_name=name)(guarded)()


def settings_of(folder: Path | None) -> dict[Path, bytes]:
    """The stored settings of a resumed run, as they are before Hydra writes them anew."""
    if folder is None:
        return {}
    return {path: path.read_bytes() for path in (folder / ".hydra").glob("*.yaml")}


def user_error(error: BaseException) -> BaseException | None:
    """The user's mistake behind an exception, or None when it is our bug."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    # Of a library that takes seconds to load, and is not needed to say what went wrong before.
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    theirs = () if lightning is None else (lightning.MisconfigurationException,)
    known = (GMMError, *theirs, HydraException, OmegaConfBaseException, OSError)
    cause = error.__cause__
    if isinstance(error, HydraException) and "Error locating target" in str(error):
        return error
    if isinstance(error, HydraException) and cause is not None:
        # Hydra wraps what a constructor raised: a wrong value of a setting.
        return cause if isinstance(cause, (*known, TypeError, ValueError)) else None
    if isinstance(error, RuntimeError) and any(word in str(error) for word in LOST_PEER):
        return RuntimeError("another process of this run ended, so this one stops as well")
    return error if isinstance(error, known) else None


def fail(name: str, reason: BaseException) -> NoReturn:
    """One sentence on stderr, exit code 1."""
    sentence = " ".join(str(reason).split()) or type(reason).__name__
    sys.stdout.flush()
    raise SystemExit(f"gmm-{name}: {sentence}{hint(sentence)}")


def hint(sentence: str) -> str:
    """What to type instead, for mistakes that Lightning words for its own developers."""
    if "gpu" in sentence.lower() and ("machine only has" in sentence or "No supported" in sentence):
        return " (on the processor: trainer.accelerator=cpu)"
    return ""


def discard_unstarted_run(since: float) -> None:
    """Take away the folder of a run that failed before its first batch.

    Training makes the folder of checkpoints when it starts; until then there are only the
    settings, an empty log and the loggers' headers. A folder that holds anything older than the
    command is somebody's own, and is not touched.

    Args:
        since: when the command began, in seconds of the clock.
    """
    from hydra.core.hydra_config import HydraConfig

    config = HydraConfig.get()
    folder = Path(config.runtime.output_dir)
    started = (folder / "checkpoints").exists() or (folder / "metrics.json").exists()
    older = any(path.lstat().st_mtime < since - 0.1 for path in folder.rglob("*"))
    if rank_from_environment() > 0 or started or older:
        return
    for name in (".hydra", "tensorboard", "csv"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for log in folder.glob(f"{config.job.name}*.log"):
        log.unlink()
    here = Path(config.runtime.cwd)
    for empty in (folder, *(p for p in folder.parents if here in p.parents)):
        try:
            empty.rmdir()
        except OSError:
            return
