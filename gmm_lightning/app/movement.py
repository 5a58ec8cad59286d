"""What moves before a camera, told from what every pixel showed over time: four ways."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.em import StepwiseEM, fit_em
from gmm_lightning.layers import GMMLayer
from gmm_lightning.priors import InverseWishart

# Degrees of freedom of the prior on a covariance, beyond the least.
DEGREES = 3.0
# What the baselines use where nothing tells a better one: grey levels and standard deviations.
USUAL = {"median of all frames": 30.0, "running Gaussian": 2.5}


@dataclass(frozen=True)
class Options:
    """How backgrounds are fitted: see `background`."""

    num_components: int
    noise: float
    background_fraction: float
    foreground_fraction: float
    max_iter: int
    block: int


@dataclass(frozen=True)
class Verdict:
    """What a method says of every pixel of every frame, `(T, P)`: above the limit it moves.

    Attributes:
        evidence: larger where a pixel is less like its background.
        limit: for a mask.
        fit: seconds.
        score: seconds.
        picture: the background, `(P, C)`.
    """

    evidence: Tensor
    limit: float
    fit: float
    score: float
    picture: Tensor

    @property
    def mask(self) -> Tensor:
        """Where something moves, `(T, P)`."""
        return self.evidence > self.limit


def judged(clip: Tensor, options: Options) -> dict[str, Verdict]:
    """What every method says of a clip `(T, H, W, C)` of bytes."""
    x = clip.flatten(1, 2)
    return {
        "mixture, EM": of_mixture(x, options, by_em),
        "mixture, stepwise EM": of_mixture(x, options, by_stepwise_em),
        "running Gaussian": of_running_gaussian(x, options.noise),
        "median of all frames": of_median(x),
    }


def of_mixture(x: Tensor, options: Options, fit: Callable[..., None]) -> Verdict:
    """A mixture per pixel, `batch_shape=(P,)`, from frames `(T, P, C)` of bytes.

    Neither the fit nor the scores hold the clip in floating point: a chunk at a time is made.
    """
    start = perf_counter()
    pixels, d = x.shape[1:]
    df = d - 1 + DEGREES
    # The prior alone has its mode at the noise of the camera: a pixel that never changes has it.
    psi = (df + d + 1) * options.noise**2 * torch.eye(d)
    layer = GMMLayer(
        d, options.num_components, "diag", InverseWishart(df, psi), batch_shape=(pixels,)
    )
    fit(layer, x, options)
    fitted = perf_counter() - start
    start = perf_counter()
    with torch.no_grad():
        backdrop = backgrounds(layer.distribution(), options.background_fraction)
        # The odds against a colour that is uniform over all 256^C.
        odds = math.log(options.foreground_fraction / (1 - options.foreground_fraction))
        odds -= d * math.log(256)
        parts = [odds - backdrop.log_prob(part.float()) for part in x.split(options.block)]
        heaviest = backdrop.mixture_logits.argmax(-1)[:, None, None].expand(-1, 1, d)
        picture = backdrop.means.gather(1, heaviest).squeeze(1)
    return Verdict(torch.cat(parts), 0.0, fitted, perf_counter() - start, picture)


def by_em(layer: GMMLayer, x: Tensor, options: Options) -> None:
    """All frames, several times."""
    start_apart(layer, x, options.noise)
    fit_em(layer, x, initializer=None, max_iter=options.max_iter, chunk_size=options.block)


def by_stepwise_em(layer: GMMLayer, x: Tensor, options: Options) -> None:
    """After the start, each frame once, in the order of time."""
    start_apart(layer, x, options.noise)
    stream = StepwiseEM(layer)
    for part in x.split(options.block):
        stream.partial_fit(part)


def start_apart(layer: GMMLayer, x: Tensor, noise: float) -> None:
    """Means at the median and at the frames farthest from it and each other, pixel by pixel."""
    chosen = [x.median(0).values.float()]
    distance = x.new_full(x.shape[:2], torch.inf, dtype=torch.float32)
    for _ in range(1, layer.num_components):
        for now, part in zip(distance.split(16), x.split(16), strict=True):
            torch.minimum(now, (part - chosen[-1]).square().sum(-1), out=now)
        farthest = distance.argmax(0)[None, :, None].expand(1, -1, x.shape[-1])
        chosen.append(x.gather(0, farthest)[0].float())
    means = torch.stack(chosen, 1)
    wide = (2 * noise) ** 2 * torch.eye(x.shape[-1]).expand(*means.shape[:2], -1, -1)
    layer.set_parameters(torch.ones(means.shape[:2]), means, wide)


def backgrounds(mixture: MixtureOfGaussians, fraction: float) -> MixtureOfGaussians:
    """The components of a background: by weight over deviation, until they make up a share."""
    weights, d = mixture.weights, mixture.num_features
    deviation = (mixture.covariance.half_log_det(mixture.scale, d) / d).exp()
    order = (weights / deviation).argsort(-1, descending=True)
    before = weights.gather(-1, order).cumsum(-1) - weights.gather(-1, order)
    # The first of them always is one.
    kept = torch.zeros_like(weights, dtype=torch.bool).scatter(-1, order, before < fraction)
    logits = torch.where(kept, weights.log(), -torch.inf)
    return mixture.with_parameters(logits, mixture.means, mixture.scale, mixture.covariance)


def of_running_gaussian(x: Tensor, noise: float, rate: float = 0.05) -> Verdict:
    """One Gaussian per pixel that forgets (Wren et al. 1997), after a first reading to settle."""
    start = perf_counter()
    mean, variance = x[0].float(), torch.full(x.shape[1:], noise**2)
    evidence = torch.empty(x.shape[:2])
    for _ in range(2):
        for frame, radius in zip(x, evidence, strict=True):
            gap = frame - mean
            radius.copy_((gap.square() / variance).amax(-1).sqrt())
            mean = mean + rate * gap
            variance = ((1 - rate) * variance + rate * gap.square()).clamp(min=noise**2)
    # Fit and score are one.
    seconds = perf_counter() - start
    return Verdict(evidence, USUAL["running Gaussian"], seconds, seconds, mean)


def of_median(x: Tensor) -> Verdict:
    """The largest difference of a colour to the median over time."""
    start = perf_counter()
    middle = x.median(0).values.float()
    fitted = perf_counter() - start
    start = perf_counter()
    evidence = torch.cat([(part - middle).abs().amax(-1) for part in x.split(16)])
    score = perf_counter() - start
    return Verdict(evidence, USUAL["median of all frames"], fitted, score, middle)


def quality(mask: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Precision, recall and F1 of a mask."""
    right = float((mask & truth).sum())
    marked, moving = float(mask.sum()), float(truth.sum())
    return right / max(1.0, marked), right / max(1.0, moving), 2 * right / max(1.0, marked + moving)


def best_limit(evidence: Tensor, truth: Tensor) -> float:
    """The limit with the highest F1: what a baseline could reach if it were told the truth."""
    values, order = evidence.flatten().sort(descending=True)
    right = truth.flatten()[order].double().cumsum(0)
    marked = torch.arange(1, len(values) + 1, dtype=torch.float64)
    f1 = 2 * right / (marked + float(truth.sum()))
    # Pixels of equal evidence go together: only the last of them is a place to stop.
    last = torch.cat([values[1:] < values[:-1], torch.ones(1, dtype=torch.bool)])
    at = int(torch.where(last, f1, 0.0).argmax())
    return float(values[min(at + 1, len(values) - 1)])
