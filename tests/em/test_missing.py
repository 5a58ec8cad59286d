"""EM on rows with missing entries: exact, monotone, and the same however the rows are read."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support.covering import covering
from support.evidence import LabelEvidence
from support.random_layers import FAMILIES, PRIORS, parameters, random_layer, rows, served
from support.uncertain_loop import loop_statistics
from torch import Generator, Tensor

from gmm_lightning import GMMLayer, StepwiseEM, SufficientStatistics, e_step, fit_em, m_step
from gmm_lightning.covariances import PrecisionCholesky, TiedPrecisionCholesky
from gmm_lightning.em import (
    hard_responsibilities_,
    initialize_layer,
    resolve_priors,
    tempered_responsibilities_,
    uncertain_rows,
)
from gmm_lightning.errors import GMMError, InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import Batch

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)
nan = float("nan")


def holes(
    n: int, d: int, generator: Generator, batch: tuple[int, ...] = (), share: float = 0.3
) -> Tensor:
    """Rows with entries missing at random, one of them with all."""
    x = rows(n, d, generator, batch)
    missing = torch.rand(x.shape, generator=generator, device=generator.device) < share
    missing[0] = True
    return x.masked_fill(missing, nan)


def assert_close(a: SufficientStatistics, b: SufficientStatistics, tolerance: float) -> None:
    for name in ("counts", "first", "second", "log_likelihood", "num_samples"):
        mine, theirs = getattr(a, name), getattr(b, name)
        assert torch.allclose(mine, theirs, rtol=tolerance, atol=tolerance), name


# -- exactness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("frequent", [False, True])
@pytest.mark.parametrize("hard", [False, True])
@over_families
def test_an_e_step_equals_a_loop_over_rows(
    family: str, hard: bool, frequent: bool, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sums over 60 rows of numbers of size 10, with covariances of condition below 100.
    layer = random_layer(family, generator=generator, num_features=4)
    x = holes(60, 4, generator)
    x[20:30, 1] = nan
    weight = torch.rand(60, generator=generator)
    if frequent:
        monkeypatch.setattr(uncertain_rows, "_FREQUENT", 2)
    how = {"responsibilities": hard_responsibilities_} if hard else {}
    for size in (None, 7):
        found = e_step(layer, x, weight, missing="em", chunk_size=size, **how)
        assert_close(found, loop_statistics(layer, x, None, weight, hard=hard), 1e-10)


@pytest.mark.parametrize("family", [PrecisionCholesky(), TiedPrecisionCholesky()])
def test_families_of_others_take_the_dense_form(family: Any, generator: Generator) -> None:
    layer = GMMLayer(3, 2, family)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0.0, 0.4, generator=generator)
    x = holes(40, 3, generator)
    assert_close(e_step(layer, x, missing="em"), loop_statistics(layer, x), 1e-10)


@over_families
def test_nothing_missing_is_ordinary_em_bit_for_bit(family: str, generator: Generator) -> None:
    x, fitted = rows(150, 2, generator), []
    for missing in (None, "em"):
        layer = GMMLayer(2, 3, family, priors="niw" if family == "full" else None)
        fit_em(layer, x, missing=missing, generator=0)
        fitted.append(parameters(layer))
    assert all(torch.equal(a, b) for a, b in zip(*fitted, strict=True))


def test_complete_rows_keep_their_statistics_bit_for_bit(generator: Generator) -> None:
    layer, x = random_layer("full", generator=generator), rows(800, 2, generator)
    empty = x.new_full((5, 2), nan)
    before, after = e_step(layer, x), e_step(layer, torch.cat([x, empty]), missing="em")
    alone = e_step(layer, empty, missing="em")
    assert torch.equal(after.first, before.first + alone.first)
    assert torch.equal(after.second, before.second + alone.second)


@pytest.mark.parametrize(("family", "prior"), covering(FAMILIES, PRIORS))
def test_em_ends_where_the_gradient_is_zero(family: str, prior: str, generator: Generator) -> None:
    if not served(family, prior):
        pytest.skip("the prior does not serve the family")
    layer, x = random_layer(family, prior, generator=generator), holes(120, 2, generator)
    result = fit_em(layer, x, missing="em", initializer="kmeans", tol=0, max_iter=3000, generator=0)
    gains = torch.tensor(result.history).diff()
    # Rounding of the sums of 120 log densities; the last steps are extrapolated.
    assert gains.min() >= -1e-12
    objective = layer.log_prob(x, missing="marginalize").mean() + layer.log_prior() / len(x)
    slopes = torch.autograd.grad(objective, list(layer.parameters()))
    # Linear convergence: what is left of a step is about the square root of a gain of 1e-15.
    assert max(float(slope.abs().max()) for slope in slopes) < 2e-6


def test_a_monotone_pattern_has_a_closed_form(generator: Generator) -> None:
    # x2 is observed where x3 is, and x1 always: each feature's regression on those before it is
    # estimated from the rows that have all of them (Anderson 1957).
    x = rows(200, 3, generator)
    x[120:, 2], x[160:, 1] = nan, nan
    mean, covariance = x.new_zeros(3), x.new_zeros(3, 3)
    for j in range(3):
        own = x[~x[:, j].isnan()]
        design = torch.cat([own.new_ones(len(own), 1), own[:, :j]], 1)
        slope = torch.linalg.lstsq(design, own[:, j]).solution
        rest = (own[:, j] - design @ slope).square().mean()
        mean[j] = slope[0] + slope[1:] @ mean[:j]
        covariance[j, :j] = covariance[:j, j] = covariance[:j, :j] @ slope[1:]
        covariance[j, j] = rest + slope[1:] @ covariance[:j, :j] @ slope[1:]
    layer = GMMLayer(3, 1)
    fit_em(layer, x, missing="em", max_iter=200)
    # Further than gains of the objective can tell, which are squares of what is left.
    for _ in range(300):
        m_step(layer, e_step(layer, x, missing="em"))
    assert torch.allclose(layer.means[0], mean, rtol=0, atol=1e-8)
    assert torch.allclose(layer.covariance_matrix[0], covariance, rtol=0, atol=1e-8)


# -- the same however the rows are read ---------------------------------------------------------


@over_families
def test_parts_add_up_and_weights_are_repetitions(family: str, generator: Generator) -> None:
    layer, x = random_layer(family, generator=generator, num_features=3), holes(90, 3, generator)
    whole = e_step(layer, x, missing="em")
    parts = e_step(layer, x[:31], missing="em") + e_step(layer, x[31:], missing="em")
    assert_close(whole, parts, 1e-11)
    weight = torch.ones(90)
    weight[10:40] = 2
    twice = e_step(layer, torch.cat([x, x[10:40]]), missing="em")
    weighted = e_step(layer, x, weight, missing="em")
    assert torch.allclose(twice.second, weighted.second, rtol=1e-11)
    assert torch.allclose(twice.log_likelihood, weighted.log_likelihood, rtol=1e-11)


@over_families
def test_units_are_changed_before_the_entries_are_read(family: str, generator: Generator) -> None:
    layer, x = random_layer(family, generator=generator), holes(90, 2, generator)
    x[:30, 1] = nan
    stats = e_step(layer, x, missing="em", transform=lambda rows: 2 * rows - 1, chunk_size=20)
    assert_close(stats, e_step(layer, 2 * x - 1, missing="em"), 1e-11)


@over_families
def test_a_stream_is_fitted_as_its_rows_in_memory(family: str, generator: Generator) -> None:
    x, fitted = holes(120, 2, generator), []
    for source in (x, [x[:50], x[50:]]):
        layer = GMMLayer(2, 2, family)
        fit_em(layer, source, missing="em", initializer="kmeans", max_iter=5, generator=0)
        fitted.append(parameters(layer))
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(*fitted, strict=True))


@pytest.mark.parametrize("stopping", ["aitken", "gain", "relative", "responsibilities"])
def test_every_stopping_rule_reads_missing_entries(stopping: str, generator: Generator) -> None:
    layer, x = GMMLayer(2, 2), holes(200, 2, generator)
    assert fit_em(layer, x, missing="em", stopping=stopping, tol=1e-3, generator=0).converged


@over_families
def test_rows_of_frequent_patterns_are_fitted_as_others(
    family: str, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight, fitted = holes(200, 3, generator), torch.rand(2, 200, generator=generator), []
    for frequent in (10, 1000):
        monkeypatch.setattr(uncertain_rows, "_FREQUENT", frequent)
        layer = GMMLayer(3, 2, family, batch_shape=(2,))
        how: dict[str, Any] = {"sample_weight": weight.T, "initializer": "kmeans"}
        fit_em(layer, x[:, None], missing="em", num_restarts=2, max_iter=6, generator=0, **how)
        fitted.append(parameters(layer))
    assert all(torch.allclose(a, b, rtol=1e-8, atol=1e-9) for a, b in zip(*fitted, strict=True))


@over_families
def test_mixtures_with_their_own_rows_are_fitted_as_if_alone(
    family: str, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uncertain_rows, "_FREQUENT", 20)
    x = holes(80, 2, generator, (2,))
    layer = random_layer(family, generator=generator, batch=(2,))
    alone = []
    for b in range(2):
        single = GMMLayer(2, 3, family)
        with torch.no_grad():
            for own, each in zip(single.parameters(), layer.parameters(), strict=True):
                own.copy_(each[b])
        fit_em(single, x[:, b], missing="em", initializer=None, max_iter=6)
        alone.append(parameters(single))
    fit_em(layer, x, missing="em", initializer=None, max_iter=6)
    for b in range(2):
        for own, each in zip(alone[b], parameters(layer), strict=True):
            assert torch.allclose(own, each[b], rtol=1e-8, atol=1e-10)


def test_rows_may_be_broadcast_over_a_part_of_the_batch(generator: Generator) -> None:
    x = holes(40, 2, generator, (1, 3))
    layer = random_layer("full", generator=generator, batch=(2, 3))
    stats = e_step(layer, x, missing="em")
    assert_close(stats, e_step(layer, x.expand(40, 2, 3, 2), missing="em"), 1e-12)
    fit_em(layer, x, missing="em", initializer="kmeans", max_iter=2, generator=0)
    assert all(bool(p.isfinite().all()) for p in layer.parameters())


def test_restarts_read_the_same_rows(generator: Generator) -> None:
    x = holes(150, 2, generator)
    results = []
    for number in (1, 4):
        layer = GMMLayer(2, 3)
        result = fit_em(layer, x, missing="em", num_restarts=number, generator=3)
        results.append(float(result.objective))
    assert results[1] >= results[0] - 1e-9


def test_a_narrow_layer_is_near_a_wide_one(generator: Generator) -> None:
    x = holes(300, 3, generator)
    wide = random_layer("full", generator=generator, num_features=3)
    narrow = copy.deepcopy(wide).float()
    a, b = e_step(wide, x, missing="em"), e_step(narrow, x.float(), missing="em")
    # Parameters and rows are rounded once: 6e-8 of numbers whose squares are summed.
    assert torch.allclose(a.second, b.second, rtol=1e-5, atol=1e-3)
    m_step(narrow, b)
    assert all(bool(p.isfinite().all()) for p in narrow.parameters())


# -- rows without entries, evidence, noise, other responsibilities ------------------------------


def test_rows_that_miss_everything_count_in_the_weights_alone(generator: Generator) -> None:
    x, fitted = holes(100, 2, generator)[1:], []
    empty = x.new_full((30, 2), nan)
    start = random_layer("full", generator=generator)
    for own in (x, torch.cat([x, empty])):
        layer = copy.deepcopy(start)
        fit_em(layer, own, missing="em", initializer=None, tol=0, max_iter=3000)
        fitted.append(layer)
    stats = e_step(fitted[1], empty, missing="em")
    assert torch.allclose(stats.counts / 30, fitted[1].weights, rtol=1e-12)
    assert float(stats.log_likelihood) == pytest.approx(0, abs=1e-12)
    for a, b in zip(parameters(fitted[0]), parameters(fitted[1]), strict=True):
        # Ends of two fits whose last gains are below 1e-15.
        assert torch.allclose(
            a - a.mean() * (a.dim() == 1), b - b.mean() * (b.dim() == 1), atol=1e-5
        )


def test_evidence_of_labels_is_read_beside_missing_entries(generator: Generator) -> None:
    x, labels = holes(80, 2, generator), torch.arange(80) % 3
    layer = random_layer("full", generator=generator)
    layer.evidence = LabelEvidence(3)
    stats = e_step(layer, Batch(x, labels=labels), missing="em")
    assert torch.allclose(stats.counts, labels.bincount().double())


def test_tempered_responsibilities_are_flat(generator: Generator) -> None:
    layer, x = random_layer("full", generator=generator), holes(50, 2, generator)
    how = tempered_responsibilities_(1e-9)
    stats = e_step(layer, x, missing="em", responsibilities=how)
    assert torch.allclose(stats.counts, torch.full((3,), 50 / 3), rtol=1e-6)


def test_noise_is_estimated_beside_missing_entries(generator: Generator) -> None:
    x = holes(150, 2, generator)
    x[1:12] = 30 * torch.rand(11, 2, generator=generator) - 10
    layer = GMMLayer(2, 2, noise="uniform")
    fit_em(layer, x, missing="em", initializer="kmeans", tol=0, max_iter=3000, generator=0)
    likelihood = layer.log_prob(x, missing="marginalize").mean()
    slopes = torch.autograd.grad(likelihood, list(layer.parameters()))
    assert max(float(slope.abs().max()) for slope in slopes) < 2e-6


def test_stepwise_em_takes_missing_entries(generator: Generator) -> None:
    layer, x = GMMLayer(2, 2), holes(400, 2, generator)
    initialize_layer(layer, x, "kmeans", missing="em", generator=0)
    before = layer.log_prob(x, missing="marginalize").mean()
    stream = StepwiseEM(layer, missing="em")
    for _ in range(3):
        for part in x.split(100):
            stream.partial_fit(part)
    assert layer.log_prob(x, missing="marginalize").mean() > before


# -- the start ----------------------------------------------------------------------------------


def test_priors_take_the_moments_that_the_entries_have(generator: Generator) -> None:
    x = rows(4000, 2, generator)
    complete, holed = GMMLayer(2, 3, priors="niw"), GMMLayer(2, 3, priors="niw")
    resolve_priors(complete, x)
    x[torch.rand(4000, generator=generator) < 0.5, 1] = nan
    resolve_priors(holed, x, missing="em")
    for a, b in zip(complete.priors.buffers(), holed.priors.buffers(), strict=True):
        # Moments of half as many rows: standard errors of some percent.
        assert torch.allclose(a, b, rtol=0.15, atol=0.15)


@over_families
def test_a_start_leaves_room_for_nothing_missing(family: str, generator: Generator) -> None:
    layer, x = GMMLayer(2, 3, family), holes(200, 2, generator)
    events = initialize_layer(layer, x, "kmeans", missing="em", generator=0)
    assert events == []
    assert bool(layer.local_scale.isfinite().all())
    assert not layer.constant_features


def test_reseeded_components_move_to_known_rows(generator: Generator) -> None:
    x = holes(200, 2, generator)
    x[50:120] = 1.0
    layer = GMMLayer(2, 4)
    fit_em(layer, x, missing="em", collapse="reseed", generator=0)
    assert all(bool(p.isfinite().all()) for p in layer.parameters())


def test_a_feature_seen_in_a_few_of_many_rows_has_a_start(generator: Generator) -> None:
    x = rows(40_000, 2, generator)
    x[:, 1] = nan
    x[[5, 30_000, 39_000], 1] = torch.tensor([100.0, 101.0, 103.0])
    layer = GMMLayer(2, 2, "diag")
    initialize_layer(layer, x, "kmeans", missing="em", generator=0)
    assert layer.means[:, 1].min() > 90


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.index_fill(1, torch.tensor(1), nan), r"feature\(s\) 1 are never observed"),
        (lambda x: x * nan, "every entry is missing"),
        (
            lambda x: x.index_fill(0, torch.tensor([4]), torch.inf),
            r"infinite entries in row\(s\) 4",
        ),
        (lambda x: x[:0], "no rows to fit"),
        (lambda x: [x, x * torch.inf], r"infinite entries in row\(s\) 20"),
        (lambda x: x[:, :1], "expected rows of shape"),
        (lambda x: x[:1], "1 row to fit"),
    ],
)
def test_bad_rows_are_refused_in_a_sentence(change: Any, words: str, generator: Generator) -> None:
    layer = GMMLayer(2, 2)
    before = parameters(layer)
    with pytest.raises(InvalidDataError, match=words):
        fit_em(layer, change(rows(20, 2, generator)), missing="em")
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(layer), strict=True))


def test_missing_entries_are_refused_unless_asked_for(generator: Generator) -> None:
    layer, x = GMMLayer(2, 2), holes(20, 2, generator)
    for call in (fit_em, e_step, initialize_layer, resolve_priors):
        with pytest.raises(InvalidDataError, match=r'row\(s\) 0.*missing="em"'):
            call(layer, x)
    for wrong in ("drop", True, 3):
        with pytest.raises(InvalidArgumentError, match=r"unknown missing .*known are: em, or None"):
            fit_em(layer, x, missing=wrong)
        with pytest.raises(GMMError, match="unknown missing"):
            StepwiseEM(layer, missing=wrong)


def test_a_feature_seen_only_in_rows_without_weight_is_refused(generator: Generator) -> None:
    x, weight = rows(20, 2, generator), torch.ones(20)
    x[3:, 0], weight[:3] = nan, 0
    with pytest.raises(InvalidDataError, match="never observed"):
        fit_em(GMMLayer(2, 2), x, missing="em", sample_weight=weight)


def test_a_column_that_is_never_observed_is_named() -> None:
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"height": [1.0, 2.0, 3.0], "width": [nan, nan, nan]})
    with pytest.raises(InvalidDataError, match="'width' are never observed"):
        fit_em(GMMLayer(2, 1), table, missing="em")
