"""Digits without labels: what must hold of a short run, and of a whole one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainers import ROOT

from gmm_lightning.app.recipes.account import Account
from gmm_lightning.app.recipes.vade_digits import (
    DRAWS,
    MEANS,
    METHODS,
    OURS,
    PLAIN,
    START,
    THEIRS,
    MixtureAutoencoder,
    accuracy,
    in_use,
    vade_digits,
)
from gmm_lightning.errors import InvalidArgumentError


def shares(account: Account) -> dict[str, float]:
    _, *rows = account.tables[0]
    return {str(row[0]): float(str(row[1]).split(" ± ")[0]) for row in rows}


def test_a_short_run(tmp_path: Path) -> None:
    account = Account(tmp_path)
    vade_digits(account, epochs=2, picture_every=1, num_restarts=2, num_seeds=1)
    found = shares(account)
    assert list(found) == list(METHODS)
    assert all(0.3 < share <= 1 for share in found.values())
    # Joint training goes on from where the hand-over ends.
    assert abs(found[OURS] - found[START]) < 0.05
    assert [path.name for path in account.pictures] == ["vade_digits.png"]
    events = EventAccumulator(str(tmp_path / "tensorboard" / "version_0")).Reload()
    # Before training and after each of two passes of six steps.
    pictures = events.Images("digits per component")
    assert [picture.step for picture in pictures] == [0, 6, 12]
    assert len(events.Scalars("clusters/accuracy")) == 3
    assert [event.value for event in events.Scalars("clusters/in_use")] == [10.0] * 3


def test_the_start_is_the_best_linear_autoencoder() -> None:
    x = torch.as_tensor(load_digits().data, dtype=torch.float32) / 16
    model = MixtureAutoencoder(x, 16, 8, 10, "tied", beta=1.0, learning_rate=1e-3)
    mean, scale = (part.detach() for part in model.posterior(x))
    reference = PCA(16).fit(x.double().numpy())
    rebuilt = torch.as_tensor(reference.inverse_transform(reference.transform(x.double().numpy())))
    torch.testing.assert_close(model.decode(mean).detach().double(), rebuilt, rtol=0, atol=1e-5)
    left = (x - rebuilt).square().sum(-1).mean() / (64 - 16)
    torch.testing.assert_close(scale.double().square(), left.expand_as(scale), rtol=1e-4, atol=0)
    assert model.new_digits(torch.Generator().manual_seed(0)).shape == (10 * (DRAWS + 1), 64)


def test_accuracy_matches_components_and_classes_one_to_one() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    assert accuracy(torch.tensor([2, 2, 2, 0, 0, 1]), labels) == 1.0
    # All rows in one component are right in one class only, whatever the others' numbers.
    assert accuracy(torch.full((6,), 4), labels) == 0.5
    # By trying every pairing.
    generator = torch.Generator().manual_seed(0)
    found = torch.randint(3, (200,), generator=generator)
    truth = torch.randint(3, (200,), generator=generator)
    orders = ([0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])
    best = max(float(np.mean(np.take(order, found) == truth.numpy())) for order in orders)
    assert accuracy(found, truth) == pytest.approx(best, abs=1e-12)


def test_components_in_use_hold_a_tenth_of_an_even_share() -> None:
    assert in_use(torch.tensor([0] * 95 + [1] * 5), 2) == 2
    assert in_use(torch.tensor([0] * 96 + [1] * 4), 2) == 1


def test_as_many_codes_as_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="num_codes must be below 64, got 64"):
        vade_digits(Account(tmp_path), num_codes=64)


@pytest.mark.slow
def test_it_beats_its_baselines(tmp_path: Path) -> None:
    options: dict[str, Any] = OmegaConf.to_container(  # pyright: ignore
        OmegaConf.load(ROOT / "configs" / "recipe" / "vade_digits.yaml")
    )
    options.pop("_target_")
    account = Account(tmp_path)
    vade_digits(account, **options)
    found = shares(account)
    assert found[OURS] > max(found[name] for name in (PLAIN, THEIRS, MEANS)) + 0.03
    assert found[OURS] > found[START] - 0.01
