"""What TensorBoard shows, read back from the event files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from support.lightning_runs import fitted
from support.random_layers import rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training import EMCallback, GMMModule, MixtureLogger, draw_mixture, logger

# Event files hold float32.
FLOAT32 = 2e-7

Logged = tuple[EventAccumulator, GMMModule, EMCallback | None]
DATA = {"standardize": True, "val_fraction": 0.2, "batch_size": 20}


def logged(x: Tensor, folder: Path, fit: str = "em", passes: int = 4, **options: Any) -> Logged:
    logger = TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
    module, run = fitted(
        x,
        fit,
        MixtureLogger(every_n_passes=3),
        max_epochs=passes,
        logger=logger,
        data=DATA,
        **options,
    )
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    em = next((c for c in run.callbacks if isinstance(c, EMCallback)), None)
    return events, module, em


def series(events: EventAccumulator, tag: str) -> tuple[list[int], list[float]]:
    found = events.Scalars(tag)
    return [e.step for e in found], [e.value for e in found]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Logged]:
    """Four passes of both fits, with a picture after the third, read by several tests."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    x = rows(101, 2, torch.Generator().manual_seed(1))
    made = {fit: logged(x, tmp_path_factory.mktemp(fit), fit) for fit in ("em", "sgd")}
    torch.set_default_dtype(before)
    return made


@pytest.mark.parametrize("fit", ["em", "sgd"])
def test_every_pass_has_its_numbers(runs: dict[str, Logged], fit: str) -> None:
    events, module, _ = runs[fit]
    tags = set(events.Tags()["scalars"])
    own = {"train/log_likelihood", "train/objective", "val/log_likelihood"}
    names = ("weights", "effective_counts", "condition_number")
    own |= {f"{name}/{k}" for name in names for k in range(3)}
    own |= {f"means/{k}/x{i}" for k in range(3) for i in range(2)}
    assert own <= tags
    # Gradient descent also logs its batches, to which Lightning adds the epoch.
    assert tags - own == ({"train/nll"} if fit == "em" else {"train/nll", "epoch"})
    for tag in own:
        steps, _ = series(events, tag)
        assert steps == [0, 1, 2, 3], tag
    final = module.layer.weights.tolist()
    last = [series(events, f"weights/{k}")[1][-1] for k in range(3)]
    assert last == pytest.approx(final, rel=FLOAT32)
    condition = torch.linalg.cond(module.layer.covariance_matrix).tolist()
    last = [series(events, f"condition_number/{k}")[1][-1] for k in range(3)]
    assert last == pytest.approx(condition, rel=FLOAT32)
    per_pass = zip(*(series(events, f"effective_counts/{k}")[1] for k in range(3)), strict=True)
    # 101 rows, 20 of them for validation.
    assert [sum(counts) for counts in per_pass] == pytest.approx([81.0] * 4, rel=FLOAT32)


def test_the_objective_rises_and_is_the_callbacks_history(runs: dict[str, Logged]) -> None:
    events, module, em = runs["em"]
    assert em is not None
    _, values = series(events, "train/objective")
    units = float(module.standardize.log_abs_det)
    assert values == pytest.approx([value + units for value in em.history], rel=FLOAT32)
    assert values == sorted(values)


def test_pictures_come_when_due_and_at_the_end(runs: dict[str, Logged]) -> None:
    events, _, _ = runs["em"]
    assert events.Tags()["images"] == ["mixture"]
    images = events.Images("mixture")
    assert [image.step for image in images] == [0, 3, 4]
    assert all(image.width >= 300 and image.height >= 300 for image in images)


def test_a_second_fit_appends(x: Tensor, tmp_path: Path) -> None:
    logged(x, tmp_path / "events", passes=2)
    _, run = fitted(x, max_epochs=2, data=DATA)
    run.save_checkpoint(tmp_path / "a.ckpt")
    # TensorBoard reads files in the order of their names, which begin with the second.
    time.sleep(1 - time.time() % 1)
    events, _, _ = logged(x, tmp_path / "events", passes=4, ckpt_path=tmp_path / "a.ckpt")
    assert series(events, "train/objective")[0] == [0, 1, 2, 3]


def test_without_tensorboard_nothing_is_drawn(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("drawn")

    monkeypatch.setattr(logger, "draw_mixture", refuse)
    fitted(x, "em", MixtureLogger(every_n_passes=1), max_epochs=2)


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="every_n_passes must be an integer >= 1, got 0"):
        MixtureLogger(every_n_passes=0)


@pytest.mark.parametrize("num_features", [1, 2, 5])
def test_a_mixture_of_any_width_is_drawn(num_features: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, num_features, generator=generator) * 10.0 ** torch.arange(num_features)
    module, run = fitted(x, max_epochs=1, data={"standardize": True})
    figure = draw_mixture(module, run.datamodule)  # pyright: ignore[reportAttributeAccessIssue]
    assert figure.axes
    assert "3 components" in (figure.axes[0].get_title() or figure.get_suptitle())
