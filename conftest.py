"""What every doctest finds: public names, float32 as for a user, a random state of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import gmm_lightning
from gmm_lightning import distributions, em, layers, linalg, priors, projections

# One core per test process: the matrices are small, and timings do not depend on the machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _doctest_environment(
    request: pytest.FixtureRequest, doctest_namespace: dict[str, Any]
) -> Iterator[None]:
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    for module in (linalg, distributions, priors, projections, layers, em, gmm_lightning):
        public = getattr(module, "__all__", ())
        doctest_namespace.update({name: getattr(module, name) for name in public})
    doctest_namespace["torch"] = torch
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(before)
