"""The plan of an E-step: coordinates, natural parameters, and a precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gmm_lightning.covariances import Features, NaturalParameters, StandardizedCoordinates
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.linalg import LOG_2PI, accumulator_dtype

# Up to this many rows and differences (rows x mixtures x K x D) the centred kernel takes less time
# than making a plan (measured, one thread: 1.4 to 2.6 x less for D = 2 to 32).
_FEW_ROWS, _FEW_DIFFERENCES = 512, 1 << 15

# A component costs about five times as much from differences, and products cost twice as much in
# float64: up to this share of the components is computed so beside float32 products.
_CAREFUL_SHARE = 0.15

# The largest magnitude of cancelling terms that a dtype may carry. Its machine precision times
# this, the error of a log density, is 6e-5 in float32 and 2e-10 in float64.
MAX_CANCELLATION = {torch.float32: 2.0**10, torch.float64: 2.0**20}


@dataclass(frozen=True)
class EStepPlan:
    """Coefficients that give all log joint densities by one product with a row's features.

    Attributes:
        features: the terms of the family.
        coordinates: of the features, in float64.
        natural: coefficients of `(1, q(z), z)`, `(P, C, 1 + Q + D)`, in the dtype to compute in.
            P is 1 and C is M * K where all mixtures read the same rows; else P is M and C is K.
        careful: components whose terms cancel beyond the dtype, `(C')`: they are computed from
            differences; None: there are none.
    """

    features: Features
    coordinates: StandardizedCoordinates
    natural: Tensor
    careful: Tensor | None = None


def make_plan(
    model: MixtureModel, parameters: MixtureParameters, num_rows: int, *, shared: bool
) -> EStepPlan | None:
    """A plan in the dtype of the parameters, else in float64, else None: take differences.

    The precision follows from a bound on what cancels in the sum of the terms, and so from the
    parameters alone: a component that is tight and far from the centre of the mixture needs
    more digits than one that is not.

    Args:
        model: family and constants.
        parameters: of M mixtures.
        num_rows: rows of the E-step; for few of them differences are cheaper than a plan.
        shared: whether all of them read the same rows.
    """
    m, k, d = parameters.means.shape
    if is_small(parameters, num_rows):
        return None
    features = model.family.features(d)
    groups = 1 if shared else m
    if features is None or not features.is_cheaper(m * k // groups):
        return None
    terms = _Terms(model, parameters, groups)
    precisions = _precisions(parameters)
    for dtype in precisions:
        coordinates, natural = terms.in_coordinates(features, dtype)
        most = m * k - 1 if dtype == precisions[-1] else _CAREFUL_SHARE * m * k
        lost = ~(natural.magnitude <= MAX_CANCELLATION[dtype])
        number = int(lost.sum())
        if number and (groups > 1 or model.family.tied or number > most):
            continue
        whole = terms.coefficients(natural)
        if not number:
            return EStepPlan(features, coordinates, whole.to(dtype))
        whole = torch.where(lost.unsqueeze(-1), 0.0, whole)
        return EStepPlan(features, coordinates, whole.to(dtype), lost[0].nonzero().squeeze(-1))
    return None


def is_small(parameters: MixtureParameters, num_rows: int) -> bool:
    """Whether differences to each mean take less time than making a plan."""
    return num_rows <= _FEW_ROWS and num_rows * parameters.means.numel() <= _FEW_DIFFERENCES


def group_by_precision(model: MixtureModel, parameters: MixtureParameters) -> list[Tensor]:
    """Indices of the mixtures in groups that need the same dtype, each in its own coordinates."""
    features = model.family.features(parameters.means.shape[-1])
    if features is None:
        return [torch.arange(parameters.num_mixtures, device=model.batch_index.device)]
    terms = _Terms(model, parameters, parameters.num_mixtures)
    level = model.batch_index.new_zeros(parameters.num_mixtures)
    for dtype in _precisions(parameters):
        magnitude = terms.in_coordinates(features, dtype)[1].magnitude
        level += ~(magnitude <= MAX_CANCELLATION[dtype]).all(-1)
    return [(level == one).nonzero().squeeze(-1) for one in level.unique()]


def plans_by_precision(
    model: MixtureModel, parameters: MixtureParameters
) -> list[tuple[Tensor, EStepPlan | None]]:
    """Plans of mixtures that read rows of their own: one for those that need the same dtype.

    Each comes with the indices of its mixtures; where it is None, differences are taken.
    """
    _, k, d = parameters.means.shape
    features = model.family.features(d)
    rest = torch.arange(parameters.num_mixtures, device=parameters.device)
    if features is None or not features.is_cheaper(k):
        return [(rest, None)]
    found: list[tuple[Tensor, EStepPlan | None]] = []
    for dtype in _precisions(parameters):
        terms = _Terms(model, parameters, len(rest))
        coordinates, natural = terms.in_coordinates(features, dtype)
        fits = (natural.magnitude <= MAX_CANCELLATION[dtype]).all(-1)
        whole, some = terms.coefficients(natural).to(dtype), fits.nonzero().squeeze(-1)
        if len(some) == len(rest):
            return [*found, (rest, EStepPlan(features, coordinates, whole))]
        if len(some):
            found.append((rest[some], EStepPlan(features, _select(coordinates, some), whole[some])))
        others = (~fits).nonzero().squeeze(-1)
        rest, model, parameters = rest[others], model.select(others), parameters.select(others)
    return [*found, (rest, None)]


def _precisions(parameters: MixtureParameters) -> list[torch.dtype]:
    return list(dict.fromkeys((parameters.means.dtype, accumulator_dtype(parameters.means.device))))


def _select(coordinates: StandardizedCoordinates, index: Tensor) -> StandardizedCoordinates:
    values = (coordinates.centre, coordinates.matrix, coordinates.inverse_matrix)
    return StandardizedCoordinates(*(value[index] for value in values))


class _Terms:
    """The parameters in float64, `(P, C, ...)`, and what does not depend on the coordinates."""

    def __init__(self, model: MixtureModel, parameters: MixtureParameters, groups: int) -> None:
        m, k, d = parameters.means.shape
        wide = parameters.to(accumulator_dtype(parameters.means.device))
        log_weights = wide.mixture_logits.log_softmax(-1).view(groups, -1)
        compact = model.scale(wide)
        log_scale = model.family.half_log_det(compact, d).expand(m, k).reshape(groups, -1)
        form = compact.shape[2:]
        self.means = wide.means.reshape(groups, -1, d)
        self.scale = compact.expand(m, k, *form).reshape(groups, -1, *form)
        self.weights = log_weights.exp() * (groups / m)
        self.centre = (self.weights.unsqueeze(-1) * self.means).sum(-2)
        self.constant = log_weights - log_scale - 0.5 * d * LOG_2PI

    def coefficients(self, natural: NaturalParameters) -> Tensor:
        """Coefficients of `(1, q(z), z)`, `(P, C, 1 + Q + D)`."""
        constant = self.constant - 0.5 * natural.square
        return torch.cat([constant.unsqueeze(-1), natural.quadratic, natural.linear], -1)

    def in_coordinates(
        self, features: Features, dtype: torch.dtype
    ) -> tuple[StandardizedCoordinates, NaturalParameters]:
        """Coordinates to use with a dtype, and the natural parameters in them."""
        # The centre is a number of the dtype, so that subtracting it is exact where it matters.
        centre = self.centre.to(dtype).to(self.centre)
        gap = self.means - centre.unsqueeze(-2)
        axes = features.axes(self.weights, gap, self.scale)
        coordinates = StandardizedCoordinates(centre, *axes)
        return coordinates, features.natural_parameters(self.scale, gap, coordinates)
