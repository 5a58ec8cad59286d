"""Generative classifier: one mixture per class, and Bayes' rule."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmm_lightning._messages import describe, format_list, format_rows
from gmm_lightning._validation import require_number, require_numbers
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.layers._labels import LabelEncoder
from gmm_lightning.layers._most_probable import most_probable, require_found
from gmm_lightning.layers._temperature import (
    MAX_TEMPERATURE,
    best_inverse_temperature,
    cross_entropy,
)
from gmm_lightning.layers.gmm import GMMLayer
from gmm_lightning.layers.parameters import prior_num_samples
from gmm_lightning.linalg import accumulator_dtype
from gmm_lightning.rows import as_dense


class Calibration(NamedTuple):
    """New temperature, and mean `-log p(c | x)` in nats before and after it was set."""

    temperature: float
    before: float
    after: float


class MixtureClassifier(nn.Module):
    """Classifier `p(c | x) ~ p(c) p(x | c)`, with a mixture of Gaussians for each class.

    The classes are the batch of one layer. `fit_classifier` fits them by EM; `-objective(x, y)` is
    the loss for gradient descent.

    Shape:
        x `(*S, D)`, a tensor, an array or a table; joint and posterior, tensors `(*S, C)`.

    Args:
        layer: the mixtures, of batch shape `(C,)`.
        classes: the label of each class, C different ones; None: `0 .. C - 1`.

    Attributes:
        layer: the mixtures.
        class_logits: unnormalised log priors of the classes, `(C,)`: a parameter, equal at first.
        temperature: divides log joint densities in the posterior; 1 until `calibrate`.
        classes: the labels, as in arguments y; predictions are indices of them.

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
            raise InvalidArgumentError(f"a classifier needs a GMMLayer, got {describe(layer)}")
        if len(layer.batch_shape) != 1:
            raise InvalidArgumentError(
                "a classifier needs a layer with one mixture per class, batch_shape=(C,), got "
                f"batch_shape={tuple(layer.batch_shape)}"
            )
        number = layer.batch_shape[0]
        self._encoder = LabelEncoder(range(number) if classes is None else classes, number)
        self.layer = layer
        self.class_logits = nn.Parameter(layer.means.new_zeros(number))
        self.register_buffer("temperature", layer.means.new_ones(()).detach())

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set what the constructor sets: a new layer, equal classes, a temperature of 1."""
        self.layer.reset_parameters()
        self.class_logits.zero_()
        self.temperature.fill_(1.0)

    # -- parameters -------------------------------------------------------------------------

    @property
    def classes(self) -> tuple[Any, ...]:
        """Labels of the classes."""
        return self._encoder.classes

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return len(self.classes)

    @property
    def class_priors(self) -> Tensor:
        """Prior probabilities `p(c)`, `(C,)`."""
        return self.class_logits.softmax(-1)

    @torch.no_grad()
    def set_class_priors(self, priors: Tensor) -> None:
        """Overwrite `p(c)` in place: see `log_class_priors`."""
        self.class_logits.copy_(self.log_class_priors(priors))

    def log_class_priors(self, priors: Tensor) -> Tensor:
        """Log priors of the classes `(C,)`: logarithms of `priors` divided by their sum.

        Raises:
            InvalidArgumentError: another shape, negative or infinite numbers, or a sum of zero.
        """
        given = require_numbers("class priors", priors, self.class_logits)
        fits = given.shape == self.class_logits.shape
        if not fits or not bool((torch.isfinite(given) & (given >= 0)).all() & (given.sum() > 0)):
            raise InvalidArgumentError(
                f"class priors must be {self.num_classes} finite numbers >= 0, not all 0, got "
                f"{describe(given.tolist())}"
            )
        # As for the weights of a layer: the logarithm of 0 would make later gradients NaN.
        return (given / given.sum()).clamp(min=torch.finfo(given.dtype).tiny).log()

    # -- densities --------------------------------------------------------------------------

    def log_joint(self, x: Any) -> Tensor:
        """Log joint densities `log p(c) + log p(x | c)`: `(*S, D)` -> `(*S, C)`.

        Raises:
            InvalidArgumentError: rows of another width.
            InvalidDataError: x does not hold numbers.
        """
        x = as_dense(x, self.class_logits.device)
        if x.dim() == 0 or x.shape[-1] != self.layer.num_features:
            raise InvalidArgumentError(
                f"expected rows (*S, {self.layer.num_features}), got shape {tuple(x.shape)}"
            )
        return self.class_logits.log_softmax(-1) + self.layer.log_prob(x.unsqueeze(-2))

    def log_prob(self, x: Any) -> Tensor:
        """Log densities `log p(x)`, `(*S)`, low for rows unlike every class."""
        return self.log_joint(x).logsumexp(-1)

    def forward(self, x: Any) -> Tensor:
        """Log posteriors, as `log_posterior`, for classification losses and torchmetrics."""
        return self.log_posterior(x)

    def log_posterior(self, x: Any) -> Tensor:
        """Log posteriors `log p(c | x)`, `(*S, C)`, at the classifier's temperature."""
        return (self.log_joint(x) / self.temperature).log_softmax(-1)

    def posterior(self, x: Any) -> Tensor:
        """Posteriors `p(c | x)`, `(*S, C)`, at the classifier's temperature."""
        return (self.log_joint(x) / self.temperature).softmax(-1)

    @torch.no_grad()
    def predict(self, x: Any) -> Tensor:
        """Most probable class of each row, as an index of `classes`, `(*S)`; refuses NaN."""
        return require_found(most_probable(self.log_joint(x)))

    def decode(self, indices: Tensor) -> list[Any]:
        """Labels of class indices `(N,)`, such as those of `predict`.

        Example:
            >>> classifier = MixtureClassifier(GMMLayer(2, 1, batch_shape=(2,)), ("no", "yes"))
            >>> classifier.decode(torch.tensor([1, 0, 1]))
            ['yes', 'no', 'yes']
        """
        return [self.classes[index] for index in indices.tolist()]

    # -- training ---------------------------------------------------------------------------

    def objective(
        self, x: Any, y: Any, *, generative: float = 0.0, num_samples: int | None = None
    ) -> Tensor:
        """Objective of a gradient fit, `()`, in nats per row.

            mean [log p(x, c) - (1 - generative) log p(x)] + log_prior / num_samples

        At 0 it is the conditional log-likelihood `log p(c | x)`, minus the cross entropy; at 1 the
        joint one, which EM maximises; between them a trade-off that needs fewer rows than at 0.

        Args:
            x: rows `(*S, D)`.
            y: their labels, `(*S)`.
            generative: weight of `log p(x)`, in [0, 1].
            num_samples: rows of the training set, when x is a mini-batch; None: those of x.

        Raises:
            InvalidArgumentError: shapes that do not fit, or a weight outside [0, 1].
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
        own = joint.gather(-1, self._encode_rows(joint, y).unsqueeze(-1)).squeeze(-1)
        value = (own - (1 - generative) * joint.logsumexp(-1)).mean()
        return value + self.layer.log_prior().sum() / prior_num_samples(num_samples, own.numel())

    @torch.no_grad()
    def calibrate(self, x: Any, y: Any) -> Calibration:
        """Set the temperature that minimises the cross entropy of held-out rows.

        Mixtures fitted class by class are overconfident where features depend on each other more
        than the mixtures model. The mean of `-log p(c | x)` is minimised over inverse temperatures
        between 1/100 and 100. `predict` and `log_prob` do not change.

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
        own = self._encode_rows(joint, y).reshape(-1, 1)
        if not len(logits):
            raise InvalidDataError("there are no rows to calibrate with")
        bad = torch.isnan(logits).any(-1)
        if bool(bad.any()):
            raise InvalidDataError(f"the density is not finite in row(s) {format_rows(bad)}")
        logits = logits.clamp(min=torch.finfo(logits.dtype).min / MAX_TEMPERATURE)
        before = cross_entropy(logits, own, 1 / float(self.temperature))
        inverse = best_inverse_temperature(logits, own)
        self.temperature.fill_(1 / inverse)
        return Calibration(1 / inverse, before, cross_entropy(logits, own, inverse))

    # -- labels -----------------------------------------------------------------------------

    def encode(self, y: Any) -> Tensor:
        """Indices of labels of any shape among `classes`, on the classifier's device.

        Args:
            y: a tensor, an array or a list of labels.

        Raises:
            InvalidDataError: labels that are not among the classes (-1 and NaN too), by row.

        Example:
            >>> MixtureClassifier(GMMLayer(2, 1, batch_shape=(2,)), "ab").encode(["b", "a"])
            tensor([1, 0])
        """
        return self._encoder.encode(y, self.class_logits.device)

    def _encode_rows(self, joint: Tensor, y: Any) -> Tensor:
        """Indices of labels, one for every row of log joint densities `(*S, C)`."""
        indices, rows = self.encode(y), joint.shape[:-1]
        if indices.shape != rows:
            raise InvalidArgumentError(
                f"these rows need labels of shape {tuple(rows)}, got {tuple(indices.shape)}"
            )
        return indices

    def extra_repr(self) -> str:
        """The classes."""
        return f"classes={format_list(map(repr, self.classes))}"
