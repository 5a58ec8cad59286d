"""State dicts of files, checked against the module that they are for before it takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmm_lightning.covariances import Covariance
from gmm_lightning.errors import CheckpointError
from gmm_lightning.hyperparameters import HyperparameterModule


class StateRule(NamedTuple):
    """What the entries of a tensor must be, in words and as a test."""

    words: str
    holds: Callable[[Tensor], bool]


# What a parameter may be written in; of 8 bits torch itself knows little.
_REAL = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def _is_finite(value: Tensor) -> bool:
    """Whether no entry is NaN or infinite."""
    return bool(torch.isfinite(value).all())


FINITE = StateRule("finite", _is_finite)
POSITIVE = StateRule("finite and > 0", lambda value: _is_finite(value) and bool((value > 0).all()))
# NaN stands for what the next fit reads from its rows.
OPEN = StateRule("finite, or NaN", lambda value: not bool(torch.isinf(value).any()))
UNLIMITED = StateRule("numbers or infinite", lambda value: not bool(torch.isnan(value).any()))
OPEN_LENGTH = StateRule(
    "finite and >= 0, or NaN",
    lambda value: not bool((torch.isinf(value) | (value < 0)).any()),
)


def definite_rule(family: Covariance, num_features: int) -> StateRule:
    """The rule of raw scales: they are finite, and so are the factors that they stand for."""

    def holds(raw: Tensor) -> bool:
        scale = family.scale(raw)
        log_det = family.half_log_det(scale, num_features)
        return all(map(_is_finite, (raw, scale, log_det)))

    return StateRule("finite, of positive definite covariances", holds)


def require_state(module: nn.Module, state: Any, origin: Any, *, exact: bool = False) -> None:
    """Refuse a state dict with names, shapes, dtypes or values that a module cannot have.

    Parameters must be finite, and so must the buffers of priors, projections and noise as far as
    they are known. What other buffers must be, a module says by name in its `state_rules`.

    Args:
        module: which is about to load the state.
        state: tensors by name.
        origin: the file, to begin the message.
        exact: refuse real numbers of another precision, too.

    Raises:
        CheckpointError: the message names a tensor, what it is and what it should be.
    """
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{origin} is damaged: expected a state dict of tensors by name")
    own = module.state_dict()
    for name in sorted({*own, *state}, key=str):
        if not _is_like(state.get(name), own.get(name), exact=exact):
            found, expected = _format_tensor(state.get(name)), _format_tensor(own.get(name))
            raise CheckpointError(
                f"{origin} does not fit this model: {str(name)[:100]} is {found} and should be "
                f"{expected}"
            )
    for prefix, part in module.named_modules():
        for name, rule in _rules(part).items():
            path = f"{prefix}.{name}".lstrip(".")
            if path in state and not rule.holds(state[path]):
                raise CheckpointError(
                    f"{origin} is damaged, or of a fit that diverged: {path} must be {rule.words}"
                )


def _rules(part: nn.Module) -> dict[str, StateRule]:
    """The rules of the parameters and buffers of a module, without those of its parts."""
    rules = {name: FINITE for name, _ in part.named_parameters(recurse=False)}
    if isinstance(part, HyperparameterModule):
        buffers = dict(part.named_buffers(recurse=False))
        # The weight of noise is known, fixed or not.
        rules |= {name: FINITE if name == "logit" else OPEN for name in buffers}
        rules |= dict.fromkeys(getattr(part, "unlimited", ()), UNLIMITED)
    return rules | getattr(part, "state_rules", {})


def _is_like(given: Tensor | None, own: Tensor | None, *, exact: bool) -> bool:
    """Whether a tensor has the shape and the kind of numbers of another."""
    if given is None or own is None or given.shape != own.shape:
        return False
    both_real = {given.dtype, own.dtype} <= _REAL
    return given.dtype == own.dtype or (both_real and not exact)


def _format_tensor(value: Tensor | None) -> str:
    if value is None:
        return "absent"
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
