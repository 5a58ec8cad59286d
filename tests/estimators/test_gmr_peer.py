"""The door against gmr itself: the version that people come from."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.gmr_mixtures import Case, blobs, case

from gmm_lightning.estimators import gmr as ours

theirs = pytest.importorskip("gmr")
pytest.importorskip("gmr.sklearn")

over_cases = pytest.mark.parametrize("seed", range(6))


def both(c: Case) -> tuple[Any, Any]:
    k = len(c.priors)
    return (
        ours.GMM(k, c.priors, c.means, c.covariances),
        theirs.GMM(k, c.priors, c.means, c.covariances.copy()),
    )


def alike(ours: Any, theirs: Any, names: str) -> None:
    for name in names.split():
        assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-8, atol=1e-10)


def parameters(function: Any) -> list[tuple[str, Any]]:
    found = inspect.signature(function).parameters.values()
    return [
        (p.name, tuple(p.default) if isinstance(p.default, np.ndarray) else p.default)
        for p in found
    ]


def test_signatures_and_defaults() -> None:
    pairs = [(ours.GaussianMixtureRegressor, theirs.sklearn.GaussianMixtureRegressor)]
    for module in (theirs.gmm, theirs.mvn):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if not name.startswith("_") and function.__module__ == module.__name__:
                pairs.append((getattr(ours, name), function))
    for kind in ("GMM", "MVN"):
        mine = getattr(ours, kind)
        for name, method in inspect.getmembers(getattr(theirs, kind), inspect.isfunction):
            if name == "__init__" or not name.startswith("_"):
                pairs.append((getattr(mine, name), method))
    assert len(pairs) > 30
    for mine, their in pairs:
        assert parameters(mine) == parameters(their), their


@over_cases
def test_mixtures(seed: int) -> None:
    c = case(seed, k=seed % 4 + 1, d=seed % 3 + 2)
    mine, their = both(c)
    known = [0] if seed % 2 else [c.means.shape[1] - 1]
    for method in ("to_responsibilities", "to_probability_density"):
        assert_allclose(getattr(mine, method)(c.x), getattr(their, method)(c.x), rtol=1e-8)
    assert_allclose(mine.predict(known, c.x[:, known]), their.predict(known, c.x[:, known]))
    conditional = mine.condition(known, c.x[0, known])
    alike(conditional, their.condition(known, c.x[0, known]), "priors means covariances")
    alike(mine.to_mvn(), their.to_mvn(), "mean covariance")
    a, b = mine.extract_mvn(0), their.extract_mvn(0)
    for one, other in zip(
        (*a.to_norm_factor_and_exponents(c.x), *a.predict(known, c.x[:, known])),
        (*b.to_norm_factor_and_exponents(c.x), *b.predict(known, c.x[:, known])),
        strict=True,
    ):
        assert_allclose(one, other, rtol=1e-8, atol=1e-10)
    alike(a.marginalize(known), b.marginalize(known), "mean covariance")
    points, expected = a.sigma_points(0.5, 1.0), b.sigma_points(0.5, 1.0)
    assert_allclose(points, expected, rtol=1e-9, atol=1e-9)
    options = {"alpha": 0.5, "beta": 2.0, "kappa": 1.0}
    image = a.estimate_from_sigma_points(np.sin(points), **options)
    alike(image, b.estimate_from_sigma_points(np.sin(expected), **options), "mean covariance")
    lifted = [np.column_stack([np.sin(p), np.cos(p)]) for p in (points, expected)]
    more = a.estimate_from_sigma_points(lifted[0], **options)
    alike(more, b.estimate_from_sigma_points(lifted[1], **options), "mean covariance")
    start = ours.covariance_initialization(c.x, 3)
    assert_allclose(start, theirs.covariance_initialization(c.x, 3))
    fitted = ours.MVN().from_samples(c.x)
    alike(fitted, theirs.MVN().from_samples(c.x), "mean covariance")


def test_ellipses() -> None:
    mine, their = both(case(1, d=2))
    for (mean, (angle, *axes)), (centre, (turn, *half)) in zip(
        mine.to_ellipses(2.0), their.to_ellipses(2.0), strict=True
    ):
        assert_allclose(mean, centre)
        assert_allclose(axes, half)
        # An axis has no direction.
        assert np.sin(angle - turn) == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_fits(seed: int) -> None:
    """Where no component collapses, which gmr hides by adding 1e-3 I."""
    x = blobs(seed) @ np.array([[1.0, 0.4], [-0.3, 0.8]])
    start = case(seed, k=2, d=2)
    mine, their = both(start)
    alike(mine.from_samples(x), their.from_samples(x), "priors means covariances")
    options = {"priors": start.priors, "means": start.means, "n_iter": 20}
    regressors = [
        module.GaussianMixtureRegressor(2, covariances=start.covariances.copy(), **options)
        for module in (ours.sklearn, theirs.sklearn)
    ]
    one, other = (r.fit(x[:, :1], x[:, 1:]).predict(x[:, :1]) for r in regressors)
    assert one.shape == other.shape
    assert_allclose(one, other, rtol=1e-7, atol=1e-7)
