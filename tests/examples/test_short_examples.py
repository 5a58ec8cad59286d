"""Examples that take seconds at their own sizes: what their tables must say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.example_runs import Finished, column

Runs = Callable[[str], Finished]


def test_radii_are_within_their_shells(finished: Runs) -> None:
    report = finished("sampling_tour").report
    least, largest = (column(report, name) for name in ("least radius", "largest radius"))
    assert largest["within one deviation"] <= 1.0
    assert least["between two and three"] >= 2.0
    assert largest["between two and three"] <= 3.0
    # The radius of the outermost hundredth of a Gaussian in two dimensions: sqrt(2 log 100).
    assert least["the outermost 1 %"] >= 3.0348


def test_one_gaussian_is_the_closed_form(finished: Runs) -> None:
    density = column(finished("one_gaussian").report, "log-likelihood per row")
    assert density["fitted, K = 1"] == pytest.approx(density["closed form"], abs=1e-12)
    # The largest log-likelihood that is known of two components on the 272 rows of Old Faithful.
    assert density["fitted, K = 2"] * 272 == pytest.approx(-1130.26396, abs=1e-4)


def test_regression_beats_a_straight_line(finished: Runs) -> None:
    report = finished("regression").report
    for name, sign in (("error (minutes)", -1), ("log density", 1)):
        line, mixture = column(report, name).values()
        assert sign * mixture > sign * line


def test_imputation_beats_its_baselines(finished: Runs) -> None:
    report = finished("imputation").report
    for feature in report.tables[0][0][1:5]:
        error = column(report, str(feature))
        assert error["mixture, mean"] < error["one Gaussian"] < error["column means"]
    # Draws vary as the removed entries do; means do not. The standard deviations of 156 drawn and
    # of 156 removed entries have a relative error of 1 / sqrt(2 * 156) each: 3 sigma of the ratio.
    kept = column(report, "spread kept")
    assert kept["mixture, draw"] == pytest.approx(1.0, abs=3 * (2 / (2 * 156)) ** 0.5)
    assert kept["mixture, mean"] < kept["mixture, draw"]


def test_criteria_have_a_minimum_inside(finished: Runs) -> None:
    report = finished("moons").report
    bic, aic = column(report, "BIC"), column(report, "AIC")
    assert 6 <= int(min(bic, key=bic.__getitem__)) <= 14
    assert int(min(aic, key=aic.__getitem__)) >= int(min(bic, key=bic.__getitem__))


def test_classes_are_found_without_labels(finished: Runs) -> None:
    report = finished("labelled").report
    density = column(report, "log-likelihood per row")
    # Without labels the likelihood of the rows alone is maximised.
    assert density["no label"] > density["every label"]
    assert all(float(s.rstrip("%")) > 97 for s in column(report, "rows in their class").values())
