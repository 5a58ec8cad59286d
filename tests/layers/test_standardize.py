"""The change of units."""

from __future__ import annotations

import copy

import pytest
import torch
from support.random_layers import random_layer, rounding
from torch import Tensor

from gmm_lightning.layers import Standardize


@pytest.fixture
def units() -> Standardize:
    made = Standardize(3)
    made.set(torch.tensor([1.0, -2.0, 1e6]), torch.tensor([2.0, 0.5, 0.0]))
    return made


def test_is_the_identity_at_first() -> None:
    x = torch.randn(4, 3)
    units = Standardize(3)
    assert torch.equal(units(x), x)
    assert torch.equal(units.inverse(x), x)
    assert float(units.log_abs_det) == 0.0


def test_there_and_back(units: Standardize) -> None:
    x = torch.randn(2, 4, 3) + units.loc
    assert torch.allclose(units.inverse(units(x)), x, rtol=rounding(1e-15))
    assert units(torch.tensor([3.0, -2.5, 1e6])).tolist() == [1.0, -1.0, 0.0]


def test_a_constant_column_keeps_its_scale(units: Standardize) -> None:
    assert units.scale.tolist() == [2.0, 0.5, 1.0]


def test_the_jacobian(units: Standardize) -> None:
    x = torch.randn(3)
    jacobian = torch.autograd.functional.jacobian(units, x)
    expected = torch.linalg.slogdet(jacobian).logabsdet
    assert torch.allclose(units.log_abs_det, expected, atol=rounding(1e-15))


def test_densities_change_units(units: Standardize, generator: torch.Generator) -> None:
    layer = random_layer("full", num_features=3, generator=generator)
    x = torch.randn(5, 3) + units.loc

    def log_prob(rows: Tensor) -> Tensor:
        return layer(units(rows)) + units.log_abs_det

    other = copy.deepcopy(layer)
    with torch.no_grad():
        dense = units.scale.diag() @ layer.covariance_matrix @ units.scale.diag()
        other.set_parameters(layer.weights, units.inverse(layer.means), dense)
    # An offset of 1e6 costs six digits.
    assert torch.allclose(log_prob(x), other(x), rtol=rounding(1e-8), atol=rounding(1e-8))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.float32])
def test_any_dtype_of_rows(units: Standardize, dtype: torch.dtype) -> None:
    x = torch.tensor([[3, 1, 2]])
    assert torch.equal(units(x.to(dtype)), units(x.to(units.loc.dtype)))


def test_travels_with_the_state(units: Standardize) -> None:
    twin = Standardize(3)
    twin.load_state_dict(units.state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(twin(x), units(x))
    assert not list(units.parameters())
