"""Draws, marginal and conditional mixtures, under tgmm's names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from gmm_lightning._messages import describe
from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.distributions import Ball, Confidence, MixtureOfGaussians, Region, Shell
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.tgmm._forms import FAMILIES
from gmm_lightning.estimators.tgmm._starts import untrained_layer
from gmm_lightning.estimators.tgmm.conditional import ConditionalGaussianMixture
from gmm_lightning.estimators.tgmm.prediction import Prediction


class Sampling(Prediction):
    """Draws and mixtures that follow from a fitted one."""

    @torch.no_grad()
    def sample(
        self,
        n_samples: int = 1,
        component: int | None = None,
        std_radius: float | None = None,
        std_range: tuple[float, float] | None = None,
        confidence: float | None = None,
        confidence_range: tuple[float, float] | None = None,
        center_point: Any = None,
        center_radius: float | None = None,
        max_attempts_per_sample: int = 1000,
    ) -> tuple[Tensor, Tensor]:
        """Draws `(n_samples, D)` and their components; noise has the component -1.

        Draws within a region are exact: components are chosen by their mass in it.

        Args:
            n_samples: how many; 0 is allowed.
            component: draw from this one alone.
            std_radius: largest Mahalanobis distance from the mean of the component.
            std_range: least and largest such distance; the latter may be infinite.
            confidence: mass of the ellipse of its component in which a draw lies.
            confidence_range: least and largest such mass, up to 1.
            center_point: draws lie within `center_radius` of this point, `(D,)`.
            center_radius: Euclidean.
            max_attempts_per_sample: no effect: none of the regions is found by trial.

        Raises:
            InvalidArgumentError: several regions, values out of range, or a region of a mixture
                with noise.
            RegionError: the ball around `center_point` has no mass.
        """
        require_integer("n_samples", n_samples, least=0)
        require_integer("max_attempts_per_sample", max_attempts_per_sample, least=1)
        layer = self.require_fitted()
        region = _region_of(
            std_radius, std_range, confidence, confidence_range, (center_point, center_radius)
        )
        if layer.noise is not None:
            if region is not None or component is not None:
                self.require_without_noise("sample from a component or within a region")
            drawn = layer.sample_with_noise(n_samples, return_component=True)
        else:
            chosen: dict[str, Any] = {"component": component, "within": region}
            drawn = layer.sample(n_samples, return_component=True, **chosen)
        assert isinstance(drawn, tuple)
        return drawn

    @torch.no_grad()
    def marginal(self, dims: Sequence[int]) -> Self:
        """The mixture of the features `dims`, in that order, of the same covariance type."""
        self.require_without_noise("marginal")
        return self.of_mixture(self.mixture.marginal(_positions(dims)), self.covariance_type)

    @torch.no_grad()
    def condition(self, x_obs: Any, obs_dims: Sequence[int]) -> ConditionalGaussianMixture[Self]:
        """The mixtures of the other features, given rows `(n, I)` of the features `obs_dims`.

        A vector `(I,)` is one row.
        """
        self.require_without_noise("condition")
        mixture, known = self.mixture, _positions(obs_dims)
        values = torch.as_tensor(x_obs).to(mixture.means)
        values = values.unsqueeze(0) if values.dim() == 1 else values
        missing = sorted(set(range(mixture.num_features)) - set(known))
        given = mixture.condition(known, values)
        return ConditionalGaussianMixture(given, known, missing, self.of_mixture)

    def of_mixture(self, mixture: MixtureOfGaussians, covariance_type: str = "full") -> Self:
        """A fitted model of a mixture, without the priors and constraints of this one."""
        k, d = mixture.means.shape
        own = type(self)(
            n_components=k,
            n_features=d,
            covariance_type=covariance_type,
            reg_covar=self.reg_covar,
            missing=self.missing,
            device=self.device,
        )
        family = replace(mixture.covariance)
        assert family.name == FAMILIES[covariance_type]
        own.layer_ = untrained_layer(k, mixture.means, family)
        own.layer_.set_parameters(mixture.weights, mixture.means, mixture.component_covariances)
        own.fitted_ = own.converged_ = True
        own.lower_bound_ = math.nan
        return own


def _positions(dims: Any) -> list[int]:
    values = dims.tolist() if isinstance(dims, Tensor) or hasattr(dims, "tolist") else dims
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise InvalidArgumentError(f"expected a list of features, got {describe(dims)}")
    return [require_integer("a feature", value, least=0) for value in values]


def _region_of(
    std_radius: Any,
    std_range: Any,
    confidence: Any,
    confidence_range: Any,
    ball: tuple[Any, Any],
) -> Region | None:
    """The region of `sample`'s arguments, or None.

    Raises:
        InvalidArgumentError: several, or a ball without a centre or a radius.
    """
    if (ball[0] is None) != (ball[1] is None):
        raise InvalidArgumentError("center_point and center_radius make a ball: give both")
    given = [std_radius, std_range, confidence, confidence_range, ball[0]]
    if sum(value is not None for value in given) > 1:
        raise InvalidArgumentError(
            "expected one of std_radius, std_range, confidence, confidence_range and "
            "center_point, got several"
        )
    if std_radius is not None:
        return Shell(0.0, require_number("std_radius", std_radius, above=0))
    if std_range is not None:
        return Shell(*_pair("std_range", std_range))
    if confidence is not None:
        if not 0 < require_number("confidence", confidence) < 1:
            raise InvalidArgumentError(f"confidence must be in (0, 1), got {confidence}")
        return Confidence(0.0, confidence)
    if confidence_range is not None:
        return Confidence(*_pair("confidence_range", confidence_range))
    return None if ball[0] is None else Ball(torch.as_tensor(ball[0]).tolist(), ball[1])


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, Sequence) or len(value) != 2 or not value[0] < value[1]:
        raise InvalidArgumentError(f"{name} must be two increasing numbers, got {describe(value)}")
    return value[0], value[1]
