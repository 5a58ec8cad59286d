"""A photograph as a mixture: bits and errors against simple references, and its baselines."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from support.example_runs import Finished, means
from torch import Generator

import segment_image
from gmm_lightning import GMMLayer
from reporting import Reporter
from segment_image import (
    borders,
    cheapest_labels,
    compress,
    k_means,
    load_picture,
    log_prob_given_position,
    pixel_features,
    psnr,
)


def check(report: Reporter, num_components: int) -> None:
    bits, error = (means(report, name, 1) for name in ("bits per pixel", "PSNR (dB)"))
    ours, theirs = "mixture, by colour and bits", "k-means, at least as many bits"
    assert bits["mixture, most probable component"] < bits[ours] <= bits[theirs]
    # With the same number of colours k-means has a smaller error, for more bits.
    same = f"k-means, {num_components} colours"
    assert error[same] > error[ours]
    assert bits[same] > bits[ours]
    density = means(report, "log density (nats)")
    assert density["GMMLayer"] > density["scikit-learn"] - 0.2


def test_a_small_picture(finished: Callable[[str], Finished]) -> None:
    report = finished("segment_image").report
    check(report, 6)
    assert [path.name for path in report.figures] == ["segment_image.png"]


@pytest.mark.slow
def test_it_beats_its_baselines(tmp_path: Path) -> None:
    report = segment_image.main(["--output", str(tmp_path)])
    check(report, 12)
    error = means(report, "PSNR (dB)", 1)
    # In a small picture the parameters alone would take the difference.
    better = error["mixture, by colour and bits"] - error["k-means, at least as many bits"]
    assert better > 1.5
    seconds = means(report, "seconds of the fit")
    assert seconds["GMMLayer"] < seconds["scikit-learn"]


def fitted() -> tuple[GMMLayer, torch.Tensor]:
    generator = Generator().manual_seed(0)
    x = torch.rand(200, 5, generator=generator)
    layer = GMMLayer(5, 3)
    factor = 0.3 * torch.randn(3, 5, 5, generator=generator)
    matrix = factor @ factor.mT + 0.1 * torch.eye(5)
    layer.set_parameters(torch.tensor([0.2, 0.3, 0.5]), x[:3], matrix)
    return layer, x


def test_bits_are_those_of_the_receiver() -> None:
    layer, x = fitted()
    log_prior = log_prob_given_position(layer, x)
    with torch.no_grad():
        mixture = layer.distribution()
        weights, centres = layer.weights, layer.means.detach()
    for n in range(0, 200, 17):
        joint = [
            math.log(float(weights[k]))
            + float(
                torch.distributions.MultivariateNormal(
                    centres[k, :2], mixture.component_covariances[k, :2, :2]
                ).log_prob(x[n, :2])
            )
            for k in range(3)
        ]
        expected = np.array(joint) - np.logaddexp.reduce(joint)
        np.testing.assert_allclose(log_prior[n], expected, atol=1e-4)
    bits, error = compress(layer, x, 0.05, 0)["mixture, most probable component"]
    label = layer.predict(x)
    label_bits = -log_prior[torch.arange(200), label].mean().item() / math.log(2)
    # 2 weights, 15 entries of means and 45 of covariances, of 32 bits each.
    assert bits == pytest.approx(label_bits + 62 * 32 / 200, rel=1e-5)
    compressed = layer.means.detach()[label][:, 2:]
    square = np.mean((x[:, 2:] - compressed).numpy().astype(float) ** 2)
    assert error == pytest.approx(10 * math.log10(1 / square), rel=1e-5)


def test_labels_weigh_error_against_bits() -> None:
    layer, x = fitted()
    log_prior, centres = log_prob_given_position(layer, x), layer.means.detach()[:, 2:]
    found = cheapest_labels(log_prior, x[:, 2:], centres, 0.1)
    for n in range(200):
        cost = [
            float(((x[n, 2:] - m) ** 2).sum()) / 0.02 - float(log_prior[n, k])
            for k, m in enumerate(centres)
        ]
        assert cost[int(found[n])] == pytest.approx(min(cost), abs=1e-3)
    nearest = torch.cdist(x[:, 2:], centres).argmin(-1)
    assert torch.equal(cheapest_labels(log_prior, x[:, 2:], centres, 1e-4), nearest)
    most_probable = log_prior.argmax(-1)
    assert torch.equal(cheapest_labels(log_prior, x[:, 2:], centres, 1e4), most_probable)


def test_k_means_costs_its_entropy() -> None:
    colors = torch.tensor([[0.0, 0.0, 0.0]] * 30 + [[1.0, 0.5, 0.0]] * 10 + [[1.0, 0.5, 0.1]] * 10)
    (bits, error), compressed = k_means(colors, 2, seed=0)
    assert bits == pytest.approx(entropy([0.6, 0.4], base=2) + 2 * 3 * 32 / 50)
    # Twenty of fifty pixels are off by 0.05 in one of three colours.
    assert error == pytest.approx(-10 * math.log10(0.4 * 0.05**2 / 3), rel=1e-5)
    assert error == psnr(colors, compressed)


def test_rows_are_positions_in_heights_and_colours() -> None:
    picture = torch.rand(4, 6, 3)
    x = pixel_features(picture).reshape(4, 6, 5)
    assert x[2, 5].tolist() == [0.5, 1.25, *picture[2, 5].tolist()]


def test_borders_lie_between_components() -> None:
    label = torch.tensor([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    expected = [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert borders(label.flatten(), 3, 3).reshape(3, 3).int().tolist() == expected


def test_photographs_are_read() -> None:
    picture = load_picture("flower.jpg")
    assert picture.shape == (427, 640, 3)
    assert 0 <= float(picture.min()) < float(picture.max()) <= 1
