"""EM for a classifier: every class from its own rows, all classes in the same operations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Size, Tensor

from gmm_lightning._validation import as_generator, require_integer
from gmm_lightning.em.class_rows import ClassGroup, ClassRows, group_by_length
from gmm_lightning.em.degenerate import regular_objectives
from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.initialization import (
    data_moments,
    initialize,
    is_resolved,
    set_local_scale,
)
from gmm_lightning.em.local_scale import local_scale
from gmm_lightning.em.loop import run_em
from gmm_lightning.em.maximization import MStepResult
from gmm_lightning.em.model import MixtureModel, require_values
from gmm_lightning.em.parameters import MixtureParameters
from gmm_lightning.em.progress import ClassProgress
from gmm_lightning.em.result import EMResult, best_runs, result_of
from gmm_lightning.em.state import EMOptions
from gmm_lightning.em.updater import MonotoneUpdater
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.initializers import Given, Initializer
from gmm_lightning.layers import GMMLayer, MixtureClassifier
from gmm_lightning.priors import DataMoments, require_closed_forms
from gmm_lightning.rows import Batch


@dataclass(frozen=True)
class ClassifierResult:
    """The result of `fit_classifier`.

    Attributes:
        classes: the result of each class, by its label.
        num_skipped: rows left out because they were not finite.
    """

    classes: dict[Any, EMResult] = field(repr=False)
    num_skipped: int

    @property
    def converged(self) -> bool:
        """Whether every class converged."""
        return all(result.converged for result in self.classes.values())


def fit_classifier(
    classifier: MixtureClassifier,
    x: Any,
    y: Any,
    *,
    initializer: str | Initializer | None = "mixed",
    sample_weight: Any = None,
    class_priors: Tensor | None = None,
    max_iter: int = 500,
    tol: float = 1e-5,
    chunk_size: int | None = None,
    num_restarts: int = 1,
    skip_nonfinite: bool = False,
    generator: Generator | int | None = None,
    progress: bool = False,
) -> ClassifierResult:
    """Fit the mixture of every class to the rows of that class, in place.

    The joint likelihood `sum_n log p(x_n, c_n)` is maximised class by class, so the result is that
    of `fit_em` for each class. Here all classes go through the same batched operations, and a
    class that has converged drops out. One-hot weights in `fit_em` give the same result, but read
    every row once per class.

    Args:
        classifier: its mixtures are fitted, with their priors, its class priors are set, and its
            temperature is reset to 1.
        x: rows `(N, D)` in memory, as `fit_em` takes them.
        y: their labels `(N,)`, among `classifier.classes`.
        initializer: a name or an instance; None to start from the present parameters.
        sample_weight: of the rows, `(N,)`, not negative.
        class_priors: `p(c)`, `(C,)`, where the shares of the training rows differ from those in
            use; None: the total weight of each class.
        max_iter: M-steps of each class at most.
        tol: a class stops when its objective is estimated to gain no more than this until the end,
            in nats per row.
        chunk_size: rows at a time; None: as many as stay in cache.
        num_restarts: starts of every class, of which the best is kept.
        skip_nonfinite: leave out rows with NaN or infinite entries; they are counted.
        generator: source of randomness, or a seed; None: torch's global one.
        progress: show a bar of the classes that are done.

    Returns:
        The result of each class; components that collapsed are held at the floor, see `events`.

    Raises:
        InvalidArgumentError: an option out of range, a layer with evidence, or
            projections that couple the classes.
        InvalidDataError: shapes that do not fit, rows that are not finite or have no known label
            (by number), or a class with fewer rows than components (by its label).

    References:
        T. Hastie, R. Tibshirani (1996), Discriminant analysis by Gaussian mixtures, JRSS B 58.

    Example:
        >>> x, y = torch.randn(200, 2), ["left", "right"] * 100
        >>> x[1::2] += 4
        >>> layer = GMMLayer(num_features=2, num_components=2, batch_shape=(2,))
        >>> classifier = MixtureClassifier(layer, classes=("left", "right"))
        >>> result = fit_classifier(classifier, x, y)
        >>> result.classes["right"].converged, classifier.class_priors
        (True, tensor([0.5000, 0.5000], grad_fn=<SoftmaxBackward0>))
    """
    if not isinstance(classifier, MixtureClassifier):
        raise InvalidArgumentError(
            f"expected a MixtureClassifier, got {type(classifier).__name__}; wrap the layer: "
            "MixtureClassifier(layer)"
        )
    require_integer("num_restarts", num_restarts, least=1)
    options = EMOptions(max_iter, tol, prune=False)
    _require_random_start(initializer, num_restarts)
    layer = classifier.layer
    require_values(layer)
    require_closed_forms(layer.all_priors)
    generator = as_generator(generator, layer.means.device)
    if layer.evidence is not None:
        raise InvalidArgumentError("fit_classifier takes no layer with evidence: use fit_em")
    if any(projection.couples_batch for projection in layer.projections.to_list()):
        raise InvalidArgumentError(
            "fit_classifier fits each class by itself, and a projection couples them: use fit_em"
        )
    rows = ClassRows.read(classifier, x, y, sample_weight, skip_nonfinite=skip_nonfinite)
    shares = torch.stack([w.sum() for w in rows.weights])
    class_logits = classifier.log_class_priors(shares if class_priors is None else class_priors)
    groups = [
        ClassGroup(layer, rows, classes) for classes in group_by_length(list(map(len, rows.rows)))
    ]
    if initializer is not None or not is_resolved(layer):
        _resolve(layer, groups)
    fitter = _ClassFitter(initializer, options, chunk_size, num_restarts, generator)
    parameters, results = MixtureParameters.from_layer(layer), dict[int, EMResult]()
    with ClassProgress(classifier.num_classes, enabled=progress) as bar:
        for group in groups:
            found, fitted = fitter(layer, group, bar)
            results |= dict(zip(group.classes.tolist(), found, strict=True))
            for whole, own in zip(parameters, fitted, strict=True):
                whole[group.classes] = own
    parameters.write_to(layer)
    with torch.no_grad():
        classifier.class_logits.copy_(class_logits)
    classifier.temperature.fill_(1.0)
    return ClassifierResult(
        {label: results[c] for c, label in enumerate(classifier.classes)}, rows.num_skipped
    )


@dataclass(frozen=True)
class _ClassFitter:
    """Fits the classes of a group together."""

    initializer: str | Initializer | None
    options: EMOptions
    chunk_size: int | None
    num_restarts: int
    generator: Generator | None

    def __call__(
        self, layer: GMMLayer, group: ClassGroup, progress: ClassProgress
    ) -> tuple[list[EMResult], MixtureParameters]:
        """The result and the parameters of the best start, for each class of a group."""
        model = group.model(layer, self.num_restarts).with_mean_weight(group.source)
        size = len(group.classes)
        present = MixtureParameters.from_layer(layer).select(
            group.classes.repeat(self.num_restarts)
        )
        start = MStepResult.unchanged(present)
        if self.initializer is not None:
            start = initialize(model, present, group.source, self.initializer, self.generator)
        e_step = _ClassEStep(group, model, self.chunk_size)
        updater = MonotoneUpdater("squarem")
        state = run_em(e_step, model, start, self.options, updater, progress.update)
        best, finals = best_runs(state, size, regular_objectives(e_step, model, state))
        found, constant = [], layer.constant_features
        for c in range(size):
            own = best[c : c + 1], Size(()), list(finals[:, c])
            found.append(result_of(state, *own, constant))
        return found, state.final.select(best)


class _ClassEStep(EStep):
    """E-steps in which each mixture reads the rows of its class.

    Args:
        group: the classes.
        model: of their mixtures.
        chunk_size: rows at a time; None: as many as stay in cache.
    """

    def __init__(self, group: ClassGroup, model: MixtureModel, chunk_size: int | None) -> None:
        super().__init__(group.source, model, chunk_size)
        self._batch, self._lengths = group.source.batch, group.lengths

    def batches(self, model: MixtureModel) -> Iterable[Batch]:
        """The rows, up to the length of the longest class that is still fitted."""
        longest = int(self._lengths[model.batch_index.cpu()].max())
        return [self._batch.at(slice(0, longest))]


@torch.no_grad()
def _resolve(layer: GMMLayer, groups: Sequence[ClassGroup]) -> None:
    """Give every class the local scale and the values of priors that follow from its own rows."""
    for group in groups:
        set_local_scale(layer, local_scale(group.source, layer.means.dtype), group.classes)
        if layer.noise is not None:
            layer.noise.resolve_part(group.classes, group.source)
    if not layer.all_priors:
        return
    parts = [
        data_moments(group.model(layer), group.source, layer.num_components) for group in groups
    ]
    order = torch.cat([group.classes for group in groups]).argsort()
    moments = DataMoments.concatenate(parts, order)
    for prior in layer.all_priors:
        prior.resolve(moments, layer.num_components)


def _require_random_start(initializer: Any, num_restarts: int) -> None:
    """Refuse assignments, which would be for the rows of all classes, and identical starts."""
    if isinstance(initializer, Given) or not isinstance(initializer, str | Initializer | None):
        raise InvalidArgumentError(
            "fit_classifier starts from an initializer that assigns the rows of each class, or "
            f"from None, the present parameters; got {type(initializer).__name__}"
        )
    if initializer is None and num_restarts > 1:
        raise InvalidArgumentError(
            f"num_restarts={num_restarts} needs an initializer that draws at random: every start "
            "from given parameters is the same"
        )
