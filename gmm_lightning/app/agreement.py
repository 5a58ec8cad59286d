"""How the components and the classes of a mixture agree with the labels of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from gmm_lightning.evidence import labels_of
from gmm_lightning.layers import GMMLayer
from gmm_lightning.metrics import label_agreement

_SCORES = ("adjusted_rand_score", "normalized_mutual_info_score")


class LabelAgreement:
    """Weights of the pairs of a label and a component, or a class, block by block.

    Args:
        layer: noise is a cluster of its own, and labels as evidence say which class a row is of.
    """

    def __init__(self, layer: GMMLayer) -> None:
        self._evidence = labels_of(layer.evidence)
        num_clusters = layer.num_components + (layer.noise is not None)
        num_classes = 0 if self._evidence is None else self._evidence.num_classes
        self._clusters = torch.zeros(0, num_clusters, dtype=torch.float64)
        self._classes = self._clusters.new_zeros(0, num_classes)

    def add(self, labels: Tensor | None, log_joint: Tensor, weight: Tensor | None) -> None:
        """Add rows with labels `(n,)`, if any, by their log joint densities `(n, K)`."""
        if labels is None:
            return
        own = labels.cpu()
        self._clusters = _add_pairs(self._clusters, own, log_joint.argmax(-1).cpu(), weight)
        if self._evidence is not None:
            found = self._evidence.class_probabilities(log_joint).argmax(-1).cpu()
            self._classes = _add_pairs(self._classes, own, found, weight)

    def numbers(self) -> dict[str, float]:
        """The scores, and the share of rows whose most probable class is right, by name."""
        found = dict[str, float]()
        if len(self._clusters):
            found = {name: float(label_agreement(self._clusters, name)) for name in _SCORES}
        if len(self._classes):
            right = self._classes.diagonal().sum() / self._classes.sum()
            found["accuracy"] = float(right)
        return found


def _add_pairs(pairs: Tensor, labels: Tensor, found: Tensor, weight: Tensor | None) -> Tensor:
    """Weights of the pairs `(C, K)` of label and component, with more rows for new labels.

    Rows without a label count in none.
    """
    known = labels >= 0
    if not bool(known.all()):
        weight = None if weight is None else weight[known]
        labels, found = labels[known], found[known]
    if not len(labels):
        return pairs
    pairs = torch.nn.functional.pad(pairs, (0, 0, 0, max(int(labels.max()) + 1 - len(pairs), 0)))
    weight = torch.ones_like(labels) if weight is None else weight
    return pairs.index_put((labels.long(), found), weight.to(pairs), accumulate=True)
