"""Classes as one batch of mixtures: printed letters, and ground seen from a satellite."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from gmm_lightning.app.recipes.account import Account, spread
from gmm_lightning.datasets import load
from gmm_lightning.em import fit_classifier
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.interop import from_sklearn
from gmm_lightning.layers import GMMLayer, MixtureClassifier
from gmm_lightning.metrics import anomaly_score
from gmm_lightning.plotting.figures import INK, new_grid
from gmm_lightning.plotting.palette import palette

# Of confidence, for the calibration error and its picture.
NUM_BINS = 15


class Data(NamedTuple):
    """The customary training and test parts, in units of the training rows."""

    name: str
    classes: tuple[str, ...]
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    def part(self, rows: Tensor) -> Data:
        """Some of the training rows."""
        return self._replace(x=self.x[rows], y=self.y[rows])


class Choice(NamedTuple):
    """A kind of mixture, with the temperature and the loss that held-out rows gave it."""

    family: str
    num_components: int
    prior: str | None
    temperature: float
    loss: float

    def __str__(self) -> str:
        return f"{self.family}, K = {self.num_components} (T = {self.temperature:.1f})"


class Fitted(NamedTuple):
    """A classifier and the seconds that its fit took."""

    classifier: MixtureClassifier
    seconds: float


def class_mixtures(
    account: Account,
    *,
    data: str | Sequence[str] = ("letter", "satellite"),
    choices: Mapping[str, int | Sequence[int]],
    valid_fraction: float = 0.2,
    num_seeds: int = 5,
    seed: int = 0,
) -> None:
    """A mixture per class against one Gaussian per class and scikit-learn class by class.

    Family and number of components are those of the lowest `-log p(c | x)`, after calibration, of
    a part of the training rows; the mixtures are then fitted to all of these and keep the
    temperature. Test rows choose nothing. scikit-learn gets what was chosen without a prior, which
    is its model.

    Args:
        account: what it tells.
        data: built-in data with classes and a customary test part.
        choices: numbers of components to choose from, by family.
        valid_fraction: of the training rows, for the choice and the temperature.
        num_seeds: runs, each with other held-out rows and other starts.
        seed: of the first run.

    Raises:
        InvalidArgumentError: data without classes or test part, no choices, or no scikit-learn
            here.

    References:
        T. Hastie, R. Tibshirani (1996), Discriminant analysis by Gaussian mixtures, JRSS B 58.
        C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger (2017), On calibration of modern neural
        networks, ICML.
    """
    if not choices:
        raise InvalidArgumentError("choices must name a family and numbers of components")
    for one in [read(name) for name in listed(data)]:
        lines: dict[str, list[list[float]]] = {}
        shown: dict[str, MixtureClassifier] = {}
        for run in range(num_seeds):
            generator = Generator().manual_seed(seed + run)
            single, plain, informed = (
                choose(one, kinds, prior, valid_fraction, generator)
                for kinds, prior in (({"full": 1}, None), (choices, None), (choices, "niw"))
            )
            account.say(f"{one.name}, run {run + 1}: {plain}; with niw: {informed}")
            models = {
                "one Gaussian per class": fit(one, single, generator),
                "scikit-learn": fit_sklearn(one, plain, seed + run),
                "mixtures": fit(one, plain, generator),
                "mixtures, niw": fit(one, informed, generator),
            }
            for label, (classifier, seconds) in models.items():
                lines.setdefault(label, []).append([*scores(classifier, one), seconds])
            shown = shown or {label: model.classifier for label, model in models.items()}
        header = ("accuracy", "NLL", "calibrated", "ECE", "calibrated", "open set", "fit (s)")
        account.table(
            (one.name, *header),
            [(label, *map(spread, zip(*rows, strict=True))) for label, rows in lines.items()],
        )
        account.picture(one.name, draw(shown, one))


# -- fitting --------------------------------------------------------------------------------


def read(name: str) -> Data:
    """A built-in data set.

    Raises:
        InvalidArgumentError: no such data, or none of classes with a test part.
    """
    table = load(name)
    n = table.num_train
    if table.labels is None or table.classes is None or n == len(table.x):
        raise InvalidArgumentError(f"{name} has no classes or no test part; try letter, satellite")
    x, y = torch.as_tensor(table.x, dtype=torch.float64), torch.as_tensor(table.labels)
    x = (x - x[:n].mean(0)) / x[:n].std(0)
    return Data(name, table.classes, x[:n], y[:n], x[n:], y[n:])


def choose(
    data: Data,
    choices: Mapping[str, Any],
    prior: str | None,
    valid_fraction: float,
    generator: Generator,
) -> Choice:
    """The kind of mixture that, calibrated, says most of the classes of held-out rows."""
    order = torch.randperm(len(data.x), generator=generator)
    held, rest = order.tensor_split([round(valid_fraction * len(order))])
    part = data.part(rest)
    found = []
    for family, counts in choices.items():
        for k in listed(counts):
            classifier = fit(part, Choice(family, k, prior, 1.0, 0.0), generator).classifier
            calibration = classifier.calibrate(data.x[held], data.y[held])
            found.append(Choice(family, k, prior, calibration.temperature, calibration.after))
    return min(found, key=lambda choice: choice.loss)


def fit(data: Data, choice: Choice, generator: Generator) -> Fitted:
    """All classes at once."""
    layer = GMMLayer(
        data.x.shape[1],
        choice.num_components,
        choice.family,
        choice.prior,
        batch_shape=(len(data.classes),),
        dtype=data.x.dtype,
    )
    classifier = MixtureClassifier(layer)
    began = time.perf_counter()
    fit_classifier(classifier, data.x, data.y, generator=generator)
    seconds = time.perf_counter() - began
    classifier.temperature.fill_(choice.temperature)
    return Fitted(classifier, seconds)


def fit_sklearn(data: Data, choice: Choice, seed: int) -> Fitted:
    """One class after the other; the results become a batch.

    Raises:
        InvalidArgumentError: scikit-learn is not installed.
    """
    try:
        from sklearn.mixture import GaussianMixture
    except ImportError as error:
        raise InvalidArgumentError(
            "the comparison needs scikit-learn: pip install scikit-learn"
        ) from error
    began = time.perf_counter()
    mixtures = [
        GaussianMixture(
            choice.num_components, covariance_type=choice.family, random_state=seed
        ).fit(data.x[data.y == c].numpy())
        for c in range(len(data.classes))
    ]
    seconds = time.perf_counter() - began
    layers = [from_sklearn(mixture) for mixture in mixtures]
    parts = [torch.stack([getattr(layer, name) for layer in layers]) for name in PARTS]
    classifier = MixtureClassifier(GMMLayer.from_parameters(*parts, covariance=choice.family))
    classifier.set_class_priors(data.y.bincount())
    classifier.temperature.fill_(choice.temperature)
    return Fitted(classifier, seconds)


PARTS = ("weights", "means", "covariance_matrix")


# -- judging --------------------------------------------------------------------------------


@torch.no_grad()
def scores(classifier: MixtureClassifier, data: Data) -> list[float]:
    """Of the test rows: the columns of the table but the last."""
    joint = classifier.log_joint(data.test_x)
    right = (joint.argmax(-1) == data.test_y).double().mean()
    found = [float(right)]
    losses, errors = [], []
    for temperature in (1.0, classifier.temperature):
        log_posterior = (joint / temperature).log_softmax(-1)
        losses.append(-float(log_posterior.gather(-1, data.test_y.unsqueeze(-1)).mean()))
        errors.append(calibration_error(log_posterior.exp(), data.test_y))
    aucs = [float(open_set(joint, data.test_y, c)) for c in range(len(data.classes))]
    return [*found, *losses, *errors, sum(aucs) / len(aucs)]


def calibration_error(posterior: Tensor, y: Tensor) -> float:
    """How far confidence is from the share of rows that are right (ECE)."""
    return float(
        multiclass_calibration_error(posterior, y, posterior.shape[1], n_bins=NUM_BINS, norm="l1")
    )


def open_set(joint: Tensor, y: Tensor, c: int) -> Tensor:
    """How well `log p(x)` without class c tells its rows from the others: area under the ROC.

    Classes have nothing in common, so that leaving one out takes no other fit.
    """
    known = joint.clone()
    known[:, c] = -torch.inf
    return binary_auroc(anomaly_score(known.logsumexp(-1)), (y == c).long())


def listed(value: Any) -> list[Any]:
    """One value or several, as a list."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


# -- picture --------------------------------------------------------------------------------


@torch.no_grad()
def draw(models: Mapping[str, MixtureClassifier], data: Data) -> Any:
    """What the mixtures confuse, what confidence is worth, rows turned away, unknown classes."""
    grid = new_grid(2, 2, (13.0, 10.0))
    confused, reliable, rejected, unknown = grid.flat
    best = models["mixtures, niw"]
    draw_confusion(confused, best.predict(data.test_x), data)
    colors = palette(3)
    for label, temperature, color in (
        ("as fitted", 1.0, colors[1]),
        (f"T = {best.temperature:.1f}", best.temperature, colors[0]),
    ):
        posterior = (best.log_joint(data.test_x) / temperature).softmax(-1)
        confidence, right = sure_and_right(posterior, data.test_y)
        bins = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
        each = [(confidence[bins == b].mean(), right[bins == b].mean()) for b in bins.unique()]
        reliable.plot(*zip(*each, strict=True), "o-", color=color, label=label)
    reliable.axline((1, 1), slope=1, color=INK, linewidth=1, linestyle="--")
    reliable.set(xlabel="confidence", ylabel="share right", title="calibration, mixtures with niw")
    labels = ("one Gaussian per class", "mixtures", "mixtures, niw")
    for label, color in zip(labels, colors[::-1], strict=True):
        joint = models[label].log_joint(data.test_x)
        confidence, right = sure_and_right(models[label].posterior(data.test_x), data.test_y)
        right = right[confidence.argsort(descending=True)]
        kept = torch.arange(1, len(right) + 1)
        wrong = 100 * (1 - right.cumsum(0) / kept)
        least = len(right) // 2
        rejected.plot(
            100 - 100 * kept[least:] / len(right), wrong[least:], color=color, label=label
        )
        aucs = [float(open_set(joint, data.test_y, c)) for c in range(len(data.classes))]
        unknown.plot(range(len(aucs)), aucs, "o", color=color, label=label)
    rejected.set(xlabel="least sure rows turned away (%)", ylabel="errors in the rest (%)")
    rejected.set(title="rejection")
    named_axis(unknown, "x", data.classes)
    unknown.set(
        xlabel="class left out", ylabel="area under the ROC", title="rows of no known class"
    )
    for ax in (reliable, rejected, unknown):
        ax.legend(frameon=False)
    return grid


def draw_confusion(ax: Any, predicted: Tensor, data: Data) -> None:
    """Where the rows of each class went that did not stay in it, in per cent."""
    table = multiclass_confusion_matrix(
        predicted, data.test_y, num_classes=len(data.classes), normalize="true"
    )
    wrong = float((predicted != data.test_y).double().mean())
    image = ax.imshow(100 * table.fill_diagonal_(0.0).numpy(), cmap="Blues")
    ax.figure.colorbar(image, ax=ax, label="% of the class")
    for side in ("x", "y"):
        named_axis(ax, side, data.classes)
    ax.set(
        xlabel="predicted", ylabel="class", title=f"{data.name}: {wrong:.1%} wrong, of each class"
    )


def named_axis(ax: Any, side: str, names: Sequence[str]) -> None:
    """Classes along an axis; long names are turned."""
    turned = side == "x" and max(map(len, names)) > 1
    options = {"rotation": 30, "ha": "right"} if turned else {}
    getattr(ax, f"set_{side}ticks")(range(len(names)), names, fontsize="small", **options)


def sure_and_right(posterior: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Probability of the most probable class, and whether it is the right one, as 0 or 1."""
    confidence, found = posterior.max(-1)
    return confidence, (found == y).to(posterior.dtype)
