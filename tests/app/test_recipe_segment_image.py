"""A photograph as a mixture: its bits and errors by simple references, and what it beats."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from scipy.stats import entropy
from torch import Generator
from trainers import ROOT

from gmm_lightning.app.recipes.account import Account
from gmm_lightning.app.recipes.segment_image import (
    borders,
    compressed,
    frugal_labels,
    given_place,
    k_means,
    load_picture,
    pixels,
    psnr,
    segment_image,
)
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import GMMLayer


def column(account: Account, table: int, name: str) -> dict[str, float]:
    header, *rows = account.tables[table]
    at = list(header).index(name)
    return {str(row[0]): float(str(row[at]).split(" ± ")[0]) for row in rows}


def check(account: Account, num_components: int) -> None:
    bits, error = (column(account, 1, name) for name in ("bits per pixel", "PSNR (dB)"))
    ours, theirs = "mixture, by colour and bits", "k-means, at least as many bits"
    assert bits["mixture, most probable component"] < bits[ours] <= bits[theirs]
    # With as many colours k-means is nearer to them, for more bits.
    same = f"k-means, {num_components} colours"
    assert error[same] > error[ours]
    assert bits[same] > bits[ours]
    density = column(account, 0, "log density (nats)")
    assert density["GMMLayer"] > density["scikit-learn"] - 0.2


def test_a_small_picture(tmp_path: Path) -> None:
    account = Account(tmp_path)
    segment_image(account, step=6, num_components=6, num_seeds=2)
    check(account, 6)
    assert [path.name for path in account.pictures] == ["segment_image.png"]


@pytest.mark.slow
def test_it_beats_its_baselines(tmp_path: Path) -> None:
    options: dict[str, Any] = OmegaConf.to_container(  # pyright: ignore
        OmegaConf.load(ROOT / "configs" / "recipe" / "segment_image.yaml")
    )
    del options["_target_"]
    account = Account(tmp_path)
    segment_image(account, **options)
    check(account, options["num_components"])
    error = column(account, 1, "PSNR (dB)")
    # For as many bits, which in a small picture the parameters would use up.
    better = error["mixture, by colour and bits"] - error["k-means, at least as many bits"]
    assert better > 1.5
    seconds = column(account, 0, "seconds of the fit")
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
    prior = given_place(layer, x)
    with torch.no_grad():
        mixture = layer.distribution()
        weights, means = layer.weights, layer.means.detach()
    for n in range(0, 200, 17):
        joint = [
            math.log(float(weights[k]))
            + float(
                torch.distributions.MultivariateNormal(
                    means[k, :2], mixture.component_covariances[k, :2, :2]
                ).log_prob(x[n, :2])
            )
            for k in range(3)
        ]
        expected = np.array(joint) - np.logaddexp.reduce(joint)
        np.testing.assert_allclose(prior[n], expected, atol=1e-4)
    bits, error = compressed(layer, x, 0.05, 0)["mixture, most probable component"]
    label = layer.predict(x)
    own = -prior[torch.arange(200), label].mean().item() / math.log(2)
    # 2 weights, 15 entries of means and 45 of covariances, of 32 bits each.
    assert bits == pytest.approx(own + 62 * 32 / 200, rel=1e-5)
    flat = layer.means.detach()[label][:, 2:]
    square = np.mean((x[:, 2:] - flat).numpy().astype(float) ** 2)
    assert error == pytest.approx(10 * math.log10(1 / square), rel=1e-5)


def test_frugal_labels_weigh_error_against_bits() -> None:
    layer, x = fitted()
    prior, means = given_place(layer, x), layer.means.detach()[:, 2:]
    found = frugal_labels(prior, x[:, 2:], means, 0.1)
    for n in range(200):
        cost = [
            float(((x[n, 2:] - m) ** 2).sum()) / 0.02 - float(prior[n, k])
            for k, m in enumerate(means)
        ]
        assert cost[int(found[n])] == pytest.approx(min(cost), abs=1e-3)
    nearest = torch.cdist(x[:, 2:], means).argmin(-1)
    assert torch.equal(frugal_labels(prior, x[:, 2:], means, 1e-4), nearest)
    assert torch.equal(frugal_labels(prior, x[:, 2:], means, 1e4), prior.argmax(-1))


def test_k_means_costs_its_entropy() -> None:
    colours = torch.tensor([[0.0, 0.0, 0.0]] * 30 + [[1.0, 0.5, 0.0]] * 10 + [[1.0, 0.5, 0.1]] * 10)
    bits, error, flat = k_means(colours, 2, seed=0)
    assert bits == pytest.approx(entropy([0.6, 0.4], base=2) + 2 * 3 * 32 / 50)
    # Twenty of fifty pixels are off by 0.05 in one of three colours.
    assert error == pytest.approx(-10 * math.log10(0.4 * 0.05**2 / 3), rel=1e-5)
    assert error == psnr(colours, flat)


def test_rows_are_places_in_heights_and_colours() -> None:
    picture = torch.rand(4, 6, 3)
    x = pixels(picture).reshape(4, 6, 5)
    assert x[2, 5].tolist() == [0.5, 1.25, *picture[2, 5].tolist()]


def test_borders_lie_between_components() -> None:
    label = torch.tensor([[0, 0, 1], [0, 0, 1], [2, 2, 2]])
    expected = [[0, 1, 0], [1, 1, 1], [0, 0, 0]]
    assert borders(label.flatten(), (3, 3, 3)).reshape(3, 3).int().tolist() == expected


def test_photographs_are_read() -> None:
    picture = load_picture("flower.jpg")
    assert picture.shape == (427, 640, 3)
    assert 0 <= float(picture.min()) < float(picture.max()) <= 1


@pytest.mark.parametrize(
    ("option", "said"),
    [({"image": "cat.jpg"}, "china.jpg, flower.jpg, got 'cat.jpg'"), ({"colour_noise": 0}, "> 0")],
    ids=str,
)
def test_options_out_of_range_are_typed(option: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        segment_image(Account(tmp_path), **option)
