"""Copies of a layer, one per start, as one layer with a batch axis more."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor, nn

from gmm_lightning.covariances import Covariance
from gmm_lightning.layers import GMMLayer
from gmm_lightning.priors import Prior
from gmm_lightning.statistics import Moments


def copies(layer: GMMLayer, num_starts: int) -> GMMLayer:
    """A layer of batch shape `(S, *B)` whose mixtures all begin as the given ones.

    Evidence and projections see one start at a time.
    """
    batch = (num_starts, *layer.batch_shape)
    wide = empty_like(layer, batch)
    for mine, theirs in zip(parameters(wide), parameters(layer), strict=True):
        mine.data = theirs.detach().expand(num_starts, *theirs.shape).clone()
    if layer.evidence is not None:
        wide.evidence = EvidenceOfRows(layer.evidence)
    wide.projections = nn.ModuleList(EachStart(p) for p in layer.projections)
    for slot, prior in layer.priors.items():
        assert isinstance(prior, Prior)
        wide.priors[slot] = mapped(prior, lambda b: b.expand(num_starts, *b.shape).clone())
    return wide


def chosen(starts: GMMLayer, index: Tensor) -> GMMLayer:
    """The layer of some of the starts."""
    narrow = empty_like(starts, (len(index), *starts.batch_shape[1:]))
    for mine, theirs in zip(parameters(narrow), parameters(starts), strict=True):
        mine.data = theirs.detach()[index]
    for slot, prior in starts.priors.items():
        assert isinstance(prior, Prior)
        narrow.priors[slot] = mapped(prior, lambda b: b[index])
    return narrow


class EvidenceOfRows(nn.Module):
    """The same evidence for every start: it depends on the rows alone."""

    def __init__(self, evidence: nn.Module) -> None:
        super().__init__()
        self.evidence = evidence

    def forward(self, x: Tensor) -> Tensor:
        """Rows `(n, 1, *B, D)` to `(n, 1, *B, K)`."""
        return self.evidence(x.squeeze(1)).unsqueeze(1)


class EachStart(nn.Module):
    """A projection of the moments of one layer, applied to every start in turn."""

    def __init__(self, projection: nn.Module) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, moments: Moments, covariance: Covariance) -> Moments:
        """Moments `(S, *B, ...)` of all starts."""
        each = [
            self.projection(Moments(*parts), covariance)
            for parts in zip(*(getattr(moments, f.name) for f in fields(moments)), strict=True)
        ]
        stacked = [torch.stack([getattr(m, f.name) for m in each]) for f in fields(moments)]
        return Moments(*stacked)


def parameters(layer: GMMLayer) -> tuple[nn.Parameter, ...]:
    """What EM writes."""
    return (layer.mixture_logits, layer.means, layer.raw_scale)


def packed(layer: GMMLayer) -> Tensor:
    """All parameters of each mixture in one row, `(*B, V)`, a copy."""
    batch = layer.batch_shape
    return torch.cat([p.detach().reshape(*batch, -1) for p in parameters(layer)], -1)


@torch.no_grad()
def packed_units(layer: GMMLayer) -> Tensor:
    """What each entry of `packed` is measured in: the deviations of the mixture, or 1."""
    unit = layer.distribution().variance.sqrt()
    unit = torch.where(torch.isfinite(unit) & (unit > 0), unit, 1.0)
    parts = (
        torch.ones_like(layer.mixture_logits),
        unit.unsqueeze(-2).expand(layer.means.shape),
        layer.covariance.raw_entry_scales(unit, layer.num_components),
    )
    return torch.cat([part.reshape(*layer.batch_shape, -1) for part in parts], -1)


@torch.no_grad()
def unpack(layer: GMMLayer, rows: Tensor) -> None:
    """Write parameters that `packed` gave, in place."""
    sizes = [p.numel() // layer.batch_shape.numel() for p in parameters(layer)]
    for parameter, part in zip(parameters(layer), rows.split(sizes, -1), strict=True):
        parameter.copy_(part.reshape(parameter.shape))


def empty_like(
    layer: GMMLayer, batch_shape: tuple[int, ...], dtype: torch.dtype | None = None
) -> GMMLayer:
    """A layer of another batch shape or dtype, its parameters not set and without priors."""
    made: GMMLayer = nn.utils.skip_init(  # pyright: ignore[reportAssignmentType]
        GMMLayer,
        layer.num_features,
        layer.num_components,
        layer.covariance,
        batch_shape=batch_shape,
        device=layer.means.device,
        dtype=dtype or layer.means.dtype,
    )
    made.projections = layer.projections
    if layer.evidence is not None:
        made.evidence = layer.evidence
    return made


def mapped(prior: Prior, change: Callable[[Tensor], Tensor]) -> Prior:
    """A copy of a prior with every buffer changed."""
    own = copy.deepcopy(prior)
    for module in own.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, change(buffer))
    return own
