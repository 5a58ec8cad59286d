"""What gmr 2.0.3 gets wrong, one test each: none of them may come through the door."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal
from support.gmr_mixtures import blobs

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators import gmr
from gmm_lightning.estimators.gmr import GMM, MVN


def test_1_seeds_keep_away_from_the_nearest_seed() -> None:
    """gmr covers five separated blobs in 2.5 % of all seeds, the right rule in 98.5 %."""
    x = blobs(0)
    centres = 5 * np.round(x / 5)
    found = [gmr.kmeansplusplus_initialization(x, 5, random_state=s) for s in range(40)]
    covered = [len(np.unique(5 * np.round(seeds / 5), axis=0)) == 5 for seeds in found]
    assert len(np.unique(centres, axis=0)) == 5
    assert np.mean(covered) > 0.9


@pytest.mark.parametrize("d", [1, 2, 5])
def test_2_regions_hold_their_mass(d: int) -> None:
    """gmr's 90 % hold 75 % in two dimensions and 83 % in five."""
    rng = np.random.default_rng(d)
    factor = rng.normal(size=(d, d)) + 2 * np.eye(d)
    mvn = MVN(rng.normal(size=d), factor @ factor.T, random_state=0)
    x = mvn.sample(40_000)
    # 1 % is seven standard errors.
    assert mvn.is_in_confidence_region(x, 0.9).mean() == pytest.approx(0.9, abs=0.01)
    one = GMM(1, [1.0], mvn.mean[None], mvn.covariance[None])
    assert (one.is_in_confidence_region(x, 0.9) == mvn.is_in_confidence_region(x, 0.9)).all()


@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_3_one_dimension_uses_the_standard_deviation(sigma: float) -> None:
    """gmr's 68 % hold 8 % for sigma 0.1 and 96 % for sigma 2."""
    mvn = MVN([1.0], [[sigma**2]])
    for factor, inside in ((0.999, True), (1.001, False)):
        # One standard deviation holds 68.27 %.
        assert mvn.is_in_confidence_region([1.0 + factor * sigma], 0.6827) is inside
        one = GMM(1, [1.0], [[1.0]], [[[sigma**2]]])
        assert one.is_in_confidence_region([1.0 - factor * sigma], 0.6827) is inside


def test_4_the_density_has_no_floor() -> None:
    """Twelve features of variance 1e-4: gmr's log density at the mean is 25.0."""
    mvn = MVN(np.zeros(12), 1e-4 * np.eye(12))
    expected = multivariate_normal(np.zeros(12), 1e-4 * np.eye(12)).logpdf(np.zeros(12))
    assert expected == pytest.approx(44.2, abs=0.05)
    assert np.log(mvn.to_norm_factor_and_exponents(np.zeros(12))[0]) == pytest.approx(expected)
    assert np.log(mvn.to_probability_density(np.zeros(12))[0]) == pytest.approx(expected)


def test_5_nothing_goes_stale() -> None:
    mvn = MVN([0.0, 0.0], np.eye(2))
    mvn.to_probability_density([[0.0, 0.0]])
    mvn.covariance = 4 * np.eye(2)
    mvn.mean = [1.0, 0.0]
    expected = multivariate_normal([1.0, 0.0], 4 * np.eye(2)).pdf([0.0, 0.0])
    assert mvn.to_probability_density([[0.0, 0.0]])[0] == pytest.approx(expected)
    gmm = GMM(1, [1.0], [[0.0, 0.0]], [np.eye(2)])
    gmm.to_probability_density([[0.0, 0.0]])
    gmm.covariances = [4 * np.eye(2)]
    # Writing into the array counts, too.
    gmm.means[0, 0] = 1.0
    assert gmm.to_probability_density([[0.0, 0.0]])[0] == pytest.approx(expected)


def test_6_arrays_of_the_caller_stay() -> None:
    x = blobs(0)
    means, covariances, priors = x[:3].copy(), np.tile(np.eye(2), (3, 1, 1)), np.full(3, 1 / 3)
    kept = [value.copy() for value in (means, covariances, priors)]
    gmm = GMM(3, priors, means, covariances).from_samples(x, oracle_approximating_shrinkage=True)
    gmm.apply_oracle_approximating_shrinkage(10)
    gmm.covariances[:] = 0.0
    for value, before in zip((means, covariances, priors), kept, strict=True):
        assert (value == before).all()


def test_7_far_rows_have_a_log_density() -> None:
    """gmr's density of a row at 50 deviations is 0, so its logarithm is -inf."""
    gmm = GMM(2, [0.5, 0.5], [[0.0], [1.0]], [[[1.0]], [[1.0]]])
    far = gmm.to_log_probability_density([[51.0], [1e4]])
    assert_allclose(far, np.log(0.5 / np.sqrt(2 * np.pi)) - 0.5 * np.array([50.0, 9999.0]) ** 2)
    assert_allclose(gmm.to_responsibilities([[1e4]]), [[0.0, 1.0]])
    assert np.isfinite(gmm.to_mvn().to_log_probability_density([[1e6]])).all()


def test_8_random_starts_differ() -> None:
    """Seven rows, two of them the same, for six components: all means differ, in every seed."""
    x = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0], [5.0]])
    for seed in range(20):
        start = GMM(6, random_state=seed).from_samples(x, n_iter=0).means
        assert len(np.unique(start)) == 6


def test_9_a_failed_factorisation_is_an_error() -> None:
    """gmr adds 1e-3 I: here ten times the variance that the others have."""
    flat = MVN([0.0, 0.0], np.diag([1e-4, 0.0]))
    with pytest.raises(
        InvalidArgumentError, match=r"smallest eigenvalue is 0, its largest 0\.0001"
    ):
        flat.to_probability_density([[0.0, 0.0]])
    small = MVN([0.0, 0.0], 1e-30 * np.eye(2))
    assert small.squared_mahalanobis_distance([1e-15, 0.0]) == pytest.approx(1.0)
