"""What all metrics have in common: they add, move, are stored, and refuse what does not fit."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from support import metric_cases
from support.lightning_runs import ROOT, script
from support.metric_cases import MAKE, NUM_ROWS, K, Rows
from torch import nn
from torchmetrics import MetricCollection

from gmm_lightning import MixtureOfGaussians, metrics
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.metrics._sums import SumMetric

every = pytest.mark.parametrize("name", MAKE)
RANDOM = {"energy"}
# A hundred terms of order 1 to 100, added in another order: sums are in float64 whatever the rows
# are in.
ROUNDING = 1e-13


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = ROUNDING) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def line() -> MixtureOfGaussians:
    """One standard normal for all rows."""
    return MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))


def state(metric: SumMetric) -> dict[str, Any]:
    return {name: value.clone() for name, value in metric.metric_state.items()}


def unmoved(metric: SumMetric, before: dict[str, Any]) -> bool:
    """The same states bit for bit, in float64."""
    after = metric.metric_state
    return all(
        after[name].dtype == torch.float64 and torch.equal(after[name], value)
        for name, value in before.items()
    )


def test_every_public_metric_is_tested() -> None:
    public = {name for name in metrics.__all__ if isinstance(getattr(metrics, name), type)}
    assert public == {type(make(0)).__name__ for make in MAKE.values()}


# -- sums -----------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("weighted", [True, False])
def test_any_split_merges_to_the_whole(name: str, weighted: bool) -> None:
    rows = Rows.make()
    rows.weight = rows.weight if weighted else None
    sizes = (1, 40, NUM_ROWS - 41)
    whole, merged, one_by_one = MAKE[name](0), MAKE[name](0), MAKE[name](0)
    rows.feed(whole)
    for i, part in enumerate(rows.split(*sizes)):
        part.feed(one_by_one)
        if i == 0:
            part.feed(merged)
            continue
        other = MAKE[name](0)
        if name in RANDOM:
            other.generator = merged.generator  # type: ignore[assignment]
        merged.merge_state(part.feed(other))
    close(merged.compute(), one_by_one.compute())
    if name not in RANDOM:
        close(merged.compute(), whole.compute())
    assert torch.isfinite(whole.compute()).all()
    assert whole.compute().dtype == torch.float64


@every
def test_batches_without_rows_add_nothing(name: str) -> None:
    rows = Rows.make()
    metric = rows.feed(MAKE[name](0))
    before = state(metric)
    none = {
        key: value[:0] if isinstance(value, torch.Tensor) else value
        for key, value in rows.arguments().items()
    }
    none["mixture"] = line()
    metric.update(**metric._filter_kwargs(**none))
    assert unmoved(metric, before)


@every
def test_a_weight_of_2_repeats_a_row_and_0_drops_it(name: str) -> None:
    rows = Rows.make(20)
    weighted = rows.feed(MAKE[name](0))
    plain = MAKE[name](0)
    assert rows.weight is not None
    for i, weight in enumerate(rows.weight.tolist()):
        part = rows.part(i, i + 1)
        part.weight = None
        for _ in range(weight):
            part.feed(plain)
    # Other draws: within the error of the mean of 20 rows of 20 draws.
    close(plain.compute(), weighted.compute(), 0.3 if name in RANDOM else ROUNDING)


@every
def test_a_row_of_weight_0_may_hold_anything(name: str) -> None:
    rows = Rows.make(8)
    clean, spoilt = rows.arguments(), rows.arguments()
    for key in ("log_prob", "log_joint", "responsibilities", "pit"):
        spoilt[key] = spoilt[key].clone()
        spoilt[key][0] = torch.nan  # the weight of row 0 is 0
    first, second = MAKE[name](0), MAKE[name](0)
    first.update(**first._filter_kwargs(**clean))
    second.update(**second._filter_kwargs(**spoilt))
    assert torch.equal(first.compute(), second.compute())


@every
def test_forward_gives_the_batch_and_adds_it(name: str) -> None:
    rows = Rows.make()
    metric, alone, both = MAKE[name](0), MAKE[name](0), MAKE[name](0)
    for i, part in enumerate(rows.split(50, NUM_ROWS - 50)):
        value = metric(**metric._filter_kwargs(**part.arguments()))
        part.feed(both)
        if i == 0:
            close(value, part.feed(alone).compute())
    close(metric.compute(), both.compute())


def test_two_processes_equal_one(tmp_path: Path, double: None) -> None:
    done = script(
        metric_cases.__file__, str(tmp_path), cwd=tmp_path, timeout=60, extra=(ROOT / "tests",)
    )
    assert done.returncode == 0, done.stderr
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    rows = Rows.make()
    for name, make in MAKE.items():
        # Both processes add the same two numbers.
        assert torch.equal(ranks[0][name], ranks[1][name]), name
        merged = make(0)
        for rank, own in enumerate(rows.split(33, NUM_ROWS - 33)):
            metric = make(rank)
            half = len(own.target) // 2
            for part in own.split(half, len(own.target) - half):
                part.feed(metric)
            merged = metric if rank == 0 else merged
            if rank:
                merged.merge_state(metric)
        close(ranks[0][name], merged.compute())
        if name not in RANDOM:
            close(ranks[0][name], rows.feed(make(0)).compute())


def test_a_collection_takes_every_argument_once() -> None:
    rows = Rows.make()
    together = MetricCollection(
        {name.replace(" ", "_"): make(0) for name, make in MAKE.items()}
        | {"half_": metrics.Coverage(0.5)}
    )
    for part in rows.split(60, NUM_ROWS - 60):
        together.update(**part.arguments())
    found = together.compute()
    for name, make in MAKE.items():
        metric = make(0)
        for part in rows.split(60, NUM_ROWS - 60):
            part.feed(metric)
        close(found[name.replace(" ", "_")], metric.compute())
    close(found["half_"], rows.feed(metrics.Coverage(0.5)).compute())


def test_coverages_of_a_collection_do_not_share_what_was_equal_at_first() -> None:
    """torchmetrics joins metrics whose states agree after the first batch."""
    both = MetricCollection({"a": metrics.Coverage(0.5), "b": metrics.Coverage(0.9)})
    both.update(torch.tensor([[0.5]]))
    both.update(torch.tensor([[0.1]]))
    assert {k: float(v) for k, v in both.compute().items()} == {"a": 0.5, "b": 1.0}


# -- kept, moved, stored --------------------------------------------------------------------------


@every
def test_no_move_loses_a_digit(name: str) -> None:
    """torchmetrics itself rounds the states in the second and the last two of these."""
    metric = Rows.make().feed(MAKE[name](0))
    expected, before = metric.compute(), state(metric)
    holder = nn.ModuleList([metric, nn.Linear(2, 2)])
    device = expected.device
    for move in (
        lambda: holder.half(),
        lambda: holder.to(torch.float16),
        lambda: holder.float(),
        lambda: holder.to(device),
        lambda: holder.to(device, torch.bfloat16),
        lambda: metric.set_dtype(torch.float32),
    ):
        move()
        assert unmoved(metric, before)
        assert torch.equal(metric.compute(), expected)
    metric.reset()
    assert all(not value.any() and value.dtype == torch.float64 for value in state(metric).values())
    # After all of this it still sums in float64.
    rows = Rows.make()
    close(rows.feed(metric).compute(), expected, 0.1 if name in RANDOM else 0.0)


@every
def test_stored_and_copied(name: str) -> None:
    metric = Rows.make().feed(MAKE[name](0))
    before = state(metric)
    for other in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric), metric.clone()):
        assert unmoved(other, before)
        assert torch.equal(other.compute(), metric.compute())
    assert metric.state_dict() == {}  # as in torchmetrics, unless asked for
    metric.persistent(mode=True)
    other = MAKE[name](0)
    other.persistent(mode=True)
    other.load_state_dict(metric.state_dict())
    assert unmoved(other, before)


@every
def test_half_precision_rows_are_summed_in_float64(name: str) -> None:
    """Fifty batches of the same rows: a sum in float16 keeps three digits."""
    rows = Rows.make(8)
    arguments = {
        key: value.half() if isinstance(value, torch.Tensor) and key != "target" else value
        for key, value in rows.arguments().items()
    }
    once, often = MAKE[name](0), MAKE[name](0)
    once.update(**once._filter_kwargs(**arguments))
    for _ in range(50):
        often.update(**often._filter_kwargs(**arguments))
    total, single = state(often), state(once)
    for key, value in total.items():
        close(value / 50, single[key], 0.2 if name in RANDOM else 1e-12)


@every
def test_reset_begins_anew(name: str) -> None:
    rows = Rows.make()
    metric, fresh = MAKE[name](0), MAKE[name](0)
    rows.part(0, 30).feed(metric)
    metric.reset()
    if name in RANDOM:
        metric.generator.manual_seed(0)  # type: ignore[union-attr]
    assert torch.equal(rows.feed(metric).compute(), rows.feed(fresh).compute())


@every
def test_plots_its_values(name: str) -> None:
    metric = Rows.make().feed(MAKE[name](0))
    ax = Figure().add_subplot()
    metric.plot(ax=ax)
    assert ax.has_data()


def test_which_way_is_better() -> None:
    known = {type(make(0)).__name__: make(0).higher_is_better for make in MAKE.values()}
    assert {name for name, better in known.items() if better} == {"LabelAgreement", "LogLikelihood"}
    assert {name for name, better in known.items() if better is False} == {
        *("BIC", "AIC", "ICL", "CRPS", "EnergyScore", "CalibrationError")
    }


# -- bad input ------------------------------------------------------------------------------------


@every
def test_refuses_weights_and_keeps_its_sums(name: str) -> None:
    rows = Rows.make()
    metric = rows.feed(MAKE[name](0))
    before = state(metric)
    ones = torch.ones(NUM_ROWS)
    cases: list[tuple[Any, type[Exception], str]] = [
        (torch.ones(7), InvalidArgumentError, rf"rows of shape \({NUM_ROWS},\), got shape \(7,\)"),
        ([1.0] * NUM_ROWS, InvalidArgumentError, "weight as a tensor of real numbers, got list"),
        (ones.index_fill(0, torch.tensor([5]), -1.0), InvalidDataError, ">= 0 in rows 5"),
        (ones.index_fill(0, torch.tensor([3]), torch.nan), InvalidDataError, ">= 0 in rows 3"),
    ]
    for weight, error, words in cases:
        rows.weight = weight
        with pytest.raises(error, match=words):
            metric.update(**metric._filter_kwargs(**rows.arguments()))
    assert unmoved(metric, before)


@every
def test_refuses_nan_with_the_row(name: str) -> None:
    rows = Rows.make()
    rows.weight = None
    metric = MAKE[name](0)
    rows.target = rows.target.clone()
    rows.target[[4, 9]] = torch.nan
    arguments = metric._filter_kwargs(**rows.arguments())
    with pytest.raises(InvalidDataError, match="in rows 4, 9"):
        metric.update(**arguments)
    assert all(not value.any() for value in state(metric).values())


@pytest.mark.parametrize("name", sorted({*MAKE} - {"crps", "energy", "rand", "information"}))
@pytest.mark.parametrize("given", ["text", [0.5], None, torch.ones(3, dtype=torch.complex64)])
def test_refuses_what_is_no_tensor_of_numbers(name: str, given: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="as a tensor of real numbers, got"):
        MAKE[name](0).update(given)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.BIC(-1), "free parameters >= 0 or a layer, got -1"),
        (lambda: metrics.AIC("many"), "got 'many'"),
        (lambda: metrics.ICL(True), "got True"),
        (lambda: metrics.EffectiveComponents(0), "num_components must be an integer >= 1, got 0"),
        (lambda: metrics.LabelAgreement(0, 2), "num_classes must be an integer >= 1, got 0"),
        (lambda: metrics.LabelAgreement(2, 2, "purity"), "unknown score 'purity'; known are: adj"),
        (lambda: metrics.PITHistogram(1), "num_bins must be an integer >= 2, got 1"),
        (lambda: metrics.CalibrationError(norm="l3"), "unknown norm 'l3'; known are: l1, l2, max"),
        (lambda: metrics.Coverage(0.0), "mass must be a finite number > 0 and <= 1, got 0.0"),
        (lambda: metrics.Coverage(95), "mass must be a finite number > 0 and <= 1, got 95"),
        (lambda: metrics.EnergyScore(1), "num_draws must be an integer >= 2, got 1"),
    ],
)
def test_refuses_impossible_metrics(call: Any, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        call()


@pytest.mark.parametrize(
    ("metric", "given", "error", "words"),
    [
        (metrics.PITHistogram(), [[0.2], [1.2], [-3.0]], InvalidDataError, "rows 1, 2"),
        (metrics.Coverage(), [[0.2, 1.5]], InvalidDataError, "pit is not in .0, 1. in rows 0"),
        (metrics.ResponsibilityEntropy(), [[0.5, 0.1]], InvalidDataError, "sum to 1 in rows 0"),
        (metrics.ResponsibilityEntropy(), [[1.5, -0.5]], InvalidDataError, "sum to 1 in rows 0"),
        (metrics.EffectiveComponents(3), [[1.0, 0.0]], InvalidArgumentError, "3 components, got"),
        (metrics.ResponsibilityEntropy(), 0.5, InvalidArgumentError, r"\(\*S, K\), got shape \(\)"),
    ],
)
def test_refuses_values(metric: SumMetric, given: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        metric.update(torch.tensor(given))


def test_a_collection_keeps_apart_what_began_alike() -> None:
    # Nothing yet: torchmetrics takes metrics whose states have one name and one value for one.
    found = MetricCollection([metrics.PITHistogram(K), metrics.EffectiveComponents(K)])
    found.update(pit=torch.empty(0, 1), responsibilities=torch.empty(0, K))
    one = torch.eye(K)[torch.zeros(5, dtype=torch.long)]
    found.update(pit=torch.rand(5, 1), responsibilities=one)
    assert found.compute()["EffectiveComponents"].item() == 1


def test_anomalies_that_are_no_number_are_refused() -> None:
    with pytest.raises(InvalidDataError, match="log_prob is NaN in rows 1"):
        metrics.anomaly_score(torch.tensor([-90.0, torch.nan, -300.0]))


def test_long_lists_of_rows_are_cut() -> None:
    with pytest.raises(InvalidDataError, match="in rows 0, 1, 2, 3, 4 and 95 more"):
        metrics.LogLikelihood().update(torch.full((100,), torch.nan))


def test_a_criterion_of_no_rows_says_so() -> None:
    metric = metrics.BIC(3)
    metric.update(torch.empty(0))
    with pytest.raises(InvalidArgumentError, match=r"num_samples, .* > 0, got"):
        metric.compute()


def test_means_of_no_rows_are_nan() -> None:
    metric = metrics.EffectiveComponents(K)
    metric.update(torch.empty(0, K))
    assert metric.compute().isnan()
