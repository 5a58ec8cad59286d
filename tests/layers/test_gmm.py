"""The layer: parameters in and out, moves between devices and dtypes, gradients, and messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.random_layers import (
    BATCHES,
    FAMILIES,
    cases,
    make_priors,
    random_layer,
    rounding,
    rows,
)
from torch import Tensor, nn

from gmm_lightning import GMMLayer
from gmm_lightning.covariances import FullCovariance, as_covariance
from gmm_lightning.errors import CheckpointError, InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import Batch

over_families = pytest.mark.parametrize("family", FAMILIES)
over_batches = pytest.mark.parametrize("batch", BATCHES, ids=str)


def random_parameters(
    family: str, batch: tuple, generator: torch.Generator, k: int = 3, d: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, means and covariances of a family's structure."""
    layer = random_layer(family, batch=batch, num_components=k, num_features=d, generator=generator)
    weights, means, dense = layer.weights, layer.means, layer.covariance_matrix
    return weights.detach(), means.detach().clone(), dense.detach().clone()


@over_batches
@over_families
def test_set_parameters_round_trip(family: str, batch: tuple, generator: torch.Generator) -> None:
    weights, means, dense = random_parameters(family, batch, generator)
    layer = GMMLayer(4, 3, family, batch_shape=batch)
    identities = [id(p) for p in layer.parameters()]
    storage = [p.data_ptr() for p in layer.parameters()]
    layer.set_parameters(weights, means, dense)
    assert torch.equal(layer.means, means)
    # A logarithm, a factorisation and their inverses.
    close = {"rtol": rounding(1e-14), "atol": rounding(1e-14)}
    assert torch.allclose(layer.weights, weights, **close)
    assert torch.allclose(layer.covariance_matrix, dense, **close)
    assert torch.allclose(
        layer.precision_matrix @ dense, torch.eye(4).expand_as(dense), atol=rounding(1e-12)
    )
    # In place: optimizers keep their references.
    assert identities == [id(p) for p in layer.parameters()]
    assert storage == [p.data_ptr() for p in layer.parameters()]
    twin = GMMLayer.from_parameters(weights, means, dense, family)
    assert twin.batch_shape == batch
    for a, b in zip(twin.parameters(), layer.parameters(), strict=True):
        assert torch.equal(a, b)


@over_families
def test_set_parameters_leaves_the_rest(family: str, generator: torch.Generator) -> None:
    given = dict(
        zip(
            ("weights", "means", "covariance_matrix"),
            random_parameters(family, (), generator),
            strict=True,
        )
    )
    for name, value in given.items():
        layer = random_layer(family, num_features=4, generator=generator)
        before = {
            "weights": layer.weights.detach().clone(),
            "means": layer.means.detach().clone(),
            "covariance_matrix": layer.covariance_matrix.detach().clone(),
        }
        layer.set_parameters(**{name: value})
        for other, old in before.items():
            expected = value if other == name else old
            assert torch.allclose(
                getattr(layer, other), expected, rtol=rounding(1e-13), atol=rounding(1e-13)
            )


def test_a_family_projects_what_is_given() -> None:
    weights = torch.tensor([0.25, 0.75])
    dense = torch.tensor([[[2.0, 0.5], [0.5, 1.0]], [[4.0, 1.0], [1.0, 3.0]]])
    tied = 0.25 * dense[0] + 0.75 * dense[1]
    expected = {
        "full": dense,
        "diag": dense.diagonal(dim1=-2, dim2=-1).diag_embed(),
        "spherical": torch.tensor([1.5, 3.5])[:, None, None] * torch.eye(2),
        "tied": tied.expand(2, 2, 2),
        "tied_diag": tied.diagonal().diag_embed().expand(2, 2, 2),
        "tied_spherical": 3.0 * torch.eye(2).expand(2, 2, 2),
    }
    for family, matrix in expected.items():
        layer = GMMLayer.from_parameters(weights, torch.zeros(2, 2), dense, family)
        assert torch.allclose(layer.covariance_matrix, matrix, rtol=rounding(1e-13))


def test_set_parameters_normalises_weights_and_takes_arrays() -> None:
    layer = GMMLayer(2, 2)
    layer.set_parameters(np.array([2.0, 6.0]), [[1, 2], [3, 4]], np.eye(2)[None].repeat(2, 0))
    assert torch.allclose(layer.weights, torch.tensor([0.25, 0.75]), rtol=rounding(1e-14))
    assert layer.means.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_weight_of_zero_stays_finite() -> None:
    layer = GMMLayer(1, 2)
    layer.set_parameters(weights=torch.tensor([1.0, 0.0]))
    assert torch.isfinite(layer.mixture_logits).all()
    assert layer.weights.tolist() == [1.0, pytest.approx(0.0, abs=1e-37)]
    layer(torch.zeros(3, 1)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_rounding_is_not_asymmetry() -> None:
    # A product of three matrices is symmetric to rounding only, also where an entry is near zero.
    dense = torch.tensor([[[1.0, 1e-18], [0.0, 2.0]]])
    layer = GMMLayer.from_parameters(torch.ones(1), torch.zeros(1, 2), dense)
    assert torch.allclose(layer.covariance_matrix[0].diagonal(), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weights": torch.ones(3)}, r"weights must have shape \(2,\), got \(3,\)"),
        ({"weights": torch.tensor([0.5, -0.5])}, r">= 0 and not all 0, got \[0.5, -0.5\]"),
        ({"weights": torch.zeros(2)}, "not all 0"),
        ({"weights": torch.tensor([0.5, float("nan")])}, "weights must be finite"),
        ({"means": torch.zeros(2, 3)}, r"means must have shape \(2, 2\), got \(2, 3\)"),
        ({"means": torch.full((2, 2), float("inf"))}, "means must be finite"),
        ({"covariance_matrix": torch.eye(2)}, r"must have shape \(2, 2, 2\), got \(2, 2\)"),
        ({"covariance_matrix": torch.zeros(2, 2, 2)}, "positive definite"),
        ({"covariance_matrix": -torch.eye(2).repeat(2, 1, 1)}, "positive definite"),
        ({"covariance_matrix": torch.tensor([[1.0, 0.5], [0.0, 1.0]]).repeat(2, 1, 1)}, "symm"),
        ({"covariance_matrix": torch.tensor([[1.0, 2.0], [2.0, 1.0]]).repeat(2, 1, 1)}, "definite"),
    ],
)
def test_set_parameters_refuses(given: dict[str, Tensor], words: str) -> None:
    layer = GMMLayer(2, 2)
    before = [p.detach().clone() for p in layer.parameters()]
    with pytest.raises(InvalidArgumentError, match=words):
        layer.set_parameters(**given)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_components": 0}, "num_components must be an integer >= 1, got 0"),
        ({"num_components": -2}, "num_components .* got -2"),
        ({"num_components": 2.0}, r"num_components .* got 2\.0"),
        ({"num_components": True}, "num_components .* got True"),
        ({"num_features": 0}, "num_features must be an integer >= 1, got 0"),
        ({"num_features": "2"}, "num_features .* got '2'"),
        ({"covariance": "fulll"}, "unknown covariance 'fulll'; known are: .*diag.*tied_full"),
        ({"covariance": None}, "expected a covariance as a name"),
        ({"covariance": FullCovariance}, "instance of Covariance"),
        ({"priors": "wishart"}, "unknown prior 'wishart'"),
        ({"batch_shape": (2, 0)}, r"batch_shape must hold sizes >= 1, got \(2, 0\)"),
        ({"batch_shape": (-1,)}, "batch_shape must hold sizes >= 1"),
        ({"batch_shape": ((2,),)}, "batch_shape must hold sizes >= 1"),
        ({"dtype": torch.float16}, "dtype must be float32 or float64, got torch.float16"),
        ({"dtype": torch.int64}, "dtype must be float32 or float64"),
    ],
)
def test_the_constructor_refuses(arguments: dict[str, Any], words: str) -> None:
    good = {"num_features": 2, "num_components": 3}
    with pytest.raises(InvalidArgumentError, match=words):
        GMMLayer(**good | arguments)


@over_batches
@over_families
def test_a_new_layer(family: str, batch: tuple) -> None:
    layer = GMMLayer(2, 3, family, batch_shape=batch)
    assert torch.allclose(layer.weights, torch.full((*batch, 3), 1 / 3), rtol=rounding(1e-14))
    assert torch.equal(layer.covariance_matrix, torch.eye(2).expand(*batch, 3, 2, 2))
    assert layer.means.std() > 0
    assert layer.log_prior().shape == batch
    assert (layer.log_prior() == 0).all()
    assert f"'{family}'" in repr(layer)
    assert all(p.requires_grad for p in layer.parameters())
    assert {n for n, _ in layer.named_parameters()} == {"mixture_logits", "means", "raw_scale"}


@pytest.mark.parametrize(("family", "prior"), cases())
def test_to_another_dtype(family: str, prior: str, generator: torch.Generator) -> None:
    layer = random_layer(family, prior, generator=generator)
    x = rows(6, 2, generator)
    narrow = layer.to(torch.float32)
    assert narrow is layer
    assert {t.dtype for t in layer.state_dict().values()} == {torch.float32}
    single = layer(x), layer.log_prior(), layer.objective(x)
    assert {t.dtype for t in single} == {torch.float32}
    layer.double()
    # float32 parameters are exact in float64, so only the arithmetic differs.
    for a, b in zip(single, (layer(x), layer.log_prior(), layer.objective(x)), strict=True):
        assert torch.allclose(a.double(), b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "prior"), cases("gradient"))
def test_the_meta_device_and_back(family: str, prior: str) -> None:
    layer = GMMLayer(2, 3, family, make_priors(prior), device="meta")
    assert {t.device.type for t in layer.state_dict().values()} == {"meta"}
    assert layer(torch.zeros(5, 2, device="meta")).shape == (5,)
    here = layer.to_empty(device="cpu")
    source = GMMLayer(2, 3, family, make_priors(prior), device="cpu")
    here.load_state_dict(source.state_dict())
    x = torch.zeros(5, 2, device="cpu")
    assert torch.equal(here(x), source(x))


@over_families
def test_configuration(family: str) -> None:
    layer = GMMLayer(2, 3, family, ["dirichlet", "niw"], batch_shape=(2,))
    config = layer.to_config()
    assert config["covariance"]["name"] == family
    assert [prior["name"] for prior in config["priors"]] == ["dirichlet", "niw"]
    twin = GMMLayer.from_config(config)
    assert twin.to_config() == config
    assert repr(twin) == repr(layer)
    custom = GMMLayer(2, 3, type(layer.covariance)(reg_covar=0.5))
    assert GMMLayer.from_config(custom.to_config()).covariance == custom.covariance


@pytest.mark.parametrize(
    "change",
    [
        {"covariance": {"name": "nope"}},
        {"covariance": {"name": "full", "nope": 1}},
        {"priors": [{"name": "os.system"}]},
        {"priors": [{"name": "niw", "command": "ls"}]},
        {"dtype": "float16"},
        {"num_components": 0},
        {"num_components": None},
    ],
    ids=str,
)
def test_a_broken_description_is_a_checkpoint_error(change: dict[str, Any]) -> None:
    config = GMMLayer(2, 3).to_config()
    with pytest.raises(CheckpointError, match="cannot be used"):
        GMMLayer.from_config(config | change)
    del config["covariance"]
    with pytest.raises(CheckpointError, match="cannot be used"):
        GMMLayer.from_config(config)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("family", "prior"), cases("gradient"))
def test_the_objective(family: str, prior: str, generator: torch.Generator) -> None:
    layer = random_layer(family, prior, generator=generator)
    x = rows(12, 2, generator)
    expected = layer(x).mean() + layer.log_prior() / 12
    assert torch.allclose(layer.objective(x), expected, rtol=1e-14)
    assert torch.allclose(layer.objective(x.reshape(3, 4, 2)), expected, rtol=1e-13)
    # Mini-batches of the same size average to the whole.
    parts = torch.stack([layer.objective(part, num_samples=12) for part in x.split(4)])
    assert torch.allclose(parts.mean(), expected, rtol=1e-13)


def test_gradient_ascent_raises_the_objective(generator: torch.Generator) -> None:
    layer = random_layer("full", "niw", generator=generator)
    x = rows(60, 2, generator)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    before = layer.objective(x).detach()
    for _ in range(30):
        optimizer.zero_grad()
        (-layer.objective(x)).backward()
        optimizer.step()
    assert layer.objective(x) > before + 0.1


class TwoClasses(nn.Module):
    """Evidence: rows with a negative first feature belong to component 0, the rest to 1."""

    def forward(self, batch: Batch) -> Tensor:
        first = batch.x[..., 0] < 0
        allowed = torch.stack([first, ~first], -1)
        return torch.where(allowed, 0.0, -float("inf"))


def test_evidence_is_added_to_the_joint(generator: torch.Generator) -> None:
    layer = random_layer("full", num_components=2, generator=generator)
    x = rows(20, 2, generator) - 2
    plain = layer.log_joint(x)
    layer.evidence = TwoClasses()
    expected = plain + layer.evidence(Batch(x))
    assert torch.equal(layer.log_joint(x), expected)
    assert torch.equal(layer(x), expected.logsumexp(-1))
    assert torch.equal(layer.predict(x), (x[:, 0] >= 0).long())
    assert torch.equal(layer.responsibilities(x).argmax(-1), (x[:, 0] >= 0).long())
    layer(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_layers_inside_a_network(generator: torch.Generator) -> None:
    encoder = nn.Linear(5, 2)
    model = nn.Sequential(encoder, GMMLayer(2, 3, as_covariance("diag")))
    model(torch.randn(8, 5)).mean().backward()
    assert encoder.weight.grad is not None
    assert encoder.weight.grad.abs().max() > 0


@pytest.mark.parametrize("batch", [(), (2,)])
def test_rows_without_a_component_are_refused(
    generator: torch.Generator, batch: tuple[int, ...]
) -> None:
    layer = random_layer("full", batch=batch, generator=generator)
    x = rows(5, layer.num_features, generator).expand(*batch, 5, -1).movedim(-2, 0).clone()
    expected = layer.responsibilities(x).argmax(-1)
    assert torch.equal(layer.predict(x), expected)
    x[1, ..., 0] = torch.nan
    # Squares of the other one overflow.
    x[3] = 1e200
    with pytest.raises(InvalidDataError, match=r"most probable one in row\(s\)") as caught:
        layer.predict(x)
    assert "impute(layer, x)" in str(caught.value)
    found = layer.predict(x[:3], missing="marginalize")
    assert torch.equal(found, layer.log_joint(x[:3], "marginalize").argmax(-1))
    resp = layer.responsibilities(x[:3], missing="marginalize")
    torch.testing.assert_close(resp.sum(-1), torch.ones_like(resp[..., 0]))
    # In a graph nothing can be refused.
    at_once = torch.func.vmap(layer.predict)(x) if not batch else None
    assert at_once is None or at_once[[1, 3]].tolist() == [-1, -1]
