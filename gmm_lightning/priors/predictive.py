"""Draws of whole mixtures from priors: the prior predictive distribution."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Generator, Tensor

from gmm_lightning._validation import require_integer
from gmm_lightning.covariances import Covariance
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.hyperparameters import MixtureShape
from gmm_lightning.priors._drawing import dirichlet
from gmm_lightning.priors._scales import deviations_shape
from gmm_lightning.priors.base import Prior


@torch.no_grad()
def sample_prior(
    priors: Iterable[tuple[str, Prior]] | Mapping[str, Prior] | torch.nn.ModuleDict,
    shape: MixtureShape,
    draws: int,
    generator: Generator | None = None,
) -> MixtureOfGaussians:
    """Mixtures drawn from priors, of batch shape `(draws, *B)`.

    Covariances are drawn from their prior, or from those on scales and correlations as
    `diag(sigma) R diag(sigma)`; then means, given the covariances; weights are uniform on the
    simplex without a prior. Drawing rows of the mixtures gives the prior predictive distribution
    (A. Gelman et al. 2020, Bayesian workflow).

    Args:
        priors: those of a layer by slot, `layer.priors`, with their values.
        shape: sizes, family and batch shape B that they are bound to.
        draws: number of draws.
        generator: source of randomness; None: torch's global one.

    Raises:
        InvalidArgumentError: a prior is missing, on the means or on the covariances, or improper.
        UnresolvedPriorError: hyper-parameters have no value yet.

    Example:
        >>> from gmm_lightning import GMMLayer, resolve_priors
        >>> layer = GMMLayer(2, 3, priors=["dirichlet", "independent_normal", "half_cauchy", "lkj"])
        >>> resolve_priors(layer, torch.randn(50, 2))
        >>> shape = MixtureShape(3, 2, layer.covariance)
        >>> sample_prior(layer.priors, shape, 10).sample().shape
        torch.Size([10, 2])
    """
    require_integer("draws", draws, least=1)
    pairs = priors if not isinstance(priors, Mapping | torch.nn.ModuleDict) else priors.items()
    by_slot = {prior.slot: prior for _, prior in pairs if isinstance(prior, Prior)}
    drawn = {} if "weights" not in by_slot else by_slot["weights"].sample(draws, generator)
    drawn |= _components(by_slot, shape, draws, generator)
    means = drawn["means"]
    if "weights" not in drawn:
        drawn["weights"] = dirichlet(torch.ones_like(means[0, ..., 0]), draws, generator)
    logits = drawn["weights"].log()
    return MixtureOfGaussians(logits, means, drawn["scale"], shape.covariance)


def _components(
    by_slot: dict[str, Prior], shape: MixtureShape, draws: int, generator: Generator | None
) -> dict[str, Tensor]:
    """Means and covariances of the draws."""
    if "components" in by_slot:
        return by_slot["components"].sample(draws, generator)
    family = shape.covariance
    dense = not family.axis_aligned
    missing = []
    if "means" not in by_slot:
        missing.append("the means (independent_normal, normal or niw)")
    if "covariances" not in by_slot and "scales" not in by_slot:
        missing.append(
            "the covariances (inverse_wishart, niw, or half_cauchy" + (" with lkj)" * dense or ")")
        )
    elif "covariances" not in by_slot and dense and "correlations" not in by_slot:
        missing.append(f"the correlations of {family.name!r} covariances (lkj)")
    if missing:
        has = ", ".join(repr(prior.name) for prior in by_slot.values()) or "none"
        raise InvalidArgumentError(
            f"a mixture can be drawn only from proper priors on all of its parameters; got {has}, "
            f"and there is none on {' and on '.join(missing)}: add it to the priors of the layer"
        )
    if "covariances" in by_slot:
        scale = by_slot["covariances"].sample(draws, generator)["scale"]
    else:
        deviation = by_slot["scales"].sample(draws, generator)["standard_deviations"]
        correlations = by_slot.get("correlations")
        factor = None
        if correlations is not None:
            factor = correlations.sample(draws, generator)["correlation_tril"]
        scale = _scale(shape, deviation, factor)
    return {"scale": scale} | by_slot["means"].sample(draws, generator, scale)


def _scale(shape: MixtureShape, deviation: Tensor, correlation: Tensor | None) -> Tensor:
    """Covariances in compact form, of standard deviations and factors of correlations."""
    assert deviation.shape[1:] == deviations_shape(shape)
    if correlation is None:
        return deviation
    factor, family = deviation.unsqueeze(-1) * correlation, shape.covariance
    if type(family).scale_tril is Covariance.scale_tril:
        return factor
    return family.estimate(family.project(factor @ factor.mT), torch.ones_like(factor[..., 0, 0]))
