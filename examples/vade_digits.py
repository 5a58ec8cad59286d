"""Clustering without labels: a variational autoencoder with a mixture as the prior of its latents.

Each component of the prior becomes a cluster of 1,797 digits of 8 x 8 pixels, from which new digits
are drawn. The share of rows in the digit of their component, matched one to one, is compared with
that of k-means and of mixtures on the pixels. TensorBoard shows the clusters as they are trained.
Needs scikit-learn.

References:
    Z. Jiang et al. (2017), Variational deep embedding: an unsupervised and generative approach to
    clustering, IJCAI.
    E. Alpaydin, C. Kaynak (1998), Optical recognition of handwritten digits, UCI.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor, nn

from command_line import example_parser, integer, positive_number
from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.losses import kl_to_mixture
from gmm_lightning.plotting import plot_images, plot_mixture
from gmm_lightning.training import CovarianceFloorCallback, fit_latents
from reporting import Reporter, mean_and_std, new_axes
from silent_training import train_silently

try:
    from sklearn.cluster import KMeans
    from sklearn.datasets import load_digits
    from sklearn.mixture import GaussianMixture
except ImportError as error:
    raise SystemExit("vade_digits.py needs scikit-learn: pip install scikit-learn") from error

JOINT, BEFORE = "autoencoder with a mixture prior", "the same before joint training"
PIXELS, SKLEARN, K_MEANS = "fit_em on pixels", "GaussianMixture on pixels", "k-means on pixels"
METHODS = (JOINT, BEFORE, PIXELS, SKLEARN, K_MEANS)

# One per digit; all components have the same covariance.
NUM_COMPONENTS, COVARIANCE = 10, "tied"
NUM_HIDDEN, LEARNING_RATE, BATCH_SIZE = 128, 3e-3, 300
# Epochs between two figures in TensorBoard.
FIGURE_EPOCHS = 20
# Draws of each component in a figure.
NUM_DRAWS = 9


def main(argv: Sequence[str] | None = None, *, figure_epochs: int = FIGURE_EPOCHS) -> Reporter:
    """Cluster the digits and draw new ones from each cluster."""
    pixels, labels = (torch.as_tensor(part) for part in load_digits(return_X_y=True))
    x = pixels.float() / 16
    num_pixels = x.shape[1]

    parser = example_parser("vade_digits", __doc__)
    parser.add_argument(
        "--num-latents", type=integer(1, num_pixels - 1), default=12, help="features of the latents"
    )
    parser.add_argument("--epochs", type=integer(1), default=100, help="epochs of joint training")
    parser.add_argument(
        "--beta", type=positive_number, default=2.0, help="weight of the divergence from the prior"
    )
    parser.add_argument(
        "--num-restarts", type=integer(1), default=10, help="restarts of each mixture and k-means"
    )
    parser.add_argument("--num-seeds", type=integer(1), default=5, help="runs of everything")
    options = parser.parse_args(argv)
    report = Reporter(options.output)

    accuracies = []
    for seed in range(options.seed, options.seed + options.num_seeds):
        # One run is enough to watch.
        first = seed == options.seed
        logger = TensorBoardLogger(report.folder, "tensorboard") if first else None

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = MixtureAutoencoder(x, options.num_latents, options.beta)
        generator = Generator().manual_seed(seed)
        em: dict[str, Any] = {
            "num_restarts": options.num_restarts,
            "tol": 1e-4,
            "generator": generator,
        }
        fit_latents(model, [(x,)], "prior", step="prior_step", **em)
        before = model.predict(x)
        train_silently(
            model,
            x,
            options.epochs,
            CovarianceFloorCallback("prior"),
            DigitsLogger(x, labels, figure_epochs),
            batch_size=BATCH_SIZE,
            logger=logger,
            seed=seed,
        )
        joint = model.predict(x)

        layer = GMMLayer(num_pixels, NUM_COMPONENTS, COVARIANCE, "niw", dtype=torch.float64)
        fit_em(layer, x.double(), **em)
        clusterings = (
            joint,
            before,
            layer.predict(x.double()),
            *cluster_with_sklearn(x, options.num_restarts, seed),
        )
        accuracies.append([accuracy(components, labels) for components in clusterings])
        report.print(
            f"seed {seed}: {accuracies[-1][0]:.1%} of the rows in the digit of their component, "
            f"{components_in_use(joint, NUM_COMPONENTS)} of {NUM_COMPONENTS} components in use"
        )
        if first:
            axes = new_axes(1, 2, (14.0, 6.0))
            plot_digits(model, generator, axes[0, 0])
            with torch.no_grad():
                latents, _ = model.encode(x)
            plot_mixture(
                model.prior, latents, labels=labels, ax=axes[0, 1], title="codes and prior"
            )
            report.figure("vade_digits", axes)

    report.table(
        ("", "rows in their digit"),
        [
            (method, mean_and_std(runs))
            for method, runs in zip(METHODS, zip(*accuracies, strict=True), strict=True)
        ],
    )
    report.print(f"tensorboard --logdir {report.folder / 'tensorboard'}")
    return report


# -- the model --------------------------------------------------------------------------------


class MixtureAutoencoder(L.LightningModule):
    """A variational autoencoder whose prior is a `GMMLayer`: a component is a cluster.

        loss = |x - decoder(z)|^2 / (2 s^2) + beta (KL(q(z | x) || prior) - log_prior / N)

    Encoder and decoder are linear maps plus networks that are zero at first: the model starts at
    the principal axes of the data, the best linear autoencoder, with s the residual standard
    deviation. There is no other pre-training.

    Args:
        x: training rows `(N, D)`.
        num_latents: features of z.
        beta: weight of the divergence.
        num_hidden: units of the hidden layers.
        num_components: components of the prior.
        covariance: covariance family of the prior.
        learning_rate: learning rate of the network and of the prior.
    """

    noise: Tensor

    def __init__(
        self,
        x: Tensor,
        num_latents: int,
        beta: float,
        *,
        num_hidden: int = NUM_HIDDEN,
        num_components: int = NUM_COMPONENTS,
        covariance: str = COVARIANCE,
        learning_rate: float = LEARNING_RATE,
    ) -> None:
        super().__init__()
        num_rows, d = x.shape
        mean = x.mean(0)
        _, singular_values, axes = torch.linalg.svd(x - mean, full_matrices=False)
        axes = axes[:num_latents]
        residual = singular_values[num_latents:].square().sum() / (num_rows * (d - num_latents))
        self.register_buffer("noise", residual.sqrt())
        self.encoder, self.decoder = nn.Linear(d, num_latents), nn.Linear(num_latents, d)
        self.nonlinear_encoder = zero_network(d, num_hidden, 2 * num_latents)
        self.nonlinear_decoder = zero_network(num_latents, num_hidden, d)
        with torch.no_grad():
            self.encoder.weight.copy_(axes)
            self.encoder.bias.copy_(-axes @ mean)
            self.decoder.weight.copy_(axes.T)
            self.decoder.bias.copy_(mean)
        self.prior = GMMLayer(num_latents, num_components, covariance, "niw")
        self.num_rows, self.beta, self.learning_rate = num_rows, beta, learning_rate

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviations of q(z | x), `(N, num_latents)` each."""
        shift, log_scale = self.nonlinear_encoder(x).chunk(2, -1)
        return self.encoder(x) + shift, self.noise * log_scale.exp()

    def decode(self, z: Tensor) -> Tensor:
        """Rows from latents."""
        rows: Tensor = self.decoder(z) + self.nonlinear_decoder(z)
        return rows

    def prior_step(self, batch: tuple[Tensor]) -> Tensor:
        """Call the prior with the means of the latents, which `fit_latents` fits it to."""
        log_prob: Tensor = self.prior(self.encode(batch[0])[0])
        return log_prob

    def training_step(self, batch: tuple[Tensor]) -> Tensor:
        """Reconstruction error, divergence and log-prior of the mixture, in nats per row."""
        mean, scale = self.encode(batch[0])
        z = mean + scale * torch.randn_like(scale)
        error = (self.decode(z) - batch[0]).square().sum(-1).mean()
        divergence = kl_to_mixture(mean, scale, self.prior.distribution()).mean()
        penalty = divergence - self.prior.log_prior() / self.num_rows
        loss = 0.5 * error / self.noise.square() + self.beta * penalty
        logged = {"loss": loss, "squared_error": error, "divergence": divergence}
        self.log_dict({f"train/{name}": value.detach() for name, value in logged.items()})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam for the network and the prior."""
        return torch.optim.Adam(self.parameters(), self.learning_rate)

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """The most probable component of each row."""
        return self.prior.predict(self.encode(x)[0])

    @torch.no_grad()
    def sample_digits(self, generator: Generator) -> Tensor:
        """The mean of each component and draws from it, `(K (NUM_DRAWS + 1), D)`."""
        latents = []
        for k, mean in enumerate(self.prior.means):
            draws = self.prior.sample((NUM_DRAWS,), component=k, generator=generator)
            assert isinstance(draws, Tensor)
            latents += [mean[None], draws]
        return self.decode(torch.cat(latents))


def zero_network(in_features: int, num_hidden: int, out_features: int) -> nn.Sequential:
    """A network with one hidden layer whose output is zero until it is trained."""
    last = nn.Linear(num_hidden, out_features)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(in_features, num_hidden), nn.SiLU(), last)


class DigitsLogger(L.Callback):
    """Logs new digits of each component, and the accuracy of the clusters, to TensorBoard.

    Args:
        x: rows to cluster.
        labels: their digits.
        every_n_epochs: epochs from one figure to the next.
    """

    def __init__(self, x: Tensor, labels: Tensor, every_n_epochs: int) -> None:
        self.x, self.labels, self.every_n_epochs = x, labels, every_n_epochs

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the initial fit by EM."""
        self.log_clusters(trainer, pl_module, 0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log every few epochs and at the end."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs == 0 or epoch == trainer.max_epochs:
            self.log_clusters(trainer, pl_module, trainer.global_step)

    def log_clusters(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        """A figure of new digits, the accuracy, and the number of components in use."""
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        assert isinstance(module, MixtureAutoencoder)
        writer, components = trainer.logger.experiment, module.predict(self.x)
        in_use = components_in_use(components, module.prior.num_components)
        # A separate generator: logging must not change the random numbers of training.
        axes = plot_digits(module, Generator().manual_seed(0))
        writer.add_figure("digits per component", axes.figure, step)
        writer.add_scalar("clusters/accuracy", accuracy(components, self.labels), step)
        writer.add_scalar("clusters/in_use", in_use, step)


# -- evaluation and figure --------------------------------------------------------------------


def cluster_with_sklearn(x: Tensor, num_restarts: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clusters of scikit-learn's mixture, of the same size and family, and of k-means."""
    rows = x.double().numpy()
    mixture = GaussianMixture(
        NUM_COMPONENTS, covariance_type=COVARIANCE, n_init=num_restarts, random_state=seed
    )
    k_means = KMeans(NUM_COMPONENTS, n_init=num_restarts, random_state=seed)  # pyright: ignore[reportArgumentType]
    return torch.as_tensor(mixture.fit_predict(rows)), torch.as_tensor(k_means.fit_predict(rows))


def accuracy(components: Tensor, labels: Tensor) -> float:
    """Share of rows in the class of their component, matched one to one (Hungarian method)."""
    counts = np.zeros((int(components.max()) + 1, int(labels.max()) + 1))
    np.add.at(counts, (components.numpy(), labels.numpy()), 1.0)
    return float(counts[linear_sum_assignment(-counts)].sum() / len(labels))


def components_in_use(components: Tensor, num_components: int) -> int:
    """Number of components with at least a tenth of an even share of the rows."""
    counts = components.bincount(minlength=num_components)
    return int((counts >= 0.1 * len(components) / num_components).sum())


def plot_digits(model: MixtureAutoencoder, generator: Generator, ax: Any = None) -> Any:
    """A row of images for each component: its mean, and new digits."""
    return plot_images(
        model.sample_digits(generator),
        ax=ax,
        num_cols=NUM_DRAWS + 1,
        limits=(0.0, 1.0),
        title="mean and draws of each component",
    )


if __name__ == "__main__":
    main()
