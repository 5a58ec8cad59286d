"""The plan of an E-step: how each component is computed, and in which precision."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning.covariances import Features, NaturalParameters, StandardizedCoordinates
from gmm_lightning.em.model import MixtureModel
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan_terms import EStepPlan, ProductTerms, WhitenedTerms
from gmm_lightning.linalg import LOG_2PI, accumulator_dtype, invert_tril

# Up to this many rows and differences (rows x mixtures x K x D) the centred kernel takes less time
# than making a plan (measured, one thread: 1.4 to 2.6 x less for D = 2 to 32).
_FEW_ROWS, _FEW_DIFFERENCES = 512, 1 << 15

# With fewer rows per feature a solve with a dense factor takes less time than its inverse.
FEW_PER_FEATURE = 2

# The largest magnitude of cancelling terms that a dtype may carry. Its machine precision times
# this, the error of a log density, is 6e-5 in float32 and 2e-10 in float64.
MAX_CANCELLATION = {torch.float32: 2.0**10, torch.float64: 2.0**20}


def make_plan(
    model: MixtureModel,
    parameters: MixtureParameters,
    num_rows: int,
    *,
    shared: bool,
    overlap: float | None = None,
) -> EStepPlan | None:
    """A plan by the bounds on what cancels; None: take differences to every mean.

    The precision follows from the parameters alone: a component that is tight and far from the
    centre of the mixture needs more digits than one that is not. Products with features need
    most (the terms are squares), whitened rows fewer, and differences to the mean fewest.

    Args:
        model: family and constants.
        parameters: of M mixtures.
        num_rows: rows of the E-step; for few of them differences are cheaper than a plan.
        shared: whether all of them read the same rows.
        overlap: components of a mixture that share a row, on average; None: not known yet.
    """
    few = num_rows < FEW_PER_FEATURE * parameters.means.shape[-1]
    if few or is_small(parameters, num_rows) or model.needs_differences:
        return None
    if shared and not model.family.tied:
        return _plan_of_components(model, parameters, overlap and overlap * len(parameters.means))
    return _plan_of_mixtures(model, parameters, 1 if shared else parameters.num_mixtures)


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
        level += ~(magnitude <= _most(dtype, parameters.dtype)).all(-1)
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
    if features is None or model.needs_differences or not _saves_products(features, k):
        return [(rest, None)]
    found: list[tuple[Tensor, EStepPlan | None]] = []
    narrow = parameters.dtype
    for dtype in _precisions(parameters):
        terms = _Terms(model, parameters, len(rest))
        coordinates, natural = terms.in_coordinates(features, dtype)
        fits = (natural.magnitude <= _most(dtype, narrow)).all(-1)
        whole, some = terms.coefficients(natural).to(dtype), fits.nonzero().squeeze(-1)
        if len(some) == len(rest):
            return [*found, (rest, EStepPlan((ProductTerms(features, coordinates, whole),)))]
        if len(some):
            own = ProductTerms(features, _select(coordinates, some), whole[some])
            found.append((rest[some], EStepPlan((own,))))
        others = (~fits).nonzero().squeeze(-1)
        rest, model, parameters = rest[others], model.select(others), parameters.select(others)
    return [*found, (rest, None)]


def _plan_of_mixtures(
    model: MixtureModel, parameters: MixtureParameters, groups: int
) -> EStepPlan | None:
    """All components by products in one dtype, if one is enough for all."""
    m, k, d = parameters.means.shape
    features = model.family.features(d)
    if features is None or not _saves_products(features, m * k // groups):
        return None
    terms = _Terms(model, parameters, groups)
    for dtype in _precisions(parameters):
        coordinates, natural = terms.in_coordinates(features, dtype)
        if bool((natural.magnitude <= _most(dtype, parameters.dtype)).all()):
            whole = terms.coefficients(natural).to(dtype)
            return EStepPlan((ProductTerms(features, coordinates, whole),))
    return None


def _plan_of_components(
    model: MixtureModel, parameters: MixtureParameters, overlap: float | None
) -> EStepPlan:
    """Each component in the way that costs least among those that are exact enough for it."""
    m, k, d = parameters.means.shape
    features, products = model.family.features(d), list[ProductTerms]()
    terms, (narrow, *wider) = _Terms(model, parameters, 1), _precisions(parameters)
    left = torch.ones(m * k, dtype=torch.bool, device=parameters.means.device)
    if features is not None:
        for dtype in [narrow, *(wider if features.wide_products_pay else ())]:
            if not _products_pay(features, left, overlap):
                break
            coordinates, natural = terms.in_coordinates(features, dtype)
            safe = left & (natural.magnitude[0] <= _most(dtype, narrow))
            if _products_pay(features, safe, overlap):
                left = left & ~safe
                index = None if bool(safe.all()) else safe.nonzero().squeeze(-1)
                whole = terms.coefficients(natural).to(dtype)
                whole = whole if index is None else whole[:, index]
                products.append(ProductTerms(features, coordinates, whole, index))
            if not bool(left.any()):
                return EStepPlan(tuple(products))
    index = left.nonzero().squeeze(-1)
    return EStepPlan(tuple(products), tuple(_whitened(model, terms, index, narrow)))


def _products_pay(features: Features, some: Tensor, overlap: float | None) -> bool:
    """Whether products for some components, a mask, take less time than whitened rows."""
    number = int(some.sum())
    # Outside of a CPU many small sums take longer than products.
    return number > 0 and (some.device.type != "cpu" or features.products_pay(number, overlap))


def _whitened(
    model: MixtureModel, terms: _Terms, index: Tensor, narrow: torch.dtype
) -> list[WhitenedTerms]:
    """The components at `index` by whitened rows, in the dtype that is enough for each."""
    family, scale, constant = model.family, terms.scale[0, index], terms.constant[0, index]
    if not family.whitens_by_solve:
        dtype = narrow if bool(_holds_squares(narrow, scale).all()) else scale.dtype
        return [WhitenedTerms(index, scale.to(dtype), constant.to(dtype))]
    d, found = terms.means.shape[-1], list[WhitenedTerms]()
    factor = family.scale_tril(scale.unsqueeze(0), d)[0]
    whitening = invert_tril(factor)
    centre = terms.centre[0].to(narrow).to(scale)
    gap = (terms.means[0, index] - centre).unsqueeze(-1)
    offset = -(whitening @ gap).squeeze(-1)
    deviation = torch.linalg.vector_norm(factor, dim=-1)
    reach = torch.hypot(deviation.unsqueeze(-1), gap)
    magnitude = torch.linalg.vector_norm((whitening.abs() @ reach).squeeze(-1), dim=-1)
    left = torch.ones_like(index, dtype=torch.bool)
    for dtype in dict.fromkeys((narrow, scale.dtype)):
        some = left & (magnitude <= _most(dtype, narrow)) & _holds_squares(dtype, deviation)
        left = left & ~some
        own = (scale[some], constant[some], whitening[some], centre, offset[some])
        found += [WhitenedTerms(index[some], *(value.to(dtype) for value in own))]
    found += [WhitenedTerms(index[left], scale[left], constant[left], whitening[left])]
    return [one for one in found if len(one.index)]


def _holds_squares(dtype: torch.dtype, lengths: Tensor) -> Tensor:
    """Whether a dtype holds squares of lengths `(C, ...)`, and of some millions of them, `(C,)`."""
    # Sums of whitened rows have the units of the data.
    info, own = torch.finfo(dtype), lengths.abs().reshape(len(lengths), -1)
    least, most = (info.tiny / info.eps) ** 0.5, info.max**0.5 * info.eps
    return ((own >= least) & (own <= most)).all(-1)


def _saves_products(features: Features, num_columns: int) -> bool:
    """Whether products take less time than differences to each mean in float64.

    Measured on a CPU, one thread: D^2 / 2 terms of a row are made for any K, and differences are
    as fast at K = 2, 5, 8, 12 for D = 32, 64, 128, 256.
    """
    return features.num_terms <= 6 * features.num_features * num_columns


def _most(dtype: torch.dtype, narrow: torch.dtype) -> float:
    """The largest magnitude in a dtype whose error is that of `MAX_CANCELLATION` in another."""
    share = torch.finfo(narrow).eps / torch.finfo(dtype).eps
    return MAX_CANCELLATION[narrow] * share


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

    def coefficients(self, natural: NaturalParameters) -> Tensor:
        """Coefficients of `(1, q(z), z)`, `(P, C, 1 + Q + D)`."""
        constant = self.constant - 0.5 * natural.square
        return torch.cat([constant.unsqueeze(-1), natural.quadratic, natural.linear], -1)
