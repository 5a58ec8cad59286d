"""Saving and loading of a mixture as plain values and tensors."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from gmm_lightning._files import atomic_write
from gmm_lightning._messages import describe, format_error
from gmm_lightning.em import StepwiseEM
from gmm_lightning.errors import CheckpointError, GMMError, InvalidArgumentError
from gmm_lightning.estimators.tgmm._forms import dense_of
from gmm_lightning.estimators.tgmm._online import stream_of
from gmm_lightning.estimators.tgmm._translate import layer_of
from gmm_lightning.estimators.tgmm.parameters import Parameters
from gmm_lightning.estimators.tgmm.sampling import Sampling
from gmm_lightning.estimators.tgmm.settings import FORMER_NAMES
from gmm_lightning.layers import GMMLayer, require_state

_PARAMETERS = ("weights_", "means_", "covariances_")
# What is read from the parameters, or follows from arguments.
_DERIVED = ("covariance_type_", "n_components_", "active_", "noise_weight_", "noise_bounds_")
_RECORDS = (
    "initial_weights_",
    "initial_means_",
    "initial_covariances_",
    "fitted_",
    "converged_",
    "n_iter_",
    "lower_bound_",
    "best_random_state_",
    "log_likelihood_history_",
    "annealing_schedule_",
    "classes_",
    "class_of_component_",
    "volume_",
    "shape_",
    "orientation_",
)
_PRIORS = {
    "use_weight_prior": "weight_concentration_prior",
    "use_mean_prior": "mean_prior",
    "use_covariance_prior": "covariance_prior",
}


class Storage(Sampling):
    """State dicts and files under tgmm's names; no code runs when they are read."""

    def save_state_dict(self) -> dict[str, Any]:
        """Parameters, arguments and records of the fit, as tensors and plain values."""
        arguments = self.arguments()
        state = {name: getattr(self, name) for name in (*_PARAMETERS, *_DERIVED, *_RECORDS)}
        state |= {name: arguments[name] for name in arguments if name != "device"}
        state["layer_"] = None
        if self.layer_ is not None:
            state["layer_"] = {
                "config": self.layer_.to_config(),
                "state": dict(self.layer_.state_dict()),
            }
        state["stream_"] = None if self.stream_ is None else self.stream_.state_dict()
        return state | {flag: state[prior] is not None for flag, prior in _PRIORS.items()}

    def to_dict(self) -> dict[str, Any]:
        """`save_state_dict`."""
        return self.save_state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over arguments, parameters and records of a state dict, of tgmm too.

        Raises:
            CheckpointError: entries that are missing or that no mixture can have; the mixture
                stays as it was.
        """
        twin = self.of_state(state_dict, self.device)
        vars(self).update(vars(twin))

    def save(self, filepath: str | Path) -> None:
        """Write `save_state_dict` to a file, which is either complete or absent.

        Raises:
            InvalidArgumentError: a function as `step_size`, which no file holds.
        """
        if callable(self.step_size):
            raise InvalidArgumentError(
                "a file holds no functions: set step_size to a number or 'auto' before save"
            )
        state = self.save_state_dict()
        with atomic_write(Path(filepath)) as path:
            torch.save(state, path)

    @classmethod
    def load(cls, filepath: str | Path, device: Any = None) -> Self:
        """The mixture of a file that `save` wrote, here or in tgmm.

        Raises:
            CheckpointError: a file that is missing, damaged, or holds anything but tensors and
                plain values.
        """
        path = Path(filepath)
        if not path.is_file():
            raise CheckpointError(f"there is no file {path}")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{path} is damaged, or holds more than tensors and plain values: "
                f"{format_error(error)}"
            ) from error
        return cls.of_state(state, device)

    @classmethod
    def of_state(cls, state: Any, device: Any = None) -> Self:
        """A mixture of a state dict.

        Raises:
            CheckpointError: entries that are missing, or that no mixture can have.
        """
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise CheckpointError(f"expected a state dict of a mixture, got {describe(state)}")
        missing = [name for name in ("n_components", *_PARAMETERS) if name not in state]
        if missing:
            raise CheckpointError(f"the state of a mixture has no {', '.join(missing)}")
        # Files of older versions have older names, which the constructor takes.
        known = {each.name for each in fields(cls) if each.init} - {"device", "cem"}
        known |= {name for name, present in FORMER_NAMES.items() if present not in state}
        arguments = {name: value for name, value in state.items() if name in known}
        try:
            model = cls(**arguments, device=device)
            if state["means_"] is not None:
                model.layer_ = layer = _read_layer(model, state)
                model.n_components, model.n_features = layer.num_components, layer.num_features
                model.stream_ = _read_stream(model, layer, state)
        except (GMMError, KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"the state is not that of a mixture: {format_error(error)}"
            ) from error
        for name in _RECORDS:
            value = state.get(name, getattr(model, name))
            own = isinstance(value, Tensor) and name != "log_likelihood_history_"
            setattr(model, name, value.to(model.device) if own else value)
        return model


def _read_layer(model: Parameters, state: dict[str, Any]) -> GMMLayer:
    """The layer of a state: of one of this package bit for bit, of tgmm's from the values."""
    stored = state.get("layer_")
    if stored is None:
        return _layer_of_values(model, state)
    held = sum(value.nbytes for value in stored["state"].values())
    with torch.random.fork_rng(devices=[]):
        layer = GMMLayer.from_config(stored["config"], max_bytes=held)
    require_state(layer, stored["state"], "the state of the layer")
    layer = layer.to(stored["state"]["means"].dtype)
    layer.load_state_dict(stored["state"])
    return layer.to(model.device)


def _layer_of_values(model: Parameters, state: dict[str, Any]) -> GMMLayer:
    weights, means, covariances = (torch.as_tensor(state[name]) for name in _PARAMETERS)
    means = model.rows(means)
    model.n_components = len(means)
    layer = layer_of(model, means)
    dense = dense_of("covariances_", covariances, model.covariance_type, means)
    layer.set_parameters(weights, means, dense)
    noise, bounds = layer.noise, state.get("noise_bounds_")
    if noise is not None:
        noise.logit.data.copy_(torch.as_tensor(state["noise_weight_"]).logit())
        if bounds is not None:
            noise.get_buffer("low").copy_(bounds[0])
            noise.get_buffer("high").copy_(bounds[1])
    return layer


def _read_stream(model: Parameters, layer: GMMLayer, state: dict[str, Any]) -> StepwiseEM | None:
    """What `partial_fit` goes on from, or None in a state of tgmm."""
    if state.get("stream_") is None:
        return None
    stream = stream_of(model, layer)
    stream.load_state_dict(state["stream_"])
    return stream
