"""Anomaly detection: an autoencoder with a mixture on its latents, trained together.

The model learns nine handwritten digits, or benign tumours, and has to find rows of a kind that it
has never seen: the tenth digit, malignant tumours. Each digit is left out in turn. The area under
the ROC curve (AUROC) of the mixture's energy is compared with that of the reconstruction error and
of scikit-learn's mixture on the raw features. Needs scikit-learn.

References:
    B. Zong et al. (2018), Deep autoencoding Gaussian mixture model for unsupervised anomaly
    detection, ICLR.
    E. Alpaydin, C. Kaynak (1998), Optical recognition of handwritten digits, UCI.
    W. H. Wolberg, O. L. Mangasarian, W. N. Street (1995), Breast cancer Wisconsin (diagnostic),
    UCI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lightning as L
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.classification import BinaryAUROC, BinaryROC

from command_line import example_parser, integer, positive_number
from gmm_lightning import GMMLayer
from gmm_lightning.metrics import anomaly_score
from gmm_lightning.plotting import palette, plot_mixture
from gmm_lightning.training import CovarianceFloorCallback, fit_latents
from reporting import Reporter, mean_and_std, new_axes
from silent_training import train_silently

try:
    from sklearn.datasets import load_breast_cancer, load_digits
    from sklearn.mixture import GaussianMixture
except ImportError as error:
    raise SystemExit("latent_anomaly.py needs scikit-learn: pip install scikit-learn") from error

JOINT, BEFORE = "autoencoder with a mixture", "the same before joint training"
ERROR = "reconstruction error alone"
RAW, RAW_SMOOTH = "GaussianMixture on raw features", "the same with reg_covar=1"
METHODS = (JOINT, BEFORE, ERROR, RAW, RAW_SMOOTH)

# Fraction of the usual rows that is kept for the test.
HELD_OUT_FRACTION = 0.2
NUM_HIDDEN, LEARNING_RATE = 64, 1e-3
# Draws of the noise of each latent that the initial fit by EM sees.
NUM_NOISE_DRAWS = 4


class DataSet(NamedTuple):
    """Rows of several classes, and the sizes of the model for them.

    Attributes:
        x: features `(N, D)`.
        classes: class of each row.
        anomalies: classes that are left out of training, one at a time.
        num_latents: features of the latents.
        num_components: components of the mixture.
    """

    x: Tensor
    classes: Tensor
    anomalies: Sequence[int]
    num_latents: int
    num_components: int


class Split(NamedTuple):
    """Usual rows for training; usual and unusual rows for the test, `unusual` is 1 for these."""

    train: Tensor
    test: Tensor
    unusual: Tensor


class Detector(NamedTuple):
    """A trained model with its split and the anomaly scores of its test rows, by method."""

    model: Autoencoder
    split: Split
    scores: dict[str, Tensor]


def main(argv: Sequence[str] | None = None) -> Reporter:
    """Compare anomaly scores on the digits and on breast cancer."""
    parser = example_parser("latent_anomaly", __doc__)
    parser.add_argument(
        "--epochs", type=integer(1), default=50, help="epochs of joint training, one step each"
    )
    parser.add_argument(
        "--beta", type=positive_number, default=1.0, help="weight of the energy in the loss"
    )
    parser.add_argument(
        "--num-digits", type=integer(1, 10), default=10, help="digits to leave out in turn"
    )
    parser.add_argument("--num-seeds", type=integer(1), default=5, help="runs of everything")
    options = parser.parse_args(argv)
    report = Reporter(options.output)

    data_sets = {
        "digits": DataSet(*as_tensors(load_digits), range(options.num_digits), 16, 10),
        # Class 0 is malignant.
        "breast_cancer": DataSet(*as_tensors(load_breast_cancer), [0], 8, 2),
    }
    # (methods, seeds, classes left out) per data set.
    aurocs: dict[str, Tensor] = {}
    last_detectors: dict[str, Detector] = {}
    for name, data in data_sets.items():
        runs = []
        for seed in range(options.seed, options.seed + options.num_seeds):
            detectors = [
                detect(data, anomaly, options.epochs, options.beta, seed)
                for anomaly in data.anomalies
            ]
            runs.append(
                [
                    [auroc(detector.scores[method], detector.split.unusual) for method in METHODS]
                    for detector in detectors
                ]
            )
            means = dict(zip(METHODS, torch.tensor(runs[-1]).mean(0), strict=True))
            report.print(
                f"{name}, seed {seed}: AUROC {means[JOINT]:.4f}, of the reconstruction error "
                f"{means[ERROR]:.4f}"
            )
            last_detectors[name] = detectors[-1]
        aurocs[name] = torch.tensor(runs, dtype=torch.float64).permute(2, 0, 1)

    report.table(
        ("AUROC", *aurocs),
        [
            (method, *(mean_and_std(values[i].mean(-1).tolist()) for values in aurocs.values()))
            for i, method in enumerate(METHODS)
        ],
    )
    report.figure("latent_anomaly_digits", draw_aurocs(aurocs["digits"]))
    report.figure("latent_anomaly", draw_detectors(last_detectors, options.num_digits - 1))
    return report


def as_tensors(load: Any) -> tuple[Tensor, Tensor]:
    """Features and classes of a data set of scikit-learn."""
    x, classes = load(return_X_y=True)
    return torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(classes)


# -- the model --------------------------------------------------------------------------------


class Autoencoder(L.LightningModule):
    """A network that reconstructs rows, and a `GMMLayer` for the density of its latents.

        loss = |x - decoder(z)|^2 / (2 s^2) - beta (log p(c + s noise) + log_prior / N)
        c = (z, log error of x)

    The network starts at the principal axes of the data, the best linear autoencoder; s is the
    residual standard deviation. Noise of that size on the latents keeps the mixture from narrow
    components on few rows, and the encoder from shrinking the latents to gain density. The log
    error as a further latent is from DAGMM: usual latents with an unusual error are unusual. The
    mixture starts at a fit by EM and goes on by gradient descent together with the network: small
    steps average the noise, where an M-step would follow the noise of its own pass.

    Args:
        x: training rows `(N, D)`; all features are divided by the mean of their standard
            deviations.
        num_latents: features of z.
        num_hidden: units of the hidden layer of the decoder.
        num_components: components of the mixture.
        beta: weight of the energy; 1 is the sum of two negative log-likelihoods.
        learning_rate: largest learning rate.
    """

    unit: Tensor
    noise: Tensor

    def __init__(
        self,
        x: Tensor,
        num_latents: int,
        num_hidden: int,
        num_components: int,
        beta: float,
        learning_rate: float,
    ) -> None:
        super().__init__()
        self.register_buffer("unit", x.std(0).mean())
        x, d = x / self.unit, x.shape[1]
        mean = x.mean(0)
        _, singular_values, axes = torch.linalg.svd(x - mean, full_matrices=False)
        axes = axes[:num_latents]
        residual = singular_values[num_latents:].square().sum() / (len(x) * (d - num_latents))
        self.register_buffer("noise", residual.sqrt())
        self.encoder, self.decoder = nn.Linear(d, num_latents), nn.Linear(num_latents, d)
        # Added to the linear decoder; zero at first.
        self.nonlinear_decoder = nn.Sequential(
            nn.Linear(num_latents, num_hidden), nn.SiLU(), nn.Linear(num_hidden, d)
        )
        with torch.no_grad():
            self.encoder.weight.copy_(axes)
            self.encoder.bias.copy_(-axes @ mean)
            self.decoder.weight.copy_(axes.T)
            self.decoder.bias.copy_(mean)
            for parameter in self.nonlinear_decoder[-1].parameters():
                parameter.zero_()
        self.density = GMMLayer(num_latents + 1, num_components, "full", "niw")
        self.beta, self.learning_rate = beta, learning_rate

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents with the log error `(N, num_latents + 1)`, and the squared error `(N,)`."""
        x = x / self.unit
        z = self.encoder(x)
        error = (self.decoder(z) + self.nonlinear_decoder(z) - x).square().sum(-1)
        log_error = error.clamp(min=torch.finfo(error.dtype).tiny).log()
        return torch.cat([z, log_error.unsqueeze(-1)], -1), error

    def add_noise(self, latents: Tensor) -> Tensor:
        """Latents as the mixture sees them in training."""
        return latents + self.noise * torch.randn_like(latents)

    def density_step(self, batch: tuple[Tensor]) -> Tensor:
        """Call the mixture as training does: `fit_latents` collects what it is called with."""
        log_prob: Tensor = self.density(self.add_noise(self.encode(batch[0])[0]))
        return log_prob

    def training_step(self, batch: tuple[Tensor]) -> Tensor:
        """Reconstruction error and energy in nats per row."""
        latents, error = self.encode(batch[0])
        objective = self.density.objective(self.add_noise(latents))
        return 0.5 * error.mean() / self.noise.square() - self.beta * objective

    def configure_optimizers(self) -> Any:
        """Adam with a learning rate that rises and falls once."""
        optimizer = torch.optim.Adam(self.parameters(), self.learning_rate)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    @torch.no_grad()
    def scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly scores in [0, 1]: by the energy, and by the reconstruction error alone."""
        latents, error = self.encode(x)
        return anomaly_score(self.density(latents)), anomaly_score(-error)


# -- training and evaluation ------------------------------------------------------------------


def split_rows(x: Tensor, unusual: Tensor, seed: int) -> Split:
    """Train on usual rows; test on the other usual rows and on all unusual ones."""
    usual = x[~unusual]
    order = torch.randperm(len(usual), generator=torch.Generator().manual_seed(seed))
    held_out, train = order.tensor_split([round(HELD_OUT_FRACTION * len(usual))])
    test = torch.cat([usual[held_out], x[unusual]])
    return Split(usual[train], test, (torch.arange(len(test)) >= len(held_out)).long())


def detect(data: DataSet, anomaly: int, epochs: int, beta: float, seed: int) -> Detector:
    """Train without one class, and score test rows by every method."""
    split = split_rows(data.x, data.classes == anomaly, seed)
    k = data.num_components
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder(split.train, data.num_latents, NUM_HIDDEN, k, beta, LEARNING_RATE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        batches = [(split.train,)] * NUM_NOISE_DRAWS
        generator = torch.Generator().manual_seed(seed)
        fit_latents(model, batches, "density", step="density_step", tol=1e-2, generator=generator)
    before, _ = model.scores(split.test)
    train_silently(model, split.train, epochs, CovarianceFloorCallback("density"), seed=seed)
    joint, error = model.scores(split.test)
    raw, raw_smooth = (raw_scores(split, k, reg_covar, seed) for reg_covar in (1e-6, 1.0))
    scores = (joint, before, error, raw, raw_smooth)
    return Detector(model, split, dict(zip(METHODS, scores, strict=True)))


def raw_scores(split: Split, num_components: int, reg_covar: float, seed: int) -> Tensor:
    """Anomaly scores of scikit-learn's mixture on the features themselves."""
    mixture = GaussianMixture(num_components, reg_covar=reg_covar, random_state=seed)
    mixture.fit(split.train.double().numpy())
    return anomaly_score(torch.as_tensor(mixture.score_samples(split.test.double().numpy())))


def auroc(score: Tensor, unusual: Tensor) -> float:
    """Area under the ROC curve."""
    metric = BinaryAUROC()
    metric.update(score, unusual)
    return float(metric.compute())


# -- figures ----------------------------------------------------------------------------------


def draw_aurocs(aurocs: Tensor) -> NDArray[Any]:
    """Mean and standard deviation over seeds, by digit left out and method."""
    _, num_seeds, num_digits = aurocs.shape
    axes = new_axes(1, 1, (10.0, 4.4))
    ax = axes[0, 0]
    for i, (method, color) in enumerate(zip(METHODS, palette(len(METHODS)), strict=True)):
        # Side by side, so that no method hides another.
        position = torch.arange(num_digits) + 0.12 * (i - 2)
        std = aurocs[i].std(0) if num_seeds > 1 else torch.zeros(num_digits)
        ax.errorbar(position, aurocs[i].mean(0), std, fmt="o", color=color, label=method, ms=4)
    ax.set(xlabel="digit left out of training", ylabel="AUROC", xticks=range(num_digits))
    ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return axes


def draw_detectors(detectors: Mapping[str, Detector], digit: int) -> NDArray[Any]:
    """ROC curves, energies, and latents with the mixture, of one detector per data set."""
    axes = new_axes(len(detectors), 3, (16.0, 4.6 * len(detectors)))
    titles = {
        "digits": f"digit {digit} left out",
        "breast_cancer": "malignant against benign",
    }
    for (roc, energies, plane), (name, detector) in zip(axes, detectors.items(), strict=True):
        draw_roc_curves(roc, detector)
        roc.set(title=name)
        unusual = detector.split.unusual
        with torch.no_grad():
            latents, _ = detector.model.encode(detector.split.test)
            energy = -detector.model.density(latents)
        draw_energies(energies, energy, unusual)
        energies.set(title=titles[name])
        classes = ["unusual" if flag else "usual" for flag in unusual.tolist()]
        plot_mixture(
            detector.model.density, latents, labels=classes, ax=plane, title="codes and mixture"
        )
    return axes


def draw_roc_curves(ax: Axes, detector: Detector) -> None:
    """ROC curves of all methods with their areas."""
    colors = palette(len(METHODS))
    for (method, score), color in zip(detector.scores.items(), colors, strict=True):
        curve = BinaryROC()
        curve.update(score, detector.split.unusual)
        false_positive_rate, true_positive_rate, _ = curve.compute()
        label = f"{method}: {auroc(score, detector.split.unusual):.3f}"
        ax.plot(false_positive_rate, true_positive_rate, color=color, label=label)
    ax.set(xlabel="usual rows called unusual", ylabel="unusual rows found")
    ax.legend(fontsize="small", loc="lower right")


def draw_energies(ax: Axes, energy: Tensor, unusual: Tensor) -> None:
    """Histograms of the energy of usual and unusual rows."""
    # Energies of unusual rows have no upper limit: the last bar holds all beyond.
    low, high = energy.min(), energy[unusual == 0].max()
    edges = torch.linspace(float(low), float(2 * high - low), 40).tolist()
    for flag, label, color in zip((1, 0), ("unusual", "usual"), palette(2), strict=True):
        values = energy[unusual == flag].clamp(max=edges[-1])
        ax.hist(values, edges, density=True, alpha=0.6, color=color, label=label)
    ax.set(xlabel="energy (nats), the last bar and beyond", ylabel="density of rows")
    ax.legend()


if __name__ == "__main__":
    main()
