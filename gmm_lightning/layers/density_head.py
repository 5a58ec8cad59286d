"""A mixture density network's last layer: features in, one mixture per row out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gmm_lightning._chunking import is_tracing
from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.covariances import Covariance, as_covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.layers._chunked import ChunkedRows, rows_at_once
from gmm_lightning.layers._description import describe
from gmm_lightning.layers.parameters import prior_rows, projected_scale
from gmm_lightning.layers.pretrained import Pretrained
from gmm_lightning.linalg import LOG_2PI, at_least_float32, full_precision
from gmm_lightning.priors import Prior, PriorSpec, bind_priors, list_priors, sum_log_prob
from gmm_lightning.statistics import DataMoments


class DensityHead(Pretrained):
    """`p(y | h) = sum_k pi_k(h) N(y | mu_k(h), Sigma_k(h))`, one linear map to all parameters.

    The map works in units of the targets (`loc`, `unit`), which `initialize_from` takes over from
    a fitted layer; the mixture is in the user's units. Standard deviations, of a feature given
    those before it, stay between `1 / scale_range` and `scale_range` units, so the loss is bounded
    below, and autocast is switched off: neither features of 1e4 nor bfloat16 make it other than
    finite.

    Shape:
        h `(*S, in_features)` gives a mixture of batch shape `*S`; with targets y `(*S, D)`,
        `log_prob(h, y)` is `(*S)`.

    Args:
        in_features: width of h.
        num_features: D, width of y.
        num_components: K.
        covariance: name of a family, or an instance. Under a tied one, the K components of a row
            share its covariance.
        priors: a prior, a name, or a list of them, on the mixture of each row; they are copied.
            `Dirichlet(2.0)` keeps components from vanishing.
        shared_scale: the covariances are parameters of their own: the same for all rows.
        scale_range: standard deviations are at most this many units of the targets, and at least
            one over it.
        temperature: divides logits and multiplies covariances, as when sampling.
        device: where the parameters live.
        dtype: their dtype, float32 or float64.

    Attributes:
        num_skipped: rows that `loss` has left out so far, in this process; no checkpoint holds it.

    Raises:
        InvalidArgumentError: a size below 1, a range or a temperature out of its range, an unknown
            name, or priors in each other's way.

    References:
        C. M. Bishop (1994), Mixture density networks, Aston University NCRG/94/004.
        P. M. Williams (1996), Using neural networks to model conditional multivariate densities,
        Neural Computation 8.

    Example:
        >>> head = DensityHead(in_features=16, num_features=2, num_components=3)
        >>> h, y = torch.randn(8, 16), torch.randn(8, 2)
        >>> head.loss(h, y).backward()
        >>> head(h).mean.shape
        torch.Size([8, 2])
    """

    loc: Tensor
    unit: Tensor
    log_unit: Tensor

    def __init__(
        self,
        in_features: int,
        num_features: int,
        num_components: int,
        covariance: str | Covariance = "full",
        priors: PriorSpec = None,
        *,
        shared_scale: bool = False,
        scale_range: float = 1e3,
        temperature: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = require_integer("in_features", in_features, least=1)
        self.num_features = require_integer("num_features", num_features, least=1)
        self.num_components = require_integer("num_components", num_components, least=1)
        self.scale_range = require_number("scale_range", scale_range, above=1)
        self.temperature = require_number("temperature", temperature, above=0)
        self.shared_scale = shared_scale
        if dtype not in (None, torch.float32, torch.float64):
            raise InvalidArgumentError(f"dtype must be float32 or float64, got {dtype}")
        self.covariance = as_covariance(covariance).predicted()
        made: dict[str, Any] = {"device": device, "dtype": dtype or torch.get_default_dtype()}
        shape = self.covariance.shape(num_components, num_features)
        width = num_components * (1 + num_features)
        self.linear = nn.Linear(
            in_features, width if shared_scale else width + math.prod(shape), **made
        )
        self.raw_scale = nn.Parameter(torch.zeros(shape, **made)) if shared_scale else None
        self.register_buffer("loc", torch.zeros(num_features, **made))
        self.register_buffer("unit", torch.ones(num_features, **made))
        # The raw form of covariances whose standard deviations are the units.
        self.register_buffer("log_unit", torch.zeros((1, *shape[1:]), **made))
        self.num_skipped = 0
        self.priors = bind_priors(priors, num_components, num_features, self.covariance).to(**made)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Equal weights, unit covariances and standard normal means, but for what h adds."""
        self.linear.reset_parameters()
        if self.linear.bias.is_meta:
            return
        self.linear.bias.zero_()
        k = self.num_components
        self.linear.bias[k : k * (1 + self.num_features)].normal_()
        if self.raw_scale is not None:
            self.raw_scale.zero_()

    @torch.no_grad()
    def initialize_from(self, source: Any) -> None:
        """Begin at the marginal law of the targets, whatever the features are.

        Units, biases and the open values of the priors come from the source; the weights of the
        linear map become zero.

        Args:
            source: a `GMMLayer` that was fitted to targets, or a mixture, with D features and K
                components. Its covariances are projected by the family.

        Raises:
            InvalidArgumentError: a source of other sizes, or a batch of mixtures.

        Example:
            >>> from gmm_lightning import GMMLayer, fit_em
            >>> y = torch.randn(500, 2)
            >>> layer = GMMLayer(2, 3)
            >>> result = fit_em(layer, y)
            >>> head = DensityHead(16, 2, 3)
            >>> head.initialize_from(layer)
            >>> torch.allclose(head.log_prob(torch.randn(500, 16), y), layer(y), atol=1e-4)
            True
        """
        mixture = as_mixture(source)
        expected = (self.num_components, self.num_features)
        if mixture.means.shape != expected:
            raise InvalidArgumentError(
                "expected one mixture of num_components, num_features = "
                f"{expected}, got means of shape {tuple(mixture.means.shape)}"
            )
        variance = mixture.variance
        self.loc.copy_(mixture.mean)
        self.unit.copy_(torch.where(variance > 0, variance, 1.0).sqrt())
        loc, unit = self.loc.to(mixture.means), self.unit.to(mixture.means)
        own = self.covariance.project(unit.square().diag_embed().unsqueeze(0))
        own = self.covariance.estimate(own, unit.new_ones(1))
        self.log_unit.copy_(self.covariance.raw(own))
        family = self.covariance
        scale = projected_scale(family, mixture.component_covariances, mixture.weights)
        raw = family.raw(scale) - self.log_unit.to(scale)
        raw = raw / family.raw_entry_scales(unit, self.num_components)
        raw = family.on_logs(self._unbound, self.num_features, raw)
        means = (mixture.means - loc) / unit
        parts = [mixture.log_weights, means.flatten()]
        if self.raw_scale is None:
            parts.append(raw.flatten())
        else:
            self.raw_scale.copy_(raw)
        self.linear.bias.copy_(torch.cat(parts))
        self.linear.weight.zero_()
        whole = self.covariance.project(mixture.covariance_matrix.unsqueeze(-3))
        for prior in self.all_priors:
            prior.resolve(DataMoments(mixture.mean, whole), self.num_components)

    @property
    def all_priors(self) -> list[Prior]:
        """The head's own copies of its priors."""
        return list_priors(self.priors)

    # -- the mixture ------------------------------------------------------------------------

    def forward(self, h: Tensor) -> MixtureOfGaussians:
        """The mixture of each row, with gradients to h and the parameters."""
        self._check(h)
        with full_precision(h.device):
            weight, bias = self._in_user_units()
            return self._mixture(functional.linear(h.to(weight.dtype), weight, bias))

    def log_prob(self, h: Tensor, y: Tensor) -> Tensor:
        """`log p(y | h)`, `(*S)`: `self(h).log_prob(y)`, faster and in less memory.

        Rows are worked through in chunks that stay in the cache, forwards and backwards.

        Raises:
            InvalidArgumentError: shapes that do not fit each other.
        """
        self._check(h, y)
        with full_precision(h.device):
            weight, bias = self._in_user_units()
            h, y = h.to(weight.dtype), y.to(weight.dtype)
            lead = h.shape[:-1]
            whole = is_tracing() or self.raw_scale is not None
            if whole or lead.numel() <= rows_at_once(len(bias), h.device):
                return self._value(functional.linear(h, weight, bias), y)
            rows, targets = h.reshape(-1, h.shape[-1]), y.reshape(-1, y.shape[-1])
            parts = (rows, weight, bias, targets)
            if torch.is_grad_enabled() and any(part.requires_grad for part in parts):
                values: Any = ChunkedRows.apply(*parts, self._value)
            else:
                step = rows_at_once(len(bias), h.device)
                pairs = zip(rows.split(step), targets.split(step), strict=True)
                values = torch.cat(
                    [self._value(functional.linear(r, weight, bias), t) for r, t in pairs]
                )
            return values.reshape(lead)

    def _value(self, result: Tensor, y: Tensor) -> Tensor:
        """`self._mixture(result).log_prob(y)`, from the raw entries of the covariances."""
        logits, means, raw = self._parts(result)
        diff = y.unsqueeze(-2) - means
        white, log_scale = self.covariance.whiten_raw(self._bound, diff, raw, self.log_unit)
        constant = logits.log_softmax(-1) - log_scale - 0.5 * self.num_features * LOG_2PI
        return (constant - 0.5 * white.square().sum(-1)).logsumexp(-1)

    def _in_user_units(self) -> tuple[Tensor, Tensor]:
        """The linear map to the means of y instead of `(y - loc) / unit`, and so for covariances.

        Of their raw entries, logarithms are shifted later on, and others multiply a unit.
        """
        k, unit, loc = self.num_components, at_least_float32(self.unit), self.loc
        gain = [unit.new_ones(k), unit.repeat(k)]
        shift = [unit.new_zeros(k), loc.to(unit).repeat(k)]
        if self.raw_scale is None:
            gain.append(self._raw_units().flatten())
            shift.append(torch.zeros_like(gain[-1]))
        every = torch.cat(gain)
        weight = self.linear.weight * every.unsqueeze(-1)
        return weight, self.linear.bias * every + torch.cat(shift)

    def _raw_units(self) -> Tensor:
        unit = at_least_float32(self.unit) * math.sqrt(self.temperature)
        return self.covariance.raw_entry_scales(unit, self.num_components)

    def _mixture(self, result: Tensor) -> MixtureOfGaussians:
        """The mixture that the linear map's result, in the user's units, stands for."""
        logits, means, raw = self._parts(result)
        family = self.covariance
        raw = family.on_logs(self._bound, self.num_features, raw, self.log_unit)
        return MixtureOfGaussians(logits, means, family.scale(raw), family)

    def _parts(self, result: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits `(*S, K)`, means `(*S, K, D)` and raw entries `(*S, G, ...)`."""
        k, d = self.num_components, self.num_features
        lead, shape = result.shape[:-1], self.covariance.shape(k, d)
        logits, means, raw = result.split((k, k * d, result.shape[-1] - k * (1 + d)), -1)
        if self.raw_scale is None:
            raw = raw.reshape(*lead, *shape)
        else:
            raw = (self.raw_scale * self._raw_units()).expand(*lead, *shape)
        if self.temperature != 1:
            logits = logits / self.temperature
        return logits, means.reshape(*lead, k, d), raw

    def _bound(self, logs: Tensor, log_unit: Tensor) -> Tensor:
        """Smoothly to within the range about the unit; then the temperature."""
        limit = math.log(self.scale_range)
        middle = log_unit + 0.5 * math.log(self.temperature)
        return middle + limit * torch.tanh(logs / limit)

    def _unbound(self, logs: Tensor) -> Tensor:
        # A covariance at the bound would have no gradient.
        limit = math.log(self.scale_range)
        return limit * torch.atanh((logs / limit).clamp(-0.99, 0.99))

    # -- training ---------------------------------------------------------------------------

    def log_prior(self, mixture: MixtureOfGaussians) -> Tensor:
        """Log density of each row's parameters under the priors, `(*S)`, up to a constant.

        Raises:
            UnresolvedPriorError: a prior waits for `initialize_from`.
        """
        return sum_log_prob(self.priors, mixture)

    def loss(
        self,
        h: Tensor,
        y: Tensor,
        *,
        num_samples: int | None = None,
        skip_nonfinite: bool = False,
    ) -> Tensor:
        """`-mean log p(y | h) - mean log_prior / num_samples`, in nats per row, a scalar.

        Args:
            h: features `(*S, in_features)`.
            y: targets `(*S, D)`.
            num_samples: rows of the training set, when these are a mini-batch of it; None: the
                rows here.
            skip_nonfinite: leave out rows with a feature or target that is not finite, and count
                them in `num_skipped`. The loss of no rows is 0. A network that turned NaN into
                such features has NaN gradients all the same: leave these rows out before it.

        Raises:
            InvalidArgumentError: shapes that do not fit each other.
            InvalidDataError: a row with NaN or infinity, or one whose density is none.
        """
        self._check(h, y)
        if skip_nonfinite:
            kept = torch.isfinite(h).all(-1) & torch.isfinite(y).all(-1)
            self.num_skipped += int(kept.numel() - kept.sum())
            h, y = h[kept], y[kept]
        rows = h.shape[:-1].numel()
        if rows == 0:
            return 0.0 * sum(p.sum() for p in self.parameters()) + 0.0 * h.sum()
        if len(self.priors):
            mixture = self(h)
            log_prob = mixture.log_prob(y.to(mixture.means.dtype))
            penalty = self.log_prior(mixture).mean() / prior_rows(num_samples, rows)
        else:
            log_prob, penalty = self.log_prob(h, y), 0.0
        if not is_tracing() and not bool(torch.isfinite(log_prob).all()):
            raise unusable(h, y, log_prob)
        return -log_prob.mean() - penalty

    def _check(self, h: Tensor, y: Tensor | None = None) -> None:
        if not isinstance(h, Tensor) or h.dim() == 0 or h.shape[-1] != self.in_features:
            raise InvalidArgumentError(f"expected features (*S, {self.in_features}), got {came(h)}")
        if y is None:
            return
        expected = (*h.shape[:-1], self.num_features)
        if not isinstance(y, Tensor) or y.shape != expected:
            hint = "; write y[:, None]" if expected == (*getattr(y, "shape", ()), 1) else ""
            raise InvalidArgumentError(
                f"features of shape {tuple(h.shape)} need targets of shape {expected}, got "
                f"{came(y)}{hint}"
            )

    # -- description ------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """What rebuilds the head, as primitives: registry names and plain values."""
        return describe(
            self,
            in_features=self.in_features,
            num_features=self.num_features,
            num_components=self.num_components,
            shared_scale=self.shared_scale,
            scale_range=self.scale_range,
            temperature=self.temperature,
        )

    def extra_repr(self) -> str:
        """Sizes and family."""
        shared = ", shared_scale=True" if self.shared_scale else ""
        return (
            f"in_features={self.in_features}, num_features={self.num_features}, "
            f"num_components={self.num_components}, covariance={self.covariance.name!r}{shared}"
        )


def came(value: Any) -> str:
    """What an error says of an argument."""
    if isinstance(value, Tensor):
        return f"shape {tuple(value.shape)}"
    return f"{type(value).__name__}; write torch.as_tensor(...)"


def as_mixture(source: Any) -> MixtureOfGaussians:
    """A mixture, or that of a layer.

    Raises:
        InvalidArgumentError: something else.
    """
    make = getattr(source, "distribution", None)
    source = make() if callable(make) else source
    if not isinstance(source, MixtureOfGaussians):
        raise InvalidArgumentError(f"expected a GMMLayer or a mixture, got {source!r}")
    return source


def unusable(h: Tensor, y: Tensor, log_prob: Tensor) -> InvalidDataError:
    """What is wrong with rows that have no density."""
    for name, value in (("features", h), ("targets", y)):
        bad = ~torch.isfinite(value).all(-1).reshape(-1)
        if bool(bad.any()):
            found = bad.nonzero().squeeze(-1)
            return InvalidDataError(
                f"{len(found)} row(s) of the {name} are not finite, the first is row "
                f"{int(found[0])}; skip_nonfinite=True leaves them out"
            )
    found = (~torch.isfinite(log_prob).reshape(-1)).nonzero().squeeze(-1)
    return InvalidDataError(
        f"row {int(found[0])} has log-density {log_prob.reshape(-1)[found[0]].item()}: its "
        "features or its target are out of reach of the numbers; standardise them, or call "
        "initialize_from for the targets"
    )
