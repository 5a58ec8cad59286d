"""Classification with one mixture per class: printed letters, and ground seen from a satellite.

All classes are fitted as one batch by `fit_classifier` and compared with one Gaussian per class and
with scikit-learn's mixtures, fitted class by class. Family and number of components are those with
the lowest calibrated loss `-log p(class | x)` on a part of the training rows; test rows choose
nothing. The table has accuracy, loss and calibration error before and after calibration, and how
well `log p(x)` detects classes that were left out ("open set"). Needs scikit-learn.

References:
    T. Hastie, R. Tibshirani (1996), Discriminant analysis by Gaussian mixtures, JRSS B 58.
    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger (2017), On calibration of modern neural
    networks, ICML.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Generator, Tensor
from torchmetrics.functional.classification import (
    binary_auroc,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
)

from command_line import example_parser, integer
from gmm_lightning import GMMLayer, MixtureClassifier, fit_classifier
from gmm_lightning.datasets import load
from gmm_lightning.interop import from_sklearn
from gmm_lightning.metrics import anomaly_score
from gmm_lightning.plotting import palette
from reporting import Reporter, mean_and_std, new_axes

try:
    from sklearn.mixture import GaussianMixture
except ImportError as error:
    raise SystemExit("class_mixtures.py needs scikit-learn: pip install scikit-learn") from error

DATA_SETS = ("letter", "satellite")
# Numbers of components to choose from, by covariance family.
CANDIDATES = {"full": (4,), "tied": (16, 32), "diag": (16, 32)}
# Fraction of the training rows that chooses the model and its temperature.
VALID_FRACTION = 0.2
# Bins of confidence, for the calibration error and its plot.
NUM_BINS = 15


class Data(NamedTuple):
    """Training and test rows, standardised with the training rows."""

    name: str
    classes: tuple[str, ...]
    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    def select(self, rows: Tensor) -> Data:
        """The same with some of the training rows."""
        return self._replace(x=self.x[rows], y=self.y[rows])


class Model(NamedTuple):
    """A kind of mixture, with its temperature and loss on validation rows."""

    family: str
    num_components: int
    prior: str | None = None
    temperature: float = 1.0
    loss: float = 0.0

    def __str__(self) -> str:
        return f"{self.family}, K = {self.num_components} (T = {self.temperature:.1f})"


class Fitted(NamedTuple):
    """A fitted classifier and the seconds of its fit."""

    classifier: MixtureClassifier
    seconds: float


def main(argv: Sequence[str] | None = None) -> Reporter:
    """Compare classifiers on every data set."""
    parser = example_parser("class_mixtures", __doc__)
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=DATA_SETS, help="data sets")
    parser.add_argument("--num-seeds", type=integer(1), default=5, help="runs of everything")
    options = parser.parse_args(argv)
    report = Reporter(options.output)
    for name in options.data:
        compare(report, read(name), options.num_seeds, options.seed)
    return report


def compare(
    report: Reporter,
    data: Data,
    num_seeds: int,
    seed: int,
    candidates: Mapping[str, Sequence[int]] = CANDIDATES,
) -> None:
    """Compare classifiers on one data set: a table and a figure.

    scikit-learn gets the model that was chosen without a prior, because it has no priors.
    """
    scores: dict[str, list[tuple[float, ...]]] = {}
    first_run: dict[str, MixtureClassifier] = {}
    for run in range(num_seeds):
        generator = Generator().manual_seed(seed + run)
        gaussian = choose(data, {"full": (1,)}, None, generator)
        mixture = choose(data, candidates, None, generator)
        with_prior = choose(data, candidates, "niw", generator)
        report.print(f"{data.name}, run {run + 1}: {mixture}; with niw: {with_prior}")
        fits = {
            "one Gaussian per class": fit(data, gaussian, generator),
            "scikit-learn": fit_sklearn(data, mixture, seed + run),
            "mixtures": fit(data, mixture, generator),
            "mixtures, niw": fit(data, with_prior, generator),
        }
        for name, (classifier, seconds) in fits.items():
            scores.setdefault(name, []).append((*evaluate(classifier, data), seconds))
        first_run = first_run or {name: fitted.classifier for name, fitted in fits.items()}
    header = ("accuracy", "NLL", "calibrated", "ECE", "calibrated", "open set", "fit (s)")
    report.table(
        (data.name, *header),
        [(name, *map(mean_and_std, zip(*runs, strict=True))) for name, runs in scores.items()],
    )
    report.figure(data.name, draw(first_run, data))


# -- fitting ----------------------------------------------------------------------------------


def read(name: str) -> Data:
    """A built-in data set with classes and a test part."""
    table = load(name)
    assert table.labels is not None
    assert table.classes is not None
    n = table.num_train
    x, y = torch.as_tensor(table.x, dtype=torch.float64), torch.as_tensor(table.labels)
    x = (x - x[:n].mean(0)) / x[:n].std(0)
    return Data(name, table.classes, x[:n], y[:n], x[n:], y[n:])


def choose(
    data: Data,
    candidates: Mapping[str, Sequence[int]],
    prior: str | None,
    generator: Generator,
) -> Model:
    """The model with the lowest loss on validation rows after calibration."""
    order = torch.randperm(len(data.x), generator=generator)
    valid, rest = order.tensor_split([round(VALID_FRACTION * len(order))])
    models = []
    for family, counts in candidates.items():
        for k in counts:
            classifier, _ = fit(data.select(rest), Model(family, k, prior), generator)
            calibration = classifier.calibrate(data.x[valid], data.y[valid])
            models.append(Model(family, k, prior, calibration.temperature, calibration.after))
    return min(models, key=lambda model: model.loss)


def fit(data: Data, model: Model, generator: Generator) -> Fitted:
    """Fit the mixtures of all classes as one batch."""
    layer = GMMLayer(
        data.x.shape[1],
        model.num_components,
        model.family,
        model.prior,
        batch_shape=(len(data.classes),),
        dtype=data.x.dtype,
    )
    classifier = MixtureClassifier(layer)
    start = time.perf_counter()
    fit_classifier(classifier, data.x, data.y, generator=generator)
    seconds = time.perf_counter() - start
    classifier.temperature.fill_(model.temperature)
    return Fitted(classifier, seconds)


def fit_sklearn(data: Data, model: Model, seed: int) -> Fitted:
    """Fit scikit-learn's mixtures class by class, and turn them into one classifier."""
    start = time.perf_counter()
    mixtures = [
        GaussianMixture(model.num_components, covariance_type=model.family, random_state=seed).fit(
            data.x[data.y == c].numpy()
        )
        for c in range(len(data.classes))
    ]
    seconds = time.perf_counter() - start
    layers = [from_sklearn(mixture) for mixture in mixtures]
    layer = GMMLayer.from_parameters(
        torch.stack([layer.weights for layer in layers]),
        torch.stack([layer.means for layer in layers]),
        torch.stack([layer.covariance_matrix for layer in layers]),
        covariance=model.family,
    )
    classifier = MixtureClassifier(layer)
    classifier.set_class_priors(data.y.bincount())
    classifier.temperature.fill_(model.temperature)
    return Fitted(classifier, seconds)


# -- evaluation -------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(classifier: MixtureClassifier, data: Data) -> list[float]:
    """Scores of the test rows: the columns of the table without the seconds."""
    log_joint = classifier.log_joint(data.test_x)
    accuracy = float((log_joint.argmax(-1) == data.test_y).double().mean())
    losses, calibration_errors = [], []
    for temperature in (1.0, classifier.temperature):
        log_posterior = (log_joint / temperature).log_softmax(-1)
        losses.append(-float(log_posterior.gather(-1, data.test_y.unsqueeze(-1)).mean()))
        calibration_errors.append(calibration_error(log_posterior.exp(), data.test_y))
    aucs = [open_set_auc(log_joint, data.test_y, c) for c in range(len(data.classes))]
    return [accuracy, *losses, *calibration_errors, sum(aucs) / len(aucs)]


def calibration_error(posterior: Tensor, y: Tensor) -> float:
    """Expected calibration error: mean distance of confidence from accuracy, over bins."""
    return float(
        multiclass_calibration_error(posterior, y, posterior.shape[1], n_bins=NUM_BINS, norm="l1")
    )


def open_set_auc(log_joint: Tensor, y: Tensor, c: int) -> float:
    """Area under the ROC curve of `-log p(x)` without class c as a detector of its rows.

    Mixtures of different classes share no parameters, so leaving one out needs no other fit.
    """
    others = log_joint.clone()
    others[:, c] = -torch.inf
    return float(binary_auroc(anomaly_score(others.logsumexp(-1)), (y == c).long()))


# -- figure -----------------------------------------------------------------------------------


@torch.no_grad()
def draw(classifiers: Mapping[str, MixtureClassifier], data: Data) -> NDArray[Any]:
    """Confusion of classes, reliability, rejection of doubtful rows, detection of new classes."""
    axes = new_axes(2, 2, (13.0, 10.0))
    confusion, reliability, rejection, open_set = axes.flat
    best = classifiers["mixtures, niw"]
    draw_confusion(confusion, best.predict(data.test_x), data)
    colors = palette(3)
    for label, temperature, color in (
        ("as fitted", 1.0, colors[1]),
        (f"T = {best.temperature:.1f}", best.temperature, colors[0]),
    ):
        posterior = (best.log_joint(data.test_x) / temperature).softmax(-1)
        confidence, correct = confidence_and_correct(posterior, data.test_y)
        bins = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
        points = [(confidence[bins == b].mean(), correct[bins == b].mean()) for b in bins.unique()]
        reliability.plot(*zip(*points, strict=True), "o-", color=color, label=label)
    reliability.axline((1, 1), slope=1, color="#333333", linewidth=1, linestyle="--")
    reliability.set(
        xlabel="confidence", ylabel="share right", title="calibration, mixtures with niw"
    )
    labels = ("one Gaussian per class", "mixtures", "mixtures, niw")
    for label, color in zip(labels, colors[::-1], strict=True):
        classifier = classifiers[label]
        confidence, correct = confidence_and_correct(classifier.posterior(data.test_x), data.test_y)
        correct = correct[confidence.argsort(descending=True)]
        kept = torch.arange(1, len(correct) + 1)
        errors = 100 * (1 - correct.cumsum(0) / kept)
        half = len(correct) // 2
        rejected = 100 - 100 * kept / len(correct)
        rejection.plot(rejected[half:], errors[half:], color=color, label=label)
        log_joint = classifier.log_joint(data.test_x)
        aucs = [open_set_auc(log_joint, data.test_y, c) for c in range(len(data.classes))]
        open_set.plot(range(len(aucs)), aucs, "o", color=color, label=label)
    rejection.set(xlabel="least sure rows turned away (%)", ylabel="errors in the rest (%)")
    rejection.set(title="rejection")
    set_class_ticks(open_set, "x", data.classes)
    open_set.set(
        xlabel="class left out", ylabel="area under the ROC", title="rows of no known class"
    )
    for ax in (reliability, rejection, open_set):
        ax.legend(frameon=False)
    return axes


def draw_confusion(ax: Axes, predicted: Tensor, data: Data) -> None:
    """Errors of each class by predicted class, in per cent of the class."""
    matrix = multiclass_confusion_matrix(
        predicted, data.test_y, num_classes=len(data.classes), normalize="true"
    )
    error_rate = float((predicted != data.test_y).double().mean())
    image = ax.imshow(100 * matrix.fill_diagonal_(0.0).numpy(), cmap="Blues")
    ax.figure.colorbar(image, ax=ax, label="% of the class")
    for side in ("x", "y"):
        set_class_ticks(ax, side, data.classes)
    title = f"{data.name}: {error_rate:.1%} wrong, of each class"
    ax.set(xlabel="predicted", ylabel="class", title=title)


def set_class_ticks(ax: Axes, side: str, names: Sequence[str]) -> None:
    """Class names along an axis, rotated where they are long."""
    rotate = side == "x" and max(map(len, names)) > 1
    style = {"rotation": 30, "ha": "right"} if rotate else {}
    set_ticks = ax.set_xticks if side == "x" else ax.set_yticks
    set_ticks(range(len(names)), names, fontsize="small", **style)


def confidence_and_correct(posterior: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Largest posterior probability of each row, and 1 where its class is right, else 0."""
    confidence, predicted = posterior.max(-1)
    return confidence, (predicted == y).to(posterior.dtype)


if __name__ == "__main__":
    main()
