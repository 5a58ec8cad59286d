"""Networks that end in a mixture, exported: their density and their parameters."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.random_layers import FAMILIES
from torch import Tensor, nn

from gmm_lightning import DensityHead, MixtureOfGaussians
from gmm_lightning.covariances import Covariance, as_covariance
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.interop import export_density, export_parameters

pytestmark = pytest.mark.usefixtures("double")

DYNAMIC = {0: torch.export.Dim("rows")}
over_families = pytest.mark.parametrize("family", FAMILIES)
# The same float64 operations in another order, some 100 terms of order 10: eps times 1e3.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}
# In float64, the exponentials and hyperbolic tangents of onnxruntime are good to some 1e-11.
ONNX = {"rtol": 1e-8, "atol": 1e-8}


class PlainHead(nn.Module):
    """A head of somebody else, in the family's own form: factors that have to be solved with."""

    def __init__(self, in_features: int, num_features: int, num_components: int, family: str):
        super().__init__()
        self.covariance: Covariance = as_covariance(family)
        self.means = (num_components, num_features)
        self.scale = self.covariance.shape(num_components, num_features)
        self.sizes = (num_components, math.prod(self.means), math.prod(self.scale))
        self.linear = nn.Linear(in_features, sum(self.sizes))

    def forward(self, h: Tensor) -> MixtureOfGaussians:
        logits, means, raw = self.linear(h).split(self.sizes, -1)
        scale = self.covariance.scale(raw.unflatten(-1, self.scale))
        return MixtureOfGaussians(logits, means.unflatten(-1, self.means), scale, self.covariance)


def network(head: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), head)


def pairs(n: int, d: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 4), 3 * torch.randn(n, d)


def exported(module: nn.Module, *few: Tensor) -> Any:
    shapes = tuple(DYNAMIC for _ in few)
    return torch.export.export(module, few, dynamic_shapes=shapes).module()


class Whole(nn.Module):
    """Density and parameters of a model as one graph."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.density, self.parameters_of = export_density(model), export_parameters(model)

    def forward(self, h: Tensor, y: Tensor) -> list[Tensor]:
        return [self.density(h, y), *self.parameters_of(h)]


def whole(model: nn.Module, h: Tensor, y: Tensor) -> list[Tensor]:
    """What `Whole` should say."""
    mixture = model(h)
    return [mixture.log_prob(y), mixture.weights, mixture.means, mixture.scale_tril]


@pytest.mark.parametrize("kind", [DensityHead, PlainHead])
@over_families
def test_the_same_answers_as_the_model(family: str, kind: Any) -> None:
    model = network(kind(8, 3, 2, family))
    h, y = pairs(30, 3)
    expected = whole(model, h, y)
    for found, wanted in zip(Whole(model)(h, y), expected, strict=True):
        torch.testing.assert_close(found, wanted, **CLOSE)
    deep = export_density(model)(h.reshape(5, 6, 4), y.reshape(5, 6, 3))
    torch.testing.assert_close(deep.flatten(), expected[0], **CLOSE)


def test_torch_export_with_any_number_of_rows() -> None:
    class Families(nn.Module):
        """The density of several heads, and parameters, as one graph."""

        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(map(export_density, models))
            self.last = export_parameters(models[0])

        def forward(self, h: Tensor, y: Tensor) -> list[Tensor]:
            return [*(part(h, y) for part in self.parts), *self.last(h)]

    # One of every form; `test_onnx_of_every_family` exports them all.
    models = [network(DensityHead(8, 3, 2, f)) for f in ("full", "tied_diag", "spherical")]
    h, y = pairs(30, 3)
    expected = [model(h).log_prob(y) for model in models]
    expected += whole(models[0], h, y)[1:]
    for found, wanted in zip(exported(Families(), *pairs(4, 3))(h, y), expected, strict=True):
        torch.testing.assert_close(found, wanted, **CLOSE)


def test_one_graph_for_torch_compile() -> None:
    torch.compiler.reset()
    models = [network(DensityHead(8, 3, 2, family)) for family in ("full", "tied_diag")]
    exports = [export_density(model) for model in models]
    h, y = pairs(9, 3)

    def densities(h: Tensor, y: Tensor) -> list[Tensor]:
        return [model(h).log_prob(y) for model in models] + [e(h, y) for e in exports]

    compiled = torch.compile(densities, fullgraph=True, backend="eager")
    expected = [model(h).log_prob(y) for model in models]
    for found, wanted in zip(compiled(h, y), 2 * expected, strict=True):
        torch.testing.assert_close(found, wanted, **CLOSE)


def test_gradients_flow_through_the_substitution() -> None:
    model = PlainHead(4, 3, 2, "full")
    h, y = pairs(2, 3)
    y.requires_grad_()
    assert torch.autograd.gradcheck(lambda y: export_density(model)(h, y), (y,))


@pytest.mark.parametrize("d", [1, 2, 32])
def test_the_substitution_solves(d: int) -> None:
    model = PlainHead(4, d, 2, "full")
    h, y = pairs(6, d)
    # Both substitutions have errors of D eps times the condition of the factors, below 1e3.
    torch.testing.assert_close(
        export_density(model)(h, y), model(h).log_prob(y), rtol=1e-11, atol=1e-11
    )


def test_too_many_features_are_refused_with_the_ways_out() -> None:
    h, y = pairs(3, 33)
    with pytest.raises(InvalidArgumentError, match=r"at most 32 features, got 33.*diagonal"):
        export_density(PlainHead(4, 33, 2, "full"))(h, y)
    with pytest.raises(InvalidArgumentError, match="at most 32 features, got 33"):
        exported(export_density(PlainHead(4, 33, 2, "tied")), h, y)
    with pytest.raises(InvalidArgumentError, match="at most 32 features, got 33"):
        export_parameters(DensityHead(4, 33, 2, "full"))(h)
    # The ways out: no solve at all, or the solve left to who takes the parameters.
    for model in (PlainHead(4, 33, 2, "diag"), DensityHead(4, 33, 2, "full")):
        # 33 squares of up to 1e2, and as many terms in each: eps times 1e5, with a margin.
        torch.testing.assert_close(
            export_density(model)(h, y), model(h).log_prob(y), rtol=1e-9, atol=1e-9
        )
    assert export_parameters(PlainHead(4, 33, 2, "full"))(h)[2].shape == (3, 2, 33, 33)


def test_bad_models_and_rows() -> None:
    with pytest.raises(InvalidArgumentError, match="expected a module, got function"):
        export_density(lambda h: h)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="it returned Tensor"):
        export_density(nn.Linear(4, 2))(torch.zeros(3, 4), torch.zeros(3, 2))
    module = export_density(DensityHead(4, 2, 3))
    with pytest.raises(InvalidArgumentError, match="2 features"):
        module(torch.zeros(3, 4), torch.zeros(3, 5))
    with pytest.raises(InvalidArgumentError, match=r"batch shape \(3,\), got shape \(4, 2\)"):
        module(torch.zeros(3, 4), torch.zeros(4, 2))


def on_onnx(model: nn.Module, d: int) -> None:
    from support.onnx_sessions import answers

    many = pairs(50, d)
    found = answers(Whole(model).eval(), pairs(4, d), many)
    for value, wanted in zip(found, whole(model, *many), strict=True):
        torch.testing.assert_close(value, wanted, **ONNX)


def test_onnx() -> None:
    on_onnx(network(DensityHead(8, 3, 2, "full")), 3)


@pytest.mark.slow
@pytest.mark.parametrize("head", [DensityHead, PlainHead])
@over_families
def test_onnx_of_every_family(family: str, head: Any) -> None:
    on_onnx(network(head(8, 3, 2, family)), 3)


@pytest.mark.slow
@pytest.mark.parametrize("head", [DensityHead, PlainHead])
def test_onnx_of_the_most_features(head: Any) -> None:
    on_onnx(network(head(8, 32, 2, "full")), 32)
