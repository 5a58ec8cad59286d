"""Rejection sampling from a mixture within a region, jointly over components."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.special import gammaincinv
from torch import Generator, Tensor

from gmm_lightning.distributions.truncation.envelopes import Envelope
from gmm_lightning.distributions.truncation.euclidean import EuclideanRegion
from gmm_lightning.distributions.truncation.hull import accept
from gmm_lightning.errors import RegionError

# Numbers proposed in a round: bounds its memory, and affects the samples of a seed.
_MAX_PROPOSED = 1 << 21

# Numbers that may be rejected before sampling ends with an error.
_MAX_REFUSED = 20_000_000


def rejection_sample(
    region: EuclideanRegion,
    envelopes: Sequence[Envelope],
    log_weights: Tensor,
    like: Tensor,
    generator: Generator | None,
) -> tuple[Tensor, Tensor]:
    """Samples of a mixture within a region, and their components: see the package's docstring.

    `like` gives the shape `(n, D)` and the dtype, to which rows are rounded before the test.

    Raises:
        RegionError: no component reaches the region, or too many proposals were rejected.
    """
    rows, d = like.shape
    masses = log_weights + log_weights.new_tensor([e.log_mass for e in envelopes])
    total = float(masses.logsumexp(-1))
    if not math.isfinite(total):
        raise RegionError(
            "the region has no mass that a float64 logarithm can hold: no component reaches it"
        )
    shares = masses.softmax(-1)
    budget = region.max_refused
    if budget is None:
        budget = _MAX_REFUSED // (d * max(e.cost for e in envelopes)) + 100 * rows
    kept: list[tuple[Tensor, Tensor]] = []
    found = tried = 0
    while found < rows:
        rate = (found + 1) / (tried + 1)
        size = min(math.ceil(1.1 * (rows - found) / rate) + 32, _MAX_PROPOSED // max(d, 16) + 1)
        z = torch.multinomial(shares, size, replacement=True, generator=generator)
        x, log_accept = _propose(envelopes, z, generator)
        x = x.to(like.dtype)
        keep = accept(log_accept, generator)
        keep &= region.contains(x)
        kept.append((x[keep], z[keep]))
        tried, found = tried + size, found + int(keep.sum())
        foreseen = tried - found
        if region.max_refused is None:
            # A lower bound: the rate may be three standard errors above its estimate.
            foreseen = max(foreseen, rows * tried / (found + 3 * math.sqrt(found) + 3))
        if found < rows and foreseen > budget:
            # The exact bound for a Poisson count; for none found it is the rule of three.
            bound = total + math.log(float(gammaincinv(found + 1, 0.95)) / tried)
            drawn_from = {envelopes[k].name for k in (shares > 1e-3).nonzero().flatten().tolist()}
            kind = str(like.dtype).removeprefix("torch.")
            raise RegionError(
                f"{found} of {tried} proposals, drawn from {' and '.join(sorted(drawn_from))}, lay "
                f"in the region as {kind} rows: its probability is below "
                f"10^{bound / math.log(10):.2f} with 95 % confidence; ask for a larger region or "
                "fewer rows, or raise max_draws if it has one"
            )
    x, z = (torch.cat(parts)[:rows] for parts in zip(*kept, strict=True))
    return x, z


def _propose(
    envelopes: Sequence[Envelope], component: Tensor, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """Rows `(n, D)` from the envelopes of components `(n,)`, and their log acceptance."""
    order = component.argsort(stable=True)
    counts = torch.bincount(component, minlength=len(envelopes)).tolist()
    drawn = [e.draw(n, generator) for e, n in zip(envelopes, counts, strict=True) if n > 0]
    x, log_accept = (torch.cat(parts) for parts in zip(*drawn, strict=True))
    place = order.argsort()
    return x[place], log_accept[place]
