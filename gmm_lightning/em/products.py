"""Components by two matrix products per chunk: `T eta'` for log densities, `R' T` for sums."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning.em.plan_terms import ProductTerms
from gmm_lightning.em.workspace import Buffers, Workspace, sums_by_component
from gmm_lightning.linalg import accumulator_dtype


class ProductComponents:
    """Log joint densities and sums of components from the features of a row.

    Both take `N C (D(D+1)/2 + D + 1)` multiply-adds for dense covariances of C components.

    Args:
        terms: of the plan.
        workspace: holds the buffers of the features.
    """

    def __init__(self, terms: ProductTerms, workspace: Workspace) -> None:
        groups, columns, length = terms.natural.shape
        device = terms.natural.device
        self._terms, self._workspace = terms, workspace
        self._natural, self._matrix, self._centre = (
            squeeze_group(t.to(terms.natural))
            for t in (terms.natural, terms.coordinates.matrix, terms.coordinates.centre)
        )
        self._by_component = sums_by_component(terms)
        shape = (columns, length) if self._by_component else (length, columns)
        self._whole = torch.zeros(groups, *shape, dtype=accumulator_dtype(device), device=device)
        self._sums = squeeze_group(self._whole)
        self._buffers: Buffers

    def write_log_joint(self, rows: Tensor, joint: Tensor) -> None:
        """Write `log pi_k + log N(x | mu_k, Sigma_k)` of rows `(n[, P], D)` into `(P, C', n)`."""
        into = self._buffers = self._workspace.buffers(self._terms, len(rows))
        _write_features(rows, self._centre, self._matrix, into)
        whole, index = squeeze_group(joint), self._terms.index
        if index is None and whole.dtype == self._natural.dtype:
            into.multiply(self._natural, into.features, out=whole)
            return
        own = into.multiply(self._natural, into.features).to(whole.dtype)
        if index is None:
            whole.copy_(own)
        else:
            whole[index] = own

    def add(self, rows: Tensor, responsibilities: Tensor) -> None:
        """Add the sums of the rows last written, with responsibilities `(P, C', n)`."""
        into, resp = self._buffers, squeeze_group(responsibilities)
        if self._terms.index is not None:
            resp = resp[self._terms.index]
        resp = resp.to(into.features)
        one, other = resp, into.features.mT
        if not self._by_component:
            one, other = into.features, resp.mT
        if into.sums is None:
            into.add_product(self._sums, one, other)
        else:
            self._sums += into.multiply(one, other, out=into.sums)

    def sums(self) -> tuple[Tensor | None, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Which components these are; counts, first moments, reference points, second moments.

        Second moments of a tied family are not among them: something stands in their place.
        """
        features, coordinates = self._terms.features, self._terms.coordinates
        d = features.num_features
        split = [1, features.num_terms, d]
        whole = self._whole if self._by_component else self._whole.mT
        counts, terms, first = whole.split(split, -1)
        first = coordinates.inverse(first)
        shift = coordinates.centre.unsqueeze(-2).expand_as(first)
        second = counts if not features.num_terms else features.second(terms, coordinates)
        counts, first, shift, second = (
            values.flatten(0, 1) for values in (counts.squeeze(-1), first, shift, second)
        )
        return self._terms.index, (counts, first, shift, second)


def squeeze_group(values: Tensor) -> Tensor:
    """The values without the group axis if there is only one group."""
    return values[0] if len(values) == 1 else values


def _write_features(x: Tensor, centre: Tensor, matrix: Tensor, into: Buffers) -> None:
    """Write the features of rows, one column per row."""
    if matrix.dim() == centre.dim():
        torch.sub(x.movedim(0, -1), centre.unsqueeze(-1), out=into.z)
        into.z.mul_(matrix.unsqueeze(-1))
    else:
        torch.sub(x, centre, out=into.diff)
        into.multiply(matrix, into.diff.movedim(0, -1), out=into.z)
    into.write_features()
