"""Batches of many small mixtures: each as if fitted alone, and their repairs counted."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Size, Tensor

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.em import (
    CollapseCount,
    Collapsed,
    CollapseEvent,
    MixtureModel,
    MixtureParameters,
    event_log,
    initialize_layer,
)
from gmm_lightning.em.event_log import EventLog
from gmm_lightning.em.expectation import EStep
from gmm_lightning.em.plan import plans_by_precision
from gmm_lightning.errors import CollapseError
from gmm_lightning.rows import as_source

pytestmark = pytest.mark.usefixtures("double")
MANY = event_log.MAX_LISTED + 20


def flat_rows() -> Tensor:
    """Rows of `MANY` mixtures; in every third of them half of the rows are one value."""
    x = torch.randn(24, MANY, 1)
    x[:12, ::3] = 9.0
    return x


def labels() -> Tensor:
    return (torch.arange(24) >= 12).long()


def listed(monkeypatch: pytest.MonkeyPatch, fit: Callable[[], list[object]]) -> list[object]:
    """What a fit reports where every event is listed."""
    with monkeypatch.context() as patch:
        patch.setattr(event_log, "MAX_LISTED", 10**9)
        return fit()


def test_repairs_of_many_mixtures_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    x = flat_rows()

    def fit() -> list[object]:
        layer = GMMLayer(1, 2, batch_shape=(MANY // 4, 4))
        rows = x.unflatten(1, (-1, 4))
        return list(fit_em(layer, rows, initializer=labels(), max_iter=5).events)

    (count,), single = fit(), listed(monkeypatch, fit)
    assert isinstance(count, CollapseCount)
    assert all(isinstance(event, CollapseEvent) for event in single)
    assert count.action == "floored"
    assert count.num_components == count.num_mixtures == len(range(0, MANY, 3)) == len(single)
    assert list(count.examples) == single[:3]
    assert [event.component for event in count.examples] == [(0, 0, 0), (0, 3, 0), (1, 2, 0)]
    assert not count.is_reseed
    text = f"40 components of 40 mixtures were floored, the first: {count.examples[0]}"
    assert (MANY, str(count)) == (120, text)


def test_repairs_of_a_start_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    x = flat_rows()

    def start() -> list[object]:
        return list(initialize_layer(GMMLayer(1, 2, batch_shape=(MANY,)), x, labels()))

    (count,) = start()
    assert isinstance(count, CollapseCount)
    assert list(count.examples) == listed(monkeypatch, start)[:3]


def test_a_start_that_is_given_up_is_named() -> None:
    x = flat_rows()
    layer = GMMLayer(1, 2, batch_shape=(MANY,))
    with pytest.raises(CollapseError, match="component 0, 0, iteration 0: flat"):
        fit_em(layer, x, initializer=labels(), collapse="raise")


def collapsed(floored: list[list[bool]], moved: list[list[bool]]) -> Collapsed:
    where, numbers = torch.tensor(floored), torch.ones(len(floored), 2)
    return Collapsed(where, torch.zeros_like(where), numbers, numbers, torch.tensor(moved))


def test_a_repair_is_logged_once_while_it_lasts() -> None:
    log, nothing = EventLog(3), [[False, False]] * 2
    log.add(collapsed([[True, False], [True, True]], nothing), torch.tensor([0, 2]), 0)
    # Another action of one component is another event; the third run has ended.
    log.add(collapsed([[True, True]], [[True, False]]), torch.tensor([0]), 1)
    log.add(collapsed([[True, True]], [[False, False]]), torch.tensor([0]), 2)
    log.add(None, torch.tensor([0]), 3)
    log.add(collapsed([[False, True]], [[False, False]]), torch.tensor([0]), 4)

    def found(*runs: int) -> list[tuple[int, tuple[int, ...], str]]:
        events = log.events(torch.tensor(runs), Size([len(runs)]))
        assert all(isinstance(event, CollapseEvent) for event in events)
        return [(e.iteration, e.component, e.action) for e in events]  # type: ignore[union-attr]

    own = [
        *[(0, (0, 0), "floored"), (1, (0, 1), "floored"), (1, (0, 0), "reseeded")],
        *[(2, (0, 0), "floored"), (4, (0, 1), "floored")],
    ]
    assert found(0) == own
    assert found(1) == []
    others = [(0, (1, 0), "floored"), (0, (1, 1), "floored")]
    assert found(0, 2) == [own[0], *others, *own[1:]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", ["full", "diag"])
def test_each_mixture_has_its_precision(family: str, dtype: torch.dtype) -> None:
    # Two clusters that are 4, 1e3 and 1e6 deviations apart: float32, float64, differences.
    scale = torch.tensor([1.0, 1e-3, 1e-6, 1.0]).to(dtype)
    gap = torch.tensor([4.0, 1.0, 1.0, 4.0]).to(dtype)
    x = torch.randn(600, 4, 2, dtype=dtype) * scale[:, None]
    x[300:] += gap[:, None]
    layer = GMMLayer(2, 2, family, batch_shape=(4,), dtype=dtype)
    means = torch.stack([torch.zeros(4, 2), gap[:, None].expand(4, 2)], 1)
    layer.set_parameters(
        torch.ones(4, 2), means, scale.square()[:, None, None].expand(4, 2, 2).diag_embed()
    )
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    assert len(plans_by_precision(model, parameters)) == (3 if dtype == torch.float32 else 2)
    e_step = EStep(as_source(x, num_features=2, batch_shape=Size([4])), model, None)
    found = e_step(model, parameters)
    # Sums of 600 terms, chunked otherwise.
    tolerance = 600 * torch.finfo(dtype).eps
    for m in range(4):
        index = torch.tensor([m])
        alone = e_step(model.select(index), parameters.select(index))
        for name, unit in (("counts", 1.0), ("first", scale[m]), ("second", scale[m] ** 2)):
            mine, expected = getattr(found, name)[m], getattr(alone, name)[0]
            atol = float(300 * tolerance * unit)
            torch.testing.assert_close(mine, expected, rtol=tolerance, atol=atol)
