"""Components by whitened rows, `L_k^-1 (x - mu_k)`, and sums over the rows that each one has."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from gmm_lightning._chunking import rows_per_chunk
from gmm_lightning.covariances import Covariance
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.plan_terms import WhitenedTerms
from gmm_lightning.em.responsibilities import NEGLIGIBLE
from gmm_lightning.linalg import accumulator_dtype

# Sums are taken over this many rows at a time, or more where there are many components: a row
# belongs to few of them, and each takes its own. The last number bounds the responsibilities kept.
_SUMMED_ROWS, _SUMMED_NUMBERS, _MOST_NUMBERS = 1 << 12, 1 << 21, 1 << 23

# The factors of many features are cut into strips of rows, without the zeros to the right.
_ROWS_PER_STRIP, _MOST_STRIPS = 16, 4


class WhitenedComponents:
    """Log joint densities and sums of C components from whitened rows.

    For dense covariances densities take about `5/8 N C D^2` multiply-adds, and sums `N A D^2`,
    where A components share a row on average.

    Args:
        family: of the covariances, not a tied one.
        terms: of the plan.
        parameters: hold the means.
    """

    def __init__(
        self, family: Covariance, terms: WhitenedTerms, parameters: MixtureParameters
    ) -> None:
        wide = accumulator_dtype(parameters.means.device)
        self._family, self._terms = family, terms
        self._means = parameters.means.flatten(0, 1)[terms.index].to(terms.constant)
        self._counts = torch.zeros(len(self._means), dtype=wide, device=self._means.device)
        self._first = torch.zeros(self._means.shape, dtype=wide, device=self._means.device)
        self._second = family.outer(self._counts.unsqueeze(0), self._first.unsqueeze(0))
        self._rows, self._responsibilities = list[Tensor](), list[Tensor]()
        # The largest responsibility of each component so far, times the weight of its row.
        self._largest = self._means.new_zeros(len(self._means), 1)
        most = max(_SUMMED_ROWS, min(64 * len(self._means), _SUMMED_NUMBERS // len(self._means)))
        self._most_rows, self._num_rows = min(most, _MOST_NUMBERS // len(self._means)), 0
        self._strips = None if terms.whitening is None else _strips(terms.whitening, terms.offset)

    def write_log_joint(self, rows: Tensor, joint: Tensor) -> None:
        """Write `log pi_k + log N(x | mu_k, Sigma_k)` of rows `(n, D)` into `(1, C', n)`."""
        terms, dtype = self._terms, self._means.dtype
        if terms.centre is not None:
            n, d = rows.shape
            columns = torch.ones(d + 1, n, dtype=dtype, device=rows.device)
            torch.sub(rows.flip(-1).mT, terms.centre.flip(-1).unsqueeze(-1), out=columns[:d])
            square = self._from_centre(columns)
        else:
            square = self._from_means(rows.to(dtype).mT.contiguous())
        log_joint = square.mul_(-0.5).add_(terms.constant.unsqueeze(-1))
        if self._is_whole(joint):
            joint[0].copy_(log_joint)
        else:
            joint[0, terms.index] = log_joint.to(joint)

    def _is_whole(self, joint: Tensor) -> bool:
        """Whether the axis of components of log joint densities is that of these components."""
        return len(self._means) == joint.shape[1]

    def _from_centre(self, columns: Tensor) -> Tensor:
        """Squared Mahalanobis distances `(C, n)` of rows `(D + 1, n)`, 1 the last entry of each.

        All components whiten the same numbers, which is one product per strip.
        """
        assert self._strips is not None
        number, n = len(self._means), columns.shape[-1]
        total = columns.new_zeros(number, n)
        height = max(strip.shape[1] for strip in self._strips)
        size = rows_per_chunk(2 * number * height, columns)
        for i in range(0, n, size):
            part, own = columns[:, i : i + size], total[:, i : i + size]
            for strip in self._strips:
                # The last strip reads all features, the offset beside them.
                white = strip.flatten(0, 1) @ part[len(part) - strip.shape[-1] :]
                own += white.square_().view(number, -1, part.shape[-1]).sum(1)
        return total

    def _from_means(self, columns: Tensor) -> Tensor:
        """Squared Mahalanobis distances `(C, n)` of rows `(D, n)`, from exact differences."""
        number, (d, n) = len(self._means), columns.shape
        total = columns.new_empty(number, n)
        step = max(1, min(number, rows_per_chunk(2 * d * min(n, 512), columns)))
        size = rows_per_chunk(2 * d * step, columns)
        for i in range(0, n, size):
            for j in range(0, number, step):
                some = slice(j, j + step)
                diff = columns[:, i : i + size] - self._means[some].unsqueeze(-1)
                if self._terms.whitening is None:
                    scale = self._terms.scale[some]
                    white = self._family.whiten(scale, diff.movedim(-1, 0)).movedim(0, -1)
                else:
                    white = torch.bmm(self._terms.whitening[some], diff)
                total[some, i : i + size] = white.square_().sum(1)
        return total

    def add(self, rows: Tensor, responsibilities: Tensor) -> None:
        """Add the sums of rows `(n, D)` with responsibilities `(1, C', n)`."""
        own = responsibilities[0]
        if not self._is_whole(responsibilities):
            own = own[self._terms.index]
        if not self._rows and 2 * len(rows) > self._most_rows:
            self._sum(rows.to(self._means), own.to(self._means))
            return
        # The memory of both may be that of the next chunk, too.
        self._rows.append(rows.to(self._means, copy=True))
        self._responsibilities.append(own.to(self._means, copy=True))
        self._num_rows += len(rows)
        if self._num_rows >= self._most_rows:
            self._sum_kept()

    def _sum_kept(self) -> None:
        """Sum over the rows kept so far."""
        if self._rows:
            rows, resp = torch.cat(self._rows), torch.cat(self._responsibilities, 1)
            self._rows, self._responsibilities, self._num_rows = [], [], 0
            self._sum(rows, resp)

    def _sum(self, rows: Tensor, resp: Tensor) -> None:
        """Add the sums of rows, component by component over those that it has."""
        self._counts += resp.sum(-1, dtype=self._counts.dtype)
        # Weights may be of any size: what is negligible is so beside the rest of its component.
        self._largest = torch.maximum(self._largest, resp.amax(-1, keepdim=True))
        kept = resp > NEGLIGIBLE[resp.dtype] * self._largest
        for c, number in enumerate(kept.sum(-1).tolist()):
            if not number:
                continue
            weight, own = resp[c], rows
            if 2 * number < len(rows):
                some = kept[c].nonzero().squeeze(-1)
                weight, own = weight.index_select(0, some), rows.index_select(0, some)
            diff = own - self._means[c]
            self._first[c] += weight @ diff
            self._second[c] += self._family.outer(weight.unsqueeze(-1), diff.unsqueeze(1))[0]

    def sums(self) -> tuple[Tensor | None, tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Which components these are; counts, first moments, reference points, second moments."""
        self._sum_kept()
        means = self._means.to(self._first)
        return self._terms.index, (self._counts, self._first, means, self._second)


def _strips(whitening: Tensor, offset: Tensor | None) -> list[Tensor] | None:
    """Lower triangular matrices `(C, D, D)` in strips of rows, without most of their zeros.

    Columns are in reverse order, features that only the last rows read first, and at the end is
    the offset, `-L^-1 (mu - centre)`: so each strip reads the last columns of the same rows.
    """
    if offset is None:
        return None
    d = whitening.shape[-1]
    number = max(1, min(_MOST_STRIPS, d // _ROWS_PER_STRIP))
    ends = [round(d * i / number) for i in range(number + 1)]
    return [
        torch.cat([whitening[:, a:b, :b].flip(-1), offset[:, a:b].unsqueeze(-1)], -1)
        for a, b in itertools.pairwise(ends)
    ]
