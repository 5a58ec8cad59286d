"""Options and fixtures of the whole suite: dtype, device, and seeds that never change."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
import torch

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gmm_lightning")
    group.addoption("--dtype", choices=sorted(DTYPES), default="float64", help="default dtype")
    group.addoption("--device", default="cpu", help="default device of tensors and layers")


@pytest.fixture(autouse=True)
def _numbers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Default dtype and device from the command line, and a global seed from the test's name."""
    if isinstance(request.node, pytest.DoctestItem):
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[request.config.getoption("--dtype")])
    device = request.config.getoption("--device")
    if device != "cpu":
        torch.set_default_device(device)
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))
        yield
    if device != "cpu":
        torch.set_default_device(None)
    torch.set_default_dtype(before)


@pytest.fixture
def double(_numbers: None) -> None:
    """float64 whatever the command line says: for tests that measure rounding."""
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    """A source of randomness with a fixed seed, on the device of the suite."""
    device = request.config.getoption("--device")
    return torch.Generator(device).manual_seed(20250117)
