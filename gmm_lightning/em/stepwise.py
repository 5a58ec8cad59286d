"""Stepwise EM: an M-step after every mini-batch, from running statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from gmm_lightning._validation import require_number
from gmm_lightning.em.collapse import CollapseEvent
from gmm_lightning.em.event_log import CollapseCount
from gmm_lightning.em.labelled_rows import with_labels
from gmm_lightning.em.steps import e_step, m_step
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import unsqueeze_like
from gmm_lightning.rows import require_missing
from gmm_lightning.statistics import SufficientStatistics


class StepwiseEM:
    """EM by mini-batches, from running statistics that are blended with those of each batch.

    With `s` the statistics per unit of weight and t the number of batches before:

        s <- (1 - eta_t) s + eta_t s(batch),   eta_t = (t + offset)^-exponent

    For the first batch eta is 1. Before they are blended the running statistics are moved to the
    present means, and their total weight stays 1. The objective of the whole data rises on
    average, not at every step.

    Args:
        layer: the mixture, fitted in place; its priors must have their values.
        exponent: kappa in (0.5, 1]; smaller values forget the past faster.
        offset: t0, at least 1; larger values give the first batches more weight.
        num_samples: number of rows that a prior is weighed against; None: the weight seen so far.
        missing: None refuses NaN; `em` as in `e_step`.
        step_size: eta, a number in (0, 1] or a function of t, in place of exponent and offset.

    Attributes:
        num_batches: t.
        log_likelihood: running mean of `log p(x)`, each batch under its own parameters.

    Raises:
        InvalidArgumentError: a value out of range.

    References:
        O. Cappe, E. Moulines (2009), On-line expectation-maximization algorithm for latent data
        models, JRSS B 71.
        P. Liang, D. Klein (2009), Online EM for unsupervised models, NAACL.

    Example:
        >>> layer = GMMLayer(num_features=2, num_components=3)
        >>> stream = StepwiseEM(layer)
        >>> for _ in range(10):
        ...     events = stream.partial_fit(torch.randn(256, 2))
        >>> stream.num_batches
        10
    """

    def __init__(
        self,
        layer: GMMLayer,
        *,
        exponent: float = 0.7,
        offset: float = 2.0,
        num_samples: float | None = None,
        missing: str | None = None,
        step_size: float | Callable[[int], float] | None = None,
    ) -> None:
        if not 0.5 < exponent <= 1:
            raise InvalidArgumentError(f"exponent must be in (0.5, 1], got {exponent}")
        if not offset >= 1:
            raise InvalidArgumentError(f"offset must be >= 1, got {offset}")
        if num_samples is not None and not num_samples > 0:
            raise InvalidArgumentError(f"num_samples must be > 0, got {num_samples}")
        self.layer, self.exponent, self.offset = layer, exponent, offset
        self.num_samples, self.missing = num_samples, require_missing(missing)
        if step_size is not None and not callable(step_size):
            require_number("step_size", step_size, above=0, most=1)
        self.step_size = step_size
        self.num_batches = 0
        self._seen: Tensor | None = None
        self._running: SufficientStatistics | None = None

    def partial_fit(
        self, x: Any, sample_weight: Any = None, *, labels: Any = None
    ) -> list[CollapseEvent | CollapseCount]:
        """Update the statistics and the parameters by a batch of rows `(*S, *B, D)`.

        Args:
            x: the rows.
            sample_weight: of the rows.
            labels: classes of the rows, for the evidence of the layer.

        Returns:
            The components that had to be repaired.

        Raises:
            InvalidDataError: rows that cannot be used, as in `e_step`.
        """
        if labels is not None:
            if self.layer.evidence is None:
                raise InvalidArgumentError(
                    "the classes must be known before the first batch, which may lack some: make "
                    "the layer with evidence=gmm_lightning.evidence.Labels(class_of_component)"
                )
            (x, _), sample_weight = with_labels(self.layer, x, sample_weight, labels), None
        return self.update(e_step(self.layer, x, sample_weight, missing=self.missing))

    @torch.no_grad()
    def update(self, stats: SufficientStatistics) -> list[CollapseEvent | CollapseCount]:
        """Update the parameters by the statistics of a batch under the present ones."""
        blended = self.blend(stats)
        return [] if blended is None else m_step(self.layer, blended)

    @torch.no_grad()
    def blend(self, stats: SufficientStatistics) -> SufficientStatistics | None:
        """The running statistics blended with those of a batch, for an M-step.

        Their total weight is `num_samples`, or the weight seen so far. None if a mixture of the
        batch has seen no rows yet.
        """
        weight = stats.total_weight
        if not bool((weight > 0).any()):
            return None
        latest = stats.normalized()
        if self._running is None or self._seen is None:
            self._running, self._seen = latest, weight
        else:
            eta = self._next_step_size()
            # A mixture of the batch may have no rows here, or have had none before.
            eta = torch.where(self._seen > 0, eta, 1.0).where(weight > 0, 0.0)
            moved = self._running.about(stats.shift, self.layer.covariance)
            self._running = (moved.scaled(1 - eta) + latest.scaled(eta)).normalized()
            self._seen = self._seen + weight
        self.num_batches += 1
        if not bool((self._seen > 0).all()):
            return None
        total = self._seen
        if self.num_samples is not None:
            total = torch.full_like(weight, self.num_samples)
        return self._running.scaled(total)

    def _next_step_size(self) -> float:
        """Share of the next batch."""
        if self.step_size is None:
            return (self.num_batches + self.offset) ** -self.exponent
        eta = self.step_size(self.num_batches) if callable(self.step_size) else self.step_size
        return require_number(f"step_size of batch {self.num_batches}", eta, above=0, most=1)

    @torch.no_grad()
    def reset_components(self, moved: Tensor) -> None:
        """Replace the running statistics of some components by those of their parameters.

        The old ones would draw a moved component back to where it collapsed.

        Args:
            moved: which components, `(M, K)` or `(*B, K)`.
        """
        if self._running is None or not bool(moved.any()):
            return
        layer, family = self.layer, self.layer.covariance
        running = self._running.about(layer.means.detach().clone(), family)
        moved = moved.reshape(running.counts.shape)
        own = layer.weights.detach().to(running.counts) * (1 - running.noise).unsqueeze(-1)
        counts = torch.where(moved, own, running.counts)
        first = torch.where(moved.unsqueeze(-1), 0.0, running.first)
        second = running.second
        if not family.tied:
            own = family.project(family.covariance_matrix(layer.scale.detach(), layer.num_features))
            own = unsqueeze_like(counts, second) * own.to(second)
            second = torch.where(unsqueeze_like(moved, second), own, second)
        renewed = replace(running, counts=counts, first=first, second=second).normalized()
        self._running = replace(renewed, log_likelihood=running.log_likelihood)

    @property
    def log_likelihood(self) -> Tensor:
        """Running mean of `log p(x)`, `(*B)`, in nats per row; NaN before the first batch."""
        if self._running is None:
            return torch.full(self.layer.batch_shape, torch.nan, dtype=torch.float64)
        return self._running.log_likelihood

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next batch needs, as tensors and primitives."""
        running = None
        if self._running is not None:
            running = {f.name: getattr(self._running, f.name) for f in fields(self._running)}
        return {"num_batches": self.num_batches, "seen": self._seen, "running": running}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`, on the device of the layer."""
        device, seen, running = self.layer.means.device, state["seen"], state["running"]
        self.num_batches = state["num_batches"]
        self._seen = None if seen is None else seen.to(device)
        if running is not None:
            running = SufficientStatistics(**{k: value.to(device) for k, value in running.items()})
        self._running = running
