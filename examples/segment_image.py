"""A photograph as a mixture over the position and colour of its pixels: segments, bits, draws.

The density of held-out pixels and the seconds of the fit are compared with scikit-learn's. The
picture is then compressed to one component per pixel, which costs `-log2 p(k | position)` bits, and
compared with k-means of the colours. The figure shows segments, their borders and uncertainty,
and the mean and draws of the colour given the position. Needs scikit-learn, which has the pictures.

References:
    C. Carson, S. Belongie, H. Greenspan, J. Malik (2002), Blobworld: image segmentation using
    expectation-maximization and its application to image querying, IEEE TPAMI 24.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from command_line import example_parser, integer, positive_number
from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.distributions import regress
from reporting import Reporter, mean_and_std, new_axes

try:
    from sklearn.cluster import KMeans
    from sklearn.datasets import load_sample_image
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
except ImportError as error:
    raise SystemExit("segment_image.py needs scikit-learn: pip install scikit-learn") from error

PICTURES = ("china.jpg", "flower.jpg")
HELD_OUT_FRACTION = 0.1
# Features of a pixel.
POSITION, COLOR = [0, 1], [2, 3, 4]
# A compressed picture must contain the numbers of its model, too.
BITS_PER_PARAMETER = 32
# Pixels whose mixtures given the position are in memory at once.
CHUNK_PIXELS = 1 << 15


class Fit(NamedTuple):
    """A fit: mean log density of held-out pixels in nats, seconds and iterations."""

    log_density: float
    seconds: float
    iterations: int


class Compression(NamedTuple):
    """Size and quality of a compressed picture."""

    bits_per_pixel: float
    psnr: float


def main(argv: Sequence[str] | None = None) -> Reporter:
    """Fit, compress and draw a photograph."""
    parser = example_parser("segment_image", __doc__)
    parser.add_argument("--image", choices=PICTURES, default="china.jpg", help="photograph")
    parser.add_argument(
        "--step", type=integer(1, 32), default=1, help="use every STEP-th row and column"
    )
    parser.add_argument(
        "--num-components",
        type=integer(2, 100),
        default=12,
        help="components of the mixture, and colours of k-means",
    )
    parser.add_argument(
        "--color-noise",
        type=positive_number,
        default=0.05,
        help="standard deviation of a colour, in [0, 1], below which errors do not matter",
    )
    parser.add_argument("--num-seeds", type=integer(1), default=5, help="runs of everything")
    options = parser.parse_args(argv)
    report = Reporter(options.output)

    picture = load_picture(options.image)[:: options.step, :: options.step]
    height, width, _ = picture.shape
    k, noise = options.num_components, options.color_noise
    report.print(f"{options.image}: {height} x {width} pixels, {k} components")
    x = pixel_features(picture)

    fits: dict[str, list[Fit]] = {"GMMLayer": [], "scikit-learn": []}
    compressions: dict[str, list[Compression]] = {}
    layers = []
    for seed in range(options.seed, options.seed + options.num_seeds):
        generator = Generator().manual_seed(seed)
        order = torch.randperm(len(x), generator=generator)
        test_rows, train_rows = order.tensor_split([max(1, round(HELD_OUT_FRACTION * len(x)))])
        layer, ours = fit_mixture(x[train_rows], x[test_rows], k, generator)
        theirs = fit_sklearn(x[train_rows], x[test_rows], k, seed)
        report.print(f"seed {seed}: {ours.seconds:.1f} s, scikit-learn {theirs.seconds:.1f} s")
        fits["GMMLayer"].append(ours)
        fits["scikit-learn"].append(theirs)
        for name, compression in compress(layer, x, noise, seed).items():
            compressions.setdefault(name, []).append(compression)
        layers.append(layer)

    report.table(
        ("pixels left out", "log density (nats)", "seconds of the fit", "iterations"),
        [(name, *map(mean_and_std, zip(*runs, strict=True))) for name, runs in fits.items()],
    )
    report.table(
        ("one component or colour per pixel", "bits per pixel", "PSNR (dB)"),
        [
            (name, *map(mean_and_std, zip(*runs, strict=True)))
            for name, runs in compressions.items()
        ],
    )
    generator = Generator().manual_seed(options.seed)
    report.figure("segment_image", draw(picture, layers[0], x, noise, generator))
    return report


# -- data -------------------------------------------------------------------------------------


def load_picture(name: str) -> Tensor:
    """A photograph of scikit-learn as float32 colours in [0, 1], `(H, W, 3)`."""
    return torch.from_numpy(np.array(load_sample_image(name), np.float32)) / 255


def pixel_features(picture: Tensor) -> Tensor:
    """Rows (y, x, red, green, blue), `(H * W, 5)`; positions in units of the picture's height."""
    height, width, _ = picture.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    position = torch.stack([y, x], -1).to(picture) / height
    return torch.cat([position, picture], -1).reshape(-1, 5)


# -- fits -------------------------------------------------------------------------------------


def fit_mixture(
    train: Tensor, test: Tensor, num_components: int, generator: Generator
) -> tuple[GMMLayer, Fit]:
    """A `GMMLayer` fitted by EM."""
    start = perf_counter()
    layer = GMMLayer(train.shape[1], num_components, dtype=train.dtype)
    result = fit_em(layer, train, max_iter=200, generator=generator)
    seconds = perf_counter() - start
    with torch.no_grad():
        log_density = float(layer.log_prob(test).double().mean())
    return layer, Fit(log_density, seconds, result.num_iterations)


def fit_sklearn(train: Tensor, test: Tensor, num_components: int, seed: int) -> Fit:
    """scikit-learn's mixture with the same number of components and iterations."""
    start = perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = GaussianMixture(num_components, max_iter=200, random_state=seed)
        model.fit(train.numpy())
    seconds = perf_counter() - start
    return Fit(float(model.score(test.numpy())), seconds, model.n_iter_)


# -- compression ------------------------------------------------------------------------------


def compress(layer: GMMLayer, x: Tensor, color_noise: float, seed: int) -> dict[str, Compression]:
    """Bits per pixel and PSNR, by the means of the mixture and by k-means."""
    k, colors = layer.num_components, x[:, COLOR]
    log_prior = log_prob_given_position(layer, x)
    means = layer.means.detach()[:, COLOR]
    model_bits = layer.num_free_parameters * BITS_PER_PARAMETER / len(x)
    labels = {
        "mixture, most probable component": layer.predict(x),
        "mixture, by colour and bits": cheapest_labels(log_prior, colors, means, color_noise),
    }
    found = {}
    for name, label in labels.items():
        nats = -float(log_prior.gather(-1, label[:, None]).double().mean())
        bits = nats / math.log(2) + model_bits
        found[name] = Compression(bits, psnr(colors, means[label]))

    # The smallest number of colours for which k-means needs at least as many bits.
    n, compression = 1, Compression(0.0, 0.0)
    while (
        compression.bits_per_pixel < found["mixture, by colour and bits"].bits_per_pixel and n < k
    ):
        n += 1
        compression, _ = k_means(colors, n, seed)
    found["k-means, at least as many bits"] = compression
    found[f"k-means, {k} colours"], _ = k_means(colors, k, seed)
    return found


@torch.no_grad()
def log_prob_given_position(layer: GMMLayer, x: Tensor) -> Tensor:
    """`log p(k | position)` of every pixel, `(N, K)`: known to the receiver before any bit."""
    positions = layer.distribution().marginal(POSITION)
    return positions.log_responsibilities(x[:, POSITION])


def cheapest_labels(log_prior: Tensor, colors: Tensor, means: Tensor, noise: float) -> Tensor:
    """Component of each pixel that minimises error and bits together.

        |x - mean_k|^2 / (2 noise^2) - log p(k | position)

    The component with the nearest colour may belong to another part of the picture and cost many
    bits here; `noise` is the error of a colour that is not worth them.
    """
    return (torch.cdist(colors, means).square() / (2 * noise**2) - log_prior).argmin(-1)


def k_means(colors: Tensor, k: int, seed: int) -> tuple[Compression, Tensor]:
    """k-means of the colours alone: bits and PSNR, and the compressed colours."""
    model = KMeans(k, random_state=seed)
    label = model.fit_predict(colors.numpy())
    share = np.bincount(label, minlength=k) / len(colors)
    bits = -float((share * np.log2(share)).sum()) + 3 * k * BITS_PER_PARAMETER / len(colors)
    compressed = torch.from_numpy(model.cluster_centers_[label])
    return Compression(bits, psnr(colors, compressed)), compressed


def psnr(colors: Tensor, compressed: Tensor) -> float:
    """Peak signal-to-noise ratio, `-10 log10` of the mean squared error, in dB; the peak is 1."""
    return -10 * math.log10(float((colors - compressed).double().square().mean()))


# -- figure -----------------------------------------------------------------------------------


@torch.no_grad()
def draw(
    picture: Tensor, layer: GMMLayer, x: Tensor, color_noise: float, generator: Generator
) -> NDArray[Any]:
    """The photograph, its segments, its compressions, and colours given the position."""
    height, width, _ = picture.shape
    k, colors, means = layer.num_components, x[:, COLOR], layer.means[:, COLOR]
    mixture = layer.distribution()
    label = layer.predict(x)
    responsibilities = layer.responsibilities(x)
    entropy = -torch.special.xlogy(responsibilities, responsibilities).sum(-1) / math.log(2)
    cheapest = cheapest_labels(log_prob_given_position(layer, x), colors, means, color_noise)
    mean_color, _ = regress(mixture, POSITION, x[:, POSITION], covariance=False)
    draws = []
    for positions in x[:, POSITION].split(CHUNK_PIXELS):
        draws.append(mixture.condition(POSITION, positions).sample(generator=generator))
    panels = {
        "photograph": colors,
        "segments in their mean colours": means[label],
        "borders of the segments": torch.where(borders(label, height, width), 1.0, 0.6 * colors),
        "doubt: entropy of responsibilities (bits)": entropy,
        f"{k} means, by colour and bits": means[cheapest],
        f"k-means, {k} colours": k_means(colors, k, 0)[1],
        "mean colour given the place": mean_color,
        "colours drawn given the place": torch.cat(draws),
    }
    axes = new_axes(2, 4, (18.0, 2 * 4.5 * height / width + 0.9))
    for ax, (title, values) in zip(axes.flat, panels.items(), strict=True):
        image = values.clamp(min=0).reshape(height, width, -1).squeeze(-1).numpy()
        if image.ndim == 3:
            ax.imshow(image.clip(0, 1), interpolation="nearest")
        else:
            shown = ax.imshow(image, cmap="magma", vmin=0, interpolation="nearest")
            ax.figure.colorbar(shown, ax=ax, shrink=0.8)
        ax.set_axis_off()
        ax.set_title(title)
    return axes


def borders(label: Tensor, height: int, width: int) -> Tensor:
    """Pixels whose right or lower neighbour has another label, `(N, 1)`."""
    plane = label.reshape(height, width)
    border = torch.zeros_like(plane, dtype=torch.bool)
    border[:, :-1] |= plane[:, :-1] != plane[:, 1:]
    border[:-1] |= plane[:-1] != plane[1:]
    return border.reshape(-1, 1)


if __name__ == "__main__":
    main()
