"""EM for a classifier: every class from its own rows, all classes in the same operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from gmm_lightning.em.ascent import Ascent
from gmm_lightning.em.climb import Rules, climb
from gmm_lightning.em.fit import check_options
from gmm_lightning.em.kernels import expected_statistics
from gmm_lightning.em.passes import Passes
from gmm_lightning.em.plan import make_plan
from gmm_lightning.em.posterior import Posterior, soft
from gmm_lightning.em.result import EMResult, Run, summary
from gmm_lightning.em.rows import as_rows, as_weights, check_finite
from gmm_lightning.em.source import Source
from gmm_lightning.em.start import initialize, resolve_from
from gmm_lightning.em.starts import chosen, empty_like, packed, unpack
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.initializers import Given, Initializer
from gmm_lightning.layers import GMMLayer, MixtureClassifier
from gmm_lightning.statistics import SufficientStatistics


@dataclass(frozen=True)
class ClassifierResult:
    """What `fit_classifier` did.

    Attributes:
        classes: the result of each class, by its label.
        num_skipped: rows left out as they were not finite.
    """

    classes: dict[Any, EMResult] = field(repr=False)
    num_skipped: int

    @property
    def converged(self) -> bool:
        """Whether every class did."""
        return all(result.converged for result in self.classes.values())


def fit_classifier(
    classifier: MixtureClassifier,
    x: Any,
    y: Any,
    *,
    initializer: str | Initializer | None = "kmeans",
    sample_weight: Any = None,
    class_priors: Tensor | None = None,
    max_iter: int = 100,
    tol: float = 1e-3,
    chunk_size: int | None = None,
    num_restarts: int = 1,
    skip_nonfinite: bool = False,
    generator: Generator | None = None,
    progress: bool = False,
) -> ClassifierResult:
    """Fit the mixture of every class to the rows of that class, in place.

    The maximum of the joint likelihood `sum_n log p(x_n, c_n)` falls apart into that of each
    class: what comes out is what `fit_em` gives class by class. Here the classes go through the
    same operations side by side, and a class that has converged drops out. One-hot weights
    give the same too, but read every row once per class.

    Args:
        classifier: its mixtures are fitted, with their priors, its class priors are set, and its
            temperature, which was of other mixtures, is 1 again.
        x: rows `(N, D)`, a tensor or array in memory.
        y: their labels `(N,)`, among `classifier.classes`.
        initializer: a name or an instance; None to start from the present parameters.
        sample_weight: of the rows, `(N,)`, not negative.
        class_priors: `p(c)`, `(C,)`, where the shares of the training rows are not those of
            the field; None: the weight of each class.
        max_iter: M-steps of each class at most.
        tol: a class stops when its objective gains less than this, in nats per row.
        chunk_size: rows at a time; None: what stays in cache.
        num_restarts: starts of every class, of which the best is kept.
        skip_nonfinite: leave out rows with NaN or infinite entries; they are counted.
        generator: source of randomness; None: torch's global one.
        progress: show a bar of the classes that are done.

    Returns:
        The result of each class. Their components are repaired at the floor, as an event says.

    Raises:
        InvalidArgumentError: an option out of range, or a layer with evidence.
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
    check_options(max_iter, tol, num_restarts, "floor")
    check_start(initializer, num_restarts)
    layer = classifier.layer
    if layer.evidence is not None:
        raise InvalidArgumentError("fit_classifier takes no layer with evidence: use fit_em")
    labelled = Labelled.read(classifier, x, y, sample_weight, skip_nonfinite=skip_nonfinite)
    shares = torch.stack([w.sum() for w in labelled.weights])
    class_logits = classifier.log_class_priors(shares if class_priors is None else class_priors)
    fit = Fit(initializer, Rules(max_iter, tol, prune=False), chunk_size, num_restarts, generator)
    bar = class_bar(classifier.num_classes * num_restarts) if progress else None
    table, results = packed(layer), dict[int, EMResult]()
    for group in alike([len(rows) for rows in labelled.rows]):
        index = torch.tensor(group, device=layer.means.device)
        part = chosen(layer, index)
        runs = fit(
            part, [labelled.rows[c] for c in group], [labelled.weights[c] for c in group], bar
        )
        for c, tries in zip(group, runs, strict=True):
            results[c], table[c] = summary(tries)
        for mine, theirs in zip(layer.priors.buffers(), part.priors.buffers(), strict=True):
            mine[index] = theirs
    unpack(layer, table)
    with torch.no_grad():
        classifier.class_logits.copy_(class_logits)
    classifier.temperature.fill_(1.0)
    if bar is not None:
        bar.close()
    return ClassifierResult(
        {label: results[c] for c, label in enumerate(classifier.classes)}, labelled.num_skipped
    )


@dataclass(frozen=True)
class Labelled:
    """Rows `(n_c, D)` and weights `(n_c,)` of each class, in the order of the classes."""

    rows: Sequence[Tensor]
    weights: Sequence[Tensor]
    num_skipped: int

    @classmethod
    def read(
        cls,
        classifier: MixtureClassifier,
        x: Any,
        y: Any,
        sample_weight: Any,
        *,
        skip_nonfinite: bool,
    ) -> Labelled:
        """Check rows and labels, and sort them by class.

        Raises:
            InvalidDataError: as `fit_classifier` says.
        """
        one = empty_like(classifier.layer, ())
        rows, weight = as_rows(one, x), as_weights(one, sample_weight, x)
        codes = classifier.encode(y).to(rows.device)
        if codes.shape != rows.shape[:1]:
            raise InvalidDataError(
                f"{len(rows)} rows need as many labels, got labels of shape {tuple(codes.shape)}"
            )
        weight = torch.ones(len(rows)).to(one.means) if weight is None else weight
        weight = weight.to(rows.device)
        skipped = 0
        if skip_nonfinite:
            kept = torch.isfinite(rows).all(-1)
            skipped = int((~kept).sum())
            rows, codes, weight = rows[kept], codes[kept], weight[kept]
        check_finite(rows)
        # A row of weight 0 adds nothing.
        counted = weight > 0
        rows, codes, weight = rows[counted], codes[counted], weight[counted]
        counts = torch.bincount(codes, minlength=classifier.num_classes).tolist()
        for label, count in zip(classifier.classes, counts, strict=True):
            if count < one.num_components:
                raise InvalidDataError(
                    f"class {label!r} has {count} rows, fewer than num_components="
                    f"{one.num_components}; use fewer components, or leave the class out"
                )
        order = codes.argsort(stable=True)
        return cls(rows[order].split(counts), weight[order].split(counts), skipped)


@dataclass(frozen=True)
class Fit:
    """How to fit some classes together."""

    initializer: str | Initializer | None
    rules: Rules
    chunk_size: int | None
    num_restarts: int
    generator: Generator | None

    def __call__(
        self, layer: GMMLayer, rows: list[Tensor], weights: list[Tensor], bar: Any
    ) -> list[list[Run]]:
        """For each mixture of a layer `(C,)` its runs, from rows of its own."""
        lengths = torch.tensor([len(part) for part in rows])
        source = Source(layer, padded(rows), pad_sequence(weights))
        start = self.initializer
        if start is not None or not all(prior.resolved for prior in layer.all_priors):
            resolve_from(layer, source)
        tries: list[list[Run]] = []
        for _ in range(self.num_restarts):
            first = [] if start is None else initialize(layer, source, start, self.generator)
            passes = ClassPasses(source, lengths, self.chunk_size, bar)
            starts = chosen(layer, torch.arange(len(rows), device=layer.means.device))
            tries.append(climb(passes, starts, first, self.rules, Ascent()))
            passes.show(len(passes.lengths))
        return [list(runs) for runs in zip(*tries, strict=True)]


class ClassPasses(Passes):
    """E-steps in which each mixture reads rows of its own, for as long as it climbs.

    Args:
        source: rows `(N, C, D)` and weights `(N, C)`, each class filled up with weight 0.
        lengths: rows of each class, `(C,)`.
        chunk_size: rows at a time; None: what stays in cache.
        bar: shows how many classes are done; None: nothing is shown.
    """

    def __init__(self, source: Source, lengths: Tensor, chunk_size: int | None, bar: Any) -> None:
        super().__init__(source, chunk_size)
        ((self.rows, self.weight),) = source
        self.lengths, self.bar = lengths, bar

    @torch.no_grad()
    def __call__(self, starts: GMMLayer, posterior: Posterior = soft) -> SufficientStatistics:
        """Statistics of the classes that still climb."""
        return expected_statistics(
            starts,
            make_plan(starts, shared=False),
            [(self.rows, self.weight)],
            workspace=self.workspace,
            posterior=posterior,
            pooled=self.pooled,
        )

    def chosen(self, index: Tensor) -> None:
        """Go on with some of the classes, and with as many rows as they have."""
        self.show(len(self.lengths) - len(index))
        self.lengths = self.lengths[index]
        longest = int(self.lengths.max())
        self.rows = self.rows[:longest, index]
        if self.weight is not None:
            self.weight = self.weight[:longest, index]
        if self.pooled is not None:
            self.pooled = self.pooled.chosen(index)

    def show(self, done: int) -> None:
        """So many classes more are done."""
        if self.bar is not None:
            self.bar.update(done)


def alike(lengths: list[int]) -> list[list[int]]:
    """Numbers of the classes in groups of similar size, in order within each.

    None is more than twice as long as another of its group: filling up costs that much at most.
    """
    groups: list[list[int]] = []
    for c in sorted(range(len(lengths)), key=lambda c: -lengths[c]):
        # The first of a group is its longest.
        if groups and 2 * lengths[c] >= lengths[groups[-1][0]]:
            groups[-1].append(c)
        else:
            groups.append([c])
    return [sorted(group) for group in groups]


def padded(rows: list[Tensor]) -> Tensor:
    """Rows of several classes side by side, `(N, C, D)`; the short ones repeat their first row.

    A row of the class itself has a density like any other, so that weight 0 is all it takes.
    """
    longest = max(map(len, rows))
    filled = [torch.cat([part, part[:1].expand(longest - len(part), -1)]) for part in rows]
    return torch.stack(filled, 1)


def check_start(initializer: Any, num_restarts: int) -> None:
    """Refuse assignments, which would be of the rows of all classes, and starts all alike."""
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


def class_bar(total: int) -> Any:
    """A bar of classes on stderr."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="classes")
