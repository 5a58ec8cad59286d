"""What to do with components that collapse: keep them at the floor, move them, or give up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from gmm_lightning._validation import require_choice, require_integer, require_number
from gmm_lightning.em.collapse import Collapsed
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.rows import Batch


class Candidates(NamedTuple):
    """Rows at which a component may start anew, and the source of the draws."""

    rows: Batch
    generator: Generator | None


class Repair(NamedTuple):
    """What a policy did.

    Attributes:
        parameters: of the M mixtures.
        reseeded: components that were moved, `(M, K)`.
        failed: mixtures to give up, `(M,)`.
    """

    parameters: MixtureParameters
    reseeded: Tensor
    failed: Tensor


@dataclass(frozen=True)
class CollapsePolicy(ABC):
    """A treatment of components that an M-step had to repair.

    Attributes:
        num_candidates: rows of the data that the policy wants to see.
    """

    name: ClassVar[str]

    @property
    def num_candidates(self) -> int:
        """See the class."""
        return 0

    @abstractmethod
    def handle(
        self,
        model: MixtureModel,
        parameters: MixtureParameters,
        collapsed: Collapsed,
        num_reseeds: Tensor,
        candidates: Candidates | None,
    ) -> Repair:
        """Treat the components that collapsed in the last M-step.

        Args:
            model: of the M mixtures.
            parameters: after the M-step, which held the components at the floor.
            collapsed: what the M-step found.
            num_reseeds: how often each component was moved before, `(M, K)`.
            candidates: rows of the data; None where the policy asked for none.
        """


@dataclass(frozen=True)
class Floor(CollapsePolicy):
    """Leave a component at the floor, where the M-step held it."""

    name: ClassVar[str] = "floor"

    def handle(
        self,
        model: MixtureModel,
        parameters: MixtureParameters,
        collapsed: Collapsed,
        num_reseeds: Tensor,
        candidates: Candidates | None,
    ) -> Repair:
        """See `CollapsePolicy.handle`."""
        nothing = torch.zeros_like(collapsed.emptied)
        return Repair(parameters, nothing, nothing.any(-1))


@dataclass(frozen=True)
class Raise(CollapsePolicy):
    """Give up the mixture."""

    name: ClassVar[str] = "raise"

    def handle(
        self,
        model: MixtureModel,
        parameters: MixtureParameters,
        collapsed: Collapsed,
        num_reseeds: Tensor,
        candidates: Candidates | None,
    ) -> Repair:
        """See `CollapsePolicy.handle`."""
        return Repair(parameters, torch.zeros_like(collapsed.emptied), collapsed.mixtures)


@dataclass(frozen=True)
class Reseed(CollapsePolicy):
    """Move a component to a row that the mixture explains poorly.

    It gets the covariance of the whole mixture divided by `K^(2/D)` and the average weight. The
    objective may fall when it moves; EM goes on from there. A shared covariance at the floor is
    left there, and so is a component of a mixture that no candidate belongs to.

    Args:
        max_reseeds: how often one component may move before it is left at the floor.
        candidates: rows of the data among which a new place is sought.
        poor_fraction: share of them, by density, that counts as poorly explained.

    Raises:
        InvalidArgumentError: a value out of range.
    """

    name: ClassVar[str] = "reseed"

    max_reseeds: int = 3
    candidates: int = 4096
    poor_fraction: float = 0.1

    def __post_init__(self) -> None:
        require_integer("max_reseeds", self.max_reseeds, least=1)
        require_integer("candidates", self.candidates, least=1)
        require_number("poor_fraction", self.poor_fraction, above=0, most=1)

    @property
    def num_candidates(self) -> int:
        """See the class."""
        return self.candidates

    @torch.no_grad()
    def handle(
        self,
        model: MixtureModel,
        parameters: MixtureParameters,
        collapsed: Collapsed,
        num_reseeds: Tensor,
        candidates: Candidates | None,
    ) -> Repair:
        """See `CollapsePolicy.handle`."""
        assert candidates is not None
        _, k, d = parameters.means.shape
        tied = model.family.tied
        wanted = collapsed.emptied if tied else collapsed.floored | collapsed.emptied
        rows, generator = candidates
        counted = torch.ones(rows.num_rows, len(model.batch_index), dtype=torch.bool)
        if rows.weight is not None:
            counted = (model.per_mixture(rows.weight) > 0).cpu()
        wanted = wanted & (num_reseeds < self.max_reseeds)
        wanted = wanted & (wanted.cumsum(-1) <= counted.sum(0).unsqueeze(-1).to(wanted.device))
        failed = torch.zeros_like(wanted[:, 0])
        if k == 1 or not bool(wanted.any()):
            return Repair(parameters, torch.zeros_like(wanted), failed)
        x = model.per_mixture(rows.x.to(parameters.means))
        log_prob = model.distribution(parameters).log_prob(x).cpu()
        weights = parameters.mixture_logits.softmax(-1)
        means, scale = parameters.means.clone(), model.scale(parameters).clone()
        new_scale = None if tied else _whole_scale(model, parameters, k ** (-2 / d))
        log_prob = torch.where(counted, log_prob, torch.inf)
        for m, component in wanted.nonzero().tolist():
            num_poor = max(1, int(self.poor_fraction * int(counted[:, m].sum())))
            poor = log_prob[:, m].argsort(stable=True)[:num_poor]
            place = int(poor[_draw(num_poor, generator)])
            # Two components that start at one row would never part.
            log_prob[place, m] = torch.inf
            means[m, component] = x[place, m]
            weights[m, component] = weights[m].sum() / k
            if new_scale is not None:
                scale[m, component] = new_scale[m, 0]
        moved = model.from_constrained(weights, means, scale, parameters.means.dtype)
        return Repair(moved, wanted, failed)


def _whole_scale(model: MixtureModel, parameters: MixtureParameters, factor: float) -> Tensor:
    """The scale of each whole mixture's covariance times a factor, `(M, 1, ...)`."""
    # In float64: beside rows far away, what float32 keeps of a covariance may be singular.
    wide = parameters.to(accumulator_dtype(parameters.means.device))
    mixture = model.distribution(wide)
    whole = model.family.project(mixture.covariance_matrix * factor).unsqueeze(1)
    return model.family.estimate(whole, whole.new_ones(len(whole), 1)).to(parameters.means)


def _draw(count: int, generator: Generator | None) -> int:
    device = generator.device if generator is not None else None
    return int(torch.randint(count, (), generator=generator, device=device))


_POLICIES: dict[str, type[CollapsePolicy]] = {cls.name: cls for cls in (Floor, Reseed, Raise)}


def as_policy(spec: str | CollapsePolicy) -> CollapsePolicy:
    """A policy from its name, or the instance itself.

    Raises:
        InvalidArgumentError: an unknown name.
    """
    if isinstance(spec, CollapsePolicy):
        return spec
    return _POLICIES[require_choice("collapse policy", spec, _POLICIES)]()
