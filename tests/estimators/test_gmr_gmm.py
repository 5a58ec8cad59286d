"""gmr's mixture, against numpy and scipy."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from numpy.testing import assert_allclose
from scipy.spatial.distance import pdist
from scipy.stats import chi2
from support.gmr_mixtures import blobs, case, conditional, em, log_joint, regression, softmax

from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.estimators import gmr
from gmm_lightning.estimators.gmr import GMM, MVN

C = case(2)
ALL = [0, 1, 2]


def gmm(c: Any = C, **options: Any) -> GMM:
    return GMM(len(c.priors), c.priors, c.means, c.covariances, **options)


def test_density_and_responsibilities() -> None:
    logs = log_joint(C, C.x, ALL)
    assert_allclose(gmm().to_responsibilities(C.x), softmax(logs), rtol=1e-10, atol=1e-15)
    density = np.exp(logs).sum(axis=1)
    assert_allclose(gmm().to_probability_density(C.x), density, rtol=1e-11)
    assert_allclose(gmm().to_log_probability_density(C.x), np.log(density), rtol=1e-12)


@pytest.mark.parametrize("known", [[0], [2, 0], [1, 2]])
def test_regression_and_conditional(known: list[int]) -> None:
    x = C.x[:, known]
    assert_allclose(gmm().predict(known, x), regression(C, known, x), rtol=1e-10)
    given = gmm().condition(known, x[4])
    assert isinstance(given, GMM)
    assert_allclose(given.priors, softmax(log_joint(C, x[4:5], known))[0], rtol=1e-10)
    for k in range(3):
        means, covariance = conditional(C, k, known, x[4:5])
        assert_allclose(given.means[k], means[0], rtol=1e-10)
        assert_allclose(given.covariances[k], covariance, rtol=1e-10, atol=1e-12)
    assert_allclose(given.to_mvn().mean, gmm().predict(known, x[4:5])[0], rtol=1e-10)


def test_collapse_to_one() -> None:
    whole = gmm().to_mvn()
    mean = C.priors @ C.means
    second = np.einsum(
        "k,kij->ij", C.priors, C.covariances + np.einsum("ki,kj->kij", C.means, C.means)
    )
    assert_allclose(whole.mean, mean, rtol=1e-12)
    assert_allclose(whole.covariance, second - np.outer(mean, mean), rtol=1e-10)


def test_one_component_alone() -> None:
    one = gmm(random_state=0).extract_mvn(1)
    assert isinstance(one, MVN)
    assert_allclose(one.covariance, C.covariances[1])
    for k in (-1, 3):
        with pytest.raises(InvalidArgumentError, match=r"component_idx must be"):
            gmm().extract_mvn(k)


def test_ellipses() -> None:
    flat = case(5, d=2)
    found = gmm(flat).to_ellipses(factor=1.5)
    for k, (mean, shape) in enumerate(found):
        assert_allclose(mean, flat.means[k])
        assert shape == MVN(flat.means[k], flat.covariances[k]).to_ellipse(1.5)


def test_draws_are_grouped_by_component() -> None:
    apart = C._replace(means=C.means + 500.0 * np.arange(3)[:, None])
    x = gmm(apart, random_state=0).sample(30_000)
    which = np.abs(x[:, None] - apart.means).sum(axis=2).argmin(axis=1)
    assert (np.diff(which) >= 0).all()
    share = np.bincount(which) / len(x)
    assert (np.abs(share - C.priors) < 6 * np.sqrt(C.priors * (1 - C.priors) / len(x))).all()
    for k in range(3):
        assert_allclose(np.cov(x[which == k].T), C.covariances[k], rtol=0.15, atol=0.6)
    assert gmm().sample(0).shape == (0, 3)


def test_draws_within_the_regions() -> None:
    x = gmm(random_state=1).sample_confidence_region(2000, 0.4)
    distances = np.stack(
        [gmm().extract_mvn(k).squared_mahalanobis_distance(x) for k in range(3)], axis=1
    )
    assert (distances.min(axis=1) <= chi2(3).ppf(0.4)).all()
    found = gmm().is_in_confidence_region(C.x, 0.4)
    nearest = [
        min(gmm().extract_mvn(k).squared_mahalanobis_distance(row) for k in range(3)) for row in C.x
    ]
    assert found.tolist() == [value <= chi2(3).ppf(0.4) for value in nearest]
    assert isinstance(gmm().is_in_confidence_region(C.x[0], 0.4), bool)


# -- fits ---------------------------------------------------------------------------------------


def test_steps_are_those_of_em() -> None:
    x = blobs(0) @ np.array([[1.0, 0.3], [0.0, 1.0]])
    start = case(3, d=2)
    expected = em(start, x, 6)
    fitted = gmm(start).from_samples(x, R_diff=0.0, n_iter=6)
    for name in ("priors", "means", "covariances"):
        # Sums of 200 rows.
        assert_allclose(getattr(fitted, name), getattr(expected, name), rtol=1e-8, atol=1e-8)


def test_stops_when_the_responsibilities_stand_still() -> None:
    start = case(4, k=2, d=2, n=150)

    def after(n_iter: int, R_diff: float) -> np.ndarray:
        fitted = gmm(start).from_samples(start.x, R_diff=R_diff, n_iter=n_iter)
        return fitted.to_responsibilities(start.x)

    path = [after(n, 0.0) for n in range(5)]
    moves = [np.linalg.norm(b - a) for a, b in pairwise(path)]
    assert moves[0] > moves[1] > moves[2] > moves[3]
    # A bound just above the third move ends the fit after as many steps.
    assert_allclose(after(50, 1.001 * moves[2]), path[3], atol=1e-12)


@pytest.mark.parametrize("init", ["random", "kmeans++"])
def test_a_fit_from_nothing(init: str, capsys: pytest.CaptureFixture[str]) -> None:
    x = blobs(1)
    before = torch.get_rng_state()
    model = GMM(5, random_state=0, verbose=1)
    assert model.from_samples(x, init_params=init) is model
    assert torch.equal(torch.get_rng_state(), before)
    assert "EM converged." in capsys.readouterr().out
    again = GMM(5, random_state=0).from_samples(x, init_params=init)
    assert_allclose(again.means, model.means)
    assert capsys.readouterr().out == ""
    if init == "kmeans++":
        assert_allclose(model.priors, 0.2, atol=1e-6)
        assert_allclose(np.sort(model.means[:, 1]), [0, 0, 10, 10, 30], atol=0.1)


def test_a_second_fit_goes_on() -> None:
    x = blobs(1)
    whole = GMM(5, random_state=0).from_samples(x, n_iter=6, R_diff=0.0)
    parts = GMM(5, random_state=0).from_samples(x, n_iter=2, R_diff=0.0)
    parts.from_samples(x, n_iter=4, R_diff=0.0)
    assert_allclose(parts.means, whole.means, rtol=1e-9)


def test_n_iter_0_keeps_what_is_given() -> None:
    kept = gmm().from_samples(C.x, n_iter=0)
    assert_allclose(kept.covariances, C.covariances, rtol=1e-13)


def test_no_number_is_ever_missing() -> None:
    """Five rows of ones and five of zeros, a constant feature, and one row only."""
    twice = np.repeat([[1.0, 7.0], [0.0, 7.0]], 5, axis=0)
    for x, k in ((twice, 4), (twice, 2), (twice[:1], 1)):
        for init in ("random", "kmeans++"):
            for shrink in (False, True):
                model = GMM(k, random_state=0).from_samples(
                    x, init_params=init, oracle_approximating_shrinkage=shrink
                )
                assert np.isfinite(model.covariances).all()
                assert model.priors.sum() == pytest.approx(1.0)
                assert np.isfinite(model.predict([0], x[:, :1])).all()


def chen(scatter: np.ndarray, n: float) -> np.ndarray:
    """Formula 23 of the paper. scikit-learn and gmr leave out both terms in 2/D."""
    d = len(scatter)
    trace, square = np.trace(scatter), np.trace(scatter @ scatter)
    above = (1 - 2 / d) * square + trace**2
    rho = min(1.0, above / ((n + 1 - 2 / d) * (square - trace**2 / d)))
    return (1 - rho) * scatter + rho * trace / d * np.eye(d)


def test_shrinkage_is_the_papers() -> None:
    x = np.random.default_rng(0).normal(size=(12, 5)) @ np.diag([1, 2, 3, 4, 5])
    scatter = np.cov(x.T, bias=True)
    model = GMM(2, [0.5, 0.5], np.zeros((2, 5)), [scatter, 3 * scatter])
    model.apply_oracle_approximating_shrinkage([12, 30])
    assert_allclose(model.covariances, [chen(scatter, 12), chen(3 * scatter, 30)], rtol=1e-10)
    assert not np.allclose(model.covariances[0], scatter)


def test_shrinkage_mends_what_is_singular() -> None:
    model = GMM(2, [0.5, 0.5], np.zeros((2, 3)), [np.diag([1.0, 1.0, 0.0]), np.eye(3)])
    with pytest.raises(InvalidArgumentError, match="apply_oracle_approximating_shrinkage"):
        model.to_responsibilities(C.x)
    model.apply_oracle_approximating_shrinkage([5, 500])
    assert_allclose(model.covariances[1], np.eye(3))
    assert_allclose(np.trace(model.covariances[0]), 2.0)
    assert np.linalg.eigvalsh(model.covariances[0])[0] > 0.01
    assert np.isfinite(model.to_responsibilities(C.x)).all()


def test_shrinkage_during_the_fit() -> None:
    x = np.random.default_rng(1).normal(size=(8, 5))
    plain = GMM(1, random_state=0).from_samples(x)
    shrunk = GMM(1, random_state=0).from_samples(x, oracle_approximating_shrinkage=True)
    assert_allclose(plain.covariances[0], np.cov(x.T, bias=True), rtol=1e-10)
    assert_allclose(shrunk.covariances[0], chen(plain.covariances[0], 8), rtol=1e-10)


# -- starts -------------------------------------------------------------------------------------


def test_initial_covariances() -> None:
    expected = np.diag([(pdist(C.x[:, [i]]).mean() / 4) ** 2 for i in range(3)])
    assert_allclose(gmr.covariance_initialization(C.x, 4), np.tile(expected, (4, 1, 1)), rtol=1e-12)


def test_seeds_are_rows_whatever_the_offset() -> None:
    x = blobs(2) + 1e9
    seeds = gmr.kmeansplusplus_initialization(x, 5, random_state=0)
    assert all((x == seed).all(axis=1).any() for seed in seeds)
    assert pdist(seeds).min() > 5.0


# -- use ----------------------------------------------------------------------------------------


def test_plots() -> None:
    flat = case(5, d=2)
    ax = Figure().add_subplot(xlabel="length", ylabel="width")
    gmr.plot_error_ellipses(ax, gmm(flat), colors=["r", "g"], alpha=0.1, factors=[1.0, 2.0])
    drawn = [artist for artist in ax.patches if isinstance(artist, Ellipse)]
    assert len(drawn) == 6
    for k, (mean, (angle, long, short)) in enumerate(gmm(flat).to_ellipses(2.0)):
        own = [ellipse for ellipse in drawn if np.allclose(ellipse.get_center(), mean)]
        # The same colour at each factor, and the second begins anew with the first component.
        assert {ellipse.get_facecolor() for ellipse in own} == {to_rgba("rgr"[k], 0.1)}
        outer = max(own, key=lambda ellipse: ellipse.width)
        assert_allclose((outer.width, outer.height), (2 * long, 2 * short))
        assert np.sin(math.radians(outer.angle) - angle) == pytest.approx(0.0, abs=1e-9)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("length", "width")
    other = Figure().add_subplot()
    gmr.plot_error_ellipse(other, gmm(flat).to_mvn(), color="b")
    assert len(other.patches) == 8
    assert other.patches[0].get_facecolor() == to_rgba("b", 0.25)
    with pytest.raises(InvalidArgumentError, match="feature"):
        gmr.plot_error_ellipses(other, gmm())


def test_priors_may_be_zero_or_not_normalised() -> None:
    zero = gmm(C._replace(priors=np.array([2.0, 0.0, 6.0])), random_state=0)
    reduced = GMM(2, [0.25, 0.75], C.means[[0, 2]], C.covariances[[0, 2]])
    assert_allclose(zero.to_probability_density(C.x), reduced.to_probability_density(C.x))
    assert_allclose(zero.predict([0], C.x[:, :1]), reduced.predict([0], C.x[:, :1]))
    assert np.isfinite(zero.sample_confidence_region(50, 0.5)).all()
    assert_allclose(zero.from_samples(C.x, n_iter=1).priors[1], 0.0, atol=1e-200)


def test_what_is_made_of_one_draws_from_its_source() -> None:
    source = gmm(random_state=0)
    made = [source.condition([0], [0.0]), source.to_mvn(), source.extract_mvn(0)]
    assert all(one.random_state is source.random_state for one in made)


def test_lists_and_tensors_are_arrays() -> None:
    found = gmm().predict([0], torch.from_numpy(C.x[:, :1]))
    assert_allclose(found, gmm().predict(np.array([True, False, False]), C.x[:, :1].tolist()))
    assert_allclose(found[:1], gmm().predict([0], C.x[0, :1]))


def test_copies() -> None:
    one = gmm(random_state=0)
    other = copy.deepcopy(one)
    assert_allclose(one.sample(5), other.sample(5))


@pytest.mark.parametrize(
    "use",
    [
        lambda g: g.sample(1),
        lambda g: g.sample_confidence_region(1, 0.5),
        lambda g: g.is_in_confidence_region([0.0, 0.0], 0.5),
        lambda g: g.to_responsibilities([[0.0, 0.0]]),
        lambda g: g.to_probability_density([[0.0, 0.0]]),
        lambda g: g.condition([0], [0.0]),
        lambda g: g.predict([0], [[0.0]]),
        lambda g: g.to_ellipses(),
        lambda g: g.to_mvn(),
        lambda g: gmr.plot_error_ellipses(None, g),
        lambda g: g.extract_mvn(0),
        lambda g: g.apply_oracle_approximating_shrinkage(3),
    ],
)
def test_refuses_without_parameters(use: Callable[[GMM], Any]) -> None:
    with pytest.raises(InvalidArgumentError, match="not initialized: priors, means, covariances;"):
        use(GMM(2))
    with pytest.raises(InvalidArgumentError, match="not initialized: covariances;"):
        use(GMM(2, priors=[0.5, 0.5], means=np.zeros((2, 2))))


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: GMM(2).from_samples(C.x, init_params="best"), "known are: random, kmeans"),
        (lambda: GMM(0).from_samples(C.x), "n_components must be an integer >= 1"),
        (lambda: GMM(2, means=np.zeros((3, 3))).from_samples(C.x), "expected priors"),
        (lambda: GMM(2, means=np.zeros((2, 2))).from_samples(C.x), "expected priors"),
        (lambda: GMM(2, C.priors, C.means, C.covariances).sample(1), "expected 2 components"),
        (lambda: gmm(C._replace(priors=-C.priors)).sample(1), "priors must be"),
        (lambda: gmm().condition([0], [[0.0], [1.0]]), "one row of known"),
        (lambda: gmm().predict([0, 1, 2], C.x), "between 1 and 2 of 3 features"),
        (lambda: gmr.covariance_initialization(C.x, 0), "n_components must be an integer >= 1"),
        (lambda: gmr.kmeansplusplus_initialization(C.x, 0), "n_components must be an integer >= 1"),
    ],
)
def test_refuses_what_does_not_fit(use: Callable[[], Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        use()


@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda: GMM(16).from_samples(C.x), "expected at least 16 rows, got 15"),
        (lambda: GMM(2).from_samples(C.x[0]), "expected rows"),
        (lambda: GMM(2).from_samples([[1.0], [np.inf]]), r"infinite entries in row\(s\) 1"),
        (lambda: gmm().predict([0], C.x), r"shape \(n_samples, 1\), got \(15, 3\)"),
        (lambda: gmm().to_responsibilities(C.x[:, :2]), r"\(n_samples, 3\), got \(15, 2\)"),
        (lambda: gmr.covariance_initialization(C.x[:1], 1), "at least 2 rows"),
        (lambda: gmr.kmeansplusplus_initialization(C.x, 16), "at least 16 rows"),
    ],
)
def test_refuses_rows(use: Callable[[], Any], words: str) -> None:
    with pytest.raises(InvalidDataError, match=words):
        use()


@pytest.mark.parametrize("value", ["a", None, np.nan, -1, np.inf])
def test_refuses_what_is_no_number(value: Any) -> None:
    flat = gmm(case(5, d=2))
    for use in (
        lambda: flat.to_ellipses(value),
        lambda: flat.apply_oracle_approximating_shrinkage(value),
        lambda: flat.from_samples(case(5, d=2).x, n_iter=value),
        lambda: flat.from_samples(case(5, d=2).x, R_diff=value),
        lambda: flat.is_in_confidence_region(flat.means, value),
        lambda: flat.extract_mvn(value),
        lambda: gmr.invert_indices(value, [0]),
        lambda: gmr.regression_coefficients(value, [0], [1]),
        lambda: gmr.condition(value, np.eye(2), [0], [1], [1.0]),
        lambda: gmr.plot_error_ellipses(value, flat),
        lambda: GMM(value).from_samples(flat.means),
    ):
        with pytest.raises((InvalidArgumentError, InvalidDataError)):
            use()


def test_rows_beyond_all_components_are_refused() -> None:
    for use in (
        lambda: gmm().predict([0], [[1e200]]),
        lambda: gmm().to_responsibilities([[1e200, 0.0, 0.0]]),
    ):
        with pytest.raises(InvalidDataError, match="far from every component"):
            use()


def test_the_numeric_cases() -> None:
    """Conditioning and collapse to one Gaussian: tests/golden/README.md."""
    covariances = [[[0.5, -1.0], [-1.0, 5.0]], [[5.0, 1.0], [1.0, 0.5]]]
    model = GMM(2, [0.5, 0.5], [[0.0, 1.0], [2.0, -1.0]], covariances)
    conditional = model.condition([1], [1.0])
    assert_allclose(conditional.means, [[0.0], [6.0]], atol=1e-12)
    # 0.5 - 1/5 and 5 - 1/0.5.
    assert_allclose(conditional.covariances, [[[0.3]], [[3.0]]], rtol=1e-12)
    assert_allclose(conditional.priors, [0.94525183, 0.05474817], atol=1e-8)
    assert_allclose(model.predict([1], [[1.0]]), [[0.32848901]], atol=1e-8)
    second = model.extract_mvn(1).condition([0], [2.0])
    assert_allclose(second.mean, [-1.0])
    assert_allclose(second.covariance, [[0.3]])
    second_feature = [model.extract_mvn(k).marginalize([1]) for k in range(2)]
    density = sum(0.5 * part.to_probability_density([[1.0]])[0] for part in second_feature)
    assert np.log(density) == pytest.approx(-2.36050077, abs=1e-8)
    one = GMM(2, [0.25, 0.75], [[1.0, 2.0], [3.0, 4.0]], [np.eye(2), np.eye(2)]).to_mvn()
    assert_allclose(one.mean, [2.5, 3.5])
    assert_allclose(one.covariance, [[1.75, 0.75], [0.75, 1.75]])
