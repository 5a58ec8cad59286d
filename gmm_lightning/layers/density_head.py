"""Mixture density head: the last layer of a network, with one mixture per row of features."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gmm_lightning._chunking import is_tracing
from gmm_lightning._validation import format_rows, format_value, require_integer, require_number
from gmm_lightning.covariances import Covariance, as_covariance
from gmm_lightning.distributions import MixtureOfGaussians, as_mixture
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.layers._chunked import map_linear_chunks
from gmm_lightning.layers._head_parametrization import make_parametrization
from gmm_lightning.layers.parameters import prior_num_samples, tensor_options
from gmm_lightning.layers.pretrained import PretrainedMixin
from gmm_lightning.linalg import full_precision
from gmm_lightning.priors import DataMoments, MixtureShape, PriorSpec, bind_priors


class DensityHead(PretrainedMixin):
    """Head for `p(y | h) = sum_k pi_k(h) N(y | mu_k(h), Sigma_k(h))`, by one linear map of h.

    The map works in units of the targets, which `initialize_from` takes over from a fitted layer;
    the mixture is in the user's units. Standard deviations, of a feature given those before it,
    stay between `1 / scale_range` and `scale_range` units, which bounds the loss below, and
    autocast is off: the loss is finite for features of 1e4 and in bfloat16, too.

    Shape:
        h `(*S, in_features)` gives a mixture of batch shape `*S`; y is `(*S, D)`.

    Args:
        in_features: width of h.
        num_features: D, width of y.
        num_components: K.
        covariance: name of a family, or an instance. Under a tied one, the K components of a row
            share its covariance.
        priors: a prior, a name, or a list of them, on the mixture of each row; they are copied.
            `Dirichlet(2.0)` keeps components from vanishing.
        shared_scale: the covariances are parameters, the same for all rows, not functions of h.
        scale_range: largest standard deviation in units of the targets; its inverse: the smallest.
        temperature: divides logits and multiplies covariances, as when sampling.
        device: of the parameters.
        dtype: float32 or float64.

    Attributes:
        num_skipped: rows that `loss` has left out so far; not part of checkpoints.

    Raises:
        InvalidArgumentError: a size below 1, a range or a temperature out of its range, an unknown
            name, a family without `log_scale_mask`, or two priors on the same parameters.

    References:
        C. M. Bishop (1994), Mixture density networks, Aston University NCRG/94/004.

    Example:
        >>> head = DensityHead(in_features=16, num_features=2, num_components=3)
        >>> h, y = torch.randn(8, 16), torch.randn(8, 2)
        >>> head.loss(h, y).backward()
        >>> head(h).mean.shape
        torch.Size([8, 2])
    """

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
        factory = tensor_options(device, dtype)
        self.covariance = as_covariance(covariance)
        sizes = MixtureShape(self.num_components, self.num_features, self.covariance)
        self.parametrization = make_parametrization(
            sizes, self.scale_range, shared_scale=shared_scale, **factory
        )
        self.linear = nn.Linear(self.in_features, self.parametrization.num_outputs, **factory)
        self.num_skipped = 0
        self.priors = bind_priors(priors, sizes).to(**factory)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set biases to equal weights, unit covariances and standard normal means."""
        self.linear.reset_parameters()
        self.linear.bias.zero_()
        k = self.num_components
        self.linear.bias[k : k * (1 + self.num_features)].normal_()
        if self.parametrization.raw_scale is not None:
            self.parametrization.raw_scale.zero_()

    @torch.no_grad()
    def initialize_from(self, source: Any) -> None:
        """Set the head to the marginal distribution of the targets, for any features.

        Units, biases and unset values of priors come from the source; the weights become zero.

        Args:
            source: a `GMMLayer` that was fitted to targets, or a mixture, of D features and K
                components. The family projects its covariances.

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
        mixture = as_mixture(source, "source")
        expected = (self.num_components, self.num_features)
        if mixture.means.shape != expected:
            raise InvalidArgumentError(
                "expected one mixture of num_components, num_features = "
                f"{expected}, got means of shape {tuple(mixture.means.shape)}"
            )
        self.linear.bias.copy_(self.parametrization.fit(mixture))
        self.linear.weight.zero_()
        pooled = self.covariance.project(mixture.covariance_matrix.unsqueeze(-3))
        for prior in self.all_priors:
            prior.resolve(DataMoments(mixture.mean, pooled), self.num_components)

    # -- the mixture ------------------------------------------------------------------------

    def forward(self, h: Tensor) -> MixtureOfGaussians:
        """Mixture of each row, with gradients to h and the parameters."""
        _check_rows(self, h)
        with full_precision(h.device):
            weight, bias = self.parametrization.rescale_linear(self.linear)
            outputs = functional.linear(h.to(weight.dtype), weight, bias)
            return self.parametrization(outputs, self.temperature)

    def log_prob(self, h: Tensor, y: Tensor) -> Tensor:
        """Log densities `log p(y | h)`, `(*S)`: `self(h).log_prob(y)` in chunks, thus faster.

        Raises:
            InvalidArgumentError: shapes that do not fit each other.
        """
        _check_rows(self, h, y)
        with full_precision(h.device):
            weight, bias = self.parametrization.rescale_linear(self.linear)
            h, y = h.to(weight.dtype), y.to(weight.dtype)
            log_prob = partial(self.parametrization.log_prob, temperature=self.temperature)
            if is_tracing() or self.shared_scale:
                return log_prob(functional.linear(h, weight, bias), y)
            rows, targets = h.reshape(-1, h.shape[-1]), y.reshape(-1, y.shape[-1])
            values = map_linear_chunks(log_prob, rows, weight, bias, targets)
            return values.reshape(h.shape[:-1])

    # -- training ---------------------------------------------------------------------------

    def log_prior(self, mixture: MixtureOfGaussians) -> Tensor:
        """Log density of each row's parameters under the priors, `(*S)`, up to a constant.

        Raises:
            UnresolvedPriorError: a prior has no values yet: call `initialize_from`.
        """
        return self.priors.log_prob(mixture)

    def loss(
        self,
        h: Tensor,
        y: Tensor,
        *,
        num_samples: int | None = None,
        skip_nonfinite: bool = False,
    ) -> Tensor:
        """Loss `-mean log p(y | h) - mean log_prior / num_samples`, `()`, in nats per row.

        Args:
            h: features `(*S, in_features)`.
            y: targets `(*S, D)`.
            num_samples: rows of the training set, for a mini-batch; None: the rows here.
            skip_nonfinite: leave out rows with a feature or target that is not finite, and count
                them in `num_skipped`. The loss without rows is 0. The network that made such
                features still has NaN gradients: leave these rows out of its input.

        Raises:
            InvalidArgumentError: shapes that do not fit each other.
            InvalidDataError: a row with NaN or infinity, or without a finite density.
        """
        _check_rows(self, h, y)
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
            penalty = self.log_prior(mixture).mean() / prior_num_samples(num_samples, rows)
        else:
            log_prob, penalty = self.log_prob(h, y), 0.0
        if not is_tracing() and not bool(torch.isfinite(log_prob).all()):
            raise _nonfinite_error(h, y, log_prob)
        return -log_prob.mean() - penalty


def _check_rows(head: DensityHead, h: Tensor, y: Tensor | None = None) -> None:
    width = head.in_features
    if not isinstance(h, Tensor) or h.dim() == 0 or h.shape[-1] != width:
        raise InvalidArgumentError(f"expected features (*S, {width}), got {format_value(h)}")
    if y is None:
        return
    expected = (*h.shape[:-1], head.num_features)
    if not isinstance(y, Tensor) or y.shape != expected:
        hint = "; write y[:, None]" if expected == (*getattr(y, "shape", ()), 1) else ""
        raise InvalidArgumentError(
            f"features of shape {tuple(h.shape)} need targets of shape {expected}, got "
            f"{format_value(y)}{hint}"
        )


def _nonfinite_error(h: Tensor, y: Tensor, log_prob: Tensor) -> InvalidDataError:
    for name, value in (("features", h), ("targets", y)):
        bad = ~torch.isfinite(value).all(-1).reshape(-1)
        if bool(bad.any()):
            return InvalidDataError(
                f"the {name} are not finite in row(s) {format_rows(bad)}; skip_nonfinite=True "
                "leaves them out"
            )
    bad = ~torch.isfinite(log_prob).reshape(-1)
    return InvalidDataError(
        f"the log density is not finite in row(s) {format_rows(bad)}: features or targets are out "
        "of reach of the numbers; standardise them, or call initialize_from for the targets"
    )
