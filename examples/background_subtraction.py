"""Background subtraction: which pixels of a video belong to moving objects?

Every pixel has its own Gaussian mixture over the colours that it shows in time; all pixels are one
batch of mixtures. Its components with large weight and small variance are the background model: a
leaf and the sky behind it. A colour is foreground where the background model explains it worse than
a uniform distribution over all colours does, given how rare foreground is. Four methods are
compared: mixtures fitted by EM, which reads all frames in every iteration; mixtures fitted by
stepwise EM, which reads every frame once; a running Gaussian; the median over time.

Without `--frames` they run on synthetic scenes and are scored against the true foreground. With
`--frames` they run on a video, and the masks of the first method are written as images.

References:
    C. Stauffer, W. E. L. Grimson (1999), Adaptive background mixture models for real-time
    tracking, CVPR.
    C. R. Wren, A. Azarbayejani, T. Darrell, A. P. Pentland (1997), Pfinder: real-time tracking of
    the human body, IEEE TPAMI 19.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from matplotlib.image import imsave
from torch import Generator, Tensor

from command_line import example_parser, fraction, integer, positive_number
from foreground_detection import Detection, best_threshold, draw_detections, precision_recall_f1
from gmm_lightning import GMMLayer, MixtureOfGaussians, StepwiseEM, fit_em
from gmm_lightning.priors import InverseWishart
from reporting import Reporter, mean_and_std
from synthetic_scene import synthetic_scene
from video_frames import VideoError, read_frames

# Thresholds of the baselines: grey levels, and standard deviations.
DEFAULT_THRESHOLDS = {"median of all frames": 30.0, "running Gaussian": 2.5}


@dataclass(frozen=True)
class Settings:
    """Settings of the background model.

    Attributes:
        num_components: components of the mixture of each pixel.
        noise_std: standard deviation of the camera noise, in grey levels of 255.
        foreground_prior: prior probability that a pixel is foreground.
        background_weight: total weight that the components of the background reach (T of Stauffer
            and Grimson).
        max_iter: iterations of EM.
        chunk_frames: frames that are held in floating point at once, and frames per update of
            stepwise EM.
    """

    num_components: int = 3
    noise_std: float = 4.0
    foreground_prior: float = 0.01
    background_weight: float = 0.8
    max_iter: int = 10
    chunk_frames: int = 10


def main(argv: Sequence[str] | None = None) -> Reporter:
    """Compare the methods on synthetic scenes, or run them on a video."""
    parser = example_parser("background_subtraction", __doc__)
    parser.add_argument(
        "--frames",
        metavar="PATH",
        help="an .npz or .npy file with an array (T, H, W) or (T, H, W, 3), or a folder of images",
    )
    parser.add_argument(
        "--num-components", type=integer(1), default=3, help="components of each pixel"
    )
    parser.add_argument(
        "--noise-std", type=positive_number, default=4.0, help="camera noise, in grey levels of 255"
    )
    parser.add_argument(
        "--foreground-prior", type=fraction, default=0.01, help="prior probability of foreground"
    )
    parser.add_argument(
        "--num-frames", type=integer(2), default=60, help="frames of a synthetic scene"
    )
    parser.add_argument("--num-seeds", type=integer(1), default=5, help="synthetic scenes")
    options = parser.parse_args(argv)
    report = Reporter(options.output)
    settings = Settings(options.num_components, options.noise_std, options.foreground_prior)
    if options.frames is None:
        compare_on_scenes(report, settings, options.num_seeds, options.seed, options.num_frames)
        return report
    try:
        video = torch.from_numpy(read_frames(options.frames))
    except VideoError as error:
        parser.error(str(error))
    segment_video(report, settings, video)
    return report


def compare_on_scenes(
    report: Reporter,
    settings: Settings,
    num_seeds: int,
    seed: int,
    num_frames: int,
    height: int = 120,
    width: int = 160,
) -> None:
    """Precision, recall, F1 and speed on synthetic scenes.

    The baselines are also scored with the threshold of highest F1, which no user can know.
    """
    results: dict[str, list[tuple[float, ...]]] = {}
    for scene in range(seed, seed + num_seeds):
        generator = Generator().manual_seed(scene)
        video, truth = synthetic_scene(num_frames, height, width, generator)
        report.print(f"scene {scene}: {truth.double().mean():.1%} of the pixels move")
        detections = detect(video, settings)
        for name, found in detections.items():
            speed = (num_frames / found.fit_seconds, num_frames / found.score_seconds)
            masks = {name: found.mask}
            if name in DEFAULT_THRESHOLDS:
                best = best_threshold(found.score, truth.flatten(1))
                masks[f"{name}, best limit"] = found.score > best
            for label, mask in masks.items():
                scores = precision_recall_f1(mask, truth.flatten(1))
                results.setdefault(label, []).append((*scores, *speed))
        if scene == seed:
            report.figure("background_subtraction", draw_detections(video, detections, truth))
    report.table(
        ("method", "precision", "recall", "F1", "frames/s, fit", "frames/s, score"),
        [(name, *map(mean_and_std, zip(*runs, strict=True))) for name, runs in results.items()],
    )


def segment_video(report: Reporter, settings: Settings, video: Tensor) -> None:
    """Share of foreground and speed on a video `(T, H, W, C)`; the masks by EM become images."""
    num_frames, height, width, _ = video.shape
    report.print(f"{num_frames} frames of {height} x {width}: {height * width} mixtures")
    detections = detect(video, settings)
    report.table(
        ("method", "foreground", "frames/s, fit", "frames/s, score"),
        [
            (
                name,
                f"{found.mask.double().mean():.2%}",
                num_frames / found.fit_seconds,
                num_frames / found.score_seconds,
            )
            for name, found in detections.items()
        ],
    )
    report.figure("background_subtraction", draw_detections(video, detections))
    folder = report.folder / "masks"
    folder.mkdir(parents=True, exist_ok=True)
    masks = detections["mixture, EM"].mask.reshape(num_frames, height, width)
    for t, mask in enumerate(masks.numpy()):
        imsave(folder / f"{t:05d}.png", mask, cmap="gray", vmin=0, vmax=1)
    report.print(f"masks: {folder}")


# -- methods ----------------------------------------------------------------------------------


def detect(video: Tensor, settings: Settings) -> dict[str, Detection]:
    """Foreground of a video `(T, H, W, C)` of bytes, by every method."""
    x = video.flatten(1, 2)
    return {
        "mixture, EM": detect_with_mixture(x, settings, fit_by_em),
        "mixture, stepwise EM": detect_with_mixture(x, settings, fit_by_stepwise_em),
        "running Gaussian": detect_with_running_gaussian(x, settings.noise_std),
        "median of all frames": detect_with_median(x),
    }


def detect_with_mixture(
    x: Tensor, settings: Settings, fit: Callable[[GMMLayer, Tensor, Settings], object]
) -> Detection:
    """A mixture per pixel of frames `(T, P, C)`, fitted by `fit`."""
    start = perf_counter()
    layer = pixel_mixtures(x, settings)
    fit(layer, x, settings)
    fit_seconds = perf_counter() - start

    start = perf_counter()
    with torch.no_grad():
        background = background_mixture(layer.distribution(), settings.background_weight)
        score = foreground_log_odds(background, x, settings)
        heaviest = background.weights.argmax(-1)[:, None, None].expand(-1, 1, x.shape[-1])
        image = background.means.gather(1, heaviest).squeeze(1)
    score_seconds = perf_counter() - start
    # Log odds above 0 are a foreground probability above one half.
    return Detection(score, 0.0, image, fit_seconds, score_seconds)


def pixel_mixtures(x: Tensor, settings: Settings) -> GMMLayer:
    """One mixture per pixel of frames `(T, P, C)`, ready for EM.

    Means start at the median over time and at the colours farthest from all means so far. Weights
    start equal, standard deviations at twice the noise. The prior is worth a few frames and has
    its mode at the noise: a pixel that never changes keeps the variance of the noise.
    """
    _, num_pixels, num_channels = x.shape
    noise_covariance = settings.noise_std**2 * torch.eye(num_channels)
    df = num_channels + 2.0
    prior = InverseWishart(df, (df + num_channels + 1) * noise_covariance)
    k = settings.num_components
    layer = GMMLayer(num_channels, k, "diag", prior, batch_shape=(num_pixels,))

    means = [x.median(0).values.float()]
    distance = torch.full(x.shape[:2], torch.inf)
    for _ in range(1, k):
        # In chunks, because frames in floating point take four times the memory of bytes.
        for nearest, frames in zip(distance.split(16), x.split(16), strict=True):
            torch.minimum(nearest, (frames - means[-1]).square().sum(-1), out=nearest)
        farthest = distance.argmax(0)[None, :, None].expand(1, -1, num_channels)
        means.append(x.gather(0, farthest)[0].float())
    covariances = 4 * noise_covariance.expand(num_pixels, k, -1, -1)
    layer.set_parameters(torch.ones(num_pixels, k), torch.stack(means, 1), covariances)
    return layer


def fit_by_em(layer: GMMLayer, x: Tensor, settings: Settings) -> None:
    """EM: every iteration reads all frames, a chunk at a time."""
    chunk_size = settings.chunk_frames
    fit_em(layer, x, initializer=None, max_iter=settings.max_iter, chunk_size=chunk_size)


def fit_by_stepwise_em(layer: GMMLayer, x: Tensor, settings: Settings) -> None:
    """Stepwise EM: every chunk of frames is read once, in the order of time."""
    stepwise = StepwiseEM(layer)
    for frames in x.split(settings.chunk_frames):
        stepwise.partial_fit(frames)


def background_mixture(mixture: MixtureOfGaussians, weight: float) -> MixtureOfGaussians:
    """The components of the background of every pixel, as a mixture.

    As in Stauffer and Grimson, components are sorted by weight over standard deviation (the
    geometric mean over channels), and the first ones that together reach `weight` are kept.
    """
    weights = mixture.weights
    variances = mixture.component_covariances.diagonal(dim1=-2, dim2=-1)
    std = variances.log().mean(-1).div(2).exp()
    order = (weights / std).argsort(-1, descending=True)
    weight_before = weights.gather(-1, order).cumsum(-1) - weights.gather(-1, order)
    kept = torch.zeros_like(weights, dtype=torch.bool).scatter(-1, order, weight_before < weight)
    logits = torch.where(kept, weights.log(), -torch.inf)
    return MixtureOfGaussians(logits, mixture.means, mixture.scale, mixture.covariance)


def foreground_log_odds(background: MixtureOfGaussians, x: Tensor, settings: Settings) -> Tensor:
    """`log p(foreground | x) - log p(background | x)` of every pixel of frames `(T, P, C)`.

    Foreground may have any colour: its density is uniform, `256^-C`.
    """
    log_prior_odds = math.log(settings.foreground_prior / (1 - settings.foreground_prior))
    log_uniform = -x.shape[-1] * math.log(256)
    return torch.cat(
        [
            log_prior_odds + log_uniform - background.log_prob(frames.float())
            for frames in x.split(settings.chunk_frames)
        ]
    )


def detect_with_running_gaussian(x: Tensor, noise_std: float, rate: float = 0.05) -> Detection:
    """A Gaussian per pixel with exponential forgetting (Wren et al. 1997).

    The score is the largest distance of a channel from its mean, in standard deviations. The video
    is read twice, so that the scores of its beginning come from a mean that has settled.
    """
    start = perf_counter()
    mean, variance = x[0].float(), torch.full(x.shape[1:], noise_std**2)
    score = torch.empty(x.shape[:2])
    for _ in range(2):
        for frame, distance in zip(x, score, strict=True):
            difference = frame - mean
            distance.copy_((difference.square() / variance).amax(-1).sqrt())
            mean = mean + rate * difference
            variance = (1 - rate) * variance + rate * difference.square()
            variance = variance.clamp(min=noise_std**2)
    # Fitting and scoring are one.
    seconds = perf_counter() - start
    return Detection(score, DEFAULT_THRESHOLDS["running Gaussian"], mean, seconds, seconds)


def detect_with_median(x: Tensor) -> Detection:
    """The median over time; the score is the largest difference of a channel from it."""
    start = perf_counter()
    median = x.median(0).values.float()
    fit_seconds = perf_counter() - start
    start = perf_counter()
    score = torch.cat([(frames - median).abs().amax(-1) for frames in x.split(16)])
    score_seconds = perf_counter() - start
    threshold = DEFAULT_THRESHOLDS["median of all frames"]
    return Detection(score, threshold, median, fit_seconds, score_seconds)


if __name__ == "__main__":
    main()
