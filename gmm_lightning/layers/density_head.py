"""Mixture density head: the last layer of a network, with one mixture per row of features."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gmm_lightning._tracing import is_transformed, value_of
from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.covariances import Covariance, as_covariance
from gmm_lightning.distributions import MixtureOfGaussians, as_mixture
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers._head_parametrization import make_parametrization
from gmm_lightning.layers._head_rows import check_rows, nonfinite_error, replace_rows, skip_rows
from gmm_lightning.layers._linear_map import call_linear, require_writable
from gmm_lightning.layers._row_chunks import map_row_chunks
from gmm_lightning.layers._target_units import warn_of_far_targets
from gmm_lightning.layers.parameters import prior_num_samples, require_batch_shape, tensor_options
from gmm_lightning.layers.pretrained import PretrainedMixin
from gmm_lightning.linalg import at_least_float32, full_precision
from gmm_lightning.priors import DataMoments, MixtureShape, PriorSpec, bind_priors
from gmm_lightning.rows import row_weights, weighted_mean


class DensityHead(PretrainedMixin):
    """Head for `p(y | h) = sum_k pi_k(h) N(y | mu_k(h), Sigma_k(h))`, by one linear map of h.

    The map is the module `linear`, which is called: adapters, hooks and quantisation take part.
    It works in units of the targets, which `initialize_from` takes over from a fitted layer;
    the mixture is in the user's units. Standard deviations, of a feature given those before it,
    stay between `1 / scale_range` and `scale_range` units, which bounds the loss below, and
    autocast is off: the loss is finite for features of 1e4 and in bfloat16, too.

    Shape:
        h `(*S, in_features)` gives mixtures of batch shape `(*S, *B)`; y is `(*S, *B, D)`.

    Args:
        in_features: width of h.
        num_features: D, width of y.
        num_components: K.
        covariance: name of a family, or an instance. Under a tied one, the K components of a row
            share its covariance.
        priors: a prior, a name, or a list of them, on the mixture of each row; they are copied.
            `Dirichlet(2.0)` keeps components from vanishing.
        shared_scale: the covariances are parameters, the same for all rows, not functions of h.
        batch_shape: B, for several mixtures per row: one per time step, or per output.
        scale_range: largest standard deviation in units of the targets; its inverse: the smallest.
        temperature: divides logits and multiplies covariances, as when sampling.
        device: of the parameters.
        dtype: float32 or float64.

    Attributes:
        linear: the map, `(*S, in_features)` to the numbers of all mixtures of a row.
        num_skipped: rows that `loss` left out as not finite; not part of checkpoints.

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
        batch_shape: tuple[int, ...] = (),
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
        self.batch_shape = require_batch_shape(batch_shape)
        self.shared_scale = shared_scale
        factory = tensor_options(device, dtype)
        self.covariance = as_covariance(covariance)
        k, d = self.num_components, self.num_features
        sizes = MixtureShape(k, d, self.covariance, self.batch_shape)
        self.parametrization = make_parametrization(
            sizes, self.scale_range, shared_scale=shared_scale, **factory
        )
        self._outputs_shape = (*self.batch_shape, self.parametrization.num_outputs)
        self.linear = nn.Linear(self.in_features, math.prod(self._outputs_shape), **factory)
        self.priors = bind_priors(priors, sizes).to(**factory)
        self._reset_bias(self.linear)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set what the constructor sets: equal weights, unit covariances, standard normal means.

        Raises:
            InvalidArgumentError: `linear` is no longer an `nn.Linear` with parameters of its own.
        """
        linear = require_writable(self.linear, "reset_parameters")
        linear.reset_parameters()
        self.parametrization.reset_parameters()
        self.priors.reset_parameters()
        self._reset_bias(linear)

    @torch.no_grad()
    def _reset_bias(self, linear: nn.Linear) -> None:
        self.num_skipped, self._judged_units = 0, False
        first = self.num_components
        bias = linear.bias.zero_().view(self._outputs_shape)
        bias[..., first : first * (1 + self.num_features)].normal_()

    @torch.no_grad()
    def initialize_from(self, source: Any) -> None:
        """Set the head to the marginal distribution of the targets, for any features.

        Units, biases and unset values of priors come from the source; the weights become zero.

        Args:
            source: a `GMMLayer` that was fitted to targets, or a mixture, of D features and K
                components: one for all mixtures of a row, or of batch shape B, one for each. The
                family projects its covariances.

        Raises:
            InvalidArgumentError: a source of other sizes, or `linear` is no longer an `nn.Linear`
                with parameters of its own.

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
        linear = require_writable(self.linear, "initialize_from")
        mixture = as_mixture(source, "source")
        expected = (self.num_components, self.num_features)
        if mixture.means.shape not in (expected, (*self.batch_shape, *expected)):
            each = f", or one for each of {tuple(self.batch_shape)}" if self.batch_shape else ""
            raise InvalidArgumentError(
                f"expected one mixture of num_components, num_features = {expected}{each}, got "
                f"means of shape {tuple(mixture.means.shape)}"
            )
        mixture = mixture.expand(self.batch_shape)
        linear.bias.copy_(self.parametrization.fit(mixture).flatten())
        linear.weight.zero_()
        pooled = self.covariance.project(mixture.covariance_matrix.unsqueeze(-3))
        moments = DataMoments(
            mixture.mean, pooled, centroids=mixture.means, variance=mixture.variance
        )
        for prior in self.all_priors:
            prior.resolve(moments, self.num_components)
        self._judged_units = False

    # -- the mixture ------------------------------------------------------------------------

    def forward(self, h: Tensor) -> MixtureOfGaussians:
        """Mixtures of each row, `(*S, *B)`, with gradients to h and the parameters."""
        check_rows(h, self.in_features)
        with full_precision(h.device):
            return self.parametrization(self._outputs(h), self.temperature)

    def log_prob(self, h: Tensor, y: Tensor) -> Tensor:
        """Log densities `log p(y | h)`, `(*S, *B)`: `self(h).log_prob(y)` in chunks, thus faster.

        Raises:
            InvalidArgumentError: shapes that do not fit each other.
        """
        check_rows(h, self.in_features, y, (*self.batch_shape, self.num_features))
        with full_precision(h.device):
            return self._log_prob(self._outputs(h), y)

    def _outputs(self, h: Tensor) -> Tensor:
        """What the linear map returns, `(*S, *B, Q)`, in units of the targets."""
        h, shape = h.to(self.parametrization.dtype), self._outputs_shape
        return call_linear(self.linear, h, math.prod(shape)).unflatten(-1, shape)

    def _log_prob(self, outputs: Tensor, y: Tensor) -> Tensor:
        log_prob = partial(self.parametrization.log_prob, temperature=self.temperature)
        rows, lead = (outputs, y.to(outputs.dtype)), outputs.dim() - len(self._outputs_shape)
        return map_row_chunks(log_prob, rows, self.parametrization.rescaling(), lead)

    # -- training ---------------------------------------------------------------------------

    def log_prior(self, mixture: MixtureOfGaussians) -> Tensor:
        """Log density of each mixture's parameters under the priors, `(*S, *B)`, up to a constant.

        Raises:
            UnresolvedPriorError: a prior has no values yet: call `initialize_from`.
        """
        return self.priors.log_prob(mixture)

    def loss(
        self,
        h: Tensor,
        y: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        num_samples: int | None = None,
        skip_nonfinite: bool = False,
    ) -> Tensor:
        """Loss `-mean log p(y | h) - mean log_prior / num_samples`, `()`, in nats per row.

        The means are by the weights. What rows hold that do not count, NaN too, changes neither
        the loss nor a gradient; without a row that counts it is 0.

        Args:
            h: features `(*S, in_features)`.
            y: targets `(*S, *B, D)`.
            weight: of targets, at least 0, broadcasts to `(*S, *B)`; None: each counts once.
            mask: booleans that broadcast to `(*S, *B)`, True for targets that count, such as
                those of sequences without their padding.
            num_samples: rows of the training set, for a mini-batch; None: the rows here, a row
                counting as its weight, at least 1.
            skip_nonfinite: leave out rows that are not finite, and count them in `num_skipped`.
                A network that made such features has NaN gradients: leave them out of its input.

        Raises:
            InvalidArgumentError: shapes that do not fit each other, or a mask of numbers.
            InvalidDataError: a row that counts has NaN or infinity, or no finite density; or
                weights are negative or not finite.

        Example:
            >>> head, lengths = DensityHead(16, 2, 3), torch.tensor([[5], [3]])
            >>> h, y = torch.randn(2, 5, 16), torch.randn(2, 5, 2)
            >>> y[1, 3:] = float("nan")  # padding
            >>> head.loss(h, y, mask=torch.arange(5) < lengths).isfinite()
            tensor(True)
        """
        check_rows(h, self.in_features, y, (*self.batch_shape, self.num_features))
        like = at_least_float32(self.parametrization.unit)
        weights = row_weights(y.shape[:-1], like, weight, mask)
        if skip_nonfinite:
            weights, skipped = skip_rows(h, y, weights, like)
            self.num_skipped += skipped
        h, y = replace_rows(h, y, weights, self.parametrization.loc)
        with full_precision(h.device):
            outputs = self._outputs(h)
            log_prob = self._log_prob(outputs, y)
        good = value_of(torch.isfinite(log_prob).all())
        if good is False:
            raise nonfinite_error(h, y, outputs, log_prob)
        # Of the first rows alone: reading values of every batch would wait for the device.
        if good and y.numel() and not self._judged_units and not is_transformed(outputs, y):
            self._judged_units = True
            warn_of_far_targets(self.parametrization, outputs, y, weights)
        loss = -weighted_mean(log_prob, weights)
        if len(self.priors):
            with full_precision(h.device):
                each = self.log_prior(self.parametrization(outputs, self.temperature))
            total = log_prob.numel() if weights is None else weights.sum()
            rows = total / self.batch_shape.numel()
            loss = loss - weighted_mean(each, weights) / prior_num_samples(num_samples, rows)
        return loss
