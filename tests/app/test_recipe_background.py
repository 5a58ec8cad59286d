"""One mixture per pixel: masks of what moves, against their truth and simple references."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread, imsave
from omegaconf import OmegaConf
from scipy.stats import norm
from sklearn.metrics import precision_recall_fscore_support
from torch import Generator, Tensor
from trainers import ROOT

from gmm_lightning.app.movement import (
    Options,
    backgrounds,
    best_limit,
    by_em,
    of_mixture,
    of_running_gaussian,
    quality,
    start_apart,
)
from gmm_lightning.app.recipes.account import Account
from gmm_lightning.app.recipes.background import background
from gmm_lightning.app.scenes import scene
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer

OPTIONS = Options(3, 4.0, 0.8, 0.01, 10, 10)
SMALL: dict[str, Any] = {"num_frames": 40, "height": 24, "width": 32, "num_seeds": 2}


def f1(account: Account) -> dict[str, float]:
    header, *rows = account.tables[0]
    at = list(header).index("F1")
    return {str(row[0]): float(str(row[at]).split(" ± ")[0]) for row in rows}


def small_scene() -> tuple[Tensor, Tensor]:
    return scene(40, 24, 32, Generator().manual_seed(3))


def test_it_finds_what_moves(tmp_path: Path) -> None:
    account = Account(tmp_path)
    background(account, **SMALL)
    scores = f1(account)
    assert scores["mixture, EM"] > 0.9
    # The baselines take part with the limit that suits the truth best.
    others = [score for name, score in scores.items() if not name.startswith("mixture")]
    assert len(others) == 4
    assert scores["mixture, EM"] > max(others)
    assert [path.name for path in account.pictures] == ["background.png"]


@pytest.mark.slow
def test_it_beats_its_baselines(tmp_path: Path) -> None:
    options: dict[str, Any] = OmegaConf.to_container(  # pyright: ignore
        OmegaConf.load(ROOT / "configs" / "recipe" / "background.yaml")
    )
    del options["_target_"]
    account = Account(tmp_path)
    background(account, **options)
    scores = f1(account)
    others = [score for name, score in scores.items() if not name.startswith("mixture")]
    for name in ("mixture, EM", "mixture, stepwise EM"):
        assert scores[name] > max(others) + 0.05


def test_a_clip_from_a_file_or_a_folder_leaves_its_masks(tmp_path: Path) -> None:
    clip, truth = small_scene()
    np.savez(tmp_path / "clip.npz", frames=clip.numpy())
    (tmp_path / "clip").mkdir()
    for number, frame in enumerate(clip.numpy()):
        imsave(tmp_path / "clip" / f"{number:03d}.png", frame)
    masks = []
    for name in ("clip.npz", "clip"):
        account = Account(tmp_path / f"of {name}")
        background(account, frames=str(tmp_path / name))
        files = sorted((account.folder / "masks").iterdir())
        assert len(files) == len(clip)
        masks.append(np.stack([imread(file)[..., 0] > 0.5 for file in files]))
        share = dict(row[:2] for row in account.tables[0][1:])["mixture, EM"]  # pyright: ignore
        assert share == f"{masks[-1].mean():.2%}"
    np.testing.assert_array_equal(*masks)
    assert quality(torch.from_numpy(masks[0]), truth)[2] > 0.9


def test_grey_clips_will_do(tmp_path: Path) -> None:
    np.savez(tmp_path / "clip.npz", small_scene()[0].numpy()[:2, ..., 0])
    account = Account(tmp_path)
    background(account, frames=str(tmp_path / "clip.npz"))
    assert len(account.tables[0]) == 5


def test_evidence_is_the_odds_against_any_colour() -> None:
    clip, _ = small_scene()
    x = clip.flatten(1, 2)[:, :50]
    kept: list[GMMLayer] = []

    def fit(layer: GMMLayer, x: Tensor, options: Options) -> None:
        by_em(layer, x, options)
        kept.append(layer)

    found = of_mixture(x, OPTIONS, fit).evidence
    layer = kept[0]
    weights, means = layer.weights.detach().double(), layer.means.detach().double()
    deviations = layer.distribution().component_covariances.diagonal(dim1=-2, dim2=-1)
    deviations = deviations.detach().double().sqrt()
    for p in range(50):
        spread = deviations[p].log().mean(-1).exp()
        total, density = 0.0, np.zeros(len(x))
        for k in (weights[p] / spread).argsort(descending=True).tolist():
            if total >= OPTIONS.background_fraction:
                break
            total += float(weights[p, k])
            each = norm.logpdf(x[:, p].double(), means[p, k], deviations[p, k])
            density += float(weights[p, k]) * np.exp(each.sum(-1))
        with np.errstate(divide="ignore"):
            backdrop = np.log(density / total)
        expected = math.log(0.01 / 0.99) - 3 * math.log(256) - backdrop
        # Far from a background its density is 0 in one of the two, and float32 has 7 digits.
        near = expected < 300
        np.testing.assert_allclose(found[near, p], expected[near], rtol=1e-3, atol=1e-3)
        assert bool((found[~near, p] > 300).all())


def test_the_backgrounds_weights_sum_to_one() -> None:
    weights = torch.tensor([[0.5, 0.4, 0.1], [0.9, 0.05, 0.05], [0.34, 0.33, 0.33]])
    layer = GMMLayer(1, 3, "diag", batch_shape=(3,))
    layer.set_parameters(weights, torch.zeros(3, 3, 1), torch.ones(3, 3, 1, 1))
    kept = backgrounds(layer.distribution(), 0.6).weights
    expected = torch.tensor([[5 / 9, 4 / 9, 0.0], [1.0, 0.0, 0.0], [0.34 / 0.67, 0.33 / 0.67, 0.0]])
    torch.testing.assert_close(kept.sort(descending=True).values, expected)


def test_starts_are_far_apart() -> None:
    clip, _ = small_scene()
    x = clip.flatten(1, 2)[:, ::13]
    layer = GMMLayer(3, 3, "diag", batch_shape=(x.shape[1],))
    start_apart(layer, x, noise=4.0)
    for p in range(x.shape[1]):
        rows = x[:, p].float()
        centres = [rows.median(0).values]
        for _ in range(2):
            gaps = torch.stack([(rows - c).square().sum(-1) for c in centres])
            centres.append(rows[gaps.amin(0).argmax()])
        torch.testing.assert_close(layer.means[p].detach(), torch.stack(centres))


def test_masks_do_not_depend_on_the_blocks() -> None:
    x = small_scene()[0].flatten(1, 2)[:, :64]
    one, other = (of_mixture(x, Options(3, 4.0, 0.8, 0.01, 5, n), by_em) for n in (7, 40))
    # Sums in another order, rounded to the float32 of the parameters.
    torch.testing.assert_close(one.evidence, other.evidence, rtol=1e-3, atol=1e-3)
    assert one.picture.shape == (64, 3)


def test_the_running_gaussian_is_the_plain_loop() -> None:
    x = small_scene()[0].flatten(1, 2)[:, :5]
    found = of_running_gaussian(x, 4.0).evidence
    for p in range(5):
        mean, variance = x[0, p].double().numpy(), np.full(3, 16.0)
        for _ in range(2):
            radii = []
            for row in x[:, p].double().numpy():
                radii.append(np.max(np.abs(row - mean) / np.sqrt(variance)))
                gap = row - mean
                mean = mean + 0.05 * gap
                variance = np.maximum(0.95 * variance + 0.05 * gap**2, 16.0)
        # float32 over eighty steps.
        np.testing.assert_allclose(found[:, p], radii, rtol=1e-3, atol=1e-3)


def test_quality_and_the_best_limit() -> None:
    generator = Generator().manual_seed(0)
    truth = torch.rand(20, 30, generator=generator) < 0.2
    evidence = (truth + torch.randn(20, 30, generator=generator)).mul(4).round()
    mask = evidence > 2
    expected = precision_recall_fscore_support(truth.flatten(), mask.flatten(), average="binary")
    assert quality(mask, truth) == pytest.approx(expected[:3])
    best = max(quality(evidence > v, truth)[2] for v in evidence.unique())
    assert quality(evidence > best_limit(evidence, truth), truth)[2] == pytest.approx(best)
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    assert quality(nothing, nothing) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("option", [{"noise": 0.0}, {"num_frames": 1}], ids=str)
def test_options_out_of_range_are_typed(option: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="at least 2"):
        background(Account(tmp_path), **option)


def test_on_the_command_line(tmp_path: Path, failing: Callable[..., Any]) -> None:
    out = failing("background", f"recipe.frames={tmp_path}/none.npz", name="example")
    assert out.code == 1
    assert "none.npz: no such file or folder" in out.message
    out = failing("background", "recipe.frames=7", name="example")
    assert "recipe.frames must be a path" in out.message
