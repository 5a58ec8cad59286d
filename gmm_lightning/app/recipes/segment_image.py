"""A photograph as a mixture of colours in places: segments, few bits, and draws."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from gmm_lightning.app.recipes.account import Account, spread
from gmm_lightning.distributions import regress
from gmm_lightning.em import fit_em
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer
from gmm_lightning.plotting.figures import new_grid

PICTURES = ("china.jpg", "flower.jpg")
PLACE, COLOUR = [0, 1], [2, 3, 4]
# What a number of a model costs when a compressed picture has to bring it along.
BITS_OF_NUMBER = 32
# Pixels whose mixtures given the place are held at once.
AT_ONCE = 1 << 15


def segment_image(
    account: Account,
    *,
    image: str = "china.jpg",
    step: int = 1,
    num_components: int = 12,
    colour_noise: float = 0.05,
    held_out_fraction: float = 0.1,
    num_seeds: int = 5,
    seed: int = 0,
) -> None:
    """Fit a mixture to the pixels of a photograph, by place and colour, and use it three ways.

    The density of pixels left out, and the time of the fit, are compared with scikit-learn's.
    The picture is compressed to one component per pixel, which costs `-log2 p(k | place)` bits,
    against k-means of the colours. Colours given the place are averaged and drawn.

    Args:
        account: what it tells.
        image: a photograph of scikit-learn's, `china.jpg` or `flower.jpg`.
        step: every so many rows and columns of it are used.
        num_components: of the mixture, and colours of k-means.
        colour_noise: deviation of a colour, in [0, 1], that is worth saving bits for.
        held_out_fraction: of the pixels, for the test.
        num_seeds: runs, with a test set and a start of their own.
        seed: of the first run.

    Raises:
        InvalidArgumentError: another image; scikit-learn or pillow is not installed.

    References:
        C. Carson, S. Belongie, H. Greenspan, J. Malik (2002), Blobworld: image segmentation
        using expectation-maximization and its application to image querying, IEEE TPAMI 24.
    """
    if colour_noise == 0:
        raise InvalidArgumentError("recipe.colour_noise must be > 0, got 0")
    picture = load_picture(image)[::step, ::step]
    height, width, _ = picture.shape
    x = pixels(picture)
    account.say(f"{image}: {height} x {width} pixels, {num_components} components")
    fits: dict[str, list[tuple[float, float, int]]] = {"GMMLayer": [], "scikit-learn": []}
    costs: dict[str, list[tuple[float, float]]] = {}
    shown: GMMLayer | None = None
    for number in range(num_seeds):
        generator = Generator().manual_seed(seed + number)
        order = torch.randperm(len(x), generator=generator)
        count = max(1, round(held_out_fraction * len(x)))
        test, train = x[order[:count]], x[order[count:]]
        start = perf_counter()
        layer = GMMLayer(5, num_components, dtype=x.dtype)
        result = fit_em(layer, train, max_iter=200, generator=generator)
        seconds = perf_counter() - start
        density = float(layer.log_prob(test).detach().double().mean())
        fits["GMMLayer"].append((density, seconds, result.num_iterations))
        theirs = of_scikit_learn(train, test, num_components, seed + number)
        account.say(f"seed {seed + number}: {seconds:.1f} s, scikit-learn {theirs[1]:.1f} s")
        fits["scikit-learn"].append(theirs)
        for name, cost in compressed(layer, x, colour_noise, seed + number).items():
            costs.setdefault(name, []).append(cost)
        shown = shown or layer
    account.table(
        ("pixels left out", "log density (nats)", "seconds of the fit", "iterations"),
        [(name, *map(spread, zip(*runs, strict=True))) for name, runs in fits.items()],
    )
    account.table(
        ("one component or colour per pixel", "bits per pixel", "PSNR (dB)"),
        [(name, *map(spread, zip(*runs, strict=True))) for name, runs in costs.items()],
    )
    assert shown is not None
    draw(account, picture, shown, x, colour_noise, Generator().manual_seed(seed))


def load_picture(image: str) -> Tensor:
    """A photograph `(H, W, 3)` with colours in [0, 1], float32.

    Raises:
        InvalidArgumentError: another name, or what reads it is not installed.
    """
    if image not in PICTURES:
        raise InvalidArgumentError(
            f"recipe.image must be one of {', '.join(PICTURES)}, got {image!r}"
        )
    try:
        from sklearn.datasets import load_sample_image

        return torch.from_numpy(np.array(load_sample_image(image), np.float32)) / 255
    except ImportError as error:
        raise InvalidArgumentError(
            "the photographs come with scikit-learn and are read by pillow: "
            "pip install scikit-learn pillow"
        ) from error


def pixels(picture: Tensor) -> Tensor:
    """Rows (row, column, red, green, blue), `(H * W, 5)`; places in heights of the picture."""
    height, width, _ = picture.shape
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([row, column], -1).to(picture) / height
    return torch.cat([place, picture], -1).reshape(-1, 5)


def of_scikit_learn(train: Tensor, test: Tensor, k: int, seed: int) -> tuple[float, float, int]:
    """Mean log density of the test rows, seconds and iterations of scikit-learn's mixture."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    start = perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = GaussianMixture(k, max_iter=200, random_state=seed).fit(train.numpy())
    seconds = perf_counter() - start
    return float(model.score(test.numpy())), seconds, model.n_iter_


def compressed(
    layer: GMMLayer, x: Tensor, colour_noise: float, seed: int
) -> dict[str, tuple[float, float]]:
    """Bits per pixel and PSNR of the picture, by the mixture's means and by k-means."""
    k, colours = layer.num_components, x[:, COLOUR]
    prior, model = given_place(layer, x), layer.num_free_parameters * BITS_OF_NUMBER / len(x)
    means = layer.means.detach()[:, COLOUR]
    found = {}
    labels = {
        "mixture, most probable component": layer.predict(x),
        "mixture, by colour and bits": frugal_labels(prior, colours, means, colour_noise),
    }
    for name, label in labels.items():
        bits = -float(prior.gather(-1, label[:, None]).double().mean()) / math.log(2) + model
        found[name] = (bits, psnr(colours, means[label]))
    bits, n = found["mixture, by colour and bits"][0], 1
    fewer = (0.0, 0.0)
    # The fewest colours that are allowed at least as many bits.
    while fewer[0] < bits and n < k:
        n += 1
        fewer = k_means(colours, n, seed)[:2]
    found["k-means, at least as many bits"] = fewer
    found[f"k-means, {k} colours"] = k_means(colours, k, seed)[:2]
    return found


@torch.no_grad()
def given_place(layer: GMMLayer, x: Tensor) -> Tensor:
    """`log p(k | place)` of every pixel, `(N, K)`: what the receiver knows before any bit."""
    places = layer.distribution().marginal(PLACE)
    return places.log_responsibilities(x[:, PLACE])


def frugal_labels(prior: Tensor, colours: Tensor, means: Tensor, noise: float) -> Tensor:
    """Components that minimise `|x - mean_k|^2 / (2 noise^2) - log p(k | place)`, pixel by pixel.

    A component whose mean has the nearest colour may be at home anywhere in the picture, and so
    cost many bits here; with `noise` the eye says how much of the error it lets pass.
    """
    return (torch.cdist(colours, means).square() / (2 * noise**2) - prior).argmin(-1)


def k_means(colours: Tensor, k: int, seed: int) -> tuple[float, float, Tensor]:
    """Bits per pixel, PSNR and the picture's colours, by k-means of the colours alone."""
    from sklearn.cluster import KMeans

    model = KMeans(k, random_state=seed)
    label = model.fit_predict(colours.numpy())
    share = np.bincount(label, minlength=k) / len(colours)
    bits = -float((share * np.log2(share)).sum()) + 3 * k * BITS_OF_NUMBER / len(colours)
    centres: NDArray[np.float32] = model.cluster_centers_
    flat = torch.from_numpy(centres[label])
    return bits, psnr(colours, flat), flat


def psnr(colours: Tensor, flat: Tensor) -> float:
    """`-10 log10` of the mean square error, in dB; white is 1."""
    return -10 * math.log10(float((colours - flat).double().square().mean()))


@torch.no_grad()
def draw(
    account: Account,
    picture: Tensor,
    layer: GMMLayer,
    x: Tensor,
    colour_noise: float,
    generator: Generator,
) -> None:
    """The photograph, its segments, what is left after compression, and colours given places."""
    shape, colours, means = picture.shape, x[:, COLOUR], layer.means[:, COLOUR]
    label = layer.predict(x)
    prior = given_place(layer, x)
    frugal = means[frugal_labels(prior, colours, means, colour_noise)]
    share = layer.responsibilities(x)
    doubt = -torch.special.xlogy(share, share).sum(-1) / math.log(2)
    drawn = []
    for part in x[:, PLACE].split(AT_ONCE):
        drawn.append(layer.distribution().condition(PLACE, part).sample(generator=generator))
    mean, _ = regress(layer.distribution(), PLACE, x[:, PLACE], covariance=False)
    panels = {
        "photograph": colours,
        "segments in their mean colours": means[label],
        "borders of the segments": torch.where(borders(label, shape), 1.0, 0.6 * colours),
        "doubt: entropy of responsibilities (bits)": doubt,
        f"{layer.num_components} means, by colour and bits": frugal,
        f"k-means, {layer.num_components} colours": k_means(colours, len(means), 0)[2],
        "mean colour given the place": mean,
        "colours drawn given the place": torch.cat(drawn),
    }
    grid = new_grid(2, 4, (18.0, 2 * 4.5 * shape[0] / shape[1] + 0.9))
    for ax, (title, values) in zip(grid.flat, panels.items(), strict=True):
        array = values.clamp(min=0).reshape(*shape[:2], -1).squeeze(-1).numpy()
        if array.ndim == 3:
            ax.imshow(array.clip(0, 1), interpolation="nearest")
        else:
            shown = ax.imshow(array, cmap="magma", vmin=0, interpolation="nearest")
            ax.figure.colorbar(shown, ax=ax, shrink=0.8)
        ax.set_axis_off()
        ax.set_title(title)
    account.picture("segment_image", grid)


def borders(label: Tensor, shape: Sequence[int]) -> Tensor:
    """Pixels whose right or lower neighbour belongs to another component, `(N, 1)`."""
    plane = label.reshape(shape[0], shape[1])
    edge = torch.zeros_like(plane, dtype=torch.bool)
    edge[:, :-1] |= plane[:, :-1] != plane[:, 1:]
    edge[:-1] |= plane[:-1] != plane[1:]
    return edge.reshape(-1, 1)
