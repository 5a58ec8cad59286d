"""The interface of noise: one more component of a mixture, which no Gaussian explains."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from gmm_lightning._messages import describe
from gmm_lightning._validation import is_number, require_bool, require_number
from gmm_lightning.errors import GMMError, InvalidArgumentError, UnresolvedNoiseError
from gmm_lightning.hyperparameters import Hyperparameter, HyperparameterModule
from gmm_lightning.rows import Batch, RowSource


class Noise(HyperparameterModule, ABC):
    """A component of weight `p0` whose density `u(x)` no M-step changes.

        p(x) = (1 - p0) sum_k pi_k N(x | mu_k, Sigma_k) + p0 u(x)

    EM and gradient descent estimate p0, or it stays fixed. What of u follows from the data is a
    buffer of NaN until a fit starts.

    Args:
        weight: p0 at the start, in (0, 1).
        fixed: whether it stays there.
        concentration: of a Dirichlet prior on p0: `concentration - 1` rows of noise are added to
            those of the data; two numbers `(a, b)` are a beta prior, which adds `b - 1` rows to
            the components, too. None: no prior.
        hyper: what of u was given, by name.

    Attributes:
        logit: `log p0 / (1 - p0)`, `(*B)`, once a layer has bound the noise: a parameter, or a
            buffer where it is fixed.
        start_weight: p0 at the start of a fit.

    Raises:
        InvalidArgumentError: a weight outside (0, 1), or a concentration below 1, whose density
            has no mode.

    References:
        J. D. Banfield, A. E. Raftery (1993), Model-based Gaussian and non-Gaussian clustering,
        Biometrics 49.
    """

    noun: ClassVar[str] = "noise"
    unresolved: ClassVar[type[GMMError]] = UnresolvedNoiseError
    logit: Tensor

    def __init__(
        self,
        weight: float = 0.05,
        *,
        fixed: bool = False,
        concentration: Any = None,
        **hyper: Hyperparameter,
    ) -> None:
        super().__init__(**hyper)
        for name in hyper:
            self._require_above(name, -math.inf, "finite")
        self.start_weight = require_number("weight of the noise", weight, above=0, most=1)
        if self.start_weight == 1:
            raise InvalidArgumentError("weight of the noise must be below 1, got 1")
        self.fixed = require_bool("fixed", fixed)
        self.concentration = _as_concentration(concentration)
        if fixed and concentration is not None:
            raise InvalidArgumentError(
                "concentration is of a prior on the weight of the noise, and fixed=True does not "
                "estimate it: leave one of them out"
            )

    # -- what a kind of noise defines -------------------------------------------------------

    @property
    def has_draws(self) -> bool:
        """Whether `sample` draws, since the density integrates to one."""
        return True

    @abstractmethod
    def log_density(self, x: Tensor, missing: str | None = None) -> Tensor:
        """Log density `log u(x)` in nats: `(*S, *B, D)` -> `(*S, *B)`.

        Args:
            x: the rows.
            missing: None: no entry is NaN. `marginalize`: the density of those that are not.
        """

    @abstractmethod
    def register(self, num_features: int) -> None:
        """Register what u needs as buffers `(*B, ...)`, and check what is given."""

    @abstractmethod
    def resolve(self, source: RowSource) -> None:
        """Fill in what follows from the data and was not given, from all rows."""

    @abstractmethod
    def sample(self, size: tuple[int, ...], generator: Generator | None = None) -> Tensor:
        """Draws of noise, `(*size, *B, D)`.

        Raises:
            InvalidArgumentError: the noise has a density, and no draws.
        """

    # -- for all kinds ----------------------------------------------------------------------

    def bind(self, num_features: int, batch_shape: tuple[int, ...]) -> None:
        """Register the weight and the buffers, of a layer's sizes."""
        self.batch_shape = tuple(batch_shape)
        # What is given keeps its digits until a layer takes its own dtype.
        logit = torch.full(self.batch_shape, self.start_logit, dtype=torch.float64)
        if self.fixed:
            self.register_buffer("logit", logit)
        else:
            self.logit = nn.Parameter(logit)
        self.register(num_features)

    @property
    def start_logit(self) -> float:
        """The logit of the weight at the start of a fit."""
        return math.log(self.start_weight) - math.log1p(-self.start_weight)

    @property
    def weight(self) -> Tensor:
        """Weight `p0`, `(*B)`."""
        return self.logit.sigmoid()

    @property
    def num_free_parameters(self) -> int:
        """Estimated parameters of one mixture: the weight, unless it is fixed."""
        return 0 if self.fixed else 1

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the weight of the start; what follows from data is open again."""
        super().reset_parameters()
        self.logit.fill_(self.start_logit)

    def log_prior(self, logit: Tensor | None = None) -> Tensor:
        """Log density of the weight under its prior, of the shape of its logits, up to a constant.

        Args:
            logit: of the weights; None: the present ones.
        """
        logit = self.logit if logit is None else logit
        if self.concentration is None:
            return torch.zeros_like(logit)
        a, b = self.concentration
        return (a - 1) * F.logsigmoid(logit) + (b - 1) * F.logsigmoid(-logit)

    def log_evident_density(
        self, rows: Batch, evidence: nn.Module | None, missing: str | None = None
    ) -> Tensor:
        """Log density of rows that are noise and of what evidence says of such, `(*S, *B)`.

        A label, for instance, is of a class, and no class is noise: -inf for a row that has one.

        Args:
            rows: of the layer.
            evidence: of the layer; without a method `log_noise` it says nothing.
            missing: see `log_density`.
        """
        log_density = self.log_density(rows.x, missing)
        log_noise = getattr(evidence, "log_noise", None)
        return log_density if log_noise is None else log_density + log_noise(rows)

    def append_to(
        self,
        log_joint: Tensor,
        rows: Batch,
        evidence: nn.Module | None,
        missing: str | None = None,
    ) -> Tensor:
        """Log joint densities `(*S, *B, K)` with those of the noise as one more component.

        Arguments are as for `log_evident_density`.
        """
        entry = F.logsigmoid(self.logit) + self.log_evident_density(rows, evidence, missing)
        return torch.cat([log_joint, entry.unsqueeze(-1).to(log_joint)], -1)

    def update(self, noise: Tensor, components: Tensor, present: Tensor) -> Tensor:
        """The logit that maximises the expected objective, of the shape of the rows' sums.

        Args:
            noise: expected rows of noise.
            components: expected rows of all Gaussian components together.
            present: the logit before, which a fixed weight keeps.
        """
        if self.fixed:
            return present
        a, b = self.concentration or (1.0, 1.0)
        mass = torch.stack([noise + (a - 1), components + (b - 1)])
        # A weight of zero becomes the smallest positive number: its gradients stay finite.
        least = torch.finfo(present.dtype).tiny
        log_share = (mass / mass.sum(0)).clamp(min=least).log()
        return (log_share[0] - log_share[1]).to(present)

    @torch.no_grad()
    def resolve_part(self, index: Tensor, source: RowSource) -> None:
        """Fill in what follows from the rows `(N, M, D)` of the mixtures `index` `(M,)` of a batch.

        Example:
            >>> from gmm_lightning.noise import Uniform
            >>> from gmm_lightning.rows import as_source
            >>> source = as_source(torch.tensor([[3.0], [5.0]]), num_features=1)
            >>> noise = Uniform()
            >>> noise.bind(num_features=1, batch_shape=(2,))
            >>> noise.resolve_part(torch.tensor([1]), source)
            >>> noise.low.flatten().tolist(), noise.high.flatten().tolist()
            ([nan, 3.0], [nan, 5.0])
        """
        own = self.select(index)
        own.resolve(source)
        for name in self._sources:
            self.get_buffer(name)[index] = own.get_buffer(name)

    def config(self) -> dict[str, Any]:
        """Constructor arguments as primitives."""
        pair = None if self.concentration is None else list(self.concentration)
        own = {"weight": self.start_weight, "fixed": self.fixed, "concentration": pair}
        return own | super().config()

    def reorder(self, index: Tensor) -> None:
        """Nothing: no component has a part of it."""


def _as_concentration(value: Any) -> tuple[float, float] | None:
    """The two parameters of a beta prior, from one or two numbers that are at least 1."""
    if value is None:
        return None
    pair = [value, 1.0] if is_number(value) else value
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise InvalidArgumentError(
            f"concentration of the noise must be one number or two, got {describe(value)}"
        )
    a, b = (require_number("concentration of the noise", one, least=1) for one in pair)
    return a, b
