"""Constraints of the M-step, one module each; a new module here is a new projection."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from torch import Tensor, nn

from gmm_lightning._messages import describe
from gmm_lightning._plugins import Registry
from gmm_lightning._validation import require_choice
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import MixtureShape
from gmm_lightning.projections._interval import IntervalProjection
from gmm_lightning.projections.base import MixtureTensors, P, Projection
from gmm_lightning.projections.eigenvalue_ratio import EigenvalueRatio
from gmm_lightning.projections.equal_weights import EqualWeights
from gmm_lightning.projections.fixed_weights import FixedWeights
from gmm_lightning.projections.frozen import Frozen
from gmm_lightning.projections.linear_means import LinearMeans
from gmm_lightning.projections.mean_bounds import MeanBounds
from gmm_lightning.projections.shrinkage import Shrinkage, ledoit_wolf
from gmm_lightning.projections.variance_bounds import VarianceBounds
from gmm_lightning.projections.weight_bounds import WeightBounds

registry: Registry[Projection] = Registry(__name__, Projection, "projection")

ProjectionSpec = (
    str | Projection | Iterable[str | Projection] | Mapping[str, str | Projection] | None
)


class ProjectionList(nn.ModuleList):
    """The projections of a layer, bound to its sizes, in the order in which they were given."""

    def __init__(self, shape: MixtureShape) -> None:
        super().__init__()
        self.shape = shape

    def append(self, module: nn.Module) -> Self:
        """Bind a projection to the layer's sizes, and add it.

        Raises:
            InvalidArgumentError: not a projection, one that does not support the family, or that
                is on the same parameters as another one.
        """
        if not isinstance(module, Projection):
            raise InvalidArgumentError(f"expected a Projection, got {describe(module)}")
        family = self.shape.covariance
        if not module.supports(family):
            raise InvalidArgumentError(
                f"the projection {module.name!r} does not support the covariance {family.name!r}"
            )
        for other in self.to_list():
            _require_beside(module, other)
        module.bind(self.shape)
        module.batch_shape = tuple(self.shape.batch_shape)
        return super().append(module)

    def to_list(self) -> list[Projection]:
        """The projections as a list."""
        return [projection for projection in self if isinstance(projection, Projection)]

    @property
    def frozen(self) -> Frozen | None:
        """The frozen parts, if there are any."""
        return next((one for one in self.to_list() if isinstance(one, Frozen)), None)

    def require_resolved(self, parameters: MixtureTensors) -> None:
        """Refuse projections without values, or bounds that what is frozen does not satisfy.

        Args:
            parameters: of the layer.

        Raises:
            InvalidArgumentError: the message says what is missing, or what contradicts.
        """
        for projection in self.to_list():
            projection.require_resolved()
        if self.frozen is None or len(self) == 1:
            return
        frozen = self.frozen.constrain(parameters, self.shape.covariance)
        for one in self.to_list():
            for part in one.parts & self.frozen.parts if one is not self.frozen else ():
                moved = one.constrain(frozen, self.shape.covariance)
                if self.frozen.differs(part, moved, frozen):
                    raise InvalidArgumentError(
                        f"the frozen {part} are outside of the {one.name!r}: free them, or give "
                        "other bounds"
                    )

    def reset_parameters(self) -> None:
        """Give all values that were given, as when they were bound; the others are open again."""
        for projection in self.to_list():
            projection.reset_parameters()

    def constrain(self, parameters: P) -> P:
        """The nearest parameters `(*B, ...)` under all constraints, frozen parts the last."""
        for projection in sorted(self.to_list(), key=lambda one: -one.order):
            parameters = projection.constrain(parameters, self.shape.covariance)
        return parameters

    def num_fixed_parameters(self, num_components: int, num_features: int) -> int:
        """By how many the free parameters of one mixture are fewer."""
        sizes = (num_components, num_features, self.shape.covariance)
        return sum(projection.num_fixed_parameters(*sizes) for projection in self.to_list())


def bind_projections(
    shape: MixtureShape,
    projections: ProjectionSpec = None,
    freeze: Any = None,
    bounds: Mapping[str, Any] | None = None,
) -> ProjectionList:
    """Copies of projections, bound to sizes: those given, frozen parts, and bounds.

    Args:
        shape: sizes of the mixture.
        projections: names or instances: one, several, or the values of a mapping.
        freeze: see `Frozen.of`.
        bounds: by name, a pair of a lower and an upper one, or the arguments of the projection.

    Raises:
        InvalidArgumentError: an unknown name, or constraints that exclude each other.
    """
    if projections is None:
        projections = []
    elif isinstance(projections, str | Projection) or not isinstance(projections, Iterable):
        projections = [projections]
    elif isinstance(projections, Mapping):
        projections = projections.values()
    chosen = [registry.create(one) for one in projections]
    bound = ProjectionList(shape)
    for one in chosen:
        bound.append(copy.deepcopy(one))
    if freeze:
        bound.append(Frozen.of(freeze))
    for one in _as_bounds(bounds):
        bound.append(one)
    return bound


def _as_bounds(bounds: Mapping[str, Any] | None) -> list[Projection]:
    """Projections of bounds by name; None bounds nothing."""
    if bounds is None:
        return []
    classes = [registry.get(name) for name in registry.names]
    known = {name: cls for cls in classes for name in cls.bound}
    if not isinstance(bounds, Mapping):
        example = 'bounds={"variance": (1e-3, 10.0)}'
        raise InvalidArgumentError(
            f"expected bounds by name, as in {example}, got {describe(bounds)}"
        )
    chosen = []
    for name, given in bounds.items():
        require_choice("bound", name, sorted(known))
        if given is None:
            continue
        chosen.append(_as_bound(known[name], name, given))
    return chosen


def _as_bound(cls: Any, name: str, given: Any) -> Projection:
    """A projection of one kind from a pair of bounds, or from a number."""
    if not issubclass(cls, IntervalProjection):
        return cls(given)
    is_pair = isinstance(given, Sequence | Tensor) and not isinstance(given, str)
    if not is_pair or len(given) != 2:
        raise InvalidArgumentError(
            f"expected a lower and an upper bound for {name}, got {describe(given)}"
        )
    return cls(*given)


def _require_beside(one: Projection, other: Projection) -> None:
    """Refuse two projections that each would undo the other's work."""
    shared = one.parts & other.parts
    again = type(one) is type(other)
    if shared and (again or not (one.is_separable and other.is_separable)):
        raise InvalidArgumentError(
            f"the projections {other.name!r} and {one.name!r} are both on the "
            f"{' and '.join(sorted(shared))}: keep one of them"
        )


__all__ = [
    "EigenvalueRatio",
    "EqualWeights",
    "FixedWeights",
    "Frozen",
    "LinearMeans",
    "MeanBounds",
    "MixtureTensors",
    "Projection",
    "ProjectionList",
    "ProjectionSpec",
    "Shrinkage",
    "VarianceBounds",
    "WeightBounds",
    "bind_projections",
    "ledoit_wolf",
    "registry",
]
