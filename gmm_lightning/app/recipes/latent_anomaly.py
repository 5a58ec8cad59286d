"""What does not belong: an autoencoder with a mixture on its code, trained together."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics.classification import BinaryAUROC, BinaryROC

from gmm_lightning.app.quiet import train_quietly
from gmm_lightning.app.recipes._scikit_learn import load_with_scikit_learn
from gmm_lightning.app.recipes.account import Account, spread
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.metrics import anomaly_score
from gmm_lightning.plotting import plot_mixture
from gmm_lightning.plotting.figures import new_grid
from gmm_lightning.plotting.palette import palette
from gmm_lightning.training import CovarianceFloorCallback, fit_codes

OURS, START = "autoencoder with a mixture", "the same before joint training"
ERROR = "reconstruction error alone"
THEIRS, SMOOTH = "GaussianMixture on raw features", "the same with reg_covar=1"
METHODS = (OURS, START, ERROR, THEIRS, SMOOTH)
# Draws of the noise on each code from which the mixture gets its start.
DRAWS = 4


class Task(NamedTuple):
    """Rows to learn what is usual, and rows to judge: `unusual` is 1 for those to be found."""

    train: Tensor
    test: Tensor
    unusual: Tensor


class Autoencoder(L.LightningModule):
    """A network that reconstructs rows, and a `GMMLayer` that says how usual their codes are.

        loss = |x - decoder(z)|^2 / (2 s^2) - beta (log p(c + s noise) + log_prior / N),
        c = (z, log error of x)

    It begins as the principal axes of the data with s the deviation that they leave: the best
    linear autoencoder. Noise of that size on what the mixture sees keeps it from narrow
    components on few rows, and from a code that shrinks to gain density. To see the error beside
    the code is from DAGMM: a usual code with an unusual error is unusual. EM on the codes is
    where joint training starts; it goes on by gradient in everything, whose small steps average
    the noise, where an M-step would follow the draw of its pass.

    Args:
        x: training rows `(N, D)`; features share one unit, the mean of their deviations.
        num_codes: features of the code z.
        num_hidden: units of the decoder's hidden layer.
        num_components: of the mixture.
        beta: weight of the energy beside the reconstruction; 1 for two densities in one.
        learning_rate: of the network at its highest.

    References:
        B. Zong et al. (2018), Deep autoencoding Gaussian mixture model for unsupervised anomaly
        detection, ICLR.
    """

    unit: Tensor
    noise: Tensor

    def __init__(
        self,
        x: Tensor,
        num_codes: int,
        num_hidden: int,
        num_components: int,
        beta: float,
        learning_rate: float,
    ) -> None:
        super().__init__()
        self.register_buffer("unit", x.std(0).mean())
        x, d = x / self.unit, x.shape[1]
        mean = x.mean(0)
        _, singular, axes = torch.linalg.svd(x - mean, full_matrices=False)
        axes = axes[:num_codes]
        left = singular[num_codes:].square().sum() / (len(x) * (d - num_codes))
        self.register_buffer("noise", left.sqrt())
        self.encoder, self.decoder = nn.Linear(d, num_codes), nn.Linear(num_codes, d)
        self.bend = nn.Sequential(
            nn.Linear(num_codes, num_hidden), nn.SiLU(), nn.Linear(num_hidden, d)
        )
        with torch.no_grad():
            self.encoder.weight.copy_(axes)
            self.encoder.bias.copy_(-axes @ mean)
            self.decoder.weight.copy_(axes.T)
            self.decoder.bias.copy_(mean)
            for parameter in self.bend[-1].parameters():
                parameter.zero_()
        self.density = GMMLayer(num_codes + 1, num_components, "full", "niw")
        self.beta, self.learning_rate = beta, learning_rate

    def describe(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Code and log error `(N, num_codes + 1)`, and the squared error `(N,)`."""
        x = x / self.unit
        z = self.encoder(x)
        error = (self.decoder(z) + self.bend(z) - x).square().sum(-1)
        log_error = error.clamp(min=torch.finfo(error.dtype).tiny).log()
        return torch.cat([z, log_error.unsqueeze(-1)], -1), error

    def noisy(self, codes: Tensor) -> Tensor:
        """Codes as the mixture learns them."""
        return codes + self.noise * torch.randn_like(codes)

    def code_step(self, batch: tuple[Tensor]) -> Tensor:
        """What the mixture is handed over by EM on."""
        log_prob: Tensor = self.density(self.noisy(self.describe(batch[0])[0]))
        return log_prob

    def training_step(self, batch: tuple[Tensor]) -> Tensor:
        """Reconstruction and energy, in nats per row."""
        codes, error = self.describe(batch[0])
        objective = self.density.objective(self.noisy(codes))
        return 0.5 * error.mean() / self.noise.square() - self.beta * objective

    def configure_optimizers(self) -> Any:
        """Adam, with a rate that rises and falls once."""
        optimizer = torch.optim.Adam(self.parameters(), self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, steps)
        return [optimizer], [{"scheduler": rate, "interval": "step"}]

    @torch.no_grad()
    def scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of anomaly in [0, 1]: by the energy, and by the reconstruction error alone."""
        codes, error = self.describe(x)
        return anomaly_score(self.density(codes)), anomaly_score(-error)


def latent_anomaly(
    account: Account,
    *,
    digit_codes: int = 16,
    digit_components: int = 10,
    cancer_codes: int = 8,
    cancer_components: int = 2,
    num_hidden: int = 64,
    epochs: int = 50,
    beta: float = 1.0,
    learning_rate: float = 1e-3,
    held_fraction: float = 0.2,
    num_digits: int = 10,
    num_seeds: int = 5,
    seed: int = 0,
) -> None:
    """Rows of a kind that training never saw, by the area under the ROC curve.

    Each handwritten digit in turn is left out of training, and malignant tumours are, which are
    to be told from benign ones.

    Args:
        account: what it tells.
        digit_codes: features of a digit's code.
        digit_components: of the mixture on them.
        cancer_codes: features of a tumour's code.
        cancer_components: of the mixture on them.
        num_hidden: units of the decoder.
        epochs: steps of joint training, each with all rows.
        beta: weight of the energy in the loss.
        learning_rate: of the network.
        held_fraction: share of the usual rows that is kept to judge by.
        num_digits: how many of the ten are left out in turn.
        num_seeds: splits and starts.
        seed: of the first.

    Raises:
        InvalidArgumentError: scikit-learn, which has the data, is not installed; or more codes
            than features.
    """
    sets = load_sets()
    sizes = {
        "digits": (digit_codes, digit_components),
        "breast_cancer": (cancer_codes, cancer_components),
    }
    for name, (x, _) in sets.items():
        if sizes[name][0] >= x.shape[1]:
            raise InvalidArgumentError(
                f"{name} has {x.shape[1]} features, so a code has at most {x.shape[1] - 1}, got "
                f"{sizes[name][0]}"
            )
    left_out = {"digits": list(range(min(num_digits, 10))), "breast_cancer": [0]}
    areas: dict[str, Tensor] = {}
    shown: dict[str, tuple[Autoencoder, Task, dict[str, Tensor]]] = {}
    for name, (x, kinds) in sets.items():
        rows: list[list[list[float]]] = []
        for run in range(seed, seed + num_seeds):
            rows.append([])
            for kind in left_out[name]:
                task = split(x, kinds == kind, held_fraction, run)
                codes, k = sizes[name]
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(run)
                    model = Autoencoder(task.train, codes, num_hidden, k, beta, learning_rate)
                scores = compared(model, task, epochs, run)
                rows[-1].append([area(score, task.unusual) for score in scores.values()])
                shown[name] = (model, task, scores)
            ours, error = (torch.tensor(rows[-1]).mean(0)[i] for i in (0, 2))
            account.say(
                f"{name}, seed {run}: AUROC {ours:.4f}, of the reconstruction error {error:.4f}"
            )
        # (methods, seeds, kinds)
        areas[name] = torch.tensor(rows, dtype=torch.float64).permute(2, 0, 1)
    account.table(
        ("AUROC", *areas),
        [
            (method, *(spread(each[i].mean(-1).tolist()) for each in areas.values()))
            for i, method in enumerate(METHODS)
        ],
    )
    draw(account, areas["digits"], left_out["digits"], shown)


def load_sets() -> dict[str, tuple[Tensor, Tensor]]:
    """Features and classes of each data set.

    Raises:
        InvalidArgumentError: scikit-learn is not installed.

    References:
        E. Alpaydin, C. Kaynak (1998), Optical recognition of handwritten digits, UCI.
        W. H. Wolberg, O. L. Mangasarian, W. N. Street (1995), Breast cancer Wisconsin
        (diagnostic), UCI.
    """
    names = ("digits", "breast_cancer")
    return {name: load_with_scikit_learn(name, " and ".join(names)) for name in names}


def split(x: Tensor, unusual: Tensor, held_fraction: float, seed: int) -> Task:
    """Usual rows to learn from; the others of them and all unusual ones to judge by."""
    usual = x[~unusual]
    order = torch.randperm(len(usual), generator=torch.Generator().manual_seed(seed))
    held, train = order.tensor_split([round(held_fraction * len(usual))])
    test = torch.cat([usual[held], x[unusual]])
    return Task(usual[train], test, (torch.arange(len(test)) >= len(held)).long())


def compared(model: Autoencoder, task: Task, epochs: int, seed: int) -> dict[str, Tensor]:
    """Train, and score the rows to be judged by every method."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        rows = [(task.train,)] * DRAWS
        fit_codes(model, rows, "density", step="code_step", tol=1e-2, generator=generator)
    start, _ = model.scores(task.test)
    train_quietly(model, task.train, epochs, CovarianceFloorCallback("density"), seed=seed)
    ours, error = model.scores(task.test)
    k = model.density.num_components
    theirs = [raw_scores(task, k, reg_covar, seed) for reg_covar in (1e-6, 1.0)]
    return dict(zip(METHODS, (ours, start, error, *theirs), strict=True))


def raw_scores(task: Task, num_components: int, reg_covar: float, seed: int) -> Tensor:
    """Scores of scikit-learn's mixture on the features themselves."""
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(num_components, reg_covar=reg_covar, random_state=seed)
    mixture.fit(task.train.double().numpy())
    return anomaly_score(torch.as_tensor(mixture.score_samples(task.test.double().numpy())))


def area(score: Tensor, unusual: Tensor) -> float:
    """The area under the ROC curve."""
    auroc = BinaryAUROC()
    auroc.update(score, unusual)
    return float(auroc.compute())


def draw(
    account: Account,
    areas: Tensor,
    digits: list[int],
    shown: dict[str, tuple[Autoencoder, Task, dict[str, Tensor]]],
) -> None:
    """Areas by digit; ROC curves, scores and the latent plane of the last run of each data set."""
    colours = palette(len(METHODS))
    grid = new_grid(1, 1, (10.0, 4.4))
    ax = grid[0, 0]
    for i, (method, colour) in enumerate(zip(METHODS, colours, strict=True)):
        # (seeds, digits): beside each other, so that none hides another.
        place = torch.arange(len(digits)) + 0.12 * (i - 2)
        each = areas[i]
        deviation = each.std(0) if len(each) > 1 else torch.zeros(len(digits))
        ax.errorbar(place, each.mean(0), deviation, fmt="o", color=colour, label=method, ms=4)
    ax.set(xlabel="digit left out of training", ylabel="AUROC", xticks=range(len(digits)))
    ax.set_xticklabels([str(digit) for digit in digits])
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    account.picture("latent_anomaly_digits", grid)

    grid = new_grid(len(shown), 3, (16.0, 4.6 * len(shown)))
    for axes, (name, (model, task, scores)) in zip(grid, shown.items(), strict=True):
        what = f"digit {digits[-1]} left out" if name == "digits" else "malignant against benign"
        for (method, score), colour in zip(scores.items(), colours, strict=True):
            curve = BinaryROC()
            curve.update(score, task.unusual)
            wrong, found, _ = curve.compute()
            label = f"{method}: {area(score, task.unusual):.3f}"
            axes[0].plot(wrong, found, color=colour, label=label)
        axes[0].set(xlabel="usual rows called unusual", ylabel="unusual rows found", title=name)
        axes[0].legend(fontsize="small", loc="lower right")
        codes, _ = (part.detach() for part in model.describe(task.test))
        with torch.no_grad():
            energy = -model.density(codes)
        classes = ["unusual" if flag else "usual" for flag in task.unusual.tolist()]
        # Energies of unusual rows have no end: the last bar holds what lies beyond.
        low, high = energy.min(), energy[task.unusual == 0].max()
        edges = torch.linspace(float(low), float(2 * high - low), 40)
        for flag, kind, colour in zip((1, 0), ("unusual", "usual"), palette(2), strict=True):
            rows = energy[task.unusual == flag].clamp(max=edges[-1])
            axes[1].hist(rows, edges, density=True, alpha=0.6, color=colour, label=kind)
        axes[1].set(xlabel="energy (nats), the last bar and beyond", title=what)
        axes[1].set_ylabel("density of rows")
        axes[1].legend()
        plot_mixture(model.density, codes, labels=classes, ax=axes[2], title="codes and mixture")
    account.picture("latent_anomaly", grid)
