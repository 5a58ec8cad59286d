"""`fit.supervised=true`: each class of the data has components of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from gmm_lightning._messages import format_list
from gmm_lightning.app.checks import require_flag
from gmm_lightning.app.resume import key_of
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.evidence import Labels
from gmm_lightning.training import RowsDataModule

_SIZE = "model.layer.num_components"
_LABELS = "gmm_lightning.evidence.Labels"


def supervise(config: DictConfig, data: RowsDataModule) -> None:
    """Set which component is of which class, and with it the number of components, from the data.

    Raises:
        InvalidArgumentError: data without labels, or numbers of components that do not fit the
            classes.
    """
    layer = config.model.layer
    supervised = require_flag("fit.supervised", config.fit.supervised)
    if supervised and layer.evidence is None:
        layer.evidence = {"_target_": _LABELS}
    per_class = OmegaConf.to_object(OmegaConf.create({"value": config.fit.components_per_class}))
    per_class = per_class["value"] if isinstance(per_class, dict) else None
    if layer.evidence is None or layer.evidence.get("_target_") != _LABELS:
        if supervised:
            raise InvalidArgumentError(
                "fit.supervised=true takes the labels as evidence, and another kind is chosen: "
                "leave out one of them"
            )
        if per_class is not None:
            raise InvalidArgumentError(
                "fit.components_per_class is of a fit with labels: fit.supervised=true"
            )
        return
    given = layer.evidence.get("class_of_component")
    if given is None:
        if data.classes is None:
            raise InvalidArgumentError(
                "a fit with labels needs a column of them, as in data=file data.path=trees.csv "
                f"data.label=kind; {data.name} has none"
            )
        given = _classes_of_components(data.classes, per_class, layer.num_components)
    OmegaConf.update(layer, "evidence.class_of_component", list(given), force_add=True)
    if _is_typed(_SIZE) and layer.num_components != len(given):
        raise InvalidArgumentError(
            f"{_SIZE}={layer.num_components}, and the classes have {len(given)} components: leave "
            "it out, since it follows from them"
        )
    layer.num_components = len(given)


def _classes_of_components(
    classes: Sequence[str], per_class: Any, num_components: int
) -> list[int]:
    """The class of each component; as many for each class where nothing else is said."""
    if isinstance(per_class, dict):
        named = {str(name): number for name, number in per_class.items()}
        if named.keys() != set(classes):
            raise InvalidArgumentError(
                "fit.components_per_class must be one number, or one for each of the classes "
                f"{format_list(classes)}; got some for {format_list(named)}"
            )
        per_class = [named[name] for name in classes]
    if per_class is None:
        share, rest = divmod(num_components, len(classes))
        if rest and _is_typed(_SIZE):
            raise InvalidArgumentError(
                f"{num_components} components cannot be divided equally among the {len(classes)} "
                "classes: give fit.components_per_class, a number or one for each class"
            )
        per_class = 1 if rest else share
    return Labels.of_classes(len(classes), per_class).class_of_component


def _is_typed(key: str) -> bool:
    """Whether a setting is on the command line."""
    typed = HydraConfig.get().overrides.task if HydraConfig.initialized() else ()
    return key in map(key_of, typed)
