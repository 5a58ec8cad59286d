"""The door against tgmm itself, from the same start: its fits where they are those of a mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.tgmm_rows import SCALES, TYPES, blobs, given

from gmm_lightning.estimators import tgmm as ours

theirs = pytest.importorskip("tgmm")

PRIORS: dict[str, dict[str, Any]] = {
    "none": {},
    "weights": {"weight_concentration_prior": torch.tensor([4.0, 2.0], dtype=torch.float64)},
    "covariances": {"degrees_of_freedom_prior": 6.0},
    "means and covariances": {
        "degrees_of_freedom_prior": 6.0,
        "mean_prior": torch.ones(2, dtype=torch.float64),
        "mean_precision_prior": 3.0,
    },
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("kind", TYPES)
def test_fits_agree(kind: str, prior: str) -> None:
    options = dict(PRIORS[prior])
    if "degrees_of_freedom_prior" in options:
        options["covariance_prior"] = SCALES[kind]
    x = blobs()
    arguments = given(kind, tol=1e-13, max_iter=20_000, **options)
    own = ours.GaussianMixture(**arguments, prior_convention="expected_precision").fit(x)
    other = theirs.GaussianMixture(**arguments).fit(x)
    # Both stop at gains of 1e-13, where parameters are off by its square root, about 3e-7.
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(own.weights_, other.weights_, **close)
    torch.testing.assert_close(own.means_, other.means_, **close)
    torch.testing.assert_close(own.covariances_, other.covariances_, **close)
    assert own.bic(x) == pytest.approx(other.bic(x), abs=1e-4)
    assert own.icl(x, "soft") == pytest.approx(other.icl(x, "soft"), abs=1e-2)
    assert own.icl(x) == pytest.approx(other.icl(x), abs=1e-2)


def test_it_has_every_key_of_a_state() -> None:
    x = blobs()
    state = theirs.GaussianMixture(**given("full")).fit(x).to_dict()
    assert not state.keys() - ours.GaussianMixture(**given("full")).fit(x).to_dict().keys()


@pytest.mark.parametrize("kind", TYPES)
def test_it_reads_the_files_of_tgmm(kind: str, tmp_path: Any) -> None:
    x = blobs()
    other = theirs.GaussianMixture(**given(kind)).fit(x)
    other.save(tmp_path / "their.pth")
    own = ours.GaussianMixture.load(tmp_path / "their.pth", device="cpu")
    torch.testing.assert_close(own.score_samples(x), other.score_samples(x))
