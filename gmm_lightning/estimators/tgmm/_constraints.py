"""Frozen parts and bounds by tgmm's names, as the constraints of a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_integer
from gmm_lightning.distributions import MixtureDensity
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.tgmm.settings import Settings

_FROZEN = {
    "frozen_components": "components",
    "frozen_means": "means",
    "frozen_covariances": "covariances",
}
_BOUNDS = {"weight_bounds": "weight", "mean_bounds": "mean", "covariance_bounds": "variance"}
_HELD_BY = {
    "init_means": ("components", "means"),
    "init_covariances": ("components", "covariances"),
}
# As tgmm, how far from a bound a parameter still counts as on it.
_NEAR = 1e-9


def constraints_of(settings: Settings) -> dict[str, Any]:
    """The arguments `freeze` and `bounds` of a layer, those that are needed.

    Raises:
        InvalidArgumentError: weights that are both fixed and bounded.
    """
    if settings.fixed_weights is not None and settings.weight_bounds is not None:
        raise InvalidArgumentError(
            "fixed_weights and weight_bounds are both on the weights: keep one of them"
        )
    frozen: list[Any] = [] if settings.fixed_weights is None else ["weights"]
    for name, part in _FROZEN.items():
        numbers = getattr(settings, name)
        if numbers is not None and len(numbers):
            frozen.append({part: [require_integer(name, n, least=0) for n in numbers]})
    bounds = {own: _pair_of(settings, name) for name, own in _BOUNDS.items()}
    given = {own: pair for own, pair in bounds.items() if pair is not None}
    options = {"freeze": frozen, "bounds": given}
    return {name: value for name, value in options.items() if value}


def _pair_of(settings: Settings, name: str) -> tuple[Any, Any] | None:
    """A lower and an upper bound, or None."""
    pair = getattr(settings, name)
    if pair is None:
        return None
    if not isinstance(pair, tuple | list | Tensor) or len(pair) != 2:
        raise InvalidArgumentError(
            f"{name} must be a lower and an upper bound, got {describe(pair)}"
        )
    return pair[0], pair[1]


def require_values_of_frozen(settings: Settings) -> None:
    """Refuse frozen parts of which the start is drawn, so that nobody knows their values.

    Raises:
        InvalidArgumentError: the message names what to give.
    """
    for start, parts in _HELD_BY.items():
        if not isinstance(getattr(settings, start), str):
            continue
        for name, part in _FROZEN.items():
            if part in parts and getattr(settings, name):
                raise InvalidArgumentError(
                    f"{name} keeps what {start} holds: give it values instead of the name of a "
                    "method"
                )


def active_constraints(settings: Settings, mixture: MixtureDensity) -> dict[str, Tensor] | None:
    """Which bounds hold with equality, masks by tgmm's names; None without bounds."""
    values = {"weight_bounds": mixture.weights, "mean_bounds": mixture.means}
    if settings.covariance_bounds is not None:
        matrices = mixture.component_covariances
        is_dense = not mixture.covariance.axis_aligned
        diagonal = matrices.diagonal(dim1=-2, dim2=-1)
        values["covariance_bounds"] = torch.linalg.eigvalsh(matrices) if is_dense else diagonal
    names = {"weight_bounds": "weights", "mean_bounds": "means", "covariance_bounds": "covariances"}
    found: dict[str, Tensor] = {}
    for name, own in names.items():
        pair = _pair_of(settings, name)
        if pair is None:
            continue
        value = values[name]
        low, high = (torch.as_tensor(bound).to(value) for bound in pair)
        if name == "covariance_bounds" and low.dim():
            low, high = low.unsqueeze(-1), high.unsqueeze(-1)
        found[f"{own}_at_lower"] = value <= low + _NEAR * low.abs().clamp(min=1.0)
        found[f"{own}_at_upper"] = value >= high - _NEAR * high.abs().clamp(min=1.0)
    return found or None
