"""Mixtures of other libraries as layers, and layers as theirs, to the last digit they hold."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from support.random_layers import FAMILIES, random_layer, rows
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal
from torch.distributions import Normal as Univariate

from gmm_lightning import GMMLayer
from gmm_lightning.covariances import DiagCovariance
from gmm_lightning.criteria import bic
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.interop import (
    from_gmr,
    from_sklearn,
    from_torch,
    to_gmr,
    to_sklearn,
    to_torch,
)

pytestmark = pytest.mark.usefixtures("double")

THEIRS = ("full", "tied", "diag", "spherical")
over_families = pytest.mark.parametrize("family", FAMILIES)
# Both libraries factor the same float64 covariances, of condition numbers below 1e2, and add up
# some 10 terms of order 10.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def dense(kind: str, compact: Any, k: int, d: int) -> np.ndarray[Any, Any]:
    """Matrices `(K, D, D)` from what scikit-learn holds."""
    axes = {"full": (k, d, d), "tied": (1, d, d), "diag": (k, d, 1), "spherical": (k, 1, 1)}[kind]
    matrices = compact.reshape(axes) * (1.0 if axes[1:] == (d, d) else np.eye(d))
    return np.broadcast_to(matrices, (k, d, d))


def fitted(kind: str, x: np.ndarray[Any, Any]) -> GaussianMixture:
    return GaussianMixture(3, covariance_type=kind, random_state=0).fit(x)


# -- scikit-learn ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", THEIRS)
def test_from_sklearn(kind: str, dtype: Any, generator: torch.Generator) -> None:
    x = rows(300, 4, generator).cpu().numpy().astype(dtype)
    mixture = fitted(kind, x)
    layer = from_sklearn(mixture)
    assert layer.covariance.name == kind
    assert layer.means.dtype == torch.from_numpy(x).dtype
    assert np.array_equal(layer.means.detach().numpy(), mixture.means_)
    last = 20 * float(np.finfo(dtype).eps)
    assert_allclose(layer.weights.detach().numpy(), mixture.weights_, rtol=last)
    mine = layer.covariance_matrix.detach().numpy()
    own = dense(kind, mixture.covariances_, 3, 4)
    assert_allclose(mine, own, rtol=last, atol=last)
    tensor = torch.from_numpy(x)
    assert_allclose(
        layer(tensor).detach(), mixture.score_samples(x), rtol=10 * last, atol=10 * last
    )
    assert_allclose(
        layer.responsibilities(tensor).detach(), mixture.predict_proba(x), atol=50 * last
    )
    back = to_sklearn(layer)
    for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
        found, theirs = getattr(back, name), getattr(mixture, name)
        assert found.shape == theirs.shape
        size = np.abs(theirs).max()
        assert_allclose(found, theirs, rtol=20 * last, atol=20 * last * size, err_msg=name)


@over_families
def test_to_sklearn(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator, num_features=3)
    x = rows(100, 3, generator)
    mixture, array = to_sklearn(layer), x.cpu().numpy()
    assert_allclose(mixture.score_samples(array), layer(x).detach().cpu(), **CLOSE)
    assert_allclose(mixture.predict_proba(array), layer.responsibilities(x).detach().cpu(), **CLOSE)
    assert np.array_equal(mixture.predict(array), layer.predict(x).cpu())
    assert_allclose(mixture.score(array), layer(x).mean().item(), **CLOSE)
    contained = mixture.covariance_type == family
    assert contained == (family in THEIRS)
    assert contained or mixture.covariance_type == "tied"
    if contained:
        expected = bic(layer(x).sum(), layer.num_free_parameters, len(x))
        assert_allclose(mixture.bic(array), expected.item(), **CLOSE)
    kind = mixture.covariance_type
    for name, value in (
        ("covariances_", layer.covariance_matrix),
        ("precisions_", layer.precision_matrix),
    ):
        found = dense(kind, getattr(mixture, name), 3, 3)
        assert_allclose(found, value.detach().cpu(), err_msg=name, **CLOSE)
    # Without a seed scikit-learn draws from numpy's global source.
    drawn, labels = mixture.set_params(random_state=0).sample(20_000)
    assert drawn.shape == (20_000, 3)
    share = np.bincount(labels, minlength=3) / 20_000
    assert_allclose(share, layer.weights.detach().cpu(), atol=5 * 0.5 / np.sqrt(20_000))
    back = from_sklearn(mixture)
    assert_allclose(back(x.cpu()).detach(), layer(x).detach().cpu(), **CLOSE)
    # Theirs again, to be fitted further.
    assert mixture.set_params(max_iter=3, tol=1e9, random_state=0).fit(array).converged_


def test_a_float32_layer_goes_over_in_float64(generator: torch.Generator) -> None:
    """Its constrained parameters are computed in float64: scikit-learn's draws need weights
    whose sum is 1 to that precision."""
    layer = random_layer("full", generator=generator, num_components=7).float()
    mixture = to_sklearn(layer)
    assert mixture.weights_.dtype == np.float64
    # Each of 7 weights is rounded after a sum of 7, and so is their sum.
    assert abs(mixture.weights_.sum() - 1) < 7 * np.finfo(np.float64).eps
    x = rows(50, 2, generator).float()
    assert_allclose(
        mixture.score_samples(x.double().cpu().numpy()),
        layer.double()(x.double()).detach().cpu(),
        rtol=1e-12,
        atol=1e-12,
    )
    mixture.sample(10)


def test_an_empty_component_stays_empty() -> None:
    layer = GMMLayer(2, 3, dtype=torch.float32)
    layer.set_parameters(weights=torch.tensor([0.5, 0.0, 0.5]))
    mixture = to_sklearn(layer)
    assert mixture.weights_[1] < 1e-37
    assert set(mixture.sample(100)[1]) <= {0, 2}


def test_the_point_estimates_of_a_bayesian_mixture(generator: torch.Generator) -> None:
    x = rows(200, 2, generator).cpu().numpy()
    mixture = BayesianGaussianMixture(n_components=2, random_state=0, max_iter=500).fit(x)
    layer = from_sklearn(mixture)
    assert_allclose(layer.covariance_matrix.detach(), mixture.covariances_, rtol=1e-12)


def test_what_sklearn_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgumentError, match=r"batch of shape \(2,\)"):
        to_sklearn(GMMLayer(2, 3, batch_shape=(2,)))
    layer = GMMLayer(2, 3)
    layer.evidence = torch.nn.Linear(2, 3)
    for convert in (to_sklearn, to_torch):
        with pytest.raises(InvalidArgumentError, match=r"layer\.evidence = None"):
            convert(layer)
    with pytest.raises(InvalidArgumentError, match="has no weights_, means_, covariances_: fit it"):
        from_sklearn(GaussianMixture(2))
    with pytest.raises(InvalidArgumentError, match="GaussianMixture of scikit-learn, got Linear"):
        from_sklearn(torch.nn.Linear(2, 2))
    for convert in (to_sklearn, to_torch, to_gmr):
        with pytest.raises(InvalidArgumentError, match="got GaussianMixture"):
            convert(GaussianMixture(2))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    monkeypatch.setitem(sys.modules, "gmr", None)
    with pytest.raises(InvalidArgumentError, match="pip install scikit-learn"):
        to_sklearn(GMMLayer(2, 3))
    with pytest.raises(InvalidArgumentError, match="pip install gmr"):
        to_gmr(GMMLayer(2, 3))


# -- torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
@over_families
def test_torch(family: str, batch: tuple[int, ...], generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator, batch=batch)
    x = rows(20, 2, generator, batch)
    for source in (layer, layer.distribution()):
        mixture = to_torch(source)
        torch.testing.assert_close(mixture.log_prob(x), layer(x), **CLOSE)
    to_torch(layer).log_prob(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    back = from_torch(mixture)
    assert torch.equal(back.means, layer.means)
    torch.testing.assert_close(back.scale_tril, layer.scale_tril, rtol=1e-14, atol=1e-14)
    assert torch.equal(back.mixture_logits, mixture.mixture_distribution.logits)
    torch.testing.assert_close(back(x), layer(x), **CLOSE)


def test_torch_with_independent_components(generator: torch.Generator) -> None:
    made = random_layer("diag", generator=generator)
    mixture = MixtureSameFamily(
        Categorical(logits=made.mixture_logits),
        Independent(Univariate(made.means, made.scale), 1),
    )
    layer = from_torch(mixture)
    assert layer.covariance == DiagCovariance()
    x = rows(20, 2, generator)
    torch.testing.assert_close(layer(x), mixture.log_prob(x), **CLOSE)


def test_what_is_no_mixture_of_gaussians() -> None:
    normal = MultivariateNormal(torch.zeros(2), torch.eye(2))
    with pytest.raises(InvalidArgumentError, match="MixtureSameFamily of torch, got Multi"):
        from_torch(normal)
    scalar = MixtureSameFamily(Categorical(torch.ones(2)), Univariate(torch.zeros(2), 1.0))
    with pytest.raises(InvalidArgumentError, match="Independent"):
        from_torch(scalar)


# -- gmr ------------------------------------------------------------------------------------------


@over_families
def test_gmr(family: str, generator: torch.Generator) -> None:
    pytest.importorskip("gmr")
    layer = random_layer(family, generator=generator, num_features=3)
    gmm = to_gmr(layer)
    x = rows(30, 3, generator)
    array = x.cpu().numpy()
    density = np.exp(layer(x).detach().cpu().numpy())
    assert_allclose(gmm.to_probability_density(array), density, rtol=1e-10)
    assert_allclose(
        gmm.to_responsibilities(array), layer.responsibilities(x).detach().cpu(), atol=1e-10
    )
    assert np.array_equal(gmm.means, layer.means.detach().cpu().numpy())
    assert_allclose(gmm.covariances, layer.covariance_matrix.detach().cpu(), rtol=1e-14)
    back = from_gmr(gmm, family)
    assert torch.equal(back.means, layer.means.cpu())
    assert_allclose(back(x.cpu()).detach(), layer(x).detach().cpu(), **CLOSE)


def test_what_looks_like_gmr(generator: torch.Generator) -> None:
    layer = random_layer("full", generator=generator)
    parts = {
        "priors": layer.weights.detach().cpu().numpy(),
        "means": layer.means.tolist(),
        "covariances": layer.covariance_matrix.detach().cpu().numpy(),
    }
    back = from_gmr(SimpleNamespace(**parts))
    x = rows(10, 2, generator)
    assert_allclose(back(x.cpu()).detach(), layer(x).detach().cpu(), **CLOSE)
    with pytest.raises(InvalidArgumentError, match="gmr has no covariances: fit it"):
        from_gmr(SimpleNamespace(**parts | {"covariances": None}))
    with pytest.raises(InvalidArgumentError, match=r"weights must have shape \(3,\)"):
        from_gmr(SimpleNamespace(**parts | {"priors": [0.5, 0.5]}))
    with pytest.raises(InvalidArgumentError, match="positive definite"):
        from_gmr(SimpleNamespace(**parts | {"covariances": np.zeros((3, 2, 2))}))
    for other in ([[0.0], [1.0, 2.0]], [["a"]]):
        with pytest.raises(InvalidArgumentError, match="of gmr must be arrays of numbers"):
            from_gmr(SimpleNamespace(**parts | {"means": other}))
    with pytest.raises(InvalidArgumentError, match="no priors, means, covariances"):
        from_gmr(object())


# -- imports --------------------------------------------------------------------------------------


def test_other_libraries_wait_until_they_are_needed() -> None:
    others = {"sklearn", "gmr", "onnx", "onnxscript", "onnxruntime", "safetensors"}
    code = (
        "import sys, gmm_lightning.interop as interop; from gmm_lightning import GMMLayer;"
        "interop.to_torch(interop.export_module(GMMLayer(2, 3)) and GMMLayer(2, 3));"
        f"print(sorted({others} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("weights_", [-0.5, 1.5], "weights must be >= 0"),
        ("means_", [[float("nan"), 0.0], [1.0, 1.0]], "means_ is not finite"),
        ("covariances_", [[[2.0, 1.0], [0.0, 2.0]]] * 2, "symmetric and positive definite"),
        ("covariances_", [[1.0, 1.0], [1.0, 1.0]], r"do not fit means_ of shape \(2, 2\)"),
    ],
)
def test_broken_models_of_scikit_learn(name: str, value: Any, said: str) -> None:
    mixture = to_sklearn(GMMLayer(2, 2))
    setattr(mixture, name, np.array(value))
    with pytest.raises(InvalidArgumentError, match=said):
        from_sklearn(mixture)
