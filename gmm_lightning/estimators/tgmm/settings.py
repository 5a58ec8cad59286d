"""The arguments of tgmm's mixture, with its names, its order and its defaults."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, fields
from typing import Any

import torch

from gmm_lightning._messages import describe
from gmm_lightning._validation import (
    as_device,
    require_bool,
    require_choice,
    require_integer,
    require_number,
)
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.tgmm._forms import CODES, covariance_name
from gmm_lightning.priors import Hyperparameter

_UNSET: Any = object()
# Names of older versions of tgmm, in the order of the fields, and what they are called now.
FORMER_NAMES = {
    "init_params": "init_means",
    "means_init": "init_means",
    "cov_init_method": "init_covariances",
    "covariances_init": "init_covariances",
    "weights_init": "init_weights",
}
PRIOR_CONVENTIONS = ("mode", "expected_precision")


@dataclass(eq=False, repr=False)
class Settings:
    """Arguments of `GaussianMixture`, which are its attributes too.

    Arguments of tgmm's stochastic EM, Gibbs sampler and further covariance types are taken, and
    have no effect on the fits here.
    """

    n_components: int | None = None
    n_features: int | None = None
    covariance_type: str = "full"
    max_iter: int = 1000
    tol: float = 1e-4
    reg_covar: float = 1e-6
    n_init: int = 1
    gpcm_tol: float = 1e-6
    gpcm_max_iter: int = 20
    init_means: Any = "kmeans"
    init_weights: Any = "uniform"
    init_covariances: Any = "empirical"
    random_state: int | None = None
    warm_start: bool = False
    algorithm: str = "em"
    cem: bool = False
    batch_size: int | None = None
    convergence: str = "relative"
    temperature: tuple[float, int] | None = None
    step_size: float | str | Callable[[int], float] | None = None
    sem_burn_in: int | None = None
    sem_estimate: str = "best"
    components_per_class: int | dict[int, int] = 1
    unlabeled_weight: float = 1.0
    label_confidence: float = 1.0
    noise: bool = False
    noise_volume: str | float = "bbox"
    noise_prior: float = 0.05
    noise_init: Any = None
    missing: str = "error"
    frozen_components: Sequence[int] = ()
    weight_concentration_prior: Hyperparameter = None
    mean_prior: Hyperparameter = None
    mean_precision_prior: float | None = None
    covariance_prior: Hyperparameter = None
    degrees_of_freedom_prior: float | None = None
    max_components: int | None = 20
    alpha: float = 1.0
    burn_in: int | None = None
    weight_threshold: float | None = None
    init_k: int | None = None
    verbose: bool = False
    verbose_interval: int = 10
    device: Any = None
    weight_bounds: Any = None
    fixed_weights: Any = None
    mean_bounds: Any = None
    covariance_bounds: Any = None
    frozen_means: Sequence[int] = ()
    frozen_covariances: Sequence[int] = ()
    _: KW_ONLY
    prior_convention: str = "mode"
    init_params: InitVar[Any] = _UNSET
    means_init: InitVar[Any] = _UNSET
    cov_init_method: InitVar[Any] = _UNSET
    covariances_init: InitVar[Any] = _UNSET
    weights_init: InitVar[Any] = _UNSET

    def __post_init__(
        self,
        init_params: Any,
        means_init: Any,
        cov_init_method: Any,
        covariances_init: Any,
        weights_init: Any,
    ) -> None:
        former = (init_params, means_init, cov_init_method, covariances_init, weights_init)
        for name, value in zip(FORMER_NAMES, former, strict=True):
            self._take_former(name, value)
        if self.cem:
            _warn("cem=True is now called algorithm='cem'")
            self.algorithm = "cem"
        self.cem = self.algorithm == "cem"
        self.covariance_type = covariance_name(self.covariance_type)
        default = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = as_device(default if self.device is None else self.device)
        self._check()

    def _take_former(self, name: str, value: Any) -> None:
        """Take an argument under a name of older versions; None there means the default."""
        if value is _UNSET:
            return
        _warn(f"{name} is now called {FORMER_NAMES[name]}")
        if value is not None:
            setattr(self, FORMER_NAMES[name], value)

    def _check(self) -> None:
        if self.n_components is not None:
            require_integer("n_components", self.n_components, least=1)
        for name in ("max_iter", "n_init"):
            require_integer(name, getattr(self, name), least=1)
        if self.random_state is not None:
            require_integer("random_state", self.random_state, least=0)
        require_number("tol", self.tol, above=0)
        require_number("reg_covar", self.reg_covar, least=0)
        require_bool("warm_start", self.warm_start)
        require_bool("noise", self.noise)
        if self.algorithm in ("sem", "saem"):
            raise InvalidArgumentError(
                f"algorithm={self.algorithm!r} is not available here: take 'em' or 'cem'"
            )
        require_choice("algorithm", self.algorithm, ("em", "cem"))
        require_choice("convergence", self.convergence, ("relative", "aitken"))
        require_choice("missing", self.missing, ("error", "em"))
        require_choice("prior_convention", self.prior_convention, PRIOR_CONVENTIONS)
        if self.batch_size is not None:
            require_integer("batch_size", self.batch_size, least=1)
        _check_temperature(self.temperature)
        _check_step_size(self.step_size)
        _require_both(self, "mean_prior", "mean_precision_prior")
        _require_both(self, "covariance_prior", "degrees_of_freedom_prior")

    @property
    def covariance_type_(self) -> str:
        """The code in mclust of the covariance type."""
        return CODES[self.covariance_type]

    def arguments(self) -> dict[str, Any]:
        """All arguments by name."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init}

    def __repr__(self) -> str:
        changed = [
            f"{each.name}={describe(getattr(self, each.name))}"
            for each in fields(self)
            if each.init
            and each.name not in ("device", "cem")
            and describe(getattr(self, each.name)) != describe(each.default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


def _warn(sentence: str) -> None:
    # Past __post_init__ and the dataclass's __init__, to the line that made the mixture.
    warnings.warn(sentence, DeprecationWarning, stacklevel=5)


def _check_temperature(temperature: Any) -> None:
    if temperature is None:
        return
    if not isinstance(temperature, tuple | list) or len(temperature) != 2:
        raise InvalidArgumentError(
            "temperature must be the first inverse temperature and the number of E-steps until it "
            f"is 1, got {describe(temperature)}"
        )
    require_number("temperature[0]", temperature[0], above=0, most=1)
    require_integer("temperature[1]", temperature[1], least=1)


def _check_step_size(step_size: Any) -> None:
    if step_size is None or step_size == "auto" or callable(step_size):
        return
    if isinstance(step_size, str):
        raise InvalidArgumentError(
            f"step_size must be a number in (0, 1], 'auto' or a function, got {step_size!r}"
        )
    require_number("step_size", step_size, above=0, most=1)


def _require_both(settings: Settings, first: str, second: str) -> None:
    given = [getattr(settings, name) is not None for name in (first, second)]
    if given[0] != given[1]:
        raise InvalidArgumentError(
            f"{first} and {second} make one prior: give both of them or neither"
        )
