"""Examples as a user runs them: in float32, each once at small sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from support.example_runs import Finished, run_small
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True)
def _float32(_numbers: None) -> None:
    """torch's own default, which `_numbers` restores after the test."""
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """One thread for scikit-learn too: two would wait for each other where cores are shared."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """The small run of an example; the tests that ask for the same one share it."""
    return cache(lambda name: run_small(name, tmp_path_factory.mktemp(name)))
