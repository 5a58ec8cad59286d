"""Heads that predict the covariances of a third party's family."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from support.covering import covering
from support.random_layers import rows
from torch import Generator, Tensor
from torch.autograd import gradcheck
from torch.nn import functional

from gmm_lightning import DensityHead, GMMLayer, fit_em
from gmm_lightning.covariances import Covariance
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.interop import export_density
from gmm_lightning.linalg import raw_from_tril, tril_from_raw

pytestmark = pytest.mark.usefixtures("double")
IN, D, K = 3, 3, 2
# The same float64 operations in another order, some 10 terms of order 10.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
# Softplus of this is 1.
SOFTPLUS_ONE = math.log(math.e - 1)


@dataclass(frozen=True)
class FiveMethods(Covariance):
    """Dense lower factors with the logarithm on the diagonal, by the five methods alone."""

    name: ClassVar[str] = "five_methods"

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (self.groups(num_components), num_features, num_features)

    def scale(self, raw: Tensor) -> Tensor:
        return tril_from_raw(raw)

    def raw(self, scale: Tensor) -> Tensor:
        return raw_from_tril(scale)

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        return torch.linalg.cholesky(scatter / dof[..., None, None])

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        return self.groups(num_components) * num_features * (num_features + 1) // 2


@dataclass(frozen=True)
class Stated(FiveMethods):
    """The same, with its logarithms stated."""

    def log_scale_mask(self, num_components: int, num_features: int) -> Tensor:
        return torch.eye(num_features, dtype=torch.bool).expand(
            self.shape(num_components, num_features)
        )


@dataclass(frozen=True)
class StatedTied(Stated):
    """The same, shared by the components."""

    tied: ClassVar[bool] = True


@dataclass(frozen=True)
class Packed(FiveMethods):
    """Lower factors row by row, so that the logarithms stand among the other entries."""

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (self.groups(num_components), num_features * (num_features + 1) // 2)

    def scale(self, raw: Tensor) -> Tensor:
        return torch.where(_diagonal(raw), raw.exp(), raw)

    def raw(self, scale: Tensor) -> Tensor:
        return torch.where(_diagonal(scale), scale.log(), scale)

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        factor = super().estimate(scatter, dof)
        i, j = torch.tril_indices(*factor.shape[-2:])
        return factor[..., i, j]

    def scale_tril(self, scale: Tensor, num_features: int) -> Tensor:
        i, j = torch.tril_indices(num_features, num_features)
        factor = scale.new_zeros(*scale.shape[:-1], num_features, num_features)
        factor[..., i, j] = scale
        return factor


@dataclass(frozen=True)
class PackedStated(Packed):
    """The same, with logarithms and units stated."""

    def log_scale_mask(self, num_components: int, num_features: int) -> Tensor:
        shape = self.shape(num_components, num_features)
        return _diagonal(torch.empty(shape)).expand(shape)

    def raw_entry_scales(self, unit: Tensor, num_components: int) -> Tensor:
        i, j = torch.tril_indices(unit.shape[-1], unit.shape[-1])
        scales = torch.where(i == j, 1.0, unit[..., i]).unsqueeze(-2)
        return scales.expand(*unit.shape[:-1], *self.shape(num_components, unit.shape[-1]))


@dataclass(frozen=True)
class Softplus(FiveMethods):
    """Standard deviations by a softplus: there is no logarithm to state."""

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (self.groups(num_components), num_features)

    def scale(self, raw: Tensor) -> Tensor:
        return functional.softplus(raw + SOFTPLUS_ONE, threshold=100)

    def raw(self, scale: Tensor) -> Tensor:
        return scale + torch.log(-torch.expm1(-scale)) - SOFTPLUS_ONE

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        return (scatter.diagonal(dim1=-2, dim2=-1) / dof.unsqueeze(-1)).sqrt()

    def scale_tril(self, scale: Tensor, num_features: int) -> Tensor:
        return scale.diag_embed()


@dataclass(frozen=True)
class SoftplusStated(Softplus):
    """The same, stated."""

    def log_scale_mask(self, num_components: int, num_features: int) -> Tensor:
        return torch.zeros(self.shape(num_components, num_features), dtype=torch.bool)


def _diagonal(packed: Tensor) -> Tensor:
    d = (math.isqrt(8 * packed.shape[-1] + 1) - 1) // 2
    i, j = torch.tril_indices(d, d)
    return i == j


STATED = (Stated(), StatedTied(), PackedStated(), SoftplusStated())
SILENT = (FiveMethods(), Packed(), Softplus())
over_stated = pytest.mark.parametrize("family", STATED, ids=lambda f: type(f).__name__)
over_silent = pytest.mark.parametrize("family", SILENT, ids=lambda f: type(f).__name__)
over_sharing = pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])


def correlated(n: int, generator: Generator) -> Tensor:
    """Rows of strong correlation, in units far from 1."""
    factor = torch.tensor([[1e3, 0, 0], [9e2, 4e2, 0], [1.0, -1.0, 0.5]])
    return rows(n, D, generator) @ factor.mT + 7.0


def disturbed(family: Covariance, generator: Generator, **options: Any) -> DensityHead:
    """A head away from every default."""
    layer = GMMLayer(D, K, family)
    fit_em(layer, rows(50, D, generator), max_iter=3, generator=generator)
    head = DensityHead(IN, D, K, family, **options)
    head.initialize_from(layer)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return head


@over_sharing
@over_stated
def test_training_starts_at_the_marginal(
    family: Covariance, shared: bool, generator: Generator
) -> None:
    y = correlated(300, generator)
    layer = GMMLayer(D, K, family)
    fit_em(layer, y, max_iter=5, generator=generator)
    head = DensityHead(IN, D, K, family, shared_scale=shared)
    head.initialize_from(layer)
    h = torch.randn(300, IN)
    # The bound and its inverse lose eps times log(scale_range) of each logarithm, and rows of
    # correlation 0.9 in units of 1e3 lose 1e2 to 1e3 of it in the density and its covariances.
    torch.testing.assert_close(head.log_prob(h, y), layer(y), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(
        head(h[0]).component_covariances, layer.covariance_matrix, rtol=1e-10, atol=1e-10
    )


@over_sharing
@over_stated
@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_log_prob_is_that_of_the_mixture(
    family: Covariance,
    shared: bool,
    batch: tuple[int, ...],
    temperature: float,
    generator: Generator,
) -> None:
    head = disturbed(
        family, generator, batch_shape=batch, shared_scale=shared, temperature=temperature
    )
    h, y = torch.randn(5, 2, IN), torch.randn(5, 2, *batch, D)
    mixture = head(h)
    torch.testing.assert_close(head.log_prob(h, y), mixture.log_prob(y), **CLOSE)
    expected = mixture.to_torch().log_prob(y)
    torch.testing.assert_close(mixture.log_prob(y), expected, **CLOSE)
    cold = copy.deepcopy(head)
    cold.temperature = 1.0
    torch.testing.assert_close(
        mixture.component_covariances, temperature * cold(h).component_covariances
    )


@pytest.mark.parametrize(("family", "shared"), covering(STATED, [False, True], strength=1))
def test_gradients(family: Covariance, shared: bool, generator: Generator) -> None:
    head = disturbed(family, generator, shared_scale=shared)
    names = [name for name, _ in head.named_parameters()]
    h, y = torch.randn(3, IN, requires_grad=True), torch.randn(3, D, requires_grad=True)

    def value(h: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(head, state, (h,)).log_prob(y)

    assert gradcheck(value, (h, y, *head.parameters()))


@pytest.mark.parametrize("family", [Stated(), PackedStated()], ids=["Stated", "PackedStated"])
def test_stated_logarithms_are_bounded(family: Covariance) -> None:
    head = DensityHead(IN, D, K, family, scale_range=50.0)
    lengths = head(1e6 * torch.randn(20, IN)).scale_tril.detach().diagonal(dim1=-2, dim2=-1)
    assert float(lengths.min()) >= 1 / 50 * (1 - 1e-12)
    assert float(lengths.max()) <= 50 * (1 + 1e-12)


@over_stated
def test_export(family: Covariance, generator: Generator) -> None:
    head = disturbed(family, generator)
    h, y = torch.randn(4, IN), torch.randn(4, D)
    torch.testing.assert_close(export_density(head)(h, y), head.log_prob(h, y))


@over_silent
def test_a_family_that_states_no_logarithms_is_refused(family: Covariance) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{type(family).__name__} does not state it"):
        DensityHead(IN, D, K, family)
    with pytest.raises(InvalidArgumentError, match=r"write its method log_scale_mask\(num_comp"):
        DensityHead(IN, D, K, family, shared_scale=True)


@dataclass(frozen=True)
class Misshapen(FiveMethods):
    """A mask of another shape than the raw entries."""

    def log_scale_mask(self, num_components: int, num_features: int) -> Tensor:
        return torch.eye(num_features)


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"booleans of shape \(2, 3, 3\), got torch.fl"):
        DensityHead(IN, D, K, Misshapen())


@over_silent
def test_em_works_without_a_statement(family: Covariance, generator: Generator) -> None:
    y = correlated(200, generator)
    fits = []
    for acceleration in ("squarem", None):
        layer = GMMLayer(D, K, family)
        result = fit_em(
            layer,
            y,
            acceleration=acceleration,
            max_iter=500,
            tol=1e-9,
            generator=generator.manual_seed(5),
        )
        assert result.converged
        fits.append(layer(y).detach().mean())
    # Both stop within some tol of the same maximum, whatever the units of the steps.
    torch.testing.assert_close(fits[0], fits[1], rtol=0, atol=1e-6)
