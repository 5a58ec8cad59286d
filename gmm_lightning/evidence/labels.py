"""Labels: rows whose class is known, or partly known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from gmm_lightning._messages import describe, format_list, format_rows
from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.evidence.base import Evidence
from gmm_lightning.rows import Batch

UNKNOWN = -1


class Labels(Evidence):
    """Classes of rows, each a mixture of some of the components: `batch.labels`.

    A label c is observed with the confidence a: of a row of class c with probability a, of every
    other class with `(1 - a) / (C - 1)`. Soft labels q `(n, C)`, divided by their sum, are the
    likelihoods of the classes, mixed the same way:

        log p(e | k) = log(a q_c + (1 - a) / (C - 1) (1 - q_c)),    c the class of component k

    -1 is an unknown label, and so are soft labels that are all 0 or NaN. With confidence 1, rows of
    a class have responsibility 0 of the components of others, and are no noise.

    Args:
        class_of_component: class in `0 .. C - 1` of each component, `(K,)`; every class has one.
        confidence: a, in (1 / C, 1].

    Attributes:
        num_classes: C.

    Raises:
        InvalidArgumentError: a class without components, or a confidence out of range.

    References:
        D. J. Miller, H. S. Uyar (1997), A mixture of experts classifier with learning based on both
        labelled and unlabelled data, NIPS 9.

    Example:
        >>> labels = Labels([0, 0, 1])
        >>> labels(Batch(torch.zeros(2, 5), labels=torch.tensor([1, -1])))
        tensor([[-inf, -inf, 0.],
                [0., 0., 0.]])
    """

    name: ClassVar[str] = "labels"

    def __init__(self, class_of_component: Sequence[int], confidence: float = 1.0) -> None:
        super().__init__()
        classes = [
            require_integer("a class of class_of_component", c, least=0)
            for c in torch.as_tensor(class_of_component).tolist()
        ]
        self.class_of_component, self.num_components = classes, len(classes)
        self.num_classes = 1 + max(classes, default=-1)
        if not classes or len(set(classes)) < self.num_classes:
            missing = format_list(str(c) for c in set(range(self.num_classes)) - set(classes))
            raise InvalidArgumentError(
                f"class_of_component must name every class from 0 on, got {describe(classes)}"
                + (f" without {missing}" if missing else "")
            )
        self.confidence = require_number("confidence", confidence, above=0, most=1)
        if self.num_classes > 1 and self.confidence * self.num_classes <= 1:
            raise InvalidArgumentError(
                f"a confidence of {confidence} says nothing of {self.num_classes} classes: "
                f"expected more than {1 / self.num_classes:.3g}"
            )

    @classmethod
    def of_classes(
        cls,
        num_classes: int,
        components_per_class: int | Sequence[int] = 1,
        confidence: float = 1.0,
    ) -> Self:
        """Evidence for classes of so many components each, in the order of the classes.

        Example:
            >>> Labels.of_classes(2, components_per_class=[1, 3]).class_of_component
            [0, 1, 1, 1]
        """
        if isinstance(components_per_class, int):
            components_per_class = [components_per_class] * num_classes
        sizes = [require_integer("components_per_class", k, least=1) for k in components_per_class]
        if len(sizes) != num_classes:
            raise InvalidArgumentError(
                f"components_per_class must be one number, or one for each of {num_classes} "
                f"classes, got {len(sizes)}"
            )
        return cls([c for c, size in enumerate(sizes) for _ in range(size)], confidence)

    def forward(self, batch: Batch) -> Tensor:
        """Log densities of the labels, `(n, *1, K)`."""
        x, lead = batch.x, [1] * (batch.x.dim() - 2)
        if batch.labels is None:
            return x.new_zeros(*x.shape[:-1], self.num_components)
        log_density = self.log_likelihoods(batch.labels, x)
        index = torch.tensor(self.class_of_component, device=x.device)
        return log_density[:, index].reshape(len(x), *lead, self.num_components)

    def log_noise(self, batch: Batch) -> Tensor:
        """A label of a row of noise is an error, as likely as that of any wrong class."""
        if batch.labels is None:
            return torch.zeros_like(batch.x[..., 0])
        known = self.is_known(batch.labels).to(batch.x.device)
        error = _log((1 - self.confidence) / max(1, self.num_classes - 1))
        of_rows = torch.where(known, error, 0.0).to(batch.x)
        return of_rows.reshape(len(of_rows), *[1] * (batch.x.dim() - 2)).expand(batch.x.shape[:-1])

    def is_known(self, labels: Tensor) -> Tensor:
        """Which labels `(n,)` or `(n, C)` say anything, `(n,)`."""
        if labels.dim() == 2:
            return labels.nan_to_num(nan=0.0).sum(-1) > 0
        # An empty cell of a file is NaN.
        return ~torch.isnan(labels) if labels.is_floating_point() else labels != UNKNOWN

    def most_likely(self, labels: Tensor) -> Tensor:
        """The class that each label names, `(n,)`; -1 where it says nothing."""
        named = labels.nan_to_num(nan=0.0).argmax(-1) if labels.dim() == 2 else labels
        return torch.where(self.is_known(labels), named.nan_to_num(nan=-1.0), UNKNOWN).long()

    def log_likelihoods(self, labels: Tensor, like: Tensor) -> Tensor:
        """Log density of labels `(n,)` or `(n, C)` given each class, `(n, C)`, of a dtype."""
        labels = labels.to(like.device)
        known = self.is_known(labels).unsqueeze(-1)
        if labels.dim() == 2:
            share = labels.to(like).nan_to_num(nan=0.0)
            share = share / share.sum(-1, keepdim=True).where(known, 1.0)
        else:
            classes = torch.arange(self.num_classes, device=like.device)
            share = (labels.unsqueeze(-1) == classes).to(like)
        error = (1 - self.confidence) / max(1, self.num_classes - 1)
        return (self.confidence * share + error * (1 - share)).where(known, 1.0).log()

    def check(self, batches: Iterable[Batch]) -> None:
        """Refuse labels that are no classes, and classes without rows.

        Raises:
            InvalidDataError: the message names the rows or the classes.
        """
        seen, first_row = torch.zeros(self.num_classes, dtype=torch.bool), 0
        for batch in batches:
            if batch.labels is not None:
                self._check(batch.labels.cpu(), first_row)
                named = self.most_likely(batch.labels.cpu())
                weight = batch.weight
                if weight is not None:
                    named = named[weight.cpu().reshape(len(named), -1).sum(-1) > 0]
                seen[named[named >= 0]] = True
            first_row += batch.num_rows
        absent = (~seen).nonzero().squeeze(-1).tolist()
        if absent:
            raise InvalidDataError(
                f"no row has the label {format_list(map(str, absent))}, and the evidence gives "
                "components to this class: leave it out, or label some of its rows"
            )

    def _check(self, labels: Tensor, first_row: int) -> None:
        c = self.num_classes
        if labels.dim() == 2:
            bad = (labels < 0) | torch.isinf(labels)
            if labels.shape[1] != c or bool(bad.any()):
                what = f"width {labels.shape[1]}" if labels.shape[1] != c else "others in row(s) "
                rows = "" if labels.shape[1] != c else format_rows(bad, first_row)
                raise InvalidDataError(
                    f"soft labels must be {c} numbers >= 0 for each row, one for each class; got "
                    f"{what}{rows}"
                )
            return
        bad = ((labels < UNKNOWN) | (labels >= c)) & self.is_known(labels)
        if labels.is_floating_point():
            bad |= (labels != labels.round()) & ~torch.isnan(labels)
        if bool(bad.any()):
            raise InvalidDataError(
                f"labels must be classes from 0 to {c - 1}, or -1 where they are not known; they "
                f"are not in row(s) {format_rows(bad, first_row)}"
            )

    def for_evaluation(self, batch: Batch) -> Batch:
        """The rows without labels: an evaluation is of `log p(x)`."""
        return batch._replace(labels=None)

    def class_probabilities(self, log_joint: Tensor) -> Tensor:
        """Probabilities of the classes `(..., C)` from log joint densities `(..., K)`.

        With noise as the last entry of K + 1 they sum to less than 1.
        """
        shares = log_joint.softmax(-1)[..., : self.num_components]
        index = torch.tensor(self.class_of_component, device=shares.device)
        whole = shares.new_zeros(*shares.shape[:-1], self.num_classes)
        return whole.index_add(-1, index, shares)

    def config(self) -> dict[str, Any]:
        """Constructor arguments as primitives."""
        return {"class_of_component": self.class_of_component, "confidence": self.confidence}


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf
