"""One mixture per pixel: masks against the truth, and every method against a simple reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread, imsave
from scipy.stats import norm
from sklearn.metrics import precision_recall_fscore_support
from support.example_runs import Finished, column, means
from torch import Generator, Tensor

import background_subtraction
from background_subtraction import (
    Settings,
    background_mixture,
    detect_with_median,
    detect_with_mixture,
    detect_with_running_gaussian,
    fit_by_em,
    pixel_mixtures,
)
from foreground_detection import best_threshold, precision_recall_f1
from gmm_lightning import GMMLayer
from synthetic_scene import synthetic_scene


def small_scene() -> tuple[Tensor, Tensor]:
    return synthetic_scene(40, 24, 32, Generator().manual_seed(3))


def test_it_finds_what_moves(finished: Callable[[str], Finished]) -> None:
    report = finished("background_subtraction").report
    f1 = means(report, "F1")
    assert f1["mixture, EM"] > 0.9
    # The baselines also take part with the threshold of highest F1.
    baselines = [score for name, score in f1.items() if not name.startswith("mixture")]
    assert len(baselines) == 4
    assert f1["mixture, EM"] > max(baselines)
    assert [path.name for path in report.figures] == ["background_subtraction.png"]


@pytest.mark.slow
def test_it_beats_its_baselines(tmp_path: Path) -> None:
    report = background_subtraction.main(["--output", str(tmp_path)])
    f1 = means(report, "F1")
    baselines = [score for name, score in f1.items() if not name.startswith("mixture")]
    for name in ("mixture, EM", "mixture, stepwise EM"):
        assert f1[name] > max(baselines) + 0.05


def test_a_video_from_a_file_or_a_folder_becomes_masks(tmp_path: Path) -> None:
    video, truth = small_scene()
    np.savez(tmp_path / "video.npz", frames=video.numpy())
    (tmp_path / "video").mkdir()
    for number, frame in enumerate(video.numpy()):
        imsave(tmp_path / "video" / f"{number:03d}.png", frame)
    masks = []
    for name in ("video.npz", "video"):
        output = tmp_path / f"of {name}"
        report = background_subtraction.main(
            ["--frames", str(tmp_path / name), "--output", str(output)]
        )
        files = sorted((output / "masks").iterdir())
        assert len(files) == len(video)
        masks.append(np.stack([imread(file)[..., 0] > 0.5 for file in files]))
        share = column(report, "foreground")["mixture, EM"]
        assert share == f"{masks[-1].mean():.2%}"
    np.testing.assert_array_equal(*masks)
    assert precision_recall_f1(torch.from_numpy(masks[0]), truth)[2] > 0.9


def test_videos_may_be_grey(tmp_path: Path) -> None:
    np.savez(tmp_path / "video.npz", small_scene()[0].numpy()[:2, ..., 0])
    report = background_subtraction.main(
        ["--frames", str(tmp_path / "video.npz"), "--output", str(tmp_path)]
    )
    assert len(report.tables[0]) == 5


def test_a_bad_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "video.npz").write_bytes(b"PK")
    output = tmp_path / "figures"
    with pytest.raises(SystemExit) as caught:
        background_subtraction.main(
            ["--frames", str(tmp_path / "video.npz"), "--output", str(output)]
        )
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"background_subtraction.py: error: {tmp_path}/video.npz cannot be read")
    assert not output.exists()


def test_the_score_is_the_log_odds_of_foreground() -> None:
    video, _ = small_scene()
    x = video.flatten(1, 2)[:, :50]
    settings = Settings()
    fitted: list[GMMLayer] = []

    def fit(layer: GMMLayer, x: Tensor, settings: Settings) -> None:
        fit_by_em(layer, x, settings)
        fitted.append(layer)

    score = detect_with_mixture(x, settings, fit).score
    layer = fitted[0]
    weights, centres = layer.weights.detach().double(), layer.means.detach().double()
    stds = layer.distribution().component_covariances.diagonal(dim1=-2, dim2=-1)
    stds = stds.detach().double().sqrt()
    for p in range(50):
        mean_std = stds[p].log().mean(-1).exp()
        total, density = 0.0, np.zeros(len(x))
        for k in (weights[p] / mean_std).argsort(descending=True).tolist():
            if total >= settings.background_weight:
                break
            total += float(weights[p, k])
            log_density = norm.logpdf(x[:, p].double(), centres[p, k], stds[p, k]).sum(-1)
            density += float(weights[p, k]) * np.exp(log_density)
        with np.errstate(divide="ignore"):
            log_background = np.log(density / total)
        expected = math.log(0.01 / 0.99) - 3 * math.log(256) - log_background
        # Far from a background its density is 0 in one of the two, and float32 has 7 digits.
        near = expected < 300
        np.testing.assert_allclose(score[near, p], expected[near], rtol=1e-3, atol=1e-3)
        assert bool((score[~near, p] > 300).all())


def test_the_weights_of_the_background_sum_to_one() -> None:
    weights = torch.tensor([[0.5, 0.4, 0.1], [0.9, 0.05, 0.05], [0.34, 0.33, 0.33]])
    layer = GMMLayer(1, 3, "diag", batch_shape=(3,))
    layer.set_parameters(weights, torch.zeros(3, 3, 1), torch.ones(3, 3, 1, 1))
    kept = background_mixture(layer.distribution(), 0.6).weights
    expected = torch.tensor([[5 / 9, 4 / 9, 0.0], [1.0, 0.0, 0.0], [0.34 / 0.67, 0.33 / 0.67, 0.0]])
    torch.testing.assert_close(kept.sort(descending=True).values, expected)


def test_means_start_far_apart() -> None:
    video, _ = small_scene()
    x = video.flatten(1, 2)[:, ::13]
    layer = pixel_mixtures(x, Settings())
    for p in range(x.shape[1]):
        rows = x[:, p].float()
        centres = [rows.median(0).values]
        for _ in range(2):
            distances = torch.stack([(rows - c).square().sum(-1) for c in centres])
            centres.append(rows[distances.amin(0).argmax()])
        torch.testing.assert_close(layer.means[p].detach(), torch.stack(centres))
    variances = layer.covariance_matrix.detach().diagonal(dim1=-2, dim2=-1)
    # Twice the noise of 4 grey levels.
    torch.testing.assert_close(variances, torch.full_like(variances, 64.0))


def test_scores_do_not_depend_on_the_chunks() -> None:
    x = small_scene()[0].flatten(1, 2)[:, :64]
    one, other = (
        detect_with_mixture(x, Settings(max_iter=5, chunk_frames=n), fit_by_em) for n in (7, 40)
    )
    # Sums in another order, rounded to the float32 of the parameters.
    torch.testing.assert_close(one.score, other.score, rtol=1e-3, atol=1e-3)
    assert one.background.shape == (64, 3)


def test_the_running_gaussian_is_the_plain_loop() -> None:
    x = small_scene()[0].flatten(1, 2)[:, :5]
    score = detect_with_running_gaussian(x, 4.0).score
    for p in range(5):
        mean, variance = x[0, p].double().numpy(), np.full(3, 16.0)
        for _ in range(2):
            distances = []
            for row in x[:, p].double().numpy():
                distances.append(np.max(np.abs(row - mean) / np.sqrt(variance)))
                difference = row - mean
                mean = mean + 0.05 * difference
                variance = np.maximum(0.95 * variance + 0.05 * difference**2, 16.0)
        # float32 over eighty steps.
        np.testing.assert_allclose(score[:, p], distances, rtol=1e-3, atol=1e-3)


def test_the_median_is_a_colour_that_was_there() -> None:
    x = small_scene()[0].flatten(1, 2)[:, :9]
    found = detect_with_median(x)
    # Of an even number of frames torch takes the lower of the two in the middle.
    lower = np.sort(x.numpy(), 0)[(len(x) - 1) // 2].astype(np.float32)
    np.testing.assert_array_equal(found.background, lower)
    np.testing.assert_array_equal(found.score, np.abs(x.numpy() - lower).max(-1))
    assert torch.equal(found.mask, found.score > 30)


def test_precision_recall_f1_and_the_best_threshold() -> None:
    generator = Generator().manual_seed(0)
    truth = torch.rand(20, 30, generator=generator) < 0.2
    score = (truth + torch.randn(20, 30, generator=generator)).mul(4).round()
    mask = score > 2
    expected = precision_recall_fscore_support(truth.flatten(), mask.flatten(), average="binary")
    assert precision_recall_f1(mask, truth) == pytest.approx(expected[:3])
    best = max(precision_recall_f1(score > v, truth)[2] for v in score.unique())
    found = best_threshold(score, truth)
    assert precision_recall_f1(score > found, truth)[2] == pytest.approx(best)
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    assert precision_recall_f1(nothing, nothing) == (0.0, 0.0, 0.0)
