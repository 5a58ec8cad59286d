"""Criteria against published numbers and the golden tables."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from gmm_lightning.criteria import aic, bic, icl
from gmm_lightning.errors import InvalidArgumentError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden_iris_faithful.json").read_text())
# "Two triangles" of tests/golden/README.md: mean log density per row of its six rows.
FULL, DIAG, NUM_ROWS = -13.99013023, -13.60340006, 6


@pytest.mark.parametrize("row", GOLDEN["best"], ids=lambda r: f"{r['data']}-{r['type']}-{r['K']}")
def test_matches_the_golden_table(row: dict) -> None:
    # Two float64 expressions of the same sum differ by rounding only.
    assert bic(row["loglik"], row["df"], row["n"]) == pytest.approx(row["bic"], rel=1e-13)
    assert aic(row["loglik"], row["df"]) == pytest.approx(row["aic"], rel=1e-13)


def test_matches_the_numeric_cases() -> None:
    # The means are given to 1e-8, so six rows and the factor two leave 6e-8; the results to 1e-6.
    assert bic(NUM_ROWS * FULL, 19, NUM_ROWS) == pytest.approx(201.924993, abs=1e-6)
    assert aic(NUM_ROWS * FULL, 19) == pytest.approx(205.881563, abs=1e-6)
    assert bic(NUM_ROWS * DIAG, 13, NUM_ROWS) == pytest.approx(186.533674, abs=1e-6)


def test_icl_is_bic_for_certain_responsibilities() -> None:
    assert icl(-180.1855, 44, 150, 0.0) == bic(-180.1855, 44, 150)


def test_icl_adds_twice_the_entropy() -> None:
    responsibilities = torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]], dtype=torch.float64)
    entropy = torch.special.entr(responsibilities).sum()
    expected = math.log(2.0) + 0.25 * math.log(4.0) + 0.75 * math.log(4.0 / 3.0)
    total = torch.tensor(-7.0, dtype=torch.float64)
    assert float(icl(total, 3, 3, entropy) - bic(total, 3, 3)) == pytest.approx(2 * expected)


def test_a_batch_of_log_likelihoods_keeps_its_shape_and_gradient() -> None:
    totals = torch.tensor([[-10.0, -20.0]], dtype=torch.float64, requires_grad=True)
    result = bic(totals, 4, 50)
    assert result.shape == (1, 2)
    assert result[0, 1].item() == pytest.approx(bic(-20.0, 4, 50))
    result.sum().backward()
    assert totals.grad is not None
    assert totals.grad.tolist() == [[-2.0, -2.0]]


def test_lower_is_better() -> None:
    assert bic(-100.0, 5, 50) < bic(-110.0, 5, 50)
    assert aic(-100.0, 5) < aic(-100.0, 6)


@pytest.mark.parametrize("num_samples", [0, -3, math.nan, math.inf])
def test_refuses_an_impossible_number_of_rows(num_samples: float) -> None:
    with pytest.raises(InvalidArgumentError, match=r"num_samples, .* > 0, got"):
        bic(-1.0, 2, num_samples)
    with pytest.raises(InvalidArgumentError, match=r"num_samples, .* > 0, got"):
        icl(-1.0, 2, num_samples, 0.0)


def test_refuses_a_negative_number_of_parameters() -> None:
    with pytest.raises(InvalidArgumentError, match="got -1"):
        aic(-1.0, -1)
