"""The start of a fit from the parameters of a finished one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer, Standardize
from gmm_lightning.training.module import GMMModule


@dataclass(frozen=True)
class StoredStart:
    """An initializer of `InitializeCallback`: the parameters of a finished fit, bit for bit.

    The standard units of that fit are kept, so that the density is the same; priors take what
    they are not given from the new rows. What the layer freezes has these values. Nothing in the
    files is executed.

    Args:
        path: the folder of a run, a checkpoint, or a folder of `save_pretrained`.

    References:
        D. A. Reynolds, T. F. Quatieri, R. B. Dunn (2000), Speaker verification using adapted
        Gaussian mixture models, Digital Signal Processing 10.
    """

    path: str | Path | None = None

    def write_to(self, layer: GMMLayer, module: GMMModule | None = None) -> None:
        """Give a layer the stored parameters, and its module the stored units.

        Args:
            layer: of the same sizes and family.
            module: None: the layer is in a model without units, and the stored fit must have none.

        Raises:
            InvalidArgumentError: no path, or a mixture of other sizes or of another family.
            CheckpointError: no fit at the path, or files that cannot be read.
        """
        if not self.path or not isinstance(self.path, str | Path):
            raise InvalidArgumentError(
                "say which finished run to start from: init=run init.path=outputs/<date>/<time>"
            )
        stored, units = _read(Path(self.path))
        found, expected = _describe(stored), _describe(layer)
        if found != expected:
            raise InvalidArgumentError(
                f"the mixture at {self.path} has {found}, and this fit is of {expected}"
            )
        if module is not None:
            module.standardize.load_state_dict(units.state_dict())
            module.keeps_units = True
        elif bool((units.loc != 0).any() | (units.scale != 1).any()):
            raise InvalidArgumentError(
                f"the mixture at {self.path} is in standard units, and a layer inside a model has "
                "none: start from a fit with standardize=False"
            )
        layer.take_parameters(stored)


def _read(path: Path) -> tuple[GMMLayer, Standardize]:
    """The layer and the units of a finished fit."""
    if (path / "config.json").is_file():
        layer = GMMLayer.from_pretrained(path)
        return layer, Standardize(layer.num_features)
    file = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    module = GMMModule.load_from_checkpoint(file)
    return module.layer, module.standardize


def _describe(layer: GMMLayer) -> str:
    batch = f" in a batch {tuple(layer.batch_shape)}" if layer.batch_shape else ""
    return (
        f"{layer.num_components} components of {layer.num_features} features with covariance "
        f"{layer.covariance.name}{batch}"
    )
