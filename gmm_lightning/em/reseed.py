"""Move components that collapsed to rows that the mixture explains poorly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.em.collapse import Collapsed
from gmm_lightning.em.data_scale import DataScale
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.noise_entry import shares_of_few
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.policy import Candidates, CollapsePolicy, Repair
from gmm_lightning.linalg import accumulator_dtype


@dataclass(frozen=True)
class Reseed(CollapsePolicy):
    """Move a collapsed component to a row that the mixture explains poorly.

    It gets the covariance of the whole mixture divided by `K^(2/D)` and the average weight; the
    objective may fall. A shared covariance at the floor, a frozen mean, and a mixture without
    candidates stay.

    Args:
        max_reseeds: how often one component may move before it is left at the floor.
        candidates: rows of the data from which the new mean is drawn.
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
        """Number of rows of the data that the policy needs."""
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
        (_, k, d), tied = parameters.means.shape, model.family.tied
        wanted = collapsed.emptied if tied else collapsed.floored | collapsed.emptied
        rows, generator = candidates
        # A mean needs all entries: `fit_em` gives rows in which they are filled in.
        counted = ~torch.isnan(model.per_mixture(rows.x)).any(-1).cpu()
        if rows.weight is not None:
            counted &= (model.per_mixture(rows.weight) > 0).cpu()
        if model.noise is not None:
            # What is noise with more than even odds needs no component.
            noise = shares_of_few(replace(model, evidence=None), parameters, rows).noise
            counted &= ~(noise > 0.5).squeeze(1).T.cpu()
        wanted = wanted & (num_reseeds < self.max_reseeds) & ~model.has_frozen("means")
        wanted = wanted & (wanted.cumsum(-1) <= counted.sum(0).unsqueeze(-1).to(wanted.device))
        if k == 1 or not bool(wanted.any()):
            return Repair(parameters, torch.zeros_like(wanted), wanted.new_zeros(len(wanted)))
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
            # Two components that start at one row would never separate.
            log_prob[place, m] = torch.inf
            means[m, component] = x[place, m]
            weights[m, component] = weights[m].sum() / k
            if new_scale is not None:
                scale[m, component] = new_scale[m, 0]
        moved = model.from_constrained(
            weights, means, scale, parameters.noise_logit, parameters.means.dtype
        )
        return Repair(model.constrain(moved), wanted, wanted.new_zeros(len(wanted)))


def _whole_scale(model: MixtureModel, parameters: MixtureParameters, factor: float) -> Tensor:
    """The scale of each whole mixture's covariance times a factor, `(M, 1, ...)`."""
    # In float64: with means far apart, the covariance may be singular in float32.
    wide = parameters.to(accumulator_dtype(parameters.means.device))
    mixture = model.distribution(wide)
    whole = model.family.project(mixture.covariance_matrix * factor).unsqueeze(1)
    dof, unit = (
        whole.new_ones(len(whole), 1),
        DataScale.of(mixture.variance, model.local_scale).unit,
    )
    bound = model.family.variance_floor(whole, dof, unit, torch.finfo(whole.dtype).eps)
    whole, _ = model.family.floor(whole, dof, bound)
    return model.family.estimate(whole, dof).to(parameters.means)


def _draw(count: int, generator: Generator | None) -> int:
    device = getattr(generator, "device", None)
    return int(torch.randint(count, (), generator=generator, device=device))
