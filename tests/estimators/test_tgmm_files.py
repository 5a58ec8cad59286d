"""Files and state dicts of tgmm's door: bit for bit, and nothing that no mixture can have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.tgmm_rows import SCALES, TYPES, blobs, given

from gmm_lightning.errors import CheckpointError, InvalidArgumentError
from gmm_lightning.estimators.tgmm import GaussianMixture

X = blobs()
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "noise": {"noise": True},
    "missing": {"missing": "em"},
    "priors": {
        "weight_concentration_prior": 2.0,
        "mean_prior": torch.ones(2, dtype=torch.float64),
        "mean_precision_prior": 3.0,
        "covariance_prior": SCALES["full"],
        "degrees_of_freedom_prior": 6.0,
    },
}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_file_keeps_everything(option: str, tmp_path: Path) -> None:
    model = GaussianMixture(**given("full", **OPTIONS[option])).fit(X)
    model.save(tmp_path / "model.pth")
    loaded = GaussianMixture.load(tmp_path / "model.pth", device="cpu")
    twin = GaussianMixture()
    twin.load_state_dict(model.save_state_dict())
    for other in (loaded, twin):
        assert torch.equal(other.score_samples(X), model.score_samples(X))
        assert repr(other) == repr(model)
        for name in ("n_iter_", "converged_", "fitted_", "lower_bound_", "best_random_state_"):
            assert getattr(other, name) == getattr(model, name)
        assert torch.equal(other.initial_means_, model.initial_means_)
        assert other.bic(X) == model.bic(X)
    model.partial_fit(X[:30])
    loaded.partial_fit(X[:30])
    assert torch.equal(loaded.means_, model.means_)
    assert model.to_dict().keys() == model.save_state_dict().keys()


@pytest.mark.parametrize("kind", TYPES)
def test_a_state_of_values_alone(kind: str) -> None:
    """As tgmm writes it, without the layer."""
    model = GaussianMixture(**given(kind, noise=True)).fit(X)
    state = model.to_dict()
    del state["layer_"], state["stream_"]
    other = GaussianMixture()
    other.load_state_dict(state)
    torch.testing.assert_close(other.score_samples(X), model.score_samples(X))
    other.fit(X)


def test_names_of_older_files() -> None:
    state = GaussianMixture(**given("full")).fit(X).to_dict()
    state["init_params"] = "kpp"
    del state["init_means"]
    other = GaussianMixture()
    with pytest.warns(DeprecationWarning, match="init_means"):
        other.load_state_dict(state)
    assert other.init_means == "kpp"


BROKEN: dict[str, dict[str, Any]] = {
    "no means": {"means_": None, "weights_": None},
    "a type of eight": {"covariance_type": "VEI"},
    "an infinite mean": {"means_": torch.full((2, 2), torch.inf)},
    "negative weights": {"weights_": torch.tensor([-1.0, 2.0])},
    "another width": {"covariances_": torch.eye(3).repeat(2, 1, 1)},
    "no covariance": {"covariances_": -torch.eye(2).repeat(2, 1, 1)},
    "an argument out of range": {"tol": -1.0},
    "text for a number": {"max_iter": "many"},
    "no layer": {"layer_": {"config": {"name": "os.system"}, "state": {}}},
    "half a layer": {"layer_": {"config": {}}},
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_state_changes_nothing(case: str) -> None:
    state = GaussianMixture(**given("full")).fit(X).to_dict()
    if not case.endswith("layer"):
        del state["layer_"], state["stream_"]
    own = GaussianMixture(**given("diag")).fit(X)
    before = own.score(X)
    if case == "no means":
        state = {name: value for name, value in state.items() if name not in BROKEN[case]}
    else:
        state |= BROKEN[case]
    with pytest.raises(CheckpointError):
        own.load_state_dict(state)
    assert own.score(X) == before
    assert own.covariance_type == "diag"


def test_broken_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        GaussianMixture.load(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not a file of torch")
    with pytest.raises(CheckpointError, match="damaged"):
        GaussianMixture.load(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="expected a state dict"):
        GaussianMixture.load(tmp_path / "list.pth")
    model = GaussianMixture(**given("full", step_size=lambda t: 0.5, batch_size=40)).fit(X)
    with pytest.raises(InvalidArgumentError, match="holds no functions"):
        model.save(tmp_path / "function.pth")
    assert not (tmp_path / "function.pth").exists()
