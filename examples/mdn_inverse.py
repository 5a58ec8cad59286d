"""Mixture density networks against the same networks with a single Gaussian.

Three regressions by a network with one hidden layer that ends in a `DensityHead`: Bishop's inverse
problem, which has up to three answers; the wait for the next eruption of Old Faithful; and the
progress of diabetes. The two networks of a comparison differ in the number of components alone:
data, folds, initial weights and early stopping are the same. They are compared by negative
log-likelihood, CRPS and calibration on held-out rows. Needs scikit-learn, which has the diabetes
data.

References:
    C. M. Bishop (1994), Mixture density networks, Aston University NCRG/94/004.
    B. Efron, T. Hastie, I. Johnstone, R. Tibshirani (2004), Least angle regression, Ann.
    Statist. 32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from command_line import example_parser, integer
from gmm_lightning import DensityHead, GMMLayer, MixtureOfGaussians, fit_em
from gmm_lightning.datasets import load
from gmm_lightning.distributions import probability_integral_transform
from gmm_lightning.metrics import CRPS, CalibrationError, LogLikelihood
from gmm_lightning.plotting import plot_calibration
from reporting import Reporter, mean_and_std, new_axes

try:
    from sklearn.datasets import load_diabetes
except ImportError as error:
    raise SystemExit("mdn_inverse.py needs scikit-learn: pip install scikit-learn") from error

# Bins of the calibration error.
NUM_BINS = 10


class Task(NamedTuple):
    """Predict y `(N, 1)` from x `(N, P)`.

    Attributes:
        x: inputs.
        y: targets.
        labels: names of x and y on the axes of a figure.
        num_components: components of the mixture.
    """

    x: Tensor
    y: Tensor
    labels: tuple[str, str]
    num_components: int

    def select(self, rows: Tensor) -> Task:
        """The task on some of the rows, by a mask or by indices."""
        return self._replace(x=self.x[rows], y=self.y[rows])


class TrainingOptions(NamedTuple):
    """How a network is trained, whatever its number of components.

    Attributes:
        max_epochs: largest number of epochs.
        patience: epochs without a lower validation loss after which training stops.
        valid_fraction: fraction of the training rows for the validation loss.
        num_hidden: units of the hidden layer.
        learning_rate: learning rate of AdamW.
        weight_decay: weight decay of the matrices; biases, where the head begins, have none.
        batch_size: rows per step.
    """

    max_epochs: int
    patience: int = 40
    valid_fraction: float = 0.2
    num_hidden: int = 16
    learning_rate: float = 0.01
    weight_decay: float = 0.1
    batch_size: int = 64


class Result(NamedTuple):
    """One cross-validation of one model.

    Attributes:
        scores: negative log-likelihood, CRPS and calibration error of the held-out rows.
        pit: probability integral transforms of the held-out rows.
        network: the network of the first fold.
    """

    scores: tuple[float, float, float]
    pit: Tensor
    network: DensityNetwork


def main(argv: Sequence[str] | None = None) -> Reporter:
    """Compare one Gaussian with a mixture on every task."""
    parser = example_parser("mdn_inverse", __doc__)
    parser.add_argument(
        "--tasks", nargs="+", choices=list(TASKS), default=list(TASKS), help="what to predict"
    )
    parser.add_argument(
        "--num-rows", type=integer(50), default=1000, help="rows of the inverse problem"
    )
    parser.add_argument(
        "--max-epochs", type=integer(1), default=300, help="largest number of epochs"
    )
    parser.add_argument(
        "--num-folds", type=integer(2, 50), default=5, help="folds of the cross-validation"
    )
    parser.add_argument("--num-seeds", type=integer(1), default=5, help="runs of everything")
    options = parser.parse_args(argv)
    report = Reporter(options.output)
    training = TrainingOptions(options.max_epochs)

    # By model, one result per run.
    results: dict[str, list[Result]] = {}
    wins = dict.fromkeys(options.tasks, 0)
    first_tasks: dict[str, Task] = {}
    for run in range(options.num_seeds):
        generator = Generator().manual_seed(options.seed + run)
        tasks = {name: TASKS[name](options.num_rows, generator) for name in options.tasks}
        first_tasks = first_tasks or tasks
        for name, task in tasks.items():
            folds = torch.randperm(len(task.x), generator=generator) % options.num_folds
            losses = []
            for k in (1, task.num_components):
                # As many rows as wanted can be drawn of the inverse problem: one fold is enough.
                num_folds = 1 if name == "inverse" else options.num_folds
                result = cross_validate(task, k, folds, num_folds, training, options.seed + run)
                title = f"{TITLES[name]}, {'one Gaussian' if k == 1 else f'mixture of {k}'}"
                results.setdefault(title, []).append(result)
                losses.append(result.scores[0])
            wins[name] += losses[1] < losses[0]
            report.print(
                f"run {run + 1}, {TITLES[name]}: negative log-likelihood {losses[0]:.3f} with one "
                f"Gaussian, {losses[1]:.3f} with the mixture"
            )

    report.table(
        ("of rows left out", "NLL", "CRPS", "calibration error"),
        [
            (title, *map(mean_and_std, zip(*(run.scores for run in runs), strict=True)))
            for title, runs in results.items()
        ],
    )
    for name, count in wins.items():
        report.print(
            f"{TITLES[name]}: the mixture has the lower NLL in {count} of {options.num_seeds} runs"
        )
    # Later runs hold the same rows out again, but the band of a calibration plot assumes that rows
    # are independent: figures show the first run.
    first_results = {title: runs[0] for title, runs in results.items()}
    plotted = {name: task for name, task in first_tasks.items() if task.x.shape[1] == 1}
    if plotted:
        generator = Generator().manual_seed(options.seed)
        report.figure("mdn_inverse", draw_densities(plotted, first_results, generator))
    report.figure("mdn_calibration", draw_calibration(first_results))
    return report


# -- tasks ------------------------------------------------------------------------------------


def inverse_problem(num_rows: int, generator: Generator) -> Task:
    """Predict t from `x = t + 0.3 sin(2 pi t) + noise`: near x = 1/2 there are three answers.

    The noise is uniform in [-0.1, 0.1], as in Bishop (1994).
    """
    t = torch.rand(num_rows, 1, generator=generator)
    noise = 0.2 * torch.rand(num_rows, 1, generator=generator) - 0.1
    return Task(t + 0.3 * torch.sin(2 * math.pi * t) + noise, t, ("x", "t"), num_components=3)


def old_faithful(num_rows: int, generator: Generator) -> Task:
    """The wait for the next eruption from the duration of the last one."""
    x = torch.as_tensor(load("faithful").x, dtype=torch.float32)
    return Task(x[:, :1], x[:, 1:], ("eruption (minutes)", "wait (minutes)"), num_components=2)


def diabetes(num_rows: int, generator: Generator) -> Task:
    """The progress of the disease within a year from ten measurements."""
    x, y = (torch.as_tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
    return Task(x, y.unsqueeze(-1), ("ten measurements", "progression"), num_components=2)


# Real data ignore the number of rows and the generator.
TASKS: dict[str, Callable[[int, Generator], Task]] = {
    "inverse": inverse_problem,
    "faithful": old_faithful,
    "diabetes": diabetes,
}
TITLES = {"inverse": "inverse problem", "faithful": "Old Faithful", "diabetes": "diabetes"}


# -- the network ------------------------------------------------------------------------------


class DensityNetwork(nn.Module):
    """`x -> p(y | x)`: one hidden layer and a `DensityHead`.

    Inputs are standardised with the mean and standard deviation of the training rows. The head
    starts at the mixture of the training targets, fitted by EM.

    Args:
        task: the training rows.
        num_components: components of the head; 1 is the Gaussian head.
        num_hidden: units of the hidden layer.
        generator: random numbers of the initialisation of EM.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, task: Task, num_components: int, num_hidden: int, generator: Generator
    ) -> None:
        super().__init__()
        self.register_buffer("mean", task.x.mean(0))
        self.register_buffer("std", task.x.std(0))
        self.body = nn.Sequential(nn.Linear(task.x.shape[1], num_hidden), nn.Tanh())
        self.head = DensityHead(num_hidden, task.y.shape[1], num_components)
        marginal = GMMLayer(task.y.shape[1], num_components, priors="niw")
        fit_em(marginal, task.y, num_restarts=3, generator=generator)
        self.head.initialize_from(marginal)

    def features(self, x: Tensor) -> Tensor:
        """Inputs of the head, `(N, num_hidden)`."""
        h: Tensor = self.body((x - self.mean) / self.std)
        return h

    def forward(self, x: Tensor) -> MixtureOfGaussians:
        """One mixture per row."""
        mixture: MixtureOfGaussians = self.head(self.features(x))
        return mixture

    def loss(self, task: Task) -> Tensor:
        """Mean negative log-likelihood in nats per row."""
        return self.head.loss(self.features(task.x), task.y)


def train(task: Task, num_components: int, options: TrainingOptions, seed: int) -> DensityNetwork:
    """Train a network and return it as it was at its lowest validation loss."""
    generator = Generator().manual_seed(seed)
    order = torch.randperm(len(task.x), generator=generator)
    valid_rows, train_rows = order.tensor_split([round(options.valid_fraction * len(order))])
    valid, task = task.select(valid_rows), task.select(train_rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DensityNetwork(task, num_components, options.num_hidden, generator)
    matrices = [p for p in network.parameters() if p.dim() > 1]
    biases = [p for p in network.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": biases, "weight_decay": 0.0}],
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
    )
    best_loss, best_state, epochs_without_gain = math.inf, network.state_dict(), 0
    for _ in range(options.max_epochs):
        for rows in torch.randperm(len(task.x), generator=generator).split(options.batch_size):
            optimizer.zero_grad()
            network.loss(task.select(rows)).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(network.loss(valid))
        epochs_without_gain += 1
        if loss < best_loss:
            best_loss, best_state, epochs_without_gain = (
                loss,
                copy.deepcopy(network.state_dict()),
                0,
            )
        if epochs_without_gain == options.patience:
            break
    network.load_state_dict(best_state)
    return network


@torch.no_grad()
def cross_validate(
    task: Task,
    num_components: int,
    folds: Tensor,
    num_folds: int,
    training: TrainingOptions,
    seed: int,
) -> Result:
    """Scores of the rows of the first `num_folds` folds, each held out once."""
    log_likelihood, crps, calibration = LogLikelihood(), CRPS(), CalibrationError(NUM_BINS)
    networks, pits = [], []
    for fold in range(num_folds):
        with torch.enable_grad():
            network = train(task.select(folds != fold), num_components, training, seed)
        test = task.select(folds == fold)
        mixture = network(test.x)
        pit = probability_integral_transform(mixture, test.y)
        log_likelihood.update(mixture.log_prob(test.y))
        crps.update(mixture, test.y)
        calibration.update(pit)
        networks.append(network)
        pits.append(pit)
    nll = -float(log_likelihood.compute())
    scores = (nll, float(crps.compute()), float(calibration.compute()))
    return Result(scores, torch.cat(pits), networks[0])


# -- figures ----------------------------------------------------------------------------------


@torch.no_grad()
def draw_densities(
    tasks: Mapping[str, Task], results: Mapping[str, Result], generator: Generator
) -> NDArray[Any]:
    """`p(y | x)` of tasks with one input, by both networks, and draws from the mixture."""
    grid = new_axes(len(tasks), 3, (15.0, 4.2 * len(tasks)))
    for axes, (name, task) in zip(grid, tasks.items(), strict=True):
        (x_low, x_high), (y_low, y_high) = (
            (float(v.min() - 0.05 * v.std()), float(v.max() + 0.05 * v.std()))
            for v in (task.x, task.y)
        )
        x = torch.linspace(x_low, x_high, 200).unsqueeze(-1)
        y = torch.linspace(y_low, y_high, 200)
        networks = {
            title: result.network
            for title, result in results.items()
            if title.startswith(TITLES[name])
        }
        densities = {
            title: network(x).log_prob(y[:, None, None].expand(-1, 200, 1)).exp()
            for title, network in networks.items()
        }
        vmax = max(float(density.quantile(0.99)) for density in densities.values())
        for ax, (title, density) in zip(axes, densities.items(), strict=False):
            ax.imshow(
                density.numpy(),
                extent=(x_low, x_high, y_low, y_high),
                origin="lower",
                aspect="auto",
                cmap="Blues",
                vmin=0,
                vmax=vmax,
            )
            ax.plot(task.x[:300, 0], task.y[:300, 0], ".", color="#333333", markersize=2)
            ax.set(title=title, xlabel=task.labels[0], ylabel=task.labels[1])
        _, mixture_network = networks.values()
        draws = mixture_network(task.x).sample((), generator=generator)
        axes[2].plot(task.x[:, 0], draws[:, 0], ".", markersize=3)
        axes[2].set(title="draws from the mixture", xlabel=task.labels[0], ylabel=task.labels[1])
        axes[2].set(xlim=(x_low, x_high), ylim=(y_low, y_high))
    return grid


def draw_calibration(results: Mapping[str, Result]) -> NDArray[Any]:
    """Histograms of PIT values: the Gaussian on the left, the mixture on the right."""
    num_rows = len(results) // 2
    axes = new_axes(num_rows, 2, (11.0, 3.4 * num_rows))
    for ax, (title, result) in zip(axes.flat, results.items(), strict=True):
        plot_calibration(result.pit, ax=ax, title=title)
    return axes


if __name__ == "__main__":
    main()
