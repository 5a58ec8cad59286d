"""The names that the package offers at its top, each imported when it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gmm_lightning
from gmm_lightning import training

PROGRAM = """
import sys
import gmm_lightning
assert not {"torch", "lightning", "sympy", "numpy"} & set(sys.modules)
assert set(gmm_lightning.__all__) <= set(dir(gmm_lightning))
from gmm_lightning import GMMLayer, fit_em
assert "lightning" not in sys.modules and "sympy" not in sys.modules
# It takes most of a second, and the first fit has no need of it.
fit_em(GMMLayer(2, 2), [[0.0, 1.0], [1.0, 0.5], [2.0, 2.0], [3.0, 0.0]])
assert "sympy" not in sys.modules
"""


def test_a_name_brings_only_what_it_needs() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_name_has_a_home() -> None:
    for name in gmm_lightning.__all__:
        assert getattr(gmm_lightning, name).__name__ == name
    for name in ("ArrayDataModule", "EMCallback", "GMMModule", "InitializeCallback"):
        assert getattr(gmm_lightning, name) is getattr(training, name)
    with pytest.raises(AttributeError, match="has no attribute 'EMCalback'"):
        gmm_lightning.EMCalback  # noqa: B018  # pyright: ignore
