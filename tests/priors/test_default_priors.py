"""The default prior against none, closed forms and scikit-learn, where rows are few."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import OAS
from sklearn.mixture import GaussianMixture
from torch import Tensor

from gmm_lightning import GMMLayer, fit_em

pytestmark = pytest.mark.usefixtures("double")


def fitted(x: Tensor, k: int, family: str, priors: str | None) -> GMMLayer:
    layer = GMMLayer(x.shape[1], k, family, priors)
    result = fit_em(layer, x, generator=torch.Generator().manual_seed(0))
    if priors is not None:
        assert not result.events
    return layer


def score(layer: GMMLayer, x: Tensor) -> float:
    return float(layer(x).mean().detach())


def test_plain_normal_rows_are_as_good_as_shrunk_ones() -> None:
    rng = np.random.default_rng(0)
    x, test = rng.normal(size=(100, 50)), rng.normal(size=(2000, 50))
    rows, held_out = torch.tensor(x), torch.tensor(test)
    layer = fitted(rows, 1, "full", "niw")
    # -71.215; the truth has -70.97, the maximum of the likelihood -91.2.
    assert score(layer, held_out) > OAS().fit(x).score(test) - 0.5
    # Its variances are those of the rows: the closed form of one component.
    variances = layer.covariance_matrix[0].diagonal()
    assert torch.allclose(variances, rows.var(0, correction=0), rtol=1e-10)
    # With variances alone there is nothing to shrink: -71.424 is the closed form.
    without, diagonal = (fitted(rows, 1, "diag", p) for p in (None, "niw"))
    assert score(diagonal, held_out) == pytest.approx(score(without, held_out), rel=1e-10)


@pytest.mark.parametrize("family", ["full", "diag"])
def test_thirty_rows_of_two_hundred_features(family: str) -> None:
    rng = np.random.default_rng(0)
    x, test = (torch.tensor(rng.normal(size=(n, 200))) for n in (30, 500))
    layer = fitted(x, 2, family, "niw")
    # The truth has variance 1 and -283.8 on average; without a prior diag has -297.3.
    variances = layer.covariance_matrix.detach().diagonal(dim1=-2, dim2=-1)
    assert 0.8 < float(variances.mean()) < 1.1
    assert score(layer, test) > -297.2


@pytest.mark.parametrize(("d", "n"), [(2, 100), (32, 100), (256, 100)])
def test_variances_are_not_pulled_down(d: int, n: int, generator: torch.Generator) -> None:
    x = torch.randn(n, d, generator=generator)
    variance = fitted(x, 1, "diag", "niw").distribution().variance
    assert torch.allclose(variance, x.var(0, correction=0), rtol=1e-10)


def test_features_that_follow_each_other(generator: torch.Generator) -> None:
    mixing = torch.randn(30, 256, generator=generator) / 30**0.5

    def draw(n: int) -> Tensor:
        noise = 0.3 * torch.randn(n, 256, generator=generator)
        return torch.randn(n, 30, generator=generator) @ mixing + noise

    x, test = draw(100), draw(500)
    # Its ridge is chosen for these rows by hand (-180), OAS has -204, the maximum -1e9.
    theirs = GaussianMixture(1, reg_covar=0.1).fit(x.numpy()).score(test.numpy())
    assert score(fitted(x, 1, "full", "niw"), test) > theirs - 10
