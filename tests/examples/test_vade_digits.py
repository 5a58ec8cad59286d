"""Digits without labels: what must hold of a short run, and of a whole one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from support.example_runs import Finished, means
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import vade_digits
from vade_digits import (
    BEFORE,
    JOINT,
    K_MEANS,
    METHODS,
    NUM_DRAWS,
    PIXELS,
    SKLEARN,
    MixtureAutoencoder,
    accuracy,
    components_in_use,
)


def test_a_short_run(finished: Callable[[str], Finished]) -> None:
    report = finished("vade_digits").report
    found = means(report, "rows in their digit")
    assert list(found) == list(METHODS)
    assert all(0.3 < share <= 1 for share in found.values())
    # Joint training continues from the fit by EM.
    assert abs(found[JOINT] - found[BEFORE]) < 0.05
    assert [path.name for path in report.figures] == ["vade_digits.png"]
    events = EventAccumulator(str(report.folder / "tensorboard" / "version_0")).Reload()
    # Before training and after each of two epochs of six steps.
    assert [image.step for image in events.Images("digits per component")] == [0, 6, 12]
    assert len(events.Scalars("clusters/accuracy")) == 3
    assert [event.value for event in events.Scalars("clusters/in_use")] == [10.0] * 3


def test_the_start_is_the_best_linear_autoencoder() -> None:
    x = torch.as_tensor(load_digits().data, dtype=torch.float32) / 16
    model = MixtureAutoencoder(x, 16, beta=1.0, num_hidden=8)
    mean, scale = (part.detach() for part in model.encode(x))
    reference = PCA(16).fit(x.double().numpy())
    rebuilt = torch.as_tensor(reference.inverse_transform(reference.transform(x.double().numpy())))
    torch.testing.assert_close(model.decode(mean).detach().double(), rebuilt, rtol=0, atol=1e-5)
    residual = (x - rebuilt).square().sum(-1).mean() / (64 - 16)
    expected = residual.expand_as(scale)
    torch.testing.assert_close(scale.double().square(), expected, rtol=1e-4, atol=0)
    images = model.sample_digits(torch.Generator().manual_seed(0))
    assert images.shape == (10 * (NUM_DRAWS + 1), 64)


def test_accuracy_matches_components_and_classes_one_to_one() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    assert accuracy(torch.tensor([2, 2, 2, 0, 0, 1]), labels) == 1.0
    # With all rows in one component one class is right, whatever the component's number.
    assert accuracy(torch.full((6,), 4), labels) == 0.5
    # By trying every pairing.
    generator = torch.Generator().manual_seed(0)
    found = torch.randint(3, (200,), generator=generator)
    truth = torch.randint(3, (200,), generator=generator)
    orders = ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
    best = max(float(np.mean(np.take(order, found) == truth.numpy())) for order in orders)
    assert accuracy(found, truth) == pytest.approx(best, abs=1e-12)


def test_components_in_use_hold_a_tenth_of_an_even_share() -> None:
    assert components_in_use(torch.tensor([0] * 95 + [1] * 5), 2) == 2
    assert components_in_use(torch.tensor([0] * 96 + [1] * 4), 2) == 1


@pytest.mark.slow
def test_it_beats_its_baselines(tmp_path: Path) -> None:
    report = vade_digits.main(["--output", str(tmp_path)])
    found = means(report, "rows in their digit")
    assert found[JOINT] > max(found[name] for name in (PIXELS, SKLEARN, K_MEANS)) + 0.03
    assert found[JOINT] > found[BEFORE] - 0.01
