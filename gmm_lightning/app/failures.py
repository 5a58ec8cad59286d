"""Why a command failed, in one sentence: the user's mistake, or what the machine lacks."""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from gmm_lightning.app.configs import run_paths
from gmm_lightning.app.processes import LostProcessError
from gmm_lightning.errors import GMMError, lacks_memory, printable

_MACHINE = {
    errno.ENOSPC: "the disk of {folder} is full ({reason}): make room",
    errno.EDQUOT: "the quota of the disk of {folder} is used up ({reason}): make room",
    errno.EFBIG: "a file in {folder} would be larger than is allowed ({reason}): allow more",
    errno.EROFS: "{folder} cannot be written ({reason}): make it writable",
    errno.EACCES: "{folder} cannot be written ({reason}): make it writable",
    errno.EPERM: "{folder} cannot be written ({reason}): make it writable",
    errno.EIO: "the disk of {folder} fails ({reason}): see to it",
    errno.EMFILE: "no more files can be opened for {folder} ({reason}): raise ulimit -n",
    errno.ENFILE: "no more files can be opened for {folder} ({reason}): close other programs",
}


def resume_hint(folder: Path) -> str:
    """How to go on with a run, as typed in a shell; empty before its first checkpoint."""
    if not run_paths(folder)[1].is_file():
        return ""
    return f"go on with {shlex.quote(f'resume={folder}')}"


def explain(error: BaseException, folder: Path | None = None) -> str | None:
    """A sentence on the user's mistake or the machine's fault, or None when it is our bug.

    Args:
        error: what the command raised.
        folder: of the run that was being written.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError):
            return _machine_fault(cause, folder)
        if lacks_memory(cause):
            size = re.search(r"allocate ([\d.]+ ?\w+)", str(cause))
            needed = [*getattr(error, "__notes__", ()), *([f"{size[1]} at once"] if size else ())]
            return (
                f"there is not enough memory for {', '.join(needed) or 'this'}; what needs less: "
                "fewer components or features, cov=diag, a smaller data.batch_size, data=stream"
            )
    mistake = _mistake(error)
    if mistake is None:
        return None
    return printable(" ".join(str(mistake).split())) or type(mistake).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from, up to one that is a sentence already."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, GMMError | LostProcessError):
        yield cause
        cause = cause.__cause__


def _machine_fault(error: OSError, folder: Path | None) -> str:
    """What the system refused, and how a run goes on."""
    sentence = " ".join(str(error).split())
    if folder is None:
        return sentence
    given = (error.filename, error.filename2)
    # A descriptor may stand for a name.
    named = [Path(os.fsdecode(x)).absolute() for x in given if isinstance(x, str | bytes | Path)]
    inside = not named or any(folder.absolute() in path.parents for path in named)
    if inside and error.errno == errno.ENOENT:
        gone = named[0] if named and folder.exists() else f"the folder of this run ({folder})"
        return f"{gone} is gone, deleted or moved while the run wrote to it"
    if inside and error.errno in _MACHINE:
        place = _full_disk(folder) if error.errno == errno.ENOSPC else folder
        fault = _MACHINE[error.errno].format(folder=place, reason=error.strerror)
        return f"{fault}, and {resume_hint(folder) or 'start again'}"
    return f"{sentence}; {resume_hint(folder)}".removesuffix("; ")


def _full_disk(folder: Path) -> Path:
    """The folder, unless it is the disk of temporary files that is full: Lightning uses them."""
    temporary = Path(tempfile.gettempdir())
    disk = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    fuller = shutil.disk_usage(temporary).free < shutil.disk_usage(disk).free
    return temporary if fuller else folder


def _mistake(error: BaseException) -> BaseException | None:
    # Lightning takes seconds to load, and is not needed to explain an error before that.
    lightning = sys.modules.get("lightning.fabric.utilities.exceptions")
    theirs = () if lightning is None else (lightning.MisconfigurationException,)
    known = (GMMError, LostProcessError, *theirs, HydraException, OmegaConfBaseException, OSError)
    cause = error.__cause__
    if isinstance(error, HydraException) and "Error locating target" in str(error):
        return error
    if isinstance(error, HydraException) and cause is not None:
        # Hydra wraps what a constructor raised: a wrong value of a setting.
        return cause if isinstance(cause, (*known, TypeError, ValueError, ImportError)) else None
    return error if isinstance(error, known) else None
