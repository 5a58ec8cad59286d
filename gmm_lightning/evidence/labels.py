"""Labels: rows whose class is known, or partly known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from gmm_lightning._messages import describe, format_list
from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.evidence._label_checks import UNKNOWN, require_every_class, require_labels
from gmm_lightning.evidence.base import Evidence
from gmm_lightning.rows import Batch, is_labelled


class Labels(Evidence):
    """Classes of rows, each a mixture of some of the components: `batch.labels`.

    A label is right with probability a, the confidence, and each wrong one has probability
    `b = (1 - a) / (C - 1)`. Soft labels q `(n, C)` are likelihoods of what is seen of the class of
    a row, up to a factor, such as shares of annotators; divided by their largest entry, they are
    mixed the same way, so that a 1 among zeros is a label:

        log p(e | k) = log(a q_c + b sum_(d != c) q_d),    c the class of component k

    A label of -1 or NaN is not known, and soft labels that are all equal, or all NaN, say nothing:
    both add 0. With confidence 1, rows of a class have responsibility 0 of the components of
    others, and are no noise. Without labels in a batch, the evidence is 0.

    Args:
        class_of_component: class in `0 .. C - 1` of each component, `(K,)`; every class has one.
        confidence: a, in (1 / C, 1].

    Attributes:
        num_classes: C.
        num_components: K.

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
        if isinstance(class_of_component, Tensor):
            class_of_component = class_of_component.tolist()
        if not isinstance(class_of_component, Iterable):
            raise InvalidArgumentError(
                f"class_of_component must be a list, got {describe(class_of_component)}"
            )
        classes = [
            require_integer("a class of class_of_component", c, least=0) for c in class_of_component
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
        components_per_class: int | Sequence[int] | Mapping[int, int] = 1,
        confidence: float = 1.0,
    ) -> Self:
        """Evidence for classes of so many components each, in the order of the classes.

        Args:
            num_classes: C.
            components_per_class: of every class, or one number for each.
            confidence: see `Labels`.

        Raises:
            InvalidArgumentError: not one number >= 1 for each class.

        Example:
            >>> Labels.of_classes(2, components_per_class=[1, 3]).class_of_component
            [0, 1, 1, 1]
        """
        given: Any = components_per_class
        classes = range(require_integer("num_classes", num_classes, least=1))
        if isinstance(given, Mapping) and given.keys() == set(classes):
            given = [given[c] for c in classes]
        elif not isinstance(given, Sequence | Mapping):
            given = [given] * num_classes
        if len(given) != num_classes or isinstance(given, str | Mapping):
            raise InvalidArgumentError(
                f"components_per_class must be one number, or one for each of {num_classes} "
                f"classes, got {describe(components_per_class)}"
            )
        sizes = [require_integer("components_per_class", k, least=1) for k in given]
        return cls([c for c, size in enumerate(sizes) for _ in range(size)], confidence)

    def forward(self, batch: Batch) -> Tensor:
        """Log densities of the labels, `(n, *1, K)`."""
        x, lead = batch.x, [1] * (batch.x.dim() - 2)
        if batch.labels is None:
            return x.new_zeros(*x.shape[:-1], self.num_components)
        log_density = self.log_likelihoods(batch.labels, x)
        return log_density[:, self._index(x)].reshape(len(x), *lead, self.num_components)

    def log_noise(self, batch: Batch) -> Tensor:
        """A row of noise has no class: its label is as unlikely as that of any wrong class.

        Soft labels are as unlikely as they are under the class that they speak against most.
        """
        x, labels = batch.x, batch.labels
        if labels is None:
            return torch.zeros_like(x[..., 0])
        of_rows = self.log_likelihoods(labels, x).amin(-1)
        if labels.dim() == 1:
            known, wrong = is_labelled(labels.to(x.device)), x.new_full((), self._error).log()
            of_rows = torch.where(known, wrong, 0.0)
        return of_rows.reshape(len(x), *[1] * (x.dim() - 2)).expand(x.shape[:-1])

    @property
    def _error(self) -> float:
        """Probability of each wrong label."""
        return (1 - self.confidence) / max(1, self.num_classes - 1)

    def _index(self, like: Tensor) -> Tensor:
        return torch.tensor(self.class_of_component, device=like.device)

    def most_likely(self, labels: Tensor) -> Tensor:
        """The class that each label names, `(n,)`; -1 where it says nothing."""
        named = labels.argmax(-1) if labels.dim() == 2 else labels
        return torch.where(is_labelled(labels), named, UNKNOWN).long()

    def log_likelihoods(self, labels: Tensor, like: Tensor) -> Tensor:
        """Log density of labels `(n,)` or `(n, C)` given each class, `(n, C)`, of a dtype."""
        labels = labels.to(like.device)
        known = is_labelled(labels).unsqueeze(-1)
        if labels.dim() == 2:
            share = labels.to(like)
            share = share / share.amax(-1, keepdim=True).where(known, 1.0)
        else:
            classes = torch.arange(self.num_classes, device=like.device)
            share = (labels.unsqueeze(-1) == classes).to(like)
        others = share.sum(-1, keepdim=True) - share
        return (self.confidence * share + self._error * others).where(known, 1.0).log()

    # -- checks -----------------------------------------------------------------------------

    def check(self, batches: Iterable[Batch]) -> None:
        """Refuse labels that are no classes, and classes without rows.

        Raises:
            InvalidDataError: the message names the rows or the classes.
        """
        seen, first_row, labelled = torch.zeros(self.num_classes, dtype=torch.bool), 0, False
        for batch in batches:
            if batch.labels is not None:
                self.check_rows(batch, first_row)
                named, labelled = self.most_likely(batch.labels.cpu()), True
                if batch.weight is not None:
                    named = named[batch.weight.cpu().reshape(len(named), -1).sum(-1) > 0]
                seen[named[named >= 0]] = True
            first_row += batch.num_rows
        if not labelled:
            raise InvalidDataError(
                "the layer has labels as evidence, and the rows have none: give them with labels=, "
                "or set layer.evidence = None"
            )
        require_every_class(seen)

    def check_rows(self, batch: Batch, first_row: int = 0) -> None:
        """Refuse labels that are no classes.

        Raises:
            InvalidDataError: the message names the rows.
        """
        if batch.labels is not None:
            require_labels(batch.labels, batch.num_rows, self.num_classes, first_row)

    def for_evaluation(self, batch: Batch) -> Batch:
        """The rows without labels: an evaluation is of `log p(x)`."""
        return batch._replace(labels=None)

    def class_probabilities(self, log_joint: Tensor) -> Tensor:
        """Probabilities of the classes `(..., C)` from log joint densities `(..., K)`.

        With noise as the last entry of K + 1 they sum to less than 1.
        """
        shares = log_joint.softmax(-1)[..., : self.num_components]
        whole = shares.new_zeros(*shares.shape[:-1], self.num_classes)
        return whole.index_add(-1, self._index(shares), shares)

    def reorder(self, order: Tensor) -> None:
        """See `Evidence.reorder`."""
        classes = self._index(order)[order].reshape(-1, self.num_components)
        if not bool((classes == classes[:1]).all()):
            raise InvalidArgumentError(
                "the mixtures of a batch have the same classes by component: give all of them one "
                "order"
            )
        self.class_of_component = classes[0].tolist()

    def config(self) -> dict[str, Any]:
        """Constructor arguments as primitives."""
        return {"class_of_component": self.class_of_component, "confidence": self.confidence}
