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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run modules that say `ON_GPU = True` on a GPU as well, where there is one or it is asked for.

    There these tests are marked `gpu`; without CUDA they are skipped.
    """
    wanted = "gpu" in metafunc.config.getoption("markexpr")
    if getattr(metafunc.module, "ON_GPU", False) and (wanted or torch.cuda.is_available()):
        here = metafunc.config.getoption("--device")
        missing = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
        cuda = pytest.param("cuda", marks=[pytest.mark.gpu, missing])
        metafunc.parametrize("device", [here, cuda], indirect=True)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """Where a test computes: on the device of the command line, or on a GPU if it is marked so."""
    return getattr(request, "param", request.config.getoption("--device"))


@pytest.fixture(autouse=True)
def _numbers(request: pytest.FixtureRequest, device: str) -> Iterator[None]:
    """Default dtype and device, and a global seed from the test's name."""
    if isinstance(request.node, pytest.DoctestItem):
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[request.config.getoption("--dtype")])
    if device != "cpu":
        torch.set_default_device(device)
    with torch.random.fork_rng():
        torch.manual_seed(zlib.crc32(_without_device(request.node.nodeid, device).encode()))
        yield
    if device != "cpu":
        torch.set_default_device(None)
    torch.set_default_dtype(before)


def _without_device(name: str, device: str) -> str:
    """The name of a test, the same whether or not it also runs elsewhere."""
    for given, left in ((f"[{device}]", ""), (f"[{device}-", "["), (f"-{device}]", "]")):
        name = name.replace(given, left)
    return name


@pytest.fixture
def double(_numbers: None) -> None:
    """float64 whatever the command line says: for tests that measure rounding."""
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def generator(device: str) -> torch.Generator:
    """A source of randomness with a fixed seed, on the device of the test."""
    return torch.Generator(device).manual_seed(20250117)
