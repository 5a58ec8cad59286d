"""What computes the components of a plan, each group in its own way."""

from __future__ import annotations

from gmm_lightning.covariances import Covariance
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan_terms import EStepPlan
from gmm_lightning.em.products import ProductComponents
from gmm_lightning.em.whitened import WhitenedComponents
from gmm_lightning.em.workspace import Workspace

PlanPart = ProductComponents | WhitenedComponents


def parts_of(
    plan: EStepPlan, family: Covariance, parameters: MixtureParameters, workspace: Workspace
) -> list[PlanPart]:
    """One part for each group of components of a plan, for one pass over the rows."""
    return [
        *(ProductComponents(terms, workspace) for terms in plan.products),
        *(WhitenedComponents(family, terms, parameters) for terms in plan.whitened),
    ]
