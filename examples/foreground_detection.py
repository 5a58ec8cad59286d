"""What a background subtraction method finds: masks, their scores against the truth, a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from reporting import new_axes


@dataclass(frozen=True)
class Detection:
    """Foreground in T frames of P pixels, as one method finds it.

    Attributes:
        score: foreground score `(T, P)`; the larger, the less a colour is like the background.
        threshold: a pixel is foreground where its score is above.
        background: image of the background, `(P, C)`.
        fit_seconds: time to learn the background.
        score_seconds: time to score all frames.
    """

    score: Tensor
    threshold: float
    background: Tensor
    fit_seconds: float
    score_seconds: float

    @property
    def mask(self) -> Tensor:
        """Foreground pixels, `(T, P)`."""
        return self.score > self.threshold


def precision_recall_f1(mask: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Precision, recall and F1 of a mask; 0 where the denominator is 0."""
    correct = float((mask & truth).sum())
    found, foreground = float(mask.sum()), float(truth.sum())
    precision, recall = correct / max(1.0, found), correct / max(1.0, foreground)
    return precision, recall, 2 * correct / max(1.0, found + foreground)


def best_threshold(score: Tensor, truth: Tensor) -> float:
    """The threshold with the highest F1."""
    values, order = score.flatten().sort(descending=True)
    correct = truth.flatten()[order].double().cumsum(0)
    found = torch.arange(1, len(values) + 1, dtype=torch.float64)
    f1 = 2 * correct / (found + float(truth.sum()))
    # A threshold cannot separate equal scores: only the last of them is a candidate.
    is_last = torch.cat([values[1:] < values[:-1], torch.ones(1, dtype=torch.bool)])
    best = int(torch.where(is_last, f1, 0.0).argmax())
    return float(values[min(best + 1, len(values) - 1)])


def draw_detections(
    video: Tensor, detections: Mapping[str, Detection], truth: Tensor | None = None
) -> NDArray[Any]:
    """Four frames, the masks of every method and its background image."""
    num_frames, height, width, channels = video.shape
    times = [round((i + 0.5) * (num_frames - 1) / 4) for i in range(4)]
    strips = {f"frames {', '.join(map(str, times))}": [video[t] for t in times]}
    if truth is not None:
        strips["truth"] = [255 * truth[t].unsqueeze(-1) for t in times]
    for name, found in detections.items():
        masks = [255 * found.mask[t].reshape(height, width, 1) for t in times]
        background = found.background.reshape(height, width, channels)
        strips[f"{name}, and its background"] = [*masks, background]

    axes = new_axes(len(strips), 1, (14.0, len(strips) * (2.75 * height / width + 0.4)))
    white = torch.full((height, width, 3), 255.0)
    gap = white[:, : max(1, width // 32)]
    for ax, (title, images) in zip(axes.flat, strips.items(), strict=True):
        # One image per strip: five tiles with gaps, white where there is no background.
        tiles = [image.float().expand(height, width, 3) for image in images]
        tiles += [white] * (5 - len(tiles))
        strip = torch.cat([part for tile in tiles for part in (tile, gap)][:-1], 1)
        ax.imshow(strip.clamp(0, 255).round().byte().numpy(), interpolation="nearest")
        ax.set_axis_off()
        ax.set_title(title, loc="left")
    return axes
