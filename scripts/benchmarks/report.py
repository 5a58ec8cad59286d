"""Tables that are printed row by row and written to Markdown and JSON, and bars for the plot."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.settings import Settings

Cell = str | int | float | None


@dataclass(frozen=True)
class Bar:
    """A ratio for the plot: above 1, ours is better."""

    panel: str
    label: str
    value: float


@dataclass
class Table:
    """Rows under named columns.

    Attributes:
        title: what was measured, and how.
        columns: names.
        rows: as they are printed.
        records: every measurement behind the rows.
        notes: said below the table.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, *cells: Cell, **record: Any) -> None:
        """Print a row; `record` holds the measurements behind it."""
        assert len(cells) == len(self.columns), (cells, self.columns)
        self.rows.append(list(cells))
        self.records.append(record)
        print(line(cells), flush=True)

    def note(self, text: str) -> None:
        """Print a remark."""
        self.notes.append(text)
        print(f"\n{text}", flush=True)

    def markdown(self) -> list[str]:
        """The table as lines."""
        below = [text for note in self.notes for text in ("", note)]
        return [*self.head(), *(line(row) for row in self.rows), *below, ""]

    def head(self) -> list[str]:
        """Title and names of the columns."""
        rule = "|" + "---|" * len(self.columns)
        return [f"### {self.title}", "", line(self.columns), rule]


def line(cells: Any) -> str:
    """One row of Markdown."""
    return "| " + " | ".join(map(shown, cells)) + " |"


def shown(cell: Cell) -> str:
    """Three digits of a number."""
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    if cell != cell or 1e-3 <= abs(cell) < 100 or cell == 0:
        return f"{cell:.3g}"
    return f"{cell:,.0f}" if 100 <= abs(cell) < 1e9 else f"{cell:.1e}"


def times(ratio: float | None) -> str:
    """A ratio as people say it."""
    return "" if ratio is None else f"{ratio:.2f} x"


class Report:
    """Everything that a run finds out.

    Args:
        settings: options of the run.
        machine: where it ran.
        command: how it was called.
    """

    def __init__(self, settings: Settings, machine: dict[str, Any], command: str) -> None:
        self.settings, self.machine, self.command = settings, machine, command
        self.subjects: dict[str, list[Table]] = {}
        self.skipped: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self.bars: list[Bar] = []

    def open(self, subject: str) -> None:
        """What follows belongs to a subject."""
        self.subjects[subject] = []
        print(f"\n## {subject}", flush=True)

    def table(self, title: str, *columns: str) -> Table:
        """A new table of the present subject."""
        made = Table(title, list(columns))
        self.subjects[next(reversed(self.subjects))].append(made)
        print("\n" + "\n".join(made.head()), flush=True)
        return made

    def bar(self, panel: str, label: str, value: float) -> None:
        """A ratio for the plot: above 1, ours is better."""
        self.bars.append(Bar(panel, label, value))

    def skip(self, subject: str, why: str) -> None:
        """Say that a subject was left out."""
        self.skipped[subject] = why
        print(f"\nskipped: {why}", flush=True)

    def fail(self, subject: str, why: str) -> None:
        """Say that a subject ended before its end."""
        self.failed[subject] = why
        print(f"\nfailed: {why}", flush=True)

    def introduction(self) -> list[str]:
        """Machine and command."""
        facts = [f"{name} {value}" for name, value in self.machine.items()]
        return ["# Benchmark", "", f"`{self.command}`", "", ", ".join(facts) + ".", ""]

    def write(self, folder: Path) -> None:
        """`benchmark.md` and `benchmark.json`, as far as they go."""
        folder.mkdir(parents=True, exist_ok=True)
        lines = self.introduction()
        for subject, tables in self.subjects.items():
            lines += [f"## {subject}", ""]
            for table in tables:
                lines += table.markdown()
            for word, reasons in (("skipped", self.skipped), ("failed", self.failed)):
                if subject in reasons:
                    lines += [f"{word}: {reasons[subject]}", ""]
        (folder / "benchmark.md").write_text("\n".join(lines), encoding="utf-8")
        everything = {
            "command": self.command,
            "machine": self.machine,
            "settings": asdict(self.settings),
            "subjects": {
                name: [asdict(table) for table in tables] for name, tables in self.subjects.items()
            },
            "seconds": self.seconds,
            "skipped": self.skipped,
            "failed": self.failed,
            "bars": [asdict(bar) for bar in self.bars],
        }
        text = json.dumps(everything, indent=1, default=str)
        (folder / "benchmark.json").write_text(text + "\n", encoding="utf-8")
