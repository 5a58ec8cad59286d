"""Base of modules that have a mixture as their distribution: densities of rows, samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Generator, Size, Tensor, nn
from torch.nn import functional as F

from gmm_lightning._chunking import map_chunks
from gmm_lightning._validation import as_generator
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.evidence import labels_of
from gmm_lightning.layers._most_probable import most_probable, require_found
from gmm_lightning.noise import Noise
from gmm_lightning.rows import Batch, as_dense, errors_of

P = ParamSpec("P")
R = TypeVar("R")


def _of_distribution(
    method: Callable[Concatenate[MixtureOfGaussians, P], R],
) -> Callable[Concatenate[MixtureModule, P], R]:
    """Method of a module that calls the same method of its distribution."""

    @wraps(method)
    def call(self: MixtureModule, *args: P.args, **kwargs: P.kwargs) -> R:
        return method(self.distribution(), *args, **kwargs)

    return call


def keep_constant(drawn: Any, means: Tensor, is_constant: Tensor) -> Any:
    """Drawn rows, `rows` or `(rows, ...)`, in which constant features have their value.

    Their variance only stands for a density of 1 there.

    Args:
        drawn: rows `(*S, *B, D)`, alone or before other things.
        means: of the components, `(*B, K, D)`.
        is_constant: which features are constant, `(D,)`.
    """
    if isinstance(drawn, tuple):
        return keep_constant(drawn[0], means, is_constant), *drawn[1:]
    return torch.where(is_constant, means.detach().mean(-2), drawn)


def _with_constants(
    method: Callable[Concatenate[MixtureModule, P], R],
) -> Callable[Concatenate[MixtureModule, P], R]:
    """Method that draws rows, in which constant features have their value."""

    @wraps(method)
    def call(self: MixtureModule, *args: P.args, **kwargs: P.kwargs) -> R:
        return keep_constant(method(self, *args, **kwargs), self.means, self.is_constant)

    return call


class MixtureModule(nn.Module):
    """Densities, dense covariances, samples of the mixture that `distribution` returns.

    Rows are tensors, or what `fit_em` takes in memory: arrays, lists, tables of pandas, polars or
    Arrow, with NaN for what is masked or missing. The answers are tensors on the device of the
    parameters, in the order of the rows.
    """

    batch_shape: Size
    means: Tensor
    local_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.evidence: nn.Module | None = None
        self.noise: Noise | None = None

    @property
    def is_constant(self) -> Tensor:
        """Mask `(D,)` of the features that are constant in the rows of the last fit.

        In a batch, those that are constant in every mixture.
        """
        return (self.local_scale == 0).reshape(-1, self.local_scale.shape[-1]).all(0)

    @property
    def constant_features(self) -> list[int]:
        """Positions of the features that are constant in the rows of the last fit."""
        return self.is_constant.nonzero().squeeze(-1).tolist()

    def distribution(self) -> MixtureOfGaussians:
        """Mixture with the module's parameters; gradients flow into them."""
        raise NotImplementedError(f"{type(self).__name__} does not implement distribution")

    def log_joint(self, x: Any, missing: str | None = None) -> Tensor:
        """Log joint densities `log pi_k + log N(x | mu_k, Sigma_k)` + evidence, `(*S, *B, K)`.

        Beside noise of weight p0, the weights are `(1 - p0) pi_k`.
        """
        rows = self._dense(x)
        batch = rows if isinstance(rows, Batch) else Batch(rows)
        log_joint = self.distribution().log_joint(batch.x, missing, errors_of(batch))
        if self.evidence is not None:
            log_joint = log_joint + self.evidence(batch)
        if self.noise is None:
            return log_joint
        return log_joint + F.logsigmoid(-self.noise.logit).unsqueeze(-1)

    def log_joint_with_noise(self, x: Any, missing: str | None = None) -> Tensor:
        """Log joint densities of the components and, as the last one, of the noise if any.

        `log p(x)` is the log of the sum of their exponentials. Arguments are as for `log_prob`.

        Shape:
            x `(*S, *B, D)` gives `(*S, *B, K + 1)`, or `(*S, *B, K)` without noise.
        """
        x = self._dense(x)
        log_joint = self.log_joint(x, missing)
        if self.noise is None:
            return log_joint
        rows = x if isinstance(x, Batch) else Batch(x)
        return self.noise.append_to(log_joint, rows, self.evidence, missing)

    def log_prob(self, x: Any, missing: str | None = None) -> Tensor:
        """Log density `log p(x)` in nats: `(*S, *B, D)` -> `(*S, *B)`.

        Args:
            x: the rows, or a `Batch` with the values that the evidence reads, and with the
                covariances of the rows' errors, as `error_covariance` in `extra`; weights are not
                used.
            missing: None, or `marginalize`: see `MixtureOfGaussians.log_prob`.
        """
        return self.reduce_joint(x, lambda log_joint: log_joint.logsumexp(-1), missing)

    def forward(self, x: Any) -> Tensor:
        """Log density, as `log_prob`."""
        return self.log_prob(x)

    def log_responsibilities(self, x: Any, missing: str | None = None) -> Tensor:
        """Log responsibilities `log p(k | x)`, `(*S, *B, K)`; `missing` as in `log_prob`."""
        return self.reduce_joint(x, lambda shares: self._own(shares.log_softmax(-1)), missing)

    def responsibilities(self, x: Any, missing: str | None = None) -> Tensor:
        """Responsibilities `p(k | x)`, `(*S, *B, K)`; `missing` as in `log_prob`."""
        return self.reduce_joint(x, lambda shares: self._own(shares.softmax(-1)), missing)

    def predict(self, x: Any, missing: str | None = None) -> Tensor:
        """The most probable component of each row, `(*S, *B)`, or -1 where that is the noise.

        `missing` is as in `log_prob`.

        Raises:
            InvalidDataError: a row has none, since an entry is missing or every density is 0; it
                gets -1 where values cannot be looked at, as in a compiled graph.
        """
        index = require_found(self.reduce_joint(x, most_probable, missing))
        # The noise comes after the components.
        return torch.where(index == self.means.shape[-2], -1, index)

    def class_probabilities(self, x: Any, missing: str | None = None) -> Tensor:
        """Probabilities of the classes, `(*S, *B, C)`, of a layer with `Labels` as evidence.

        Labels of the rows themselves are not read. `missing` is as in `log_prob`.

        Raises:
            InvalidArgumentError: a layer without labels.
        """
        labels, x = labels_of(self.evidence), self._dense(x)
        if labels is None:
            raise InvalidArgumentError(
                "the layer knows no classes: fit it with labels, or make it with evidence="
                "gmm_lightning.evidence.Labels(class_of_component)"
            )
        rows = labels.for_evaluation(x) if isinstance(x, Batch) else x
        return self.reduce_joint(rows, labels.class_probabilities, missing)

    def predict_class(self, x: Any, missing: str | None = None) -> Tensor:
        """The most probable class of each row, `(*S, *B)`, or -1 where that is the noise.

        Arguments are as for `class_probabilities`.

        Raises:
            InvalidArgumentError: a layer without labels.
            InvalidDataError: a row has none, as in `predict`.
        """
        shares = self.class_probabilities(x, missing)
        index = require_found(most_probable(shares))
        return torch.where(shares.amax(-1) < 1 - shares.sum(-1), -1, index)

    def noise_probability(self, x: Any, missing: str | None = None) -> Tensor:
        """Probability that a row is noise, `(*S, *B)`; `missing` as in `log_prob`.

        With the responsibilities of the components it sums to 1; without noise it is 0.
        """
        if self.noise is None:
            return torch.zeros_like(self.log_prob(x, missing))
        return self.reduce_joint(x, lambda shares: shares.softmax(-1)[..., -1], missing)

    def _own(self, shares: Tensor) -> Tensor:
        """Values of the components, without the one of the noise."""
        return shares if self.noise is None else shares[..., :-1]

    def reduce_joint(
        self, x: Any, reduce: Callable[[Tensor], Tensor], missing: str | None = None
    ) -> Tensor:
        """`reduce(log_joint_with_noise(x))`, of so many rows at a time as the memory is meant for.

        Args:
            x: the rows, as for `log_prob`.
            reduce: from `(n, *B, K)`, or `(n, *B, K + 1)` with noise, to `(n, *B, ...)`.
            missing: as for `log_prob`.

        Example:
            >>> layer = GMMLayer(num_features=2, num_components=3)
            >>> layer.reduce_joint(torch.zeros(4, 2), lambda log_joint: log_joint.amax(-1)).shape
            torch.Size([4])
        """
        return map_chunks(
            lambda rows: reduce(self.log_joint_with_noise(rows, missing)),
            self._dense(x),
            batch_dims=len(self.batch_shape),
            numbers_per_row=self._numbers_per_row(x),
            module=self,
        )

    def _numbers_per_row(self, x: Any) -> int:
        """Numbers that a row needs: with errors, a matrix for each component."""
        matrices = isinstance(x, Batch) and errors_of(x) is not None
        return self.means.numel() * (self.means.shape[-1] if matrices else 1)

    def _dense(self, x: Any) -> Tensor | Batch:
        """Rows as a tensor, or a batch of one."""
        if isinstance(x, Batch):
            return x if isinstance(x.x, Tensor) else x._replace(x=self._dense(x.x))
        return as_dense(x, self.means.device)

    @property
    def scale_tril(self) -> Tensor:
        """Dense lower Cholesky factors, `(*B, K, D, D)`."""
        return self.distribution().scale_tril

    @property
    def covariance_matrix(self) -> Tensor:
        """Dense covariances of the components, `(*B, K, D, D)`."""
        return self.distribution().component_covariances

    @property
    def precision_matrix(self) -> Tensor:
        """Inverses of `covariance_matrix`, `(*B, K, D, D)`."""
        return torch.cholesky_inverse(self.scale_tril)

    grad_log_prob = _of_distribution(MixtureOfGaussians.grad_log_prob)
    sample = _with_constants(_of_distribution(MixtureOfGaussians.sample))
    rsample = _of_distribution(MixtureOfGaussians.rsample)

    @torch.no_grad()
    def sample_with_noise(
        self,
        sample_shape: tuple[int, ...] | int = (),
        *,
        return_component: bool = False,
        generator: Generator | int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Independent samples of `p(x)`, noise included, `(*sample_shape, *B, D)`.

        `sample` draws from the Gaussian components alone.

        Args:
            sample_shape: the number or shape of samples.
            return_component: also return the drawn components, `(*sample_shape, *B)`; -1 is noise.
            generator: source of randomness, or a seed.

        Raises:
            InvalidArgumentError: a noise without draws, as one of a volume alone.
        """
        generator = as_generator(generator, self.means.device)
        x, z = self.sample(sample_shape, return_component=True, generator=generator)
        if self.noise is not None:
            uniform = torch.empty(z.shape, device=z.device).uniform_(generator=generator)
            is_noise = uniform < self.noise.weight
            drawn = self.noise.sample(tuple(z.shape[: z.dim() - len(self.batch_shape)]), generator)
            x, z = torch.where(is_noise.unsqueeze(-1), drawn, x), torch.where(is_noise, -1, z)
        return (x, z) if return_component else x
