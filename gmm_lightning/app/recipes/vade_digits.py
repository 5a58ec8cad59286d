"""Handwritten digits found without labels: a variational autoencoder with a mixture as prior."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor, nn

from gmm_lightning.app.quiet import train_quietly
from gmm_lightning.app.recipes._scikit_learn import load_with_scikit_learn
from gmm_lightning.app.recipes.account import Account, spread
from gmm_lightning.em import fit_em
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.losses import kl_to_mixture
from gmm_lightning.plotting import plot_images, plot_mixture
from gmm_lightning.plotting.figures import new_grid
from gmm_lightning.training import CovarianceFloorCallback, fit_codes

OURS, START = "autoencoder with a mixture prior", "the same before joint training"
PLAIN, THEIRS, MEANS = "fit_em on pixels", "GaussianMixture on pixels", "k-means on pixels"
METHODS = (OURS, START, PLAIN, THEIRS, MEANS)
# Columns of new digits beside each component's own.
DRAWS = 9


class MixtureAutoencoder(L.LightningModule):
    """A variational autoencoder whose prior is a `GMMLayer`: a component is a cluster.

        loss = |x - decoder(z)|^2 / (2 s^2) + beta (KL(q(z | x) || prior) - log_prior / N)

    Linear maps and a bend, which is zero at first: it begins as the principal axes of the data,
    with s the deviation that they leave, as the best linear autoencoder, which is all the
    pre-training there is.

    Args:
        x: training rows `(N, D)`.
        num_codes: features of the code z.
        num_hidden: units of the bends of encoder and decoder.
        num_components: of the prior.
        covariance: family of the prior.
        beta: weight of the divergence.
        learning_rate: of everything.

    References:
        Z. Jiang et al. (2017), Variational deep embedding: an unsupervised and generative
        approach to clustering, IJCAI.
    """

    noise: Tensor

    def __init__(
        self,
        x: Tensor,
        num_codes: int,
        num_hidden: int,
        num_components: int,
        covariance: str,
        beta: float,
        learning_rate: float,
    ) -> None:
        super().__init__()
        num_rows, d = x.shape
        mean = x.mean(0)
        _, singular, axes = torch.linalg.svd(x - mean, full_matrices=False)
        axes = axes[:num_codes]
        left = singular[num_codes:].square().sum() / (num_rows * (d - num_codes))
        self.register_buffer("noise", left.sqrt())
        self.encoder, self.decoder = nn.Linear(d, num_codes), nn.Linear(num_codes, d)
        self.encoder_bend = bend(d, num_hidden, 2 * num_codes)
        self.decoder_bend = bend(num_codes, num_hidden, d)
        with torch.no_grad():
            self.encoder.weight.copy_(axes)
            self.encoder.bias.copy_(-axes @ mean)
            self.decoder.weight.copy_(axes.T)
            self.decoder.bias.copy_(mean)
        self.prior = GMMLayer(num_codes, num_components, covariance, "niw")
        self.num_rows, self.beta, self.learning_rate = num_rows, beta, learning_rate

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviations of the code of each row, `(N, num_codes)` each."""
        shift, log_scale = self.encoder_bend(x).chunk(2, -1)
        return self.encoder(x) + shift, self.noise * log_scale.exp()

    def decode(self, z: Tensor) -> Tensor:
        """Rows from codes."""
        rows: Tensor = self.decoder(z) + self.decoder_bend(z)
        return rows

    def code_step(self, batch: tuple[Tensor]) -> Tensor:
        """What the prior is handed over by EM on: the means of the codes."""
        log_prob: Tensor = self.prior(self.posterior(batch[0])[0])
        return log_prob

    def training_step(self, batch: tuple[Tensor]) -> Tensor:
        """Reconstruction, divergence and prior, in nats per row."""
        mean, scale = self.posterior(batch[0])
        z = mean + scale * torch.randn_like(scale)
        error = (self.decode(z) - batch[0]).square().sum(-1).mean()
        divergence = kl_to_mixture(mean, scale, self.prior.distribution()).mean()
        penalty = divergence - self.prior.log_prior() / self.num_rows
        loss = 0.5 * error / self.noise.square() + self.beta * penalty
        logged = {"loss": loss, "squared_error": error, "divergence": divergence}
        self.log_dict({f"train/{name}": value.detach() for name, value in logged.items()})
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over network and prior."""
        return torch.optim.Adam(self.parameters(), self.learning_rate)

    @torch.no_grad()
    def components(self, x: Tensor) -> Tensor:
        """The most probable component of each row."""
        return self.prior.predict(self.posterior(x)[0])

    @torch.no_grad()
    def new_digits(self, generator: Generator) -> Tensor:
        """The mean of each component and draws from it, `(K (DRAWS + 1), D)`."""
        codes = []
        for k, mean in enumerate(self.prior.means):
            draws = self.prior.sample((DRAWS,), component=k, generator=generator)
            assert isinstance(draws, Tensor)
            codes += [mean[None], draws]
        return self.decode(torch.cat(codes))


def bend(in_features: int, num_hidden: int, out_features: int) -> nn.Sequential:
    """A network that gives zero until it is trained."""
    last = nn.Linear(num_hidden, out_features)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(in_features, num_hidden), nn.SiLU(), last)


class DigitsLogger(L.Callback):
    """New digits of each component, and how well components are digits, in TensorBoard.

    Args:
        x: rows to cluster.
        labels: their digits.
        every: passes from one picture to the next.
    """

    def __init__(self, x: Tensor, labels: Tensor, every: int) -> None:
        self.x, self.labels, self.every = x, labels, every

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What the hand-over by EM gave."""
        self.show(trainer, pl_module, 0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Where training has come to."""
        done = trainer.current_epoch + 1
        if done % self.every == 0 or done == trainer.max_epochs:
            self.show(trainer, pl_module, trainer.global_step)

    def show(self, trainer: L.Trainer, module: L.LightningModule, step: int) -> None:
        """A picture and two numbers."""
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        assert isinstance(module, MixtureAutoencoder)
        writer, found = trainer.logger.experiment, module.components(self.x)
        # Of its own, so that to look changes nothing.
        axes = plot_digits(module, Generator().manual_seed(0))
        writer.add_figure("digits per component", axes.figure, step)
        writer.add_scalar("clusters/accuracy", accuracy(found, self.labels), step)
        writer.add_scalar("clusters/in_use", in_use(found, module.prior.num_components), step)


def vade_digits(
    account: Account,
    *,
    num_codes: int = 12,
    num_hidden: int = 128,
    num_components: int = 10,
    covariance: str = "tied",
    epochs: int = 100,
    batch_size: int = 300,
    beta: float = 2.0,
    learning_rate: float = 3e-3,
    picture_every: int = 20,
    num_restarts: int = 10,
    num_seeds: int = 5,
    seed: int = 0,
) -> None:
    """Cluster 1,797 digits of 8 x 8 pixels, and draw new ones from each cluster.

    The share of rows in the digit of their component, matched one to one, against k-means and
    against mixtures of the same family on the pixels. Training is told to TensorBoard.

    Args:
        account: what it tells.
        num_codes: features of the code.
        num_hidden: units of the hidden layers.
        num_components: of each mixture, and means of k-means.
        covariance: family of each mixture: `full`, `tied`, `diag` or `spherical`.
        epochs: passes of joint training.
        batch_size: rows of a step.
        beta: weight of the divergence.
        learning_rate: of network and prior.
        picture_every: passes between pictures in TensorBoard.
        num_restarts: starts of each mixture and of k-means, of which the best is kept.
        num_seeds: runs of everything.
        seed: of the first.

    Raises:
        InvalidArgumentError: scikit-learn, which has the digits, is not installed; or as many
            codes as pixels.

    References:
        E. Alpaydin, C. Kaynak (1998), Optical recognition of handwritten digits, UCI.
    """
    pixels, labels = load_with_scikit_learn("digits", "the digits")
    x = pixels / 16
    if num_codes >= x.shape[1]:
        raise InvalidArgumentError(f"num_codes must be below {x.shape[1]}, got {num_codes}")
    rows: list[list[float]] = []
    for run in range(seed, seed + num_seeds):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run)
            model = MixtureAutoencoder(
                x, num_codes, num_hidden, num_components, covariance, beta, learning_rate
            )
        generator = Generator().manual_seed(run)
        options: dict[str, Any] = {
            "num_restarts": num_restarts,
            "tol": 1e-4,
            "generator": generator,
        }
        fit_codes(model, [(x,)], "prior", step="code_step", **options)
        start = accuracy(model.components(x), labels)
        train_quietly(
            model,
            x,
            epochs,
            CovarianceFloorCallback("prior"),
            DigitsLogger(x, labels, picture_every),
            batch_size=batch_size,
            # One run is enough to watch.
            logger=TensorBoardLogger(account.folder, "tensorboard") if run == seed else None,
            seed=run,
        )
        found = model.components(x)
        plain = GMMLayer(x.shape[1], num_components, covariance, "niw", dtype=torch.float64)
        fit_em(plain, x, **options)
        others = (plain.predict(x.double()), *theirs(x, plain, num_restarts, run))
        rows.append([accuracy(found, labels), start, *(accuracy(c, labels) for c in others)])
        account.say(
            f"seed {run}: {rows[-1][0]:.1%} of the rows in the digit of their component, "
            f"{in_use(found, num_components)} of {num_components} components in use"
        )
        if run == seed:
            draw(account, model, x, labels, generator)
    shares = torch.tensor(rows, dtype=torch.float64)
    account.table(
        ("", "rows in their digit"),
        [(method, spread(shares[:, i].tolist())) for i, method in enumerate(METHODS)],
    )
    account.say(f"tensorboard --logdir {account.folder / 'tensorboard'}")


def theirs(x: Tensor, like: GMMLayer, n_init: int, seed: int) -> tuple[Tensor, Tensor]:
    """Components of scikit-learn's mixture, of the size and family of ours, and of its k-means."""
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    k, family = like.num_components, like.covariance.name
    mixture = GaussianMixture(k, covariance_type=family, n_init=n_init, random_state=seed)
    means = KMeans(k, n_init=n_init, random_state=seed)  # pyright: ignore[reportArgumentType]
    rows = x.double().numpy()
    return torch.as_tensor(mixture.fit_predict(rows)), torch.as_tensor(means.fit_predict(rows))


def accuracy(components: Tensor, labels: Tensor) -> float:
    """Share of rows in the class of their component, matched one to one (Hungarian method)."""
    table = np.zeros((int(components.max()) + 1, int(labels.max()) + 1))
    np.add.at(table, (components.numpy(), labels.numpy()), 1.0)
    return float(table[linear_sum_assignment(-table)].sum() / len(labels))


def in_use(components: Tensor, num_components: int) -> int:
    """Components with a tenth at least of an even share of the rows."""
    counts = components.bincount(minlength=num_components)
    return int((counts >= 0.1 * len(components) / num_components).sum())


def plot_digits(model: MixtureAutoencoder, generator: Generator, ax: Any = None) -> Any:
    """A row for each component: its mean, and new digits."""
    return plot_images(
        model.new_digits(generator),
        ax=ax,
        num_cols=DRAWS + 1,
        limits=(0.0, 1.0),
        title="mean and draws of each component",
    )


def draw(
    account: Account, model: MixtureAutoencoder, x: Tensor, labels: Tensor, generator: Generator
) -> None:
    """New digits per component, and the latent plane with the mixture."""
    grid = new_grid(1, 2, (14.0, 6.0))
    plot_digits(model, generator, grid[0, 0])
    with torch.no_grad():
        codes, _ = model.posterior(x)
    plot_mixture(model.prior, codes, labels=labels, ax=grid[0, 1], title="codes and prior")
    account.picture("vade_digits", grid)
