"""`scripts/benchmark.py` runs, writes its tables, and its contenders agree. No times are judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.lightning_runs import ROOT, script

# A minute of a slow machine: every subject at its smallest, in a process of its own.
pytestmark = pytest.mark.slow

HERE = (
    "iteration",
    "real",
    "tight",
    "fit",
    "few",
    "estimator",
    "wide",
    "log_prob",
    "gradient",
    "likelihood_gradient",
    "head",
    "impute",
    "missing",
    "restarts",
    "many",
    "acceleration",
    "streaming",
    "lightning",
    "m_step",
    "safety",
    "crossover",
)
ELSEWHERE = ("memory", "processes")
# Sums in another order, in float32 and in float64.
CLOSE = {"float32": 1e-3, "float64": 1e-9}


class Found:
    """What a run printed and wrote."""

    def __init__(self, folder: Path, *subjects: str) -> None:
        options = ("--tiny", "--threads", "1", "--output", str(folder))
        door = str(ROOT / "scripts" / "benchmark.py")
        done = script(door, *options, *subjects, cwd=folder, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        self.printed, self.folder = done.stdout, folder
        self.all: dict[str, Any] = json.loads((folder / "benchmark.json").read_text())

    def check(self, *subjects: str) -> None:
        """Every subject has tables, printed as they are written, and every row is whole."""
        written = (self.folder / "benchmark.md").read_text(encoding="utf-8")
        assert list(self.all["subjects"]) == list(subjects)
        assert not self.all["failed"]
        for subject, tables in self.all["subjects"].items():
            assert tables, subject
            for table in tables:
                head = "| " + " | ".join(table["columns"]) + " |"
                assert head in self.printed
                assert head in written
                assert table["rows"], table["title"]
                assert len(table["records"]) == len(table["rows"])
                assert {len(row) for row in table["rows"]} == {len(table["columns"])}
                for row in table["rows"]:
                    assert str(row[0]) in written

    def rows(self, subject: str, table: int = 0) -> list[dict[str, Any]]:
        """Cells by the name of their column, with the measurements of the row."""
        found = self.all["subjects"][subject][table]
        pairs = zip(found["rows"], found["records"], strict=True)
        return [
            dict(zip(found["columns"], row, strict=True)) | {"record": record}
            for row, record in pairs
        ]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    pytest.importorskip("sklearn")
    return Found(tmp_path_factory.mktemp("benchmark"), *HERE)


def test_tables(found: Found) -> None:
    found.check(*HERE)
    assert not found.all["skipped"]
    assert (found.folder / "benchmark.png").stat().st_size > 0
    assert {"processor", "cores", "torch", "scikit-learn"} <= set(found.all["machine"])


@pytest.mark.parametrize(
    "subject",
    ["iteration", "log_prob", "gradient", "likelihood_gradient", "lightning", "crossover"],
)
def test_contenders_agree(found: Found, subject: str) -> None:
    for row in found.rows(subject):
        assert row["record"]["difference"] <= CLOSE[row["dtype"]], row


def test_the_same_fit(found: Found) -> None:
    rows = found.rows("fit")
    libraries = {row["library"] for row in rows}
    assert {"gmm_lightning", "scikit-learn"} <= libraries
    for row in rows:
        # Ours stops by what remains to be gained, the others earlier, by the last gain of 1e-3.
        assert -0.02 <= row["record"]["log_likelihood_above_ours"] <= 1e-3, row
        assert row["passes"] >= 2
    # A peer that is not installed is named.
    note = " ".join(found.all["subjects"]["fit"][0]["notes"])
    for name in {"torchgmm", "tgmm", "pomegranate"} - libraries:
        assert name in note.partition("Not there")[2]


def test_wide_fits_do_not_stop_at_once(found: Found) -> None:
    for row in found.rows("wide"):
        assert row["passes"] >= 2, row
        # N < D: without a prior, covariances lie at a floor below what the peer adds to its own.
        assert row["priors"] or row["record"]["log_likelihood_above_peer"] > 0, row


def test_patterns_side_by_side_are_each_of_them(found: Found) -> None:
    for row in found.rows("impute"):
        assert row["record"]["difference"] <= CLOSE["float64"], row


def test_a_pass_over_missing_entries_has_the_likelihood_of_its_rows(found: Found) -> None:
    for row in found.rows("missing"):
        assert row["record"]["difference"] <= CLOSE[row["dtype"]], row


def test_restarts_equal_a_loop(found: Found) -> None:
    for dtype, close in CLOSE.items():
        best = {
            row["how"]: row["record"]["objective"]
            for row in found.rows("restarts")
            if row["dtype"] == dtype
        }
        assert best["side by side"] == pytest.approx(best["one after the other"], abs=close)


def test_many_mixtures_end_where_a_loop_does(found: Found) -> None:
    rows = found.rows("many")
    assert [row["rows"] for row in rows] == ["letter, by class", "pixels, grey", "pixels, colour"]
    for row in rows:
        # From other draws: single mixtures end in other optima.
        assert abs(row["record"]["above"]) <= 1.0, row


def test_leaps_are_no_loss(found: Found) -> None:
    for row in found.rows("acceleration"):
        # Where both stop at a tolerance, either may be ahead by about as much.
        assert row["record"]["objective_above_plain"] >= -10 * float(row["tolerance"]), row


def test_streams_equal_memory(found: Found) -> None:
    rows = found.rows("streaming")
    assert {".npy", "CSV"} <= {row["rows from"] for row in rows}
    for row in rows:
        assert row["record"]["difference"] <= CLOSE["float32"], row


def test_float32_is_near_float64(found: Found) -> None:
    for row in found.rows("safety"):
        if row["library"].startswith("gmm_lightning"):
            assert row["covariances"] <= 1e-3, row
            assert row["mean log-likelihood"] <= 1e-4, row


def test_processes_and_memory(tmp_path: Path) -> None:
    found = Found(tmp_path, *ELSEWHERE)
    found.check(*ELSEWHERE)
    for row in found.rows("processes"):
        assert row["record"]["difference"] <= CLOSE["float64"]
    contenders = [row["contender"] for row in found.rows("memory")]
    assert contenders[0].startswith("gmm_lightning")
    for row in found.rows("memory"):
        assert row["peak MiB beside them"] is not None or "not there" in row["measured"]


def test_unknown_subject(tmp_path: Path) -> None:
    done = script(str(ROOT / "scripts" / "benchmark.py"), "speed", cwd=tmp_path)
    assert done.returncode == 2
    assert "unknown subject speed; known are: iteration, real" in done.stderr
