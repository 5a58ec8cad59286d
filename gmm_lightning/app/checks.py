"""Settings out of range, refused before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gmm_lightning.app.configs import require_trusted
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from gmm_lightning.training import ArrayDataModule


def check_fit(config: DictConfig) -> None:
    """Refuse stopping rules and seeds out of range, before any data are read.

    Raises:
        InvalidArgumentError: naming the setting, what was expected and what came.
    """
    tol = config.fit.tol
    if isinstance(tol, bool) or not isinstance(tol, int | float) or not tol >= 0:
        raise InvalidArgumentError(f"fit.tol must be a number >= 0, got {tol!r}")
    for name, value, least in (
        ("fit.max_iter", config.fit.max_iter, 1),
        ("fit.num_restarts", config.fit.num_restarts, 1),
        ("seed", config.seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidArgumentError(f"{name} must be an integer >= {least}, got {value!r}")


def check_size(config: DictConfig, data: ArrayDataModule) -> None:
    """Take over the number of features, and refuse more components than rows.

    Raises:
        InvalidDataError: naming both numbers.
    """
    layer = config.model.layer
    if layer.num_features is None:
        layer.num_features = data.num_features
    if isinstance(layer.num_components, int) and layer.num_components > data.num_train_rows:
        raise InvalidDataError(
            f"num_components={layer.num_components} is larger than the number of training rows, "
            f"{data.num_train_rows}"
        )


def require_trusted_run(config: DictConfig) -> None:
    """Judge a resumed configuration once more, with its interpolations resolved.

    Before Hydra takes over they cannot be; and they too can spell a target.

    Raises:
        InvalidArgumentError: naming the first target that is not trusted.
    """
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True)
    require_trusted(plain, f"the run of {config.resume}")
