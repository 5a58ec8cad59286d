"""Values of metrics against numpy, scipy, scikit-learn and the commands' own figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from support.metric_cases import K, Rows
from support.random_layers import FAMILIES, random_layer, rows
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryAUROC

from gmm_lightning import GMMLayer, MixtureOfGaussians
from gmm_lightning.distributions import crps, interval
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.metrics import (
    AIC,
    BIC,
    CRPS,
    ICL,
    CalibrationError,
    Coverage,
    EffectiveComponents,
    EnergyScore,
    LogLikelihood,
    PITHistogram,
    ResponsibilityEntropy,
    anomaly_score,
)

double = pytest.mark.usefixtures("double")


@double
@pytest.mark.parametrize("family", ["full", "diag", "spherical", "tied"])
def test_criteria_equal_those_of_scikit_learn(family: str, generator: torch.Generator) -> None:
    x = rows(60, 2, generator)
    theirs = GaussianMixture(3, covariance_type=family, random_state=0, max_iter=5, tol=1e9)
    theirs.fit(x.numpy())
    dense = {
        "full": lambda c: c,
        "diag": lambda c: np.stack([np.diag(v) for v in c]),
        "spherical": lambda c: np.stack([v * np.eye(2) for v in c]),
        "tied": lambda c: np.stack([c] * 3),
    }[family](theirs.covariances_)
    layer = GMMLayer.from_parameters(
        *(torch.from_numpy(v) for v in (theirs.weights_, theirs.means_, dense)), covariance=family
    )
    found = {}
    for metric in (BIC(layer), AIC(layer), LogLikelihood()):
        for part in x.split(17):
            metric.update(layer(part))
        found[type(metric)] = float(metric.compute())
    # Two libraries' factorisations of the same matrices.
    assert found[BIC] == pytest.approx(theirs.bic(x.numpy()), rel=1e-10)
    assert found[AIC] == pytest.approx(theirs.aic(x.numpy()), rel=1e-10)
    assert found[LogLikelihood] == pytest.approx(theirs.score(x.numpy()), rel=1e-10)

    resp = theirs.predict_proba(x.numpy())
    entropy = stats.entropy(resp, axis=1)
    metric = ICL(layer)
    for part in x.split(17):
        metric.update(layer.log_joint(part))
    expected = theirs.bic(x.numpy()) + 2 * entropy.sum()
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-10)

    shared, used = ResponsibilityEntropy(), EffectiveComponents(3)
    for part in x.split(17):
        shared.update(layer.responsibilities(part))
        used.update(layer.responsibilities(part))
    assert float(shared.compute()) == pytest.approx(entropy.mean(), rel=1e-9)
    assert float(used.compute()) == pytest.approx(np.exp(stats.entropy(resp.mean(0))), rel=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_counted_by_the_layer(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator)
    assert BIC(layer).num_free_parameters == layer.num_free_parameters


@double
def test_components_without_weight_leave_icl_finite() -> None:
    metric = ICL(3)
    metric.update(torch.tensor([[-1.0, -torch.inf], [-2.0, -900.0]]))
    assert float(metric.compute()) == pytest.approx(6.0 + 3 * np.log(2), rel=1e-14)
    metric.update(torch.tensor([[-torch.inf, -torch.inf]]))
    assert float(metric.compute()) == torch.inf


@double
def test_effective_components_between_1_and_all() -> None:
    for shares, expected in (([1.0, 0, 0], 1.0), ([1 / 3] * 3, 3.0), ([0.5, 0.5, 0.0], 2.0)):
        metric = EffectiveComponents(3)
        metric.update(torch.tensor([shares]))
        assert float(metric.compute()) == pytest.approx(expected, rel=1e-14)


@double
def test_scores_are_the_weighted_means_of_their_functions(generator: torch.Generator) -> None:
    data = Rows.make()
    assert data.weight is not None
    each = crps(data.mixture, data.target)
    expected = (data.weight * each).sum() / data.weight.sum()
    assert float(data.feed(CRPS()).compute()) == pytest.approx(float(expected), rel=1e-13)
    # With one feature the energy score estimates the same; its own standard error.
    scores = torch.stack([data.feed(EnergyScore(50, generator)).compute() for _ in range(20)])
    assert (scores.mean() - expected).abs() <= 4 * scores.std() / 20**0.5


@double
@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_calibration_error_against_the_empirical_distribution(
    norm: str, generator: torch.Generator
) -> None:
    pit = torch.rand(500, 2, generator=generator).square()
    metric = CalibrationError(num_bins=25, norm=norm)
    for part in pit.split(60):
        metric.update(part)
    edges = np.arange(1, 25) / 25
    gap = np.abs((pit.numpy().ravel()[:, None] < edges).mean(0) - edges)
    expected = {"l1": gap.mean(), "l2": np.sqrt((gap**2).mean()), "max": gap.max()}[norm]
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-12)


@double
def test_kolmogorov_distance_up_to_the_width_of_a_bin(generator: torch.Generator) -> None:
    pit = torch.rand(1000, 1, generator=generator) ** 1.2
    exact = stats.kstest(pit.numpy().ravel(), "uniform").statistic
    metric = CalibrationError(num_bins=100, norm="max")
    metric.update(pit)
    assert exact - 0.01 <= float(metric.compute()) <= exact


@double
def test_calibrated_forecasts_have_the_error_that_the_docstring_says(
    generator: torch.Generator,
) -> None:
    n, found = 400, []
    for _ in range(400):
        metric = CalibrationError(num_bins=20)
        metric.update(torch.rand(n, 1, generator=generator))
        found.append(float(metric.compute()))
    # Standard error of the mean of 400 values of standard deviation 0.007; 20 bins are 4 % above.
    assert np.mean(found) == pytest.approx(0.31 / n**0.5, rel=0.1)


@double
def test_histogram_of_bins_and_their_ends() -> None:
    metric = PITHistogram(4)
    metric.update(torch.tensor([[0.0, 0.25], [0.5, 1.0]]), weight=torch.tensor([2.0, 0.5]))
    assert metric.compute().tolist() == [2.0, 2.0, 0.5, 0.5]


@double
def test_coverage_counts_the_rows_in_the_interval() -> None:
    data = Rows.make()
    low, high = interval(data.mixture, 0.6)
    inside = ((data.target >= low) & (data.target <= high)).squeeze(-1)
    assert data.weight is not None
    expected = float((inside * data.weight).sum() / data.weight.sum())
    assert float(data.feed(Coverage(0.6)).compute()) == pytest.approx(expected, rel=1e-14)


@double
@pytest.mark.parametrize("metric", [LogLikelihood, CRPS, ICL])
def test_forward_is_differentiable(metric: type) -> None:
    data = Rows.make(6)
    parts = [data.mixture.mixture_logits, data.mixture.means, data.mixture.scale]
    for part in parts:
        part.requires_grad_()
    made = metric(3) if metric is ICL else metric()
    value = made(**made._filter_kwargs(**data.arguments()))
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(value, parts))
    assert not any(s.requires_grad for s in made.metric_state.values())


@double
def test_entropy_has_a_gradient_where_a_share_is_0() -> None:
    resp = torch.eye(K, requires_grad=True)
    (grad,) = torch.autograd.grad(ResponsibilityEntropy()(resp), resp)
    assert torch.isfinite(grad).all()


# -- anomalies ----------------------------------------------------------------------------------


@double
def test_area_under_the_curve_equals_that_of_scikit_learn(generator: torch.Generator) -> None:
    """Batch by batch, for densities of many features, which are tiny or huge."""
    unusual = torch.rand(300, generator=generator) < 0.2
    log_prob = 40 * torch.randn(300, generator=generator) - 500 - 60 * unusual
    expected = roc_auc_score(unusual.numpy(), -log_prob.numpy())
    ours, naive = BinaryAUROC(), BinaryAUROC()
    for score, label in zip(log_prob.split(50), unusual.split(50), strict=True):
        ours.update(anomaly_score(score), label.long())
        naive.update(-score, label.long())
    # torchmetrics sums trapeziums in float32.
    assert float(ours.compute()) == pytest.approx(expected, abs=1e-6)
    assert float(naive.compute()) == 0.5  # why there is a function for it


@double
def test_anomaly_scores_keep_the_order_of_any_surprise() -> None:
    log_prob = torch.tensor([-torch.inf, -1e300, -1e10, -1e10 + 10, -3.0, 0.0, 2.0, 1e6, torch.inf])
    score = anomaly_score(log_prob)
    assert (score.diff() < 0).all()
    assert score[0] == 1
    assert score[-1] == 0
    assert anomaly_score(log_prob.float()).dtype == torch.float64


def test_pit_values_have_an_axis_for_features() -> None:
    with pytest.raises(InvalidArgumentError, match=r"write pit\[:, None\]"):
        Coverage(0.5).update(torch.full((9,), 0.99))


def test_scores_from_other_numbers_of_draws_do_not_share_states() -> None:
    mixture = MixtureOfGaussians(torch.zeros(1), torch.zeros(1, 2), torch.eye(2)[None])
    both = MetricCollection({"few": EnergyScore(2), "many": EnergyScore(200)})
    both.update(mixture=mixture, target=torch.zeros(4, 2), weight=torch.zeros(4))
    both.update(mixture=mixture, target=torch.zeros(4, 2))
    assert len(both.compute_groups) == 2
