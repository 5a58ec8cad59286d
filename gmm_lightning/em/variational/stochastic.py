"""Stochastic variational inference: an update of the posterior after every mini-batch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from gmm_lightning.em.initialization import is_resolved
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.steps import e_step
from gmm_lightning.em.stepwise import StepwiseEM
from gmm_lightning.em.variational.posterior import MixturePosterior
from gmm_lightning.em.variational.prior import conjugate_prior, counted_statistics
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer


class StochasticVB:
    """Variational Bayes by mini-batches, from running statistics of which the posterior follows.

    A step along the natural gradient of the bound is a step of the expected statistics: those of
    `StepwiseEM`, scaled to all rows. The bound rises on average, not at every step.

    Args:
        layer: the mixture, with conjugate priors that have their values (`resolve_priors`); its
            parameters are where the posterior begins, as if all rows were as they say. After each
            batch it has the expected parameters.
        num_samples: number of rows that the posterior is of: N.
        exponent: kappa of the step sizes `(t + offset)^-kappa`, in (0.5, 1].
        offset: t0, at least 1.
        missing: None refuses NaN; `em` as in `fit_vb`.
        step_size: a number in (0, 1] or a function of t, in place of exponent and offset.

    Attributes:
        posterior: after the batches so far.
        prior: of the same kind.

    Raises:
        InvalidArgumentError: a value out of range, or priors without values or a closed form.

    References:
        M. D. Hoffman, D. M. Blei, C. Wang, J. Paisley (2013), Stochastic variational inference,
        Journal of Machine Learning Research 14.

    Example:
        >>> from gmm_lightning.em import resolve_priors
        >>> from gmm_lightning.priors import Dirichlet, NormalInverseWishart
        >>> niw = NormalInverseWishart(convention="fraley_raftery")
        >>> layer, x = GMMLayer(2, 3, priors=[Dirichlet(0.5), niw]), torch.randn(1000, 2)
        >>> resolve_priors(layer, x)
        >>> stream = StochasticVB(layer, num_samples=len(x))
        >>> for batch in x.split(100):
        ...     stream.partial_fit(batch)
        >>> stream.num_batches, stream.posterior.components.loc.shape
        (10, torch.Size([1, 3, 2]))
    """

    def __init__(
        self,
        layer: GMMLayer,
        *,
        num_samples: float,
        exponent: float = 0.7,
        offset: float = 2.0,
        missing: str | None = None,
        step_size: float | Callable[[int], float] | None = None,
    ) -> None:
        if not is_resolved(layer):
            raise InvalidArgumentError(
                "the priors of the layer have no values yet: call resolve_priors(layer, x)"
            )
        self.layer, self.missing = layer, missing
        # The E-step reads expected log densities, which are no parameters of the layer.
        self._reader = copy.deepcopy(layer)
        self._stream = StepwiseEM(
            self._reader,
            exponent=exponent,
            offset=offset,
            num_samples=num_samples,
            missing=missing,
            step_size=step_size,
        )
        model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
        self.prior: MixturePosterior = conjugate_prior(model, layer.num_components)
        self.posterior = self.prior.updated(counted_statistics(model, parameters, num_samples))

    @property
    def num_batches(self) -> int:
        """Batches so far."""
        return self._stream.num_batches

    @torch.no_grad()
    def partial_fit(self, x: Any, sample_weight: Any = None) -> None:
        """Update the posterior by a batch of rows `(*S, *B, D)`.

        Raises:
            InvalidDataError: rows that cannot be used, as in `e_step`.
        """
        dtype = self.layer.means.dtype
        self.posterior.expected_parameters(dtype).parameters.write_to(self._reader)
        stats = e_step(self._reader, x, sample_weight, missing=self.missing)
        blended = self._stream.blend(stats)
        if blended is None:
            return
        size = self.layer.batch_shape.numel()
        self.posterior = self.prior.updated(blended.reshape((size,)))
        self.posterior.mean_parameters(dtype).write_to(self.layer)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next batch needs, as tensors and primitives."""
        return {"stream": self._stream.state_dict(), "posterior": self.posterior.tensors()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self._stream.load_state_dict(state["stream"])
        self.posterior = self.prior.with_tensors(state["posterior"])
