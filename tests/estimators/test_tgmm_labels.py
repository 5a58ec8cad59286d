"""Labels through tgmm's door."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tgmm_rows import TYPES, blobs, given

from gmm_lightning.errors import GMMError
from gmm_lightning.estimators.tgmm import GaussianMixture

X = blobs()
# Of the classes 3 and 8, whatever the cluster of a row.
LABELS = torch.where(torch.arange(len(X)) < 90, 3, 8)


def test_fully_labelled_rows_are_one_m_step() -> None:
    model = GaussianMixture(2, device="cpu", reg_covar=0.0).fit(X, labels=LABELS)
    assert model.converged_
    for k, label in enumerate((3, 8)):
        own = X[label == LABELS]
        assert float(model.weights_[k]) == pytest.approx(len(own) / len(X))
        torch.testing.assert_close(model.means_[k], own.mean(0))
        torch.testing.assert_close(model.covariances_[k], torch.cov(own.T, correction=0))
    assert model.classes_.tolist() == [3, 8]
    assert model.class_of_component_.tolist() == [0, 1]
    assert set(model.predict_class(X).tolist()) <= {3, 8}
    assert set(model.predict(X).tolist()) == {0, 1}


@pytest.mark.parametrize("kind", TYPES)
def test_partly_labelled_rows(kind: str) -> None:
    labels = torch.where(torch.arange(len(X)) % 4 == 0, LABELS, -1)
    arguments = {"covariance_type": kind, "device": "cpu", "random_state": 0, "tol": 1e-8}
    model = GaussianMixture(2, **arguments).fit(X, labels=labels)
    history = model.log_likelihood_history_
    assert (history.diff() > -1e-12).all()
    free = GaussianMixture(2, **arguments).fit(X)
    assert not torch.allclose(model.weights_, free.weights_)


def test_several_components_of_a_class() -> None:
    """Fully labelled, each class is a mixture of its own."""
    options = {"n_components": 3, "components_per_class": {3: 2, 8: 1}, "random_state": 0}
    model = GaussianMixture(**options, device="cpu", tol=1e-12).fit(X, labels=LABELS)
    assert model.class_of_component_.tolist() == [0, 0, 1]
    own = X[LABELS == 3]
    alone = GaussianMixture(
        2,
        init_means=model.initial_means_[:2],
        init_covariances=model.initial_covariances_[:2],
        device="cpu",
        tol=1e-12,
    ).fit(own)
    torch.testing.assert_close(model.means_[:2], alone.means_, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        model.weights_[:2], alone.weights_ * len(own) / len(X), rtol=0, atol=1e-4
    )


def test_weight_of_unlabelled_rows() -> None:
    labels = torch.where(torch.arange(len(X)) < 100, LABELS, -1)
    none = GaussianMixture(2, unlabeled_weight=0.0, device="cpu").fit(X, labels=labels)
    known = GaussianMixture(2, device="cpu").fit(X[:100], labels=labels[:100])
    torch.testing.assert_close(none.means_, known.means_)
    half = GaussianMixture(2, unlabeled_weight=0.5, device="cpu").fit(X, labels=labels)
    weight = torch.where(labels == -1, 0.5, 1.0)
    same = GaussianMixture(2, device="cpu").fit(X, labels=labels, sample_weight=weight)
    torch.testing.assert_close(half.means_, same.means_)


def test_confidence() -> None:
    """Labels of little confidence leave the clusters to the rows."""
    arguments = given("full", label_confidence=0.51, tol=1e-10)
    model = GaussianMixture(**arguments).fit(X, labels=LABELS)
    free = GaussianMixture(**given("full", tol=1e-10)).fit(X)
    torch.testing.assert_close(model.means_, free.means_, rtol=0, atol=0.05)


def test_noise_missing_entries_and_mini_batches_with_labels() -> None:
    labels = torch.where(torch.arange(len(X)) % 2 == 0, LABELS, -1)
    x = torch.cat([X, torch.tensor([[40.0, -40.0]], dtype=X.dtype)])
    padded = torch.cat([labels, labels.new_tensor([-1])])
    noisy = GaussianMixture(2, noise=True, device="cpu").fit(x, labels=padded)
    assert int(noisy.predict(x)[-1]) == -1
    holes = X.clone()
    holes[::5, 0] = torch.nan
    GaussianMixture(2, missing="em", device="cpu").fit(holes, labels=labels)
    online = {"step_size": "auto", "batch_size": 40, "tol": 1e-3, "random_state": 0}
    GaussianMixture(2, **online, device="cpu").fit(X, labels=labels)


def test_files(tmp_path: Path) -> None:
    model = GaussianMixture(2, device="cpu").fit(X, labels=LABELS)
    model.save(tmp_path / "model.pth")
    loaded = GaussianMixture.load(tmp_path / "model.pth", device="cpu")
    assert torch.equal(loaded.predict_class(X), model.predict_class(X))


def test_refused() -> None:
    with pytest.raises(GMMError, match="no entry for the labels"):
        GaussianMixture(2, components_per_class={3: 2}, device="cpu").fit(X, labels=LABELS)
    with pytest.raises(GMMError, match="confidence"):
        GaussianMixture(2, label_confidence=0.4, device="cpu").fit(X, labels=LABELS)
    with pytest.raises(GMMError, match="unlabeled_weight"):
        GaussianMixture(2, unlabeled_weight=-1.0, device="cpu").fit(X, labels=LABELS)
    classes = {3: 1, 8: 1, 9: 1}
    with pytest.raises(GMMError, match="rows"):
        GaussianMixture(3, components_per_class=classes, device="cpu").fit(X, labels=LABELS)
