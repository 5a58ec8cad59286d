"""Mixture density networks, against the same networks with a single Gaussian."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor, nn

from gmm_lightning._validation import require_integer, require_number
from gmm_lightning.app.recipes._scikit_learn import load_with_scikit_learn
from gmm_lightning.app.recipes.account import Account, spread
from gmm_lightning.datasets import load
from gmm_lightning.distributions import MixtureOfGaussians, probability_integral_transform
from gmm_lightning.em import fit_em
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import DensityHead, GMMLayer
from gmm_lightning.metrics import CRPS, CalibrationError, LogLikelihood
from gmm_lightning.plotting import plot_calibration
from gmm_lightning.plotting.figures import new_grid

NUM_BINS = 10


class Task(NamedTuple):
    """Predict y `(N, 1)` from x `(N, P)`."""

    x: Tensor
    y: Tensor
    names: tuple[str, str]
    num_components: int

    def part(self, rows: Tensor) -> Task:
        """Some of the rows."""
        return self._replace(x=self.x[rows], y=self.y[rows])


class DensityNetwork(nn.Module):
    """`x -> p(y | x)`: one hidden layer and a `DensityHead`.

    Inputs are standardised as the training rows are, and the head begins at the mixture of the
    training targets, fitted by EM.

    Args:
        task: the training rows.
        num_components: K; 1 is the plain Gaussian head.
        num_hidden: units of the hidden layer.
        generator: of the start of EM.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, task: Task, num_components: int, num_hidden: int, generator: Generator
    ) -> None:
        super().__init__()
        self.register_buffer("mean", task.x.mean(0))
        self.register_buffer("deviation", task.x.std(0))
        self.body = nn.Sequential(nn.Linear(task.x.shape[1], num_hidden), nn.Tanh())
        self.head = DensityHead(num_hidden, task.y.shape[1], num_components)
        marginal = GMMLayer(task.y.shape[1], num_components, priors="niw")
        fit_em(marginal, task.y, num_restarts=3, generator=generator)
        self.head.initialize_from(marginal)

    def features(self, x: Tensor) -> Tensor:
        """What the head sees, `(N, num_hidden)`."""
        h: Tensor = self.body((x - self.mean) / self.deviation)
        return h

    def forward(self, x: Tensor) -> MixtureOfGaussians:
        """One mixture per row."""
        mixture: MixtureOfGaussians = self.head(self.features(x))
        return mixture

    def loss(self, task: Task) -> Tensor:
        """Mean negative log-likelihood, in nats per row."""
        return self.head.loss(self.features(task.x), task.y)


class Training(NamedTuple):
    """How a network is trained, whatever its head."""

    num_hidden: int
    learning_rate: float
    weight_decay: float
    batch_size: int
    max_epochs: int
    patience: int
    valid_fraction: float


def mdn_inverse(
    account: Account,
    *,
    num_rows: int = 1000,
    num_components: Mapping[str, int],
    num_hidden: int = 16,
    learning_rate: float = 0.01,
    weight_decay: float = 0.1,
    batch_size: int = 64,
    max_epochs: int = 300,
    patience: int = 40,
    valid_fraction: float = 0.2,
    num_folds: int = 5,
    num_seeds: int = 5,
    seed: int = 0,
) -> None:
    """What a mixture at the end of a network says of rows left out, and what a Gaussian says.

    The two networks differ in the number of components alone: data, folds, first weights and
    early stopping are the same. Rows are judged when they are left out; of the inverse problem,
    which can be drawn as often as wanted, one fold is.

    Args:
        account: what it tells.
        num_rows: of the inverse problem.
        num_components: of the head, at least 2, by task: `inverse`, `faithful`, `diabetes`.
        num_hidden: units of the hidden layer.
        learning_rate: of AdamW.
        weight_decay: of matrices; biases, where the head begins, are free.
        batch_size: rows per step.
        max_epochs: at most.
        patience: epochs without a better validation loss after which training stops.
        valid_fraction: of the training rows, for that.
        num_folds: parts of the rows, each left out once.
        num_seeds: runs, each with other draws, folds and first weights.
        seed: of the first run.

    Raises:
        InvalidArgumentError: an unknown task, a number out of range, or no scikit-learn, which
            has the diabetes data.

    References:
        C. M. Bishop (1994), Mixture density networks, Aston University NCRG/94/004.
        B. Efron, T. Hastie, I. Johnstone, R. Tibshirani (2004), Least angle regression, Ann.
        Statist. 32.
    """
    require_integer("num_rows", num_rows, least=50)
    require_integer("num_folds", num_folds, least=2)
    require_number("learning_rate", learning_rate, above=0)
    require_number("weight_decay", weight_decay, least=0)
    training = Training(
        num_hidden, learning_rate, weight_decay, batch_size, max_epochs, patience, valid_fraction
    )
    scores: dict[str, list[list[float]]] = {}
    wins: dict[str, int] = {}
    pits: dict[str, list[Tensor]] = {}
    shown: dict[str, DensityNetwork] = {}
    drawn: dict[str, Task] = {}
    for run in range(num_seeds):
        generator = Generator().manual_seed(seed + run)
        tasks = make_tasks(num_components, num_rows, generator)
        drawn = drawn or tasks
        for name, task in tasks.items():
            folds = torch.randperm(len(task.x), generator=generator) % num_folds
            losses = []
            for k in (1, task.num_components):
                title = f"{name}, {'one Gaussian' if k == 1 else f'mixture of {k}'}"
                metrics = [LogLikelihood(), CRPS(), CalibrationError(NUM_BINS)]
                for fold in range(1 if name == SYNTHETIC else num_folds):
                    rest, test = task.part(folds != fold), task.part(folds == fold)
                    net = train(rest, k, training, seed + run)
                    with torch.no_grad():
                        mixture = net(test.x)
                        pit = probability_integral_transform(mixture, test.y)
                        metrics[0].update(mixture.log_prob(test.y))
                        metrics[1].update(mixture, test.y)
                        metrics[2].update(pit)
                    if run == 0:
                        # Later runs leave the same rows out, and the band is of different ones.
                        pits.setdefault(title, []).append(pit)
                    shown.setdefault(title, net)
                density, crps, error = (float(metric.compute()) for metric in metrics)
                scores.setdefault(title, []).append([-density, crps, error])
                losses.append(-density)
            wins[name] = wins.get(name, 0) + int(losses[1] < losses[0])
            account.say(
                f"run {run + 1}, {name}: negative log-likelihood {losses[0]:.3f} with one "
                f"Gaussian, {losses[1]:.3f} with the mixture"
            )
    account.table(
        ("of rows left out", "NLL", "CRPS", "calibration error"),
        [(title, *map(spread, zip(*rows, strict=True))) for title, rows in scores.items()],
    )
    for name, count in wins.items():
        account.say(f"{name}: the mixture has the lower NLL in {count} of {num_seeds} runs")
    if any(task.x.shape[1] == 1 for task in drawn.values()):
        account.picture("mdn_inverse", draw_densities(shown, drawn, Generator().manual_seed(seed)))
    account.picture("mdn_calibration", draw_calibration(pits, len(drawn)))


# -- tasks ----------------------------------------------------------------------------------

SYNTHETIC = "inverse problem"


def make_tasks(
    num_components: Mapping[str, int], num_rows: int, generator: Generator
) -> dict[str, Task]:
    """The tasks that a number of components is given for.

    Raises:
        InvalidArgumentError: see `mdn_inverse`.
    """
    makers = {
        "inverse": (SYNTHETIC, lambda: inverse_problem(num_rows, generator)),
        "faithful": ("Old Faithful", old_faithful),
        "diabetes": ("diabetes", diabetes),
    }
    tasks = {}
    for key, k in num_components.items():
        if key not in makers:
            raise InvalidArgumentError(f"unknown task {key!r}; known are: {', '.join(makers)}")
        name, make = makers[key]
        x, y, *names = make()
        require_integer(f"num_components.{key}", k, least=2)
        tasks[name] = Task(x, y, (names[0], names[1]), k)
    return tasks


def inverse_problem(num_rows: int, generator: Generator) -> tuple[Tensor, Tensor, str, str]:
    """T from `x = t + 0.3 sin(2 pi t) + noise`: for x about 1/2 there are three answers.

    The noise is uniform in [-0.1, 0.1], as Bishop's.
    """
    t = torch.rand(num_rows, 1, generator=generator)
    noise = 0.2 * torch.rand(num_rows, 1, generator=generator) - 0.1
    return t + 0.3 * torch.sin(2 * math.pi * t) + noise, t, "x", "t"


def old_faithful() -> tuple[Tensor, Tensor, str, str]:
    """The wait for the next eruption from how long the last one took."""
    x = torch.as_tensor(load("faithful").x, dtype=torch.float32)
    return x[:, :1], x[:, 1:], "eruption (minutes)", "wait (minutes)"


def diabetes() -> tuple[Tensor, Tensor, str, str]:
    """The progress of a disease within a year, from ten measurements.

    Raises:
        InvalidArgumentError: scikit-learn is not installed.
    """
    x, y = load_with_scikit_learn("diabetes", "the diabetes data")
    return x, y.float().unsqueeze(-1), "ten measurements", "progression"


# -- training -------------------------------------------------------------------------------


def train(task: Task, num_components: int, how: Training, seed: int) -> DensityNetwork:
    """A network at its lowest validation loss."""
    generator = Generator().manual_seed(seed)
    order = torch.randperm(len(task.x), generator=generator)
    held, rest = order.tensor_split([round(how.valid_fraction * len(order))])
    valid, task = task.part(held), task.part(rest)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DensityNetwork(task, num_components, how.num_hidden, generator)
    matrices = [p for p in net.parameters() if p.dim() > 1]
    biases = [p for p in net.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices}, {"params": biases, "weight_decay": 0.0}],
        lr=how.learning_rate,
        weight_decay=how.weight_decay,
    )
    best, kept, waited = math.inf, net.state_dict(), 0
    for _ in range(how.max_epochs):
        for rows in torch.randperm(len(task.x), generator=generator).split(how.batch_size):
            optimizer.zero_grad()
            net.loss(task.part(rows)).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(net.loss(valid))
        waited += 1
        if loss < best:
            best, kept, waited = loss, copy.deepcopy(net.state_dict()), 0
        if waited == how.patience:
            break
    net.load_state_dict(kept)
    return net


# -- pictures -------------------------------------------------------------------------------


@torch.no_grad()
def draw_densities(
    nets: Mapping[str, DensityNetwork], tasks: Mapping[str, Task], generator: Generator
) -> Any:
    """`p(y | x)` of tasks with one input, and draws from the last, the mixture."""
    plain = {name: task for name, task in tasks.items() if task.x.shape[1] == 1}
    grid = new_grid(len(plain), 3, (15.0, 4.2 * len(plain)))
    for axes, (name, task) in zip(grid, plain.items(), strict=True):
        (x_low, x_high), (y_low, y_high) = (
            (float(v.min() - 0.05 * v.std()), float(v.max() + 0.05 * v.std()))
            for v in (task.x, task.y)
        )
        x = torch.linspace(x_low, x_high, 200).unsqueeze(-1)
        y = torch.linspace(y_low, y_high, 200)
        own = {title: net for title, net in nets.items() if title.startswith(name)}
        densities = [net(x).log_prob(y[:, None, None].expand(-1, 200, 1)) for net in own.values()]
        top = max(float(density.exp().quantile(0.99)) for density in densities)
        for ax, title, density in zip(axes, own, densities, strict=False):
            window = (x_low, x_high, y_low, y_high)
            image = {"origin": "lower", "aspect": "auto", "cmap": "Blues", "vmin": 0, "vmax": top}
            ax.imshow(density.exp().numpy(), extent=window, **image)
            ax.plot(task.x[:300, 0], task.y[:300, 0], ".", color="#333333", markersize=2)
            ax.set(title=title, xlabel=task.names[0], ylabel=task.names[1])
        draws = list(own.values())[-1](task.x).sample((), generator=generator)
        axes[2].plot(task.x[:, 0], draws[:, 0], ".", markersize=3)
        axes[2].set(title="draws from the mixture", xlabel=task.names[0], ylabel=task.names[1])
        axes[2].set(xlim=(x_low, x_high), ylim=(y_low, y_high))
    return grid


def draw_calibration(pits: Mapping[str, list[Tensor]], rows: int) -> Any:
    """PIT values, those of the Gaussian beside those of the mixture."""
    grid = new_grid(rows, 2, (11.0, 3.4 * rows))
    for ax, (title, values) in zip(grid.flat, pits.items(), strict=True):
        plot_calibration(torch.cat(values), ax=ax, title=title)
    return grid
