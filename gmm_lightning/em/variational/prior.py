"""The conjugate prior of a layer: what its priors say, as distributions that rows update."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning.covariances import conjugate_form
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.variational.components import ComponentsPosterior
from gmm_lightning.em.variational.posterior import MixturePosterior
from gmm_lightning.em.variational.weights import (
    DirichletPosterior,
    StickBreakingPosterior,
    WeightsPosterior,
)
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import MixtureShape
from gmm_lightning.layers import GMMLayer
from gmm_lightning.linalg import unsqueeze_like
from gmm_lightning.priors import (
    Dirichlet,
    InverseWishart,
    NormalInverseWishart,
    NormalMeans,
    Prior,
    StickBreaking,
    bind_priors,
)
from gmm_lightning.statistics import SufficientStatistics


def with_default_prior(layer: GMMLayer) -> None:
    """Give a layer without a prior on its components the default one of a posterior, in place.

    A normal-inverse-Wishart prior with the values of Fraley and Raftery (2007), which is proper.
    """
    if {"components", "means", "covariances", "scales", "correlations"} & set(layer.priors):
        return
    shape = MixtureShape(
        layer.num_components, layer.num_features, layer.covariance, tuple(layer.batch_shape)
    )
    default = bind_priors(NormalInverseWishart(convention="fraley_raftery"), shape)
    for slot, prior in default.to(layer.means).items():
        layer.priors[slot] = prior


def conjugate_prior(model: MixtureModel, num_components: int) -> MixturePosterior:
    """The prior of M mixtures as a distribution that rows update.

    Weights without a prior have a flat one, Dirichlet(1, ..., 1).

    Raises:
        InvalidArgumentError: a prior is not conjugate or not proper, or the model has parts of
            which there is no posterior.
    """
    if model.noise is not None or model.projections:
        part = "noise" if model.noise is not None else "constraints (freeze, bounds, projections)"
        raise InvalidArgumentError(
            f"a posterior of a layer with {part} has no closed form: use fit_em, or leave it out"
        )
    weights, means, covariances = _by_parameters(model.priors)
    return MixturePosterior(
        _weights(model, weights, num_components), _components(model, means, covariances)
    )


def _by_parameters(
    priors: Sequence[Prior],
) -> tuple[Dirichlet | StickBreaking | None, NormalMeans, InverseWishart]:
    """The priors of the weights, the means and the covariances."""
    weights: Dirichlet | StickBreaking | None = None
    means: NormalMeans | None = None
    covariances: InverseWishart | None = None
    for prior in priors:
        if isinstance(prior, Dirichlet | StickBreaking):
            weights = prior
        elif isinstance(prior, NormalMeans):
            means = prior
        elif isinstance(prior, InverseWishart):
            covariances = prior
        elif isinstance(prior, NormalInverseWishart):
            means, covariances = prior.on_means, prior.on_covariances
        else:
            raise InvalidArgumentError(
                f"the prior {prior.name!r} is not conjugate, so the posterior has no closed form: "
                "use fit=nuts, a gradient fit, or the priors niw, dirichlet and stick_breaking"
            )
    if means is None or covariances is None:
        missing = "means" if means is None else "covariances"
        raise InvalidArgumentError(
            f"a posterior needs proper priors, and there is none on the {missing}: use niw, or "
            "normal with inverse_wishart"
        )
    return weights, means, covariances


def _weights(
    model: MixtureModel, prior: Dirichlet | StickBreaking | None, num_components: int
) -> WeightsPosterior:
    if prior is None:
        m = len(model.batch_index)
        return DirichletPosterior(
            torch.ones(m, num_components, dtype=torch.float64, device=model.batch_index.device)
        )
    concentration = _per_mixture(prior.concentration, model)
    if isinstance(prior, StickBreaking):
        return StickBreakingPosterior.of_concentration(concentration.squeeze(-1), num_components)
    return DirichletPosterior(concentration)


def _components(
    model: MixtureModel, means: NormalMeans, covariances: InverseWishart
) -> ComponentsPosterior:
    means.require_resolved()
    covariances.require_resolved()
    loc = _per_mixture(means.loc, model)
    form = conjugate_form(model.family, loc.shape[-1])
    df = _per_mixture(covariances.natural_df(form), model)
    if not bool((df > form.least_df).all()):
        raise InvalidArgumentError(
            f"a posterior needs proper priors, and that of the covariances has df = "
            f"{describe(covariances.df.flatten()[0].item())}, of which {form.least_df:g} is not "
            "exceeded: give df and scale_matrix, or convention=fraley_raftery"
        )
    scale_matrix = _per_mixture(covariances.scale_matrix, model)
    _require_definite(model, scale_matrix, df)
    return ComponentsPosterior(
        family=model.family,
        form=form,
        loc=loc,
        mean_precision=_per_mixture(means.mean_precision, model),
        df=df,
        scale_matrix=scale_matrix,
    )


def _require_definite(model: MixtureModel, scale_matrix: Tensor, df: Tensor) -> None:
    """Refuse a singular scale matrix, such as that of rows with a constant feature."""
    raw = model.family.raw(model.family.estimate(scale_matrix, df.clamp(min=1.0)))
    if bool(torch.isfinite(raw).all()):
        return
    constant = (model.local_scale == 0).all(0).nonzero().squeeze(-1).tolist()
    why = f"features {constant} are constant" if constant else "the rows span no volume"
    raise InvalidArgumentError(
        f"the scale matrix of the prior on the covariances is singular, as {why}: leave them out, "
        "or give df and scale_matrix"
    )


def _per_mixture(values: Tensor, model: MixtureModel) -> Tensor:
    """Hyper-parameters in float64, `(M, ...)`; those without a batch are of the only mixture."""
    wide = values.double()
    if model.batch_shape:
        return wide
    return wide.expand(len(model.batch_index), *values.shape)


def counted_statistics(
    model: MixtureModel, parameters: MixtureParameters, num_rows: float
) -> SufficientStatistics:
    """Statistics `(M, ...)` of rows that are just as the parameters say.

    Args:
        model: family.
        parameters: of M mixtures.
        num_rows: of each of them.
    """
    wide = parameters.to(torch.float64)
    counts = num_rows * wide.mixture_logits.softmax(-1)
    dense = model.family.covariance_matrix(model.scale(wide), wide.means.shape[-1])
    form = model.family.project(dense)
    second = form * unsqueeze_like(model.family.sum_tied(counts), form)
    nothing = counts.new_zeros(len(counts))
    return SufficientStatistics(
        counts=counts,
        first=torch.zeros_like(wide.means),
        second=second,
        shift=wide.means,
        log_likelihood=nothing,
        num_samples=nothing.new_full((), num_rows),
        noise=nothing,
    )
