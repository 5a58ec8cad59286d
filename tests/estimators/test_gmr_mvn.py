"""gmr's single Gaussian and its functions, against numpy and scipy."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import chi2, multivariate_normal
from support.gmr_mixtures import case, conditional

from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.estimators import gmr
from gmm_lightning.estimators.gmr import MVN

C = case(1, k=2, d=4)
PLANE = [[2.0, 0.6], [0.6, 0.5]]


def mvn(k: int = 0, **options: Any) -> MVN:
    return MVN(C.means[k], C.covariances[k], **options)


def test_from_samples() -> None:
    for correction in (True, False):
        fitted = MVN().from_samples(C.x, bessels_correction=correction)
        gap = C.x - C.x.mean(axis=0)
        assert_allclose(fitted.mean, C.x.mean(axis=0), rtol=1e-14)
        assert_allclose(fitted.covariance, gap.T @ gap / (len(C.x) - correction), rtol=1e-12)
    assert MVN().from_samples(C.x[:, :1]).covariance.shape == (1, 1)


def test_density() -> None:
    peer = multivariate_normal(C.means[0], C.covariances[0])
    assert_allclose(mvn().to_probability_density(C.x), peer.pdf(C.x), rtol=1e-11)
    assert_allclose(mvn().to_log_probability_density(C.x), peer.logpdf(C.x), rtol=1e-12)
    factor, exponents = mvn().to_norm_factor_and_exponents(C.x)
    assert factor == pytest.approx(peer.pdf(C.means[0]), rel=1e-12)
    assert_allclose(factor * np.exp(exponents), peer.pdf(C.x), rtol=1e-11)


def test_distances() -> None:
    gap = C.x - C.means[0]
    expected = np.einsum("ni,ij,nj->n", gap, np.linalg.inv(C.covariances[0]), gap)
    assert_allclose(mvn().squared_mahalanobis_distance(C.x), expected, rtol=1e-10)
    one = mvn().squared_mahalanobis_distance(C.x[3])
    assert isinstance(one, float)
    assert one == pytest.approx(expected[3], rel=1e-10)


def test_marginals_keep_their_order() -> None:
    part = mvn().marginalize([2, 0])
    assert_allclose(part.mean, C.means[0][[2, 0]])
    assert_allclose(part.covariance, C.covariances[0][np.ix_([2, 0], [2, 0])])


@pytest.mark.parametrize("known", [[0], [3, 1], [2, 0, 3]])
def test_conditionals(known: list[int]) -> None:
    means, covariance = mvn().predict(known, C.x[:, known])
    expected = conditional(C, 0, known, C.x[:, known])
    assert_allclose(means, expected[0], rtol=1e-10)
    assert_allclose(covariance, expected[1], rtol=1e-10, atol=1e-12)
    found = mvn().condition(known, C.x[2, known])
    assert_allclose(found.mean, expected[0][2], rtol=1e-10)
    assert_allclose(found.covariance, expected[1], rtol=1e-10, atol=1e-12)
    rest = gmr.invert_indices(4, known)
    assert sorted([*rest, *known]) == [0, 1, 2, 3]
    slope = gmr.regression_coefficients(C.covariances[0], rest, known)
    by_hand = C.means[0][rest] + (C.x[:, known] - C.means[0][known]) @ slope.T
    assert_allclose(by_hand, expected[0], rtol=1e-10)
    across = C.covariances[0][np.ix_(rest, known)]
    again = gmr.regression_coefficients(C.covariances[0], rest, known, cov_12=2 * across)
    assert_allclose(again, 2 * slope, rtol=1e-12)


def test_condition_for_some_of_the_rest() -> None:
    means, covariance = gmr.condition(C.means[0], C.covariances[0], [3, 0], [1], C.x[:, [1]])
    expected = conditional(C, 0, [1], C.x[:, [1]])
    # The rest is (0, 2, 3), of which the last and the first are asked for.
    assert_allclose(means, expected[0][:, [2, 0]], rtol=1e-10)
    assert_allclose(covariance, expected[1][np.ix_([2, 0], [2, 0])], rtol=1e-10)


def test_ellipse() -> None:
    angle, long, short = MVN([1.0, 2.0], PLANE).to_ellipse(factor=2.0)
    along = np.array([np.cos(angle), np.sin(angle)])
    assert long > short > 0
    assert_allclose(PLANE @ along, (long / 2) ** 2 * along, rtol=1e-10)
    assert_allclose((long / 2) ** 2 + (short / 2) ** 2, np.trace(PLANE), rtol=1e-12)


@pytest.mark.parametrize("alpha", [1e-3, 0.5, 1.0])
def test_sigma_points(alpha: float) -> None:
    points = mvn().sigma_points(alpha=alpha, kappa=0.5)
    assert points.shape == (9, 4)
    assert_allclose(points[0], C.means[0], rtol=1e-15)
    offset = (points[1:5] - points[0]) / (alpha * np.sqrt(4.5))
    # The symmetric root, so that numbers are gmr's; small steps next to the mean lose digits.
    assert_allclose(offset, offset.T, atol=1e-10)
    assert_allclose(offset @ offset, C.covariances[0], atol=1e-10)
    assert_allclose(points[5:], 2 * points[0] - points[1:5], rtol=1e-12)
    matrix = np.array([[1.0, 2.0, 0.0, -1.0], [0.5, 0.0, 1.0, 3.0]])
    found = mvn().estimate_from_sigma_points(points @ matrix.T, alpha=alpha, kappa=0.5)
    assert_allclose(found.mean, matrix @ C.means[0], atol=1e-8)
    assert_allclose(found.covariance, matrix @ C.covariances[0] @ matrix.T, rtol=1e-8)


def test_beta_weighs_the_centre() -> None:
    """For `x^2` of a standard normal at alpha 1 and kappa 0 the points are 0, 1, 1, of mean 1.

    The centre has the weight 0 in the mean and beta in the variance, which is beta then.
    """
    standard = MVN([0.0], [[1.0]])
    points = standard.sigma_points(alpha=1.0) ** 2
    for beta in (0.5, 2.0):
        found = standard.estimate_from_sigma_points(points, alpha=1.0, beta=beta)
        assert_allclose(found.mean, [1.0])
        assert_allclose(found.covariance, [[beta]])


def test_a_function_into_more_dimensions_has_a_singular_covariance() -> None:
    """Numbers of gmr 2.0.3 for polar coordinates, with the radius as a third feature."""

    def lifted(p: np.ndarray) -> np.ndarray:
        return np.column_stack([p[:, 0] * np.cos(p[:, 1]), p[:, 0] * np.sin(p[:, 1]), p[:, 0]])

    polar = MVN([1.0, 0.5], [[0.2, 0.05], [0.05, 0.1]])
    found = polar.estimate_from_sigma_points(lifted(polar.sigma_points(1.0)), alpha=1.0)
    assert_allclose(found.mean, [0.81072936, 0.49908901, 1.0], rtol=1e-7)
    expected = [
        [0.14405114, 0.06748165, 0.15075231],
        [0.06748165, 0.15928893, 0.1385419],
        [0.15075231, 0.1385419, 0.2],
    ]
    assert_allclose(found.covariance, expected, rtol=1e-7)
    # What is linear leaves a covariance without full rank, as it is: gmr adds 1e-3 I to it.
    flat = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = polar.estimate_from_sigma_points(polar.sigma_points() @ flat.T)
    assert_allclose(found.covariance, flat @ polar.covariance @ flat.T, atol=1e-9)
    assert_allclose(found.sample(5) @ [1.0, 1.0, -1.0], np.zeros(5), atol=1e-6)
    with pytest.raises(InvalidArgumentError, match="not symmetric and positive definite"):
        found.to_probability_density(np.zeros((1, 3)))


def test_draws() -> None:
    x = mvn(random_state=0).sample(20_000)
    # Six standard errors.
    error = 6 * np.sqrt(np.diag(C.covariances[0]) / len(x))
    assert (np.abs(x.mean(axis=0) - C.means[0]) < error).all()
    assert_allclose(np.cov(x.T), C.covariances[0], rtol=0.1, atol=0.5)
    inside = mvn(random_state=0).sample_confidence_region(4000, 0.3)
    distance = mvn().squared_mahalanobis_distance(inside)
    assert distance.max() <= chi2(4).ppf(0.3)
    # Uniform after their own distribution function.
    assert abs((chi2(4).cdf(distance) / 0.3).mean() - 0.5) < 6 / np.sqrt(12 * 4000)


def test_random_states() -> None:
    assert_allclose(mvn(random_state=3).sample(4), mvn(random_state=3).sample(4))
    one = mvn(random_state=3)
    first = one.sample(4)
    assert not np.allclose(first, one.sample(4))
    shared = np.random.RandomState(3)
    assert_allclose(mvn(random_state=shared).sample(4), first)
    assert not np.allclose(mvn(random_state=shared).sample(4), first)
    before = torch.get_rng_state()
    mvn(random_state=3).sample(4)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_state_numpy_decides() -> None:
    kept = np.random.get_state()  # noqa: NPY002 (the source under test)
    try:
        np.random.seed(5)  # noqa: NPY002
        first = mvn().sample(3)
        np.random.seed(5)  # noqa: NPY002
        assert_allclose(mvn().sample(3), first)
        assert not np.allclose(mvn().sample(3), first)
    finally:
        np.random.set_state(kept)  # noqa: NPY002


def test_what_is_made_of_one_draws_from_its_source() -> None:
    source, other = mvn(random_state=0), np.random.RandomState(1)
    assert source.condition([0], [0.0]).random_state is source.random_state
    assert source.marginalize([0]).random_state is source.random_state
    points = source.sigma_points()
    assert source.estimate_from_sigma_points(points).random_state is source.random_state
    assert source.estimate_from_sigma_points(points, random_state=other).random_state is other


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))])
def test_copies(copied: Callable[[MVN], MVN]) -> None:
    one = mvn(random_state=0)
    other = copied(one)
    assert_allclose(other.sample(3), one.sample(3))
    other.mean = np.zeros(4)
    assert not (one.mean == 0).any()


def test_a_singular_covariance_has_moments_but_no_density() -> None:
    line = MVN([1.0, 2.0, 3.0], np.outer([1.0, 2.0, 0.0], [1.0, 2.0, 0.0]), random_state=0)
    x = line.sample(50)
    assert_allclose(x[:, 1] - 2.0, 2 * (x[:, 0] - 1.0), atol=1e-7)
    assert_allclose(x[:, 2], 3.0)
    assert_allclose(line.predict([0], [[3.0]])[0], [[6.0, 3.0]], atol=1e-7)
    inside = line.sample_confidence_region(50, 0.5)
    assert np.abs(inside[:, 0] - 1.0).max() <= np.sqrt(chi2(3).ppf(0.5))
    for use in (
        line.to_probability_density,
        line.to_norm_factor_and_exponents,
        line.squared_mahalanobis_distance,
        lambda rows: line.is_in_confidence_region(rows, 0.5),
    ):
        with pytest.raises(InvalidArgumentError, match="not symmetric and positive definite"):
            use(x)
    with pytest.raises(InvalidArgumentError, match="among the known features"):
        line.predict([0, 1], x[:, :2])


@pytest.mark.parametrize(
    "use",
    [
        lambda v: v.sample(1),
        lambda v: v.sample_confidence_region(1, 0.5),
        lambda v: v.is_in_confidence_region([0.0, 0.0], 0.5),
        lambda v: v.to_norm_factor_and_exponents([[0.0, 0.0]]),
        lambda v: v.to_probability_density([[0.0, 0.0]]),
        lambda v: v.marginalize([0]),
        lambda v: v.condition([0], [0.0]),
        lambda v: v.predict([0], [[0.0]]),
        lambda v: v.squared_mahalanobis_distance([0.0, 0.0]),
        lambda v: v.to_ellipse(),
        lambda v: v.sigma_points(),
        lambda v: gmr.plot_error_ellipse(None, v),
        lambda v: v.estimate_from_sigma_points(np.zeros((5, 2))),
    ],
)
def test_refuses_without_parameters(use: Callable[[MVN], Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="not initialized: mean, covariance;"):
        use(MVN())
    with pytest.raises(InvalidArgumentError, match="not initialized: covariance;"):
        use(MVN(mean=[0.0, 0.0]))


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: MVN([0.0], [[1.0, 0.0], [0.0, 1.0]]).sample(1), "expected priors"),
        (lambda: MVN([np.nan, 0.0], PLANE).sample(1), "must be finite"),
        (lambda: MVN([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]).sample(1), "not symmetric"),
        (lambda: MVN([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]).sample(1), "semi-definite"),
        (lambda: MVN([0.0, 0.0], PLANE).sample_confidence_region(1, 0.0), "confidence range"),
        (lambda: MVN([0.0, 0.0], PLANE).condition([0], [[0.0], [1.0]]), "one row of known"),
        (lambda: MVN([0.0, 0.0], PLANE).predict([0.5], [[0.0]]), "must be integers"),
        (lambda: MVN([0.0, 0.0], PLANE).estimate_from_sigma_points(np.ones((4, 2))), "expected 5"),
        (lambda: mvn().to_ellipse(), "2 features"),
        (lambda: MVN(random_state="seed"), "random_state must be"),
    ],
)
def test_refuses_what_does_not_fit(use: Callable[[], Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        use()


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([1.0, 2.0], r"write X\[:, np.newaxis\]"),
        (np.zeros((0, 2)), "expected rows"),
        ([[0.0], [np.nan]], r"infinite entries in row\(s\) 1"),
        ([[0.0, 1.0]], "at least 2 rows"),
    ],
)
def test_refuses_rows(x: Any, words: str) -> None:
    with pytest.raises(InvalidDataError, match=words):
        MVN().from_samples(x)
