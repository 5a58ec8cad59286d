"""Frozen parts and bounds through tgmm's door."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.tgmm_rows import MEANS, TYPES, UNITS, blobs, given

from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.estimators.tgmm import GaussianMixture

X = blobs()


@pytest.mark.parametrize("kind", ["full", "diag", "spherical"])
def test_frozen_components(kind: str) -> None:
    model = GaussianMixture(**given(kind, frozen_components=[1])).fit(X)
    assert torch.equal(model.means_[1], MEANS[1])
    torch.testing.assert_close(model.covariances_[1], UNITS[kind][1], rtol=1e-14, atol=0)
    assert not torch.allclose(model.means_[0], MEANS[0])
    assert model.converged_


@pytest.mark.parametrize("kind", TYPES)
def test_frozen_means(kind: str) -> None:
    model = GaussianMixture(**given(kind, frozen_means=[0, 1])).fit(X)
    assert torch.equal(model.means_, MEANS)
    assert not torch.allclose(model.covariances_, UNITS[kind])


def test_frozen_covariances() -> None:
    model = GaussianMixture(**given("diag", frozen_covariances=[0])).fit(X)
    torch.testing.assert_close(model.covariances_[0], UNITS["diag"][0], rtol=1e-14, atol=0)
    assert not torch.allclose(model.covariances_[1], UNITS["diag"][1])


def test_fixed_weights() -> None:
    weights = torch.tensor([0.8, 0.2], dtype=torch.float64)
    model = GaussianMixture(**given("full", fixed_weights=weights)).fit(X)
    torch.testing.assert_close(model.weights_, weights, rtol=1e-14, atol=0)


BOUNDS: dict[str, dict[str, Any]] = {
    "weights": {"weight_bounds": (0.49, 0.51)},
    "means": {"mean_bounds": (torch.tensor([-1.0, -1.0]), torch.tensor([2.0, 2.0]))},
    "covariances": {"covariance_bounds": (0.9, 1.5)},
}


@pytest.mark.parametrize("part", BOUNDS)
@pytest.mark.parametrize("kind", TYPES)
def test_bounds(kind: str, part: str) -> None:
    options = BOUNDS[part]
    model = GaussianMixture(**given(kind, tol=1e-8, **options)).fit(X)
    low, high = (torch.as_tensor(bound).to(X) for bound in next(iter(options.values())))
    values = {"weights": model.weights_, "means": model.means_}
    if part == "covariances":
        matrices = model.mixture.component_covariances
        values[part] = torch.linalg.eigvalsh(matrices)
    # A covariance is stored by its factor: one rounding up, one down.
    assert (values[part] >= low * (1 - 1e-12) - 1e-12).all()
    assert (values[part] <= high * (1 + 1e-12) + 1e-12).all()
    masks = model.active_constraints_
    assert masks.keys() == {f"{part}_at_lower", f"{part}_at_upper"}
    assert any(bool(mask.any()) for mask in masks.values())
    steps = model.log_likelihood_history_.diff()
    assert (steps > -1e-12).all()


def test_bounds_in_the_old_state(tmp_path: Any) -> None:
    model = GaussianMixture(**given("full", frozen_means=[1], covariance_bounds=(0.5, 2.0)))
    model.fit(X).save(tmp_path / "model.pth")
    loaded = GaussianMixture.load(tmp_path / "model.pth", device="cpu")
    assert torch.equal(loaded.score_samples(X), model.score_samples(X))
    assert torch.equal(loaded.fit(X).means_[1], MEANS[1])


REFUSED: dict[str, dict[str, Any]] = {
    "give it values": {"frozen_components": [0], "init_means": "kmeans"},
    "frozen_covariances keeps": {"frozen_covariances": [0], "init_covariances": "eye"},
    "keep one of them": {"fixed_weights": [0.5, 0.5], "weight_bounds": (0.1, 0.9)},
    "numbered 0 to 1": {"frozen_means": [2]},
    "init_weights must be": {"fixed_weights": [0.2, 0.3, 0.5]},
    "as a whole": {"covariance_type": "tied_full", "frozen_covariances": [0]},
}


@pytest.mark.parametrize("words", REFUSED)
def test_refused(words: str) -> None:
    kind = REFUSED[words].get("covariance_type", "full")
    model = GaussianMixture(**{**given(kind), **REFUSED[words]})
    with pytest.raises(InvalidArgumentError, match=words):
        model.fit(X)
    assert model.layer_ is None


@pytest.mark.parametrize(
    "bounds",
    [
        {"weight_bounds": (0.6, 0.9)},
        {"weight_bounds": (0.0, 0.3)},
        {"mean_bounds": (1.0, 0.0)},
        {"covariance_bounds": (2.0, 1.0)},
        {"covariance_bounds": 3.0},
    ],
    ids=str,
)
def test_bounds_that_exclude_each_other(bounds: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError):
        GaussianMixture(**given("full", **bounds)).fit(X)
