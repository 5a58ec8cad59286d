"""Whether targets lie within the units of a head."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.layers._head_parametrization import HeadParametrization
from gmm_lightning.linalg import accumulator_dtype

# Of targets with unit variance about their centre, at most one row in FAR has a squared distance
# above FAR D, whatever their distribution is (Markov's inequality); the median of a batch never.
FAR = 100.0
# Of a normal with the predicted spread, fewer rows may lie close together by chance.
LEAST_ROWS = 5


# Rows of a batch that are judged.
MOST_ROWS = 1024


@torch.no_grad()
def warn_of_far_targets(
    parametrization: HeadParametrization, outputs: Tensor, y: Tensor, weights: Tensor | None
) -> None:
    """Warn if targets lie far outside the units of a head.

    Args:
        parametrization: of the head.
        outputs: of its linear map, `(*S, *B, Q)`.
        y: targets `(*S, *B, D)`.
        weights: of targets, `(*S, *B)`; those of weight 0 are not judged.
    """
    if weights is not None:
        y = torch.where((weights > 0).unsqueeze(-1), y, torch.nan)
    axes = len(parametrization.batch_shape) + 1
    y, outputs = (v.reshape(-1, *v.shape[-axes:])[:MOST_ROWS] for v in (y, outputs))
    y, mixture = y.to(outputs.dtype), parametrization(outputs)
    found = _far(parametrization, mixture, y) or _narrow(parametrization, mixture, y)
    if found is not None:
        # Said of the line that calls `loss`.
        warnings.warn(
            f"the targets of the first batch {found}, which takes long to learn, or fails: call "
            "initialize_from with a layer that was fitted to the targets, or standardise them",
            stacklevel=4,
        )


def _far(p: HeadParametrization, mixture: MixtureOfGaussians, y: Tensor) -> str | None:
    """Half of the targets are ten units per feature from the centre, and from every component.

    A head that was trained to reach them is right without units.
    """
    squares = ((y - p.loc) / p.unit).square().sum(-1)
    typical, nearest = squares.nanmedian(), mixture.mahalanobis(y).square().amin(-1).nanmedian()
    if not bool(torch.minimum(typical, nearest) > FAR * y.shape[-1]):
        return None
    return f"lie {float(typical.sqrt()):.2g} units from the centre of the head's units"


def _narrow(p: HeadParametrization, mixture: MixtureOfGaussians, y: Tensor) -> str | None:
    """In units of 1, a feature varies by less than the least standard deviation in the range.

    And by as much less than the head predicts: the mean of conditional variances is at most that
    of the targets. Units that were taken from targets are right, though a family may share one
    standard deviation among features of different ones.
    """
    if bool((p.unit != 1).any()):
        return None
    rows, eps = (~y.isnan()).sum(0), torch.finfo(y.dtype).eps
    y = y.to(accumulator_dtype(y.device))
    variance = (y - y.nanmean(0)).square().nanmean(0)
    rounding = (8 * eps * y.nan_to_num().abs().amax(0)).square()
    least = mixture.variance.mean(0).clamp(max=1.0) / p.scale_range**2
    # A constant feature says nothing about its unit.
    narrow = (rows >= LEAST_ROWS) & (variance > rounding) & (variance < least)
    if not bool(narrow.any()):
        return None
    feature = int(narrow.reshape(-1, y.shape[-1]).any(0).nonzero()[0])
    share = variance[narrow].min().sqrt()
    return f"vary by {float(share):.2g} of the head's unit in feature {feature}"
