"""Locations of configurations and runs."""

from __future__ import annotations

from pathlib import Path

from gmm_lightning.app.stored import read_yaml

# Keys of `data` that name files.
DATA_PATHS = ("path", "val_path", "test_path")
# The setting that names the finished run which a fit starts from.
START_PATH = "callbacks.initialize.initializer.path"
# Folders in that of a run which it writes to.
_WRITTEN = (".hydra", "checkpoints", "tensorboard", "csv")


def config_dir() -> str:
    """The folder of the yaml files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return str(inside if inside.is_dir() else package.parent / "configs")


def run_paths(path: Path) -> tuple[Path, Path]:
    """Folder and checkpoint of a run, from either of them; they need not exist."""
    if path.is_dir():
        return path, path / "checkpoints" / "last.ckpt"
    return path.parent.parent, path


def written_places(run: Path, job: str) -> list[Path]:
    """The places in the folder of a run that it writes to, for the name of its job."""
    return [run / name for name in (*_WRITTEN, f"{job}.log")]


def launch_folder(run: Path) -> Path | None:
    """The folder that a run was started in, where its relative paths begin, if it is known."""
    settings = run / ".hydra" / "hydra.yaml"
    if not settings.is_file():
        return None
    found = read_yaml(settings)
    for name in ("hydra", "runtime", "cwd"):
        found = found.get(name) if isinstance(found, dict) else None
    return Path(found) if isinstance(found, str) and found else None
