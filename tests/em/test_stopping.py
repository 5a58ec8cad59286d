"""The rules that end a fit, and the parameters on the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from gmm_lightning import GMMLayer, fit_em
from gmm_lightning.em import EMResult, e_step, m_step, stopping_rules
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.training import EMCallback

pytestmark = pytest.mark.usefixtures("double")

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(size=(60, 2)) + shift for shift in ([0, 0], [3, 1], [0, 4])])
MEANS = X[[5, 70, 150]]
TOLERANCES = {"aitken": 1e-5, "gain": 1e-3, "relative": 1e-3, "responsibilities": 1e-1}


def start() -> GMMLayer:
    weights, means = torch.full((3,), 1 / 3), torch.from_numpy(MEANS)
    return GMMLayer.from_parameters(weights, means, torch.eye(2).repeat(3, 1, 1))


def run(layer: GMMLayer, **options: object) -> EMResult:
    settings: dict[str, object] = {"initializer": None, "acceleration": None, "max_iter": 400}
    return fit_em(layer, X, **(settings | options))


def test_every_rule_has_a_tolerance_here() -> None:
    assert set(TOLERANCES) == set(stopping_rules.names)


def test_gain_ends_where_scikit_learn_ends() -> None:
    peer = GaussianMixture(
        3,
        tol=1e-3,
        reg_covar=0.0,
        weights_init=np.full(3, 1 / 3),
        means_init=MEANS,
        precisions_init=np.tile(np.eye(2), (3, 1, 1)),
    ).fit(X)
    layer = start()
    result = run(layer, stopping="gain", tol=1e-3)
    assert result.num_iterations == peer.n_iter_
    # The same sums in another order: eps times the number of rows, for a condition below 10.
    np.testing.assert_allclose(layer.means.detach(), peer.means_, rtol=0, atol=1e-11)
    np.testing.assert_allclose(result.history[:-1], peer.lower_bounds_, rtol=1e-12)


def test_relative_is_gain_beside_the_objective() -> None:
    result = run(start(), stopping="relative", tol=1e-3)
    history = np.asarray(result.history)
    shares = np.abs(np.diff(history)) / np.abs(history[:-1])
    # The step before the last one is the first that is small enough.
    assert shares[-2] < 1e-3 <= shares[:-2].min()


@pytest.mark.parametrize(
    ("rule", "options", "saved"),
    [
        ("gain", {}, 1),
        ("relative", {}, 1),
        ("gain", {"max_iter": 4}, 1),
        ("aitken", {"max_iter": 4}, 1),
        ("aitken", {}, 0),
        ("gain", {"max_iter": 0}, 0),
        ("gain", {"max_iter": 20, "tol": 0.0, "acceleration": "squarem"}, 1),
    ],
)
def test_an_e_step_known_to_be_the_last_can_be_left_out(
    rule: str, options: dict[str, float], saved: int
) -> None:
    (whole, short), settings = (start(), start()), {"tol": TOLERANCES[rule]} | options
    full = run(whole, stopping=rule, **settings)
    result = run(short, stopping=rule, evaluate_last=False, **settings)
    assert result.num_iterations == full.num_iterations
    assert result.converged == full.converged
    if "acceleration" not in options:
        assert torch.equal(short.means, whole.means)
        assert result.num_e_steps == full.num_e_steps - saved
    assert result.history == full.history[: len(full.history) - saved]
    assert result.objective == result.history[-1]


@torch.no_grad()
def test_responsibilities_are_compared_over_all_rows() -> None:
    tol = TOLERANCES["responsibilities"]
    result = run(start(), stopping="responsibilities", tol=tol)
    layer, changes = start(), []
    before = layer.responsibilities(X)
    for _ in range(result.num_iterations):
        m_step(layer, e_step(layer, X))
        now = layer.responsibilities(X)
        changes.append(float((now - before).norm()))
        before = now
    assert changes[-1] < tol <= min(changes[:-1])


@pytest.mark.parametrize("rule", sorted(TOLERANCES))
def test_mixtures_stop_apart_from_each_other(rule: str) -> None:
    """Two mixtures side by side end where each ends alone."""
    options = {"stopping": rule, "tol": TOLERANCES[rule], "record": True}
    single = start()
    alone = run(single, **options)
    pair = GMMLayer(2, 3, batch_shape=(2,))
    parts = (single.weights, single.means, single.covariance_matrix)
    first = [torch.stack([a, b.detach()]) for a, b in zip(_parts(start()), parts, strict=True)]
    pair.set_parameters(*first)
    both = fit_em(pair, X[:, None], initializer=None, acceleration=None, max_iter=400, **options)
    assert both.num_iterations == alone.num_iterations
    # The same products over other shapes.
    torch.testing.assert_close(pair.means[0], single.means, rtol=0, atol=1e-10)
    assert both.trajectory is not None
    assert both.trajectory.means.shape == (both.num_iterations + 1, 2, 3, 2)


def _parts(layer: GMMLayer) -> tuple[torch.Tensor, ...]:
    return layer.weights.detach(), layer.means.detach(), layer.covariance_matrix.detach()


@torch.no_grad()
@pytest.mark.parametrize("restarts", [1, 3])
def test_trajectory_of_the_best_start(restarts: int) -> None:
    layer = start()
    result = fit_em(layer, X, num_restarts=restarts, record=True, generator=0)
    path = result.trajectory
    assert path is not None
    assert len(path.weights) == len(result.history) == result.num_iterations + 1
    for values, own in zip(
        (path.weights, path.means, path.covariance_matrix), _parts(layer), strict=True
    ):
        torch.testing.assert_close(values[-1], own, rtol=0, atol=0)
    # Where it was recorded, the objective is that of the history.
    other = GMMLayer.from_parameters(path.weights[1], path.means[1], path.covariance_matrix[1])
    assert float(other.objective(X)) == pytest.approx(result.history[1], rel=1e-12)
    assert fit_em(layer, X, generator=0).trajectory is None


def test_refusals() -> None:
    with pytest.raises(InvalidArgumentError, match="aitken, gain, relative, responsibilities"):
        fit_em(start(), X, stopping="patience")
    with pytest.raises(InvalidArgumentError, match="use fit_em"):
        EMCallback(stopping="responsibilities")
    with pytest.raises(InvalidArgumentError, match="record"):
        fit_em(start(), X, record="yes")  # pyright: ignore[reportArgumentType]
