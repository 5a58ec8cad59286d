"""Closed-form EM: two steps, and a loop around them.

Read in this order: `data_scale`, `parameters` and `model` (what EM works on), `responsibilities`,
`noise_entry`, `plan_terms`, `plan`, `workspace`, `products`, `whitened`, the two kernels,
`complete_rows` (which chooses), `uncertain_rows`, `conditionals`, `pattern_marginals`,
`uncertain_kernel`, `pooled` and `expectation`, `collapse`, `event_log`, `local_scale`,
`maximization`, `policy`, `reseed`, `policies`, `acceleration`, `convergence`, `stopping`,
`updater`, `restarts`, `state`, `responsibility_change` and `loop` (the algorithm), `degenerate`,
`result`, `assignment`, `marked_rows`, `covariance_target`, `centroids`, `known_rows`,
`frozen_start`, `row_assignment`, `labelled_start`, `labelled_rows`, `initialization`, `progress`,
`fit`. For layers one step at a time: `steps`, `stepwise`; for answers about many rows:
`row_answers`; for samplers: `likelihood_gradient`; for a classifier: `class_rows`, `classifier`;
posterior distributions: `variational`.
"""

from __future__ import annotations

from gmm_lightning.em.acceleration import Accelerator, Anderson, Squarem
from gmm_lightning.em.classifier import ClassifierResult, fit_classifier
from gmm_lightning.em.collapse import (
    Collapsed,
    CollapseEvent,
    ConstantFeature,
    collapse_error,
    new_events,
)
from gmm_lightning.em.convergence import GainEstimate
from gmm_lightning.em.data_scale import DataScale
from gmm_lightning.em.degenerate import degenerate_components
from gmm_lightning.em.event_log import CollapseCount
from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.fit import fit_em
from gmm_lightning.em.initialization import (
    initialize_layer,
    layer_source,
    resolve_priors,
    start_statistics,
)
from gmm_lightning.em.known_rows import known_rows
from gmm_lightning.em.likelihood_gradient import (
    LikelihoodGradient,
    log_likelihood_and_gradient,
)
from gmm_lightning.em.maximization import MStepResult, maximize
from gmm_lightning.em.model import MixtureModel, with_closed_forms
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.policies import Floor, Raise, as_policy
from gmm_lightning.em.policy import Candidates, CollapsePolicy, Repair
from gmm_lightning.em.progress import PassProgress
from gmm_lightning.em.reseed import Reseed
from gmm_lightning.em.responsibilities import (
    Annealing,
    Responsibilities,
    ResponsibilitySchedule,
    hard_responsibilities_,
    softmax_responsibilities_,
    tempered_responsibilities_,
)
from gmm_lightning.em.result import EMResult, Trajectory
from gmm_lightning.em.row_answers import reduce_log_joint
from gmm_lightning.em.steps import e_step, m_step
from gmm_lightning.em.stepwise import StepwiseEM
from gmm_lightning.em.stopping import Gain, StoppingRule
from gmm_lightning.em.stopping import registry as stopping_rules
from gmm_lightning.em.updater import MonotoneUpdater
from gmm_lightning.em.variational import (
    ComponentsPosterior,
    DirichletPosterior,
    MixturePosterior,
    StickBreakingPosterior,
    StochasticVB,
    VBResult,
    conjugate_prior,
    counted_statistics,
    fit_vb,
    with_default_prior,
)

__all__ = [
    "Accelerator",
    "Anderson",
    "Annealing",
    "Candidates",
    "ClassifierResult",
    "CollapseCount",
    "CollapseEvent",
    "CollapsePolicy",
    "Collapsed",
    "ComponentsPosterior",
    "ConstantFeature",
    "DataScale",
    "DirichletPosterior",
    "EMResult",
    "EStep",
    "Floor",
    "Gain",
    "GainEstimate",
    "LikelihoodGradient",
    "MStepResult",
    "MixtureModel",
    "MixtureParameters",
    "MixturePosterior",
    "MonotoneUpdater",
    "PassProgress",
    "Raise",
    "Repair",
    "Reseed",
    "Responsibilities",
    "ResponsibilitySchedule",
    "Squarem",
    "StepwiseEM",
    "StickBreakingPosterior",
    "StochasticVB",
    "StoppingRule",
    "Trajectory",
    "VBResult",
    "as_policy",
    "collapse_error",
    "conjugate_prior",
    "counted_statistics",
    "degenerate_components",
    "e_step",
    "fit_classifier",
    "fit_em",
    "fit_vb",
    "hard_responsibilities_",
    "initialize_layer",
    "known_rows",
    "layer_source",
    "log_likelihood_and_gradient",
    "m_step",
    "maximize",
    "new_events",
    "reduce_log_joint",
    "resolve_priors",
    "softmax_responsibilities_",
    "start_statistics",
    "stopping_rules",
    "tempered_responsibilities_",
    "with_closed_forms",
    "with_default_prior",
]
