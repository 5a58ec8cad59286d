"""One mixture per class, and Bayes' rule."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gmm_lightning._chunking import is_tracing
from gmm_lightning._validation import require_number, require_numbers
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.layers.gmm import GMMLayer
from gmm_lightning.layers.parameters import prior_rows
from gmm_lightning.linalg import accumulator_dtype

# How far a calibration may flatten or sharpen: rows that are all right would sharpen for ever.
HOTTEST = 100.0


class Calibration(NamedTuple):
    """What `MixtureClassifier.calibrate` found.

    Attributes:
        temperature: what log joint densities are divided by.
        before: mean `-log p(c | x)` of the rows under the temperature before, in nats.
        after: under the new one.
    """

    temperature: float
    before: float
    after: float


class MixtureClassifier(nn.Module):
    """`p(c | x) ~ p(c) p(x | c)`, with a mixture of Gaussians for each class.

    The classes are the batch of one layer, so all of them are evaluated in the same operations.
    `fit_classifier` fits them by EM; `-objective(x, y)` is the loss for gradient descent.

    Shape:
        x `(*S, D)`; joint and posterior `(*S, C)`.

    Args:
        layer: the mixtures, of batch shape `(C,)`.
        classes: the label of each class, C different ones; None: `0 .. C - 1`.

    Attributes:
        layer: the mixtures.
        class_logits: unnormalised log priors of the classes, `(C,)`: a parameter, equal at first.
        temperature: what log joint densities are divided by in the posterior; 1 until `calibrate`.
        classes: the labels. Wherever y is asked for, it holds labels; what comes out are indices
            of `classes`.

    Raises:
        InvalidArgumentError: a layer of another batch shape, or classes that are not C
            different labels.

    References:
        T. Hastie, R. Tibshirani (1996), Discriminant analysis by Gaussian mixtures, JRSS B 58.

    Example:
        >>> layer = GMMLayer(num_features=2, num_components=3, batch_shape=(2,))
        >>> classifier = MixtureClassifier(layer, classes=("benign", "malignant"))
        >>> classifier.posterior(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    temperature: Tensor

    def __init__(self, layer: GMMLayer, classes: Iterable[Hashable] | None = None) -> None:
        super().__init__()
        if not isinstance(layer, GMMLayer):
            raise InvalidArgumentError(f"a classifier needs a GMMLayer, got {layer!r}")
        if len(layer.batch_shape) != 1:
            raise InvalidArgumentError(
                "a classifier needs a layer with one mixture per class, batch_shape=(C,), got "
                f"batch_shape={tuple(layer.batch_shape)}"
            )
        number = layer.batch_shape[0]
        self.classes = tuple(range(number)) if classes is None else plain_labels(classes)
        if len(self.classes) != number or len(set(self.classes)) != number:
            raise InvalidArgumentError(
                f"a layer of {number} mixtures needs {number} different classes, got "
                f"{named(self.classes)}"
            )
        self.layer = layer
        self.class_logits = nn.Parameter(layer.means.new_zeros(number))
        self.register_buffer("temperature", layer.means.new_ones(()).detach())
        self._index = {label: i for i, label in enumerate(self.classes)}

    # -- parameters -------------------------------------------------------------------------

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)

    @property
    def class_priors(self) -> Tensor:
        """`p(c)`, `(C,)`."""
        return self.class_logits.softmax(-1)

    @torch.no_grad()
    def set_class_priors(self, priors: Tensor) -> None:
        """Overwrite `p(c)` in place by numbers in this proportion, `(C,)`.

        Raises:
            InvalidArgumentError: another shape, negative or infinite numbers, or a sum of zero.
        """
        self.class_logits.copy_(self.log_shares(priors))

    def log_shares(self, priors: Tensor) -> Tensor:
        """The logarithms that `set_class_priors` writes."""
        given = require_numbers("class priors", priors, self.class_logits)
        fits = given.shape == self.class_logits.shape
        if not fits or not bool((torch.isfinite(given) & (given >= 0)).all() & (given.sum() > 0)):
            raise InvalidArgumentError(
                f"class priors must be {self.num_classes} finite numbers >= 0, not all 0, got "
                f"{given.tolist()}"
            )
        # As for the weights of a layer: the logarithm of 0 would spoil a gradient later.
        return (given / given.sum()).clamp(min=torch.finfo(given.dtype).tiny).log()

    # -- densities --------------------------------------------------------------------------

    def log_joint(self, x: Tensor) -> Tensor:
        """`log p(c) + log p(x | c)`: `(*S, D)` -> `(*S, C)`.

        Without gradients, a portion of many rows at a time, so that only the answer takes memory.

        Raises:
            InvalidArgumentError: rows of another width.
        """
        if not isinstance(x, Tensor) or x.dim() == 0 or x.shape[-1] != self.layer.num_features:
            came = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InvalidArgumentError(
                f"expected rows (*S, {self.layer.num_features}) as a tensor, got {came}"
            )
        return self.class_logits.log_softmax(-1) + self.layer.log_prob(x.unsqueeze(-2))

    def log_prob(self, x: Tensor) -> Tensor:
        """`log p(x)`, `(*S)`: low where a row is like no class, the score of an open set."""
        return self.log_joint(x).logsumexp(-1)

    def forward(self, x: Tensor) -> Tensor:
        """`log_posterior`: what a classification loss and torchmetrics take."""
        return self.log_posterior(x)

    def log_posterior(self, x: Tensor) -> Tensor:
        """`log p(c | x)`, `(*S, C)`, at the classifier's temperature."""
        return (self.log_joint(x) / self.temperature).log_softmax(-1)

    def posterior(self, x: Tensor) -> Tensor:
        """`p(c | x)`, `(*S, C)`, at the classifier's temperature."""
        return (self.log_joint(x) / self.temperature).softmax(-1)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The most probable class of each row, as an index of `classes`: `(*S)`."""
        return self.log_joint(x).argmax(-1)

    def decode(self, indices: Tensor) -> list[Any]:
        """The labels that indices `(N,)`, such as those of `predict`, stand for.

        Example:
            >>> classifier = MixtureClassifier(GMMLayer(2, 1, batch_shape=(2,)), ("no", "yes"))
            >>> classifier.decode(torch.tensor([1, 0, 1]))
            ['yes', 'no', 'yes']
        """
        return [self.classes[index] for index in indices.tolist()]

    # -- training ---------------------------------------------------------------------------

    def objective(
        self, x: Tensor, y: Any, *, generative: float = 0.0, num_samples: int | None = None
    ) -> Tensor:
        """What a gradient fit raises, in nats per row: `()`.

            mean [log p(x, c) - (1 - generative) log p(x)] + log_prior / num_samples

        At 0 it is the conditional log-likelihood `log p(c | x)`, minus the cross entropy; at 1 the
        joint one, which EM raises; between them a compromise that needs fewer rows than the first.

        Args:
            x: rows `(*S, D)`.
            y: their labels, `(*S)`.
            generative: how much of `log p(x)` to keep, in [0, 1].
            num_samples: what the layer's log-prior is divided by: the rows of the training set,
                when x is a mini-batch of it; None: the rows of x.

        Raises:
            InvalidArgumentError: shapes that do not fit, or a share outside [0, 1].
            InvalidDataError: labels that are not among the classes, by row.

        References:
            G. Bouchard, B. Triggs (2004), The tradeoff between generative and discriminative
            classifiers, COMPSTAT.

        Example:
            >>> classifier = MixtureClassifier(GMMLayer(2, 3, batch_shape=(2,)))
            >>> loss = -classifier.objective(torch.randn(8, 2), torch.arange(8) % 2)
            >>> loss.backward()
        """
        generative = require_number("generative", generative, least=0, most=1)
        joint = self.log_joint(x)
        own = joint.gather(-1, self.labels_of(x, y).unsqueeze(-1)).squeeze(-1)
        value = (own - (1 - generative) * joint.logsumexp(-1)).mean()
        return value + self.layer.log_prior().sum() / prior_rows(num_samples, own.numel())

    @torch.no_grad()
    def calibrate(self, x: Tensor, y: Any) -> Calibration:
        """Set the temperature to the best one for held-out rows.

        Mixtures fitted class by class are too sure where features are more dependent than they
        know. The mean of `-log p(c | x)` is convex in the inverse temperature: Newton's method
        finds its minimum between 1/100 and 100. Neither `predict` nor `log_prob` changes.

        Args:
            x: rows that the classifier was not fitted to, `(*S, D)`.
            y: their labels, `(*S)`.

        Raises:
            InvalidArgumentError: shapes that do not fit.
            InvalidDataError: no rows, labels that are not among the classes, or rows whose
                density is not finite, by number.

        References:
            C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger (2017), On calibration of modern neural
            networks, ICML.

        Example:
            >>> classifier = MixtureClassifier(GMMLayer(2, 3, batch_shape=(2,)))
            >>> found = classifier.calibrate(torch.randn(50, 2), torch.arange(50) % 2)
            >>> found.after <= found.before
            True
        """
        joint = self.log_joint(x)
        logits = joint.to(accumulator_dtype(joint.device)).log_softmax(-1)
        logits = logits.reshape(-1, self.num_classes)
        own = self.labels_of(x, y).reshape(-1, 1)
        if not len(logits):
            raise InvalidDataError("there are no rows to calibrate with")
        at = torch.isnan(logits).any(-1)
        if bool(at.any()):
            raise InvalidDataError(f"the density is not finite in row(s) {rows_named(at)}")
        logits = logits.clamp(min=torch.finfo(logits.dtype).min / HOTTEST)
        before = cross_entropy(logits, own, 1 / float(self.temperature))
        inverse = best_inverse_temperature(logits, own)
        self.temperature.fill_(1 / inverse)
        return Calibration(1 / inverse, before, cross_entropy(logits, own, inverse))

    # -- labels -----------------------------------------------------------------------------

    def encode(self, y: Any) -> Tensor:
        """Labels of any shape as indices of `classes`, on the classifier's device.

        Args:
            y: a tensor, an array or a list of labels.

        Raises:
            InvalidDataError: labels that are not among the classes (-1 and NaN too), by row.

        Example:
            >>> MixtureClassifier(GMMLayer(2, 1, batch_shape=(2,)), "ab").encode(["b", "a"])
            tensor([1, 0])
        """
        device = self.class_logits.device
        if isinstance(y, Tensor):
            whole = not y.is_floating_point() and self.classes == tuple(range(self.num_classes))
            if whole and (is_tracing() or not bool(((y < 0) | (y >= self.num_classes)).any())):
                return y.to(device, torch.long)
            y = y.detach().cpu().numpy()
        array = np.asarray(y)
        try:
            values, which = np.unique(array, return_inverse=True)
        except TypeError:
            raise InvalidDataError("y must hold labels of one kind, all numbers or text") from None
        codes = np.array([self._index.get(value, -1) for value in values.tolist()], dtype=np.int64)
        found = torch.as_tensor(codes[which].reshape(array.shape))
        if bool((found < 0).any()):
            strange = named(values[codes < 0].tolist())
            raise InvalidDataError(
                f"y has labels that are not among the {self.num_classes} classes "
                f"{named(self.classes)}: {strange} in row(s) {rows_named(found < 0)}; leave out "
                "the rows without a label"
            )
        return found.to(device)

    def labels_of(self, x: Tensor, y: Any) -> Tensor:
        """Labels as indices, one for every row.

        Raises:
            InvalidArgumentError: another shape.
        """
        codes = self.encode(y)
        if codes.shape != x.shape[:-1]:
            raise InvalidArgumentError(
                f"rows of shape {tuple(x.shape)} need labels of shape {tuple(x.shape[:-1])}, got "
                f"{tuple(codes.shape)}"
            )
        return codes

    def extra_repr(self) -> str:
        """The classes."""
        return f"classes={named(self.classes)}"


def plain_labels(classes: Iterable[Hashable]) -> tuple[Any, ...]:
    """Labels as plain values, so that those of a tensor or an array can be looked up."""
    listed = classes.tolist() if isinstance(classes, Tensor | np.ndarray) else list(classes)
    return tuple(label.item() if isinstance(label, np.generic) else label for label in listed)


def named(labels: Iterable[Any]) -> str:
    """Some labels, for a message."""
    listed = [repr(label) for label in labels]
    return ", ".join(listed[:10]) + (f" and {len(listed) - 10} more" if len(listed) > 10 else "")


def rows_named(bad: Tensor) -> str:
    """The numbers of the marked rows, for a message."""
    return named(bad.reshape(-1).nonzero().squeeze(-1).tolist())


def cross_entropy(logits: Tensor, own: Tensor, inverse: float) -> float:
    """Mean `-log p(c | x)` of log posteriors `(N, C)` at an inverse temperature."""
    return -float((inverse * logits).log_softmax(-1).gather(-1, own).mean())


def best_inverse_temperature(logits: Tensor, own: Tensor) -> float:
    """Where the cross entropy, which is convex, is least: Newton's method within a bracket."""
    reached = logits.gather(-1, own).mean()

    def slopes(inverse: float) -> tuple[float, float]:
        share = (inverse * logits).softmax(-1)
        mean = (share * logits).sum(-1, keepdim=True)
        curvature = (share * (logits - mean).square()).sum(-1).mean()
        return float(mean.mean() - reached), float(curvature)

    low, high = 1 / HOTTEST, HOTTEST
    if slopes(low)[0] >= 0:
        return low
    if slopes(high)[0] <= 0:
        return high
    inverse = 1.0
    for _ in range(100):
        slope, curvature = slopes(inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else math.inf
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - inverse) <= 1e-12 * inverse:
            break
        inverse = following
    return inverse
