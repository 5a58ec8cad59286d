"""What moves before a camera: one mixture per pixel, all of them as one batch."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from gmm_lightning.app.checks import require_path
from gmm_lightning.app.frames import read_frames
from gmm_lightning.app.movement import USUAL, Options, Verdict, best_limit, judged, quality
from gmm_lightning.app.recipes.account import Account, spread
from gmm_lightning.app.scenes import scene
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.plotting.figures import new_grid


def background(
    account: Account,
    *,
    frames: str | None = None,
    num_components: int = 3,
    noise: float = 4.0,
    background_fraction: float = 0.8,
    foreground_fraction: float = 0.01,
    max_iter: int = 10,
    block: int = 10,
    num_frames: int = 60,
    height: int = 120,
    width: int = 160,
    num_seeds: int = 5,
    seed: int = 0,
) -> None:
    """Fit every pixel's colours over time, and mark those that its background does not explain.

    A pixel has several backgrounds: a leaf and the sky behind it. Its heaviest and tightest
    components are taken for them, up to a share of its frames. A pixel of a frame is foreground
    where `p(x | background)` falls below that of any colour at all, weighed by how rare
    foreground is. EM reads the whole clip again and again; stepwise EM reads it once, in the
    order of time, a block after the other. Both start from frames that are far apart.

    Args:
        account: what it tells.
        frames: an `.npz` or `.npy` file with frames, or a folder of pictures; None: scenes of
            its own, whose moving objects are known.
        num_components: of each pixel.
        noise: of the camera, in grey levels of 255; what the prior on the covariances holds.
        background_fraction: share of a pixel's frames that its background takes at least.
        foreground_fraction: share of pixels that move, as far as is known before.
        max_iter: M-steps of EM.
        block: frames at a time: what stepwise EM learns from at once, and what is in memory in
            floating point.
        num_frames: of a scene.
        height: of a scene.
        width: of a scene.
        num_seeds: scenes.
        seed: of the first scene.

    Raises:
        InvalidArgumentError: no such file or folder, or an option out of range.
        InvalidDataError: frames that cannot be read or used.

    References:
        C. Stauffer, W. E. L. Grimson (1999), Adaptive background mixture models for real-time
        tracking, CVPR.
        C. R. Wren, A. Azarbayejani, T. Darrell, A. P. Pentland (1997), Pfinder: real-time
        tracking of the human body, IEEE TPAMI 19.
    """
    require_path("recipe.frames", frames)
    if noise == 0 or num_frames < 2:
        raise InvalidArgumentError(
            "recipe.noise must be > 0 and recipe.num_frames at least 2, got "
            f"{noise} and {num_frames}"
        )
    options = Options(
        num_components, noise, background_fraction, foreground_fraction, max_iter, block
    )
    if frames is not None:
        clip = torch.from_numpy(read_frames(frames))
        tell_clip(account, clip, options)
        return
    lines: dict[str, list[tuple[float, ...]]] = {}
    for number in range(num_seeds):
        generator = Generator().manual_seed(seed + number)
        clip, truth = scene(num_frames, height, width, generator)
        account.say(f"scene {seed + number}: {truth.double().mean():.1%} of the pixels move")
        verdicts = judged(clip, options)
        flat = truth.flatten(1)
        for name, verdict in verdicts.items():
            speed = (len(clip) / verdict.fit, len(clip) / verdict.score)
            lines.setdefault(name, []).append((*quality(verdict.mask, flat), *speed))
            if name in USUAL:
                best = verdict.evidence > best_limit(verdict.evidence, flat)
                lines.setdefault(f"{name}, best limit", []).append((*quality(best, flat), *speed))
        if number == 0:
            draw(account, clip, verdicts, truth)
    account.table(
        ("method", "precision", "recall", "F1", "frames/s, fit", "frames/s, score"),
        [(name, *map(spread, zip(*runs, strict=True))) for name, runs in lines.items()],
    )


def tell_clip(account: Account, clip: Tensor, options: Options) -> None:
    """Masks and speed of a clip of which nothing else is known; every mask becomes a file."""
    from matplotlib.image import imsave

    count, height, width, _ = clip.shape
    account.say(f"{count} frames of {height} x {width}: {height * width} mixtures in one batch")
    verdicts = judged(clip, options)
    account.table(
        ("method", "foreground", "frames/s, fit", "frames/s, score"),
        [
            (name, f"{v.mask.double().mean():.2%}", count / v.fit, count / v.score)
            for name, v in verdicts.items()
        ],
    )
    draw(account, clip, verdicts)
    folder = account.folder / "masks"
    folder.mkdir(parents=True, exist_ok=True)
    masks = next(iter(verdicts.values())).mask.reshape(count, height, width)
    for number, mask in enumerate(masks.numpy()):
        imsave(folder / f"{number:05d}.png", mask, cmap="gray", vmin=0, vmax=1)
    account.say(f"masks: {folder}")


def draw(
    account: Account, clip: Tensor, verdicts: dict[str, Verdict], truth: Tensor | None = None
) -> None:
    """Some frames, what moves in them by each method, and the backgrounds."""
    count, height, width, channels = clip.shape
    times = [round((i + 0.5) * (count - 1) / 4) for i in range(4)]
    strips = {f"frames {', '.join(map(str, times))}": [clip[t] for t in times]}
    if truth is not None:
        strips["truth"] = [truth[t].unsqueeze(-1) * 255 for t in times]
    for name, verdict in verdicts.items():
        masks = [verdict.mask[t].reshape(height, width, 1) * 255 for t in times]
        strips[f"{name}, and its background"] = [
            *masks,
            verdict.picture.reshape(height, width, channels),
        ]
    grid = new_grid(len(strips), 1, (14.0, len(strips) * (2.75 * height / width + 0.4)))
    paper = torch.full((height, max(1, width // 32), 3), 255.0)
    for ax, (title, images) in zip(grid.flat, strips.items(), strict=True):
        # Side by side in one image, with room for a fifth in every strip.
        tiles = [image.float().expand(height, width, 3) for image in images]
        tiles += [paper[:, :1].expand(height, width, 3)] * (5 - len(tiles))
        strip = torch.cat([part for tile in tiles for part in (tile, paper)][:-1], 1)
        ax.imshow(strip.clamp(0, 255).round().byte().numpy(), interpolation="nearest")
        ax.set_axis_off()
        ax.set_title(title, loc="left")
    account.picture("background", grid)
