"""What a run was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

SIZES = ("default", "quick", "tiny")


class Skipped(Exception):
    """A subject cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Settings:
    """Options of the command line.

    Attributes:
        size: `default`; `quick`, a tenth of the work; `tiny`, only to see that it runs.
        device: `cpu` or `cuda`.
        runs: how often each contender runs; None: what the subject wants.
        threads: of the wall times beside the CPU times of one thread.
    """

    size: str
    device: str
    runs: int | None
    threads: int

    def pick(self, default: T, quick: T, tiny: T) -> T:
        """One of three, by size."""
        return {"default": default, "quick": quick, "tiny": tiny}[self.size]

    def times(self, default: int = 5, quick: int = 3) -> int:
        """How often each contender runs, after it was warmed up."""
        return self.runs or self.pick(default, quick, 1)
