"""A Gaussian mixture as a trainable layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from gmm_lightning._validation import require_integer
from gmm_lightning.covariances import Covariance, as_covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.evidence import EvidenceSpec, bind_evidence
from gmm_lightning.hyperparameters import MixtureShape
from gmm_lightning.layers._ordered import OrderedMixin
from gmm_lightning.layers._state import OPEN_LENGTH, StateRule, definite_rule
from gmm_lightning.layers.parameters import (
    prior_num_samples,
    project_parameters,
    require_batch_shape,
    tensor_options,
)
from gmm_lightning.layers.pretrained import PretrainedMixin
from gmm_lightning.linalg import mixture_logits
from gmm_lightning.noise import NoiseSpec, bind_noise
from gmm_lightning.priors import PriorSpec, bind_priors
from gmm_lightning.projections import ProjectionSpec, bind_projections


class GMMLayer(OrderedMixin, PretrainedMixin):
    """Mixture `sum_k pi_k N(x | mu_k, Sigma_k)` with trainable weights, means and covariances.

    Parameters are `mixture_logits` `(*B, K)`, `means` `(*B, K, D)` and `raw_scale` `(*B, G, ...)`,
    the unconstrained form of the family's scale. EM writes them in place, gradient descent trains
    them; both optimise `objective`.

    Shape:
        x `(*S, *B, D)`, a tensor, an array or a table, gives a tensor `(*S, *B)`. K is the
        right-most batch axis, as in `torch.distributions.MixtureSameFamily`.

    Args:
        num_features: D.
        num_components: K.
        covariance: name of a family (`full`, `diag`, `spherical`, `tied`, `tied_diag`,
            `tied_spherical`) or an instance.
        priors: a prior, a name, or a list of them; they are copied.
        evidence: modules that map a `Batch` to terms `(*S, *B, K)` of `log_joint`; copied.
        noise: for rows of no component: `uniform`, `gaussian`, or a `Noise`, which is copied.
        projections: a constraint (`gmm_lightning.projections`), a name, or a list; they are copied.
        freeze: what stays as it is: see `freeze`.
        bounds: pairs of a lower and an upper bound by name: `weight`, `mean`, `variance`, and
            `eigenvalue_ratio`, a number.
        batch_shape: B, for a batch of independent mixtures.
        device: of the parameters.
        dtype: float32 or float64.

    Attributes:
        projections: the constraints, frozen parts and bounds included: each M-step applies them
            after the priors.
        local_scale: how close together rows lie where they lie closest, per feature, `(*B, D)`:
            the unit of the covariances' floor, read from the rows when a fit starts. A constant
            feature has 0; NaN: not known yet.

    Raises:
        InvalidArgumentError: a size below 1, an unknown name, two priors on the same parameters,
            or constraints that exclude each other.

    References:
        A. P. Dempster, N. M. Laird, D. B. Rubin (1977), Maximum likelihood from incomplete data
        via the EM algorithm, JRSS B 39.

    Example:
        >>> layer = GMMLayer(num_features=2, num_components=3, covariance="diag")
        >>> layer(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        num_features: int,
        num_components: int,
        covariance: str | Covariance = "full",
        priors: PriorSpec = None,
        *,
        evidence: EvidenceSpec = None,
        noise: NoiseSpec = None,
        projections: ProjectionSpec = None,
        freeze: Any = None,
        bounds: Mapping[str, Any] | None = None,
        batch_shape: tuple[int, ...] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_features = require_integer("num_features", num_features, least=1)
        self.num_components = require_integer("num_components", num_components, least=1)
        self.batch_shape = require_batch_shape(batch_shape)
        self.covariance = as_covariance(covariance)
        shape = self.covariance.shape(num_components, num_features)
        made = tensor_options(device, dtype)
        self.mixture_logits = nn.Parameter(torch.zeros(*batch_shape, num_components, **made))
        # The values of `reset_parameters`, which vmap does not let a tensor be filled with.
        self.means = nn.Parameter(torch.randn(*batch_shape, num_components, num_features, **made))
        self.raw_scale = nn.Parameter(torch.zeros(*batch_shape, *shape, **made))
        sizes = MixtureShape(num_components, num_features, self.covariance, self.batch_shape)
        self.priors = bind_priors(priors, sizes).to(**made)
        self.evidence = bind_evidence(evidence, num_components)
        self.noise = bind_noise(noise, num_features, self.batch_shape, **made)
        self.projections = bind_projections(sizes, projections, freeze, bounds).to(**made)
        unknown = torch.full((*batch_shape, num_features), torch.nan, **made)
        self.register_buffer("local_scale", unknown)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set what the constructor sets: equal weights, unit covariances, standard normal means.

        Priors have the values that they were given, and no scale is known yet.
        """
        self.mixture_logits.zero_()
        self.means.normal_()
        self.raw_scale.zero_()
        self.local_scale.fill_(torch.nan)
        for part in filter(None, (self.priors, self.projections, self.noise)):
            part.reset_parameters()

    @classmethod
    def from_parameters(
        cls,
        weights: Tensor,
        means: Tensor,
        covariance_matrix: Tensor,
        covariance: str | Covariance = "full",
        *,
        freeze: Any = None,
    ) -> Self:
        """A layer with the parameters of `set_parameters`, on the device and in the dtype of means.

        What `freeze` names is frozen at these values.

        Raises:
            InvalidArgumentError: as for `set_parameters`.

        Example:
            >>> layer = GMMLayer.from_parameters(torch.tensor([0.3, 0.7]), torch.zeros(2, 3),
            ...                                  torch.eye(3).repeat(2, 1, 1))
            >>> layer.weights
            tensor([0.3000, 0.7000], grad_fn=<SoftmaxBackward0>)
        """
        means = torch.as_tensor(means)
        if not means.is_floating_point():
            means = means.to(torch.get_default_dtype())
        if means.dim() < 2:
            raise InvalidArgumentError(f"means must be (*B, K, D), got shape {tuple(means.shape)}")
        *batch, k, d = means.shape
        made = tensor_options(means.device, means.dtype)
        layer = cls(d, k, covariance, freeze=freeze, batch_shape=tuple(batch), **made)
        layer.set_parameters(weights, means, covariance_matrix)
        return layer

    @property
    def state_rules(self) -> dict[str, StateRule]:
        """What covariances and buffers read from a file must be."""
        definite = definite_rule(self.covariance, self.num_features)
        return {"local_scale": OPEN_LENGTH, "raw_scale": definite}

    # -- parameters -------------------------------------------------------------------------

    @property
    def weights(self) -> Tensor:
        """Weights `pi_k`, `(*B, K)`."""
        return self.mixture_logits.softmax(-1)

    @property
    def scale(self) -> Tensor:
        """The covariances in the family's compact form, `(*B, G, ...)`."""
        return self.covariance.scale(self.raw_scale)

    @property
    def num_free_parameters(self) -> int:
        """Parameters of one mixture, for information criteria: weights, means, covariances.

        A constant feature, whose density is 1 at its value, has none; what is frozen is not free.
        """
        k, d = self.num_components, self.num_features - len(self.constant_features)
        free = k - 1 + k * d + self.covariance.num_free_parameters(k, d)
        free -= self.projections.num_fixed_parameters(k, d)
        return free if self.noise is None else free + self.noise.num_free_parameters

    @torch.no_grad()
    def set_parameters(
        self,
        weights: Tensor | None = None,
        means: Tensor | None = None,
        covariance_matrix: Tensor | None = None,
    ) -> None:
        """Overwrite parameters in place (optimizers keep their references); None changes nothing.

        Frozen parts have the new values from now on; the others are brought within their bounds.

        Args:
            weights: `(*B, K)`, not negative; divided by their sum.
            means: `(*B, K, D)`.
            covariance_matrix: `(*B, K, D, D)`; the family projects it, a tied one onto the
                average by the weights.

        Raises:
            InvalidArgumentError: shapes that do not fit, weights that are negative or sum to
                zero, or covariances that are not symmetric positive definite.
        """
        present = self.distribution()
        weights, means, scale = project_parameters(present, weights, means, covariance_matrix)
        if weights is not None:
            self.mixture_logits.copy_(mixture_logits(weights, self.mixture_logits.dtype))
        if means is not None:
            self.means.copy_(means)
        if scale is not None:
            self.raw_scale.copy_(self.covariance.raw(scale))
        given = {"weights": weights, "means": means, "covariances": scale}
        self._hold(part for part, value in given.items() if value is not None)

    def distribution(self) -> MixtureOfGaussians:
        """The mixture of the layer's Gaussians, without noise; gradients flow into them."""
        return MixtureOfGaussians(self.mixture_logits, self.means, self.scale, self.covariance)

    # -- objective --------------------------------------------------------------------------

    def log_prior(self) -> Tensor:
        """Log density of the parameters under the priors, `(*B)`, in nats up to a constant.

        Raises:
            UnresolvedPriorError: a prior has hyper-parameters that still follow from data.
        """
        log_prior = self.priors.log_prob(self.distribution())
        return log_prior if self.noise is None else log_prior + self.noise.log_prior()

    def objective(self, x: Any, num_samples: int | None = None) -> Tensor:
        """Objective `mean log p(x) + log_prior() / num_samples`, `(*B)`, in nats per row.

        Args:
            x: rows `(*S, *B, D)`.
            num_samples: rows of the training set, when x is a mini-batch; None: those of x.
        """
        rows = self.log_prob(x).reshape(-1, *self.batch_shape)
        return rows.mean(0) + self.log_prior() / prior_num_samples(num_samples, rows.shape[0])
