"""The distribution: published numbers, shapes, moments, and messages."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support.random_layers import BATCHES, FAMILIES, random_layer, rounding, rows
from torch import Tensor

from gmm_lightning import GMMLayer, MixtureOfGaussians
from gmm_lightning.covariances import DiagCovariance, as_covariance
from gmm_lightning.errors import InvalidArgumentError

over_families = pytest.mark.parametrize("family", FAMILIES)
over_batches = pytest.mark.parametrize("batch", BATCHES, ids=str)

# "Two triangles" of tests/golden/README.md.
WEIGHTS, MEANS = [0.2, 0.8], [[-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]]
FULL = [[1.0, 0.5, 0.5], [0.5, 1.0, 0.5], [0.5, 0.5, 1.0]]
DIAG = [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]
ROWS = [[1, 2, 3], [1, 4, 2], [1, 0, 6], [4, 2, 4], [4, 4, 4], [4, 0, 2]]
# The reference numbers carry eight decimals, or less for the larger ones.
PRINTED = 1e-7


def set_a(family: str) -> GMMLayer:
    dense = torch.tensor(FULL).repeat(2, 1, 1)
    if family == "diag":
        dense = torch.tensor(DIAG).diag_embed()
    return GMMLayer.from_parameters(torch.tensor(WEIGHTS), torch.tensor(MEANS), dense, family)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("family", ["full", "tied"])
def test_set_a_full(family: str) -> None:
    # "Two triangles"; both covariances are the same, so a tied layer agrees.
    layer, x = set_a(family), torch.tensor(ROWS)
    log_prob = [-7.01833897, -12.6989768, -20.76967991, -15.41024201, -16.41024201, -11.6333017]
    assert torch.allclose(layer(x), torch.tensor(log_prob), rtol=0, atol=PRINTED)
    assert float(layer(x).detach().mean()) == pytest.approx(-13.99013023, abs=PRINTED)
    first = torch.tensor([0.99865995, 0.93173846, 0.99999999, 0.2, 0.2, 0.00008386])
    assert torch.allclose(layer.responsibilities(x)[:, 0], first, rtol=0, atol=PRINTED)
    assert layer.predict(x).tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.usefixtures("double")
def test_set_a_diag() -> None:
    # "Two triangles", diagonal.
    layer, x = set_a("diag"), torch.tensor(ROWS)
    log_prob = [-8.90967222, -11.10101684, -11.42879987, -18.65269533, -21.65269533, -9.87552078]
    assert torch.allclose(layer(x), torch.tensor(log_prob), rtol=0, atol=PRINTED)
    assert float(layer(x).detach().mean()) == pytest.approx(-13.60340006, abs=PRINTED)


@over_batches
@over_families
def test_shapes(family: str, batch: tuple, generator: torch.Generator) -> None:
    mixture = random_layer(family, batch=batch, generator=generator).distribution()
    assert mixture.batch_shape == batch
    assert mixture.event_shape == (2,)
    assert mixture.weights.shape == mixture.log_weights.shape == (*batch, 3)
    assert mixture.mean.shape == mixture.variance.shape == (*batch, 2)
    assert mixture.covariance_matrix.shape == (*batch, 2, 2)
    assert mixture.scale_tril.shape == mixture.component_covariances.shape == (*batch, 3, 2, 2)
    for lead in ((), (5,), (4, 5), (0,)):
        x = torch.zeros(*lead, *batch, 2)
        assert mixture.log_prob(x).shape == (*lead, *batch)
        assert mixture.log_joint(x).shape == (*lead, *batch, 3)
        for name in ("responsibilities", "log_responsibilities"):
            assert getattr(mixture, name)(x).shape == (*lead, *batch, 3)


@over_families
def test_responsibilities_are_the_posterior(family: str, generator: torch.Generator) -> None:
    mixture = random_layer(family, generator=generator).distribution()
    x = rows(10, 2, generator)
    joint, total = mixture.log_joint(x), mixture.log_prob(x)
    # One exponential apart.
    close = {"rtol": rounding(1e-13), "atol": rounding(1e-13)}
    assert torch.allclose((joint - total.unsqueeze(-1)).exp(), mixture.responsibilities(x), **close)
    assert torch.allclose(
        mixture.log_responsibilities(x).exp(), mixture.responsibilities(x), **close
    )
    assert torch.allclose(mixture.responsibilities(x).sum(-1), torch.ones(10), **close)


@over_families
def test_far_rows_have_finite_densities(family: str, generator: torch.Generator) -> None:
    mixture = random_layer(family, generator=generator).distribution()
    x = torch.tensor([[1e6, -1e6], [0.0, 1e5]])
    assert torch.isfinite(mixture.log_prob(x)).all()
    total = mixture.responsibilities(x).sum(-1)
    assert torch.allclose(total, torch.ones(2), rtol=rounding(1e-13))


@over_families
def test_nan_in_nan_out(family: str, generator: torch.Generator) -> None:
    mixture = random_layer(family, generator=generator).distribution()
    x = torch.zeros(3, 2)
    x[1, 0] = float("nan")
    assert torch.isnan(mixture.log_prob(x)).tolist() == [False, True, False]


@over_batches
@over_families
def test_one_component_alone(family: str, batch: tuple, generator: torch.Generator) -> None:
    mixture = random_layer(family, batch=batch, generator=generator).distribution()
    x = rows(6, 2, generator, batch)
    joint = mixture.log_joint(x) - mixture.log_weights
    for k in (0, 2, -1):
        alone = mixture.component(k)
        assert alone.num_components == 1
        assert torch.allclose(
            alone.log_prob(x), joint[..., k], rtol=rounding(1e-13), atol=rounding(1e-13)
        )
    for k in (3, -4):
        with pytest.raises(InvalidArgumentError, match=rf"component must be in \[-3, 3\), got {k}"):
            mixture.component(k)


@over_families
def test_expand(family: str, generator: torch.Generator) -> None:
    mixture = random_layer(family, batch=(3,), generator=generator).distribution()
    wide = mixture.expand((4, 3))
    x = rows(5, 2, generator, (4, 3))
    assert wide.batch_shape == (4, 3)
    assert torch.equal(wide.log_prob(x), mixture.log_prob(x))


def test_x_broadcasts_over_the_batch(generator: torch.Generator) -> None:
    mixture = random_layer("full", batch=(3,), generator=generator).distribution()
    x = rows(5, 2, generator)
    assert mixture.log_prob(x[:, None]).shape == (5, 3)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int64, torch.bool, torch.float16, torch.bfloat16, torch.float64]
)
def test_rows_of_any_dtype(dtype: torch.dtype, generator: torch.Generator) -> None:
    mixture = random_layer("full", generator=generator).distribution()
    x = torch.tensor([[0, 1], [1, 1]])
    expected = mixture.log_prob(x.to(mixture.means.dtype))
    assert torch.equal(mixture.log_prob(x.to(dtype)), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@over_families
def test_half_precision_parameters_are_raised(
    family: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    layer = random_layer(family, generator=generator).to(dtype)
    x = rows(4, 2, generator).to(dtype)
    assert layer(x).dtype == torch.float32
    assert torch.allclose(layer(x), layer.float()(x.float()), rtol=1e-2)


@over_families
def test_autocast_does_not_touch_the_density(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, num_features=4, generator=generator).float()
    x = rows(20, 4, generator).float()
    with torch.autocast(x.device.type, torch.bfloat16):
        inside = layer(x)
    assert torch.equal(inside, layer(x))


def test_is_a_distribution_that_copies(generator: torch.Generator) -> None:
    mixture = random_layer("diag", generator=generator).distribution()
    assert isinstance(mixture, torch.distributions.Distribution)
    x = rows(3, 2, generator)
    detached = MixtureOfGaussians(
        *(t.detach() for t in (mixture.mixture_logits, mixture.means, mixture.scale)),
        covariance=DiagCovariance(),
    )
    for twin in (copy.deepcopy(detached), pickle.loads(pickle.dumps(detached))):
        assert torch.equal(twin.log_prob(x), mixture.log_prob(x))
    assert "num_components=3" in repr(mixture)
    assert "'diag'" in repr(mixture)


def shapes(*sizes: tuple[int, ...]) -> list[Tensor]:
    return [torch.ones(size) for size in sizes]


@pytest.mark.parametrize(
    "parts",
    [
        shapes((2,), (3, 2), (3, 2, 2)),
        shapes((3,), (3, 2), (3, 2)),
        shapes((3,), (3, 2), (1, 2, 2)),
        shapes((5, 3), (3, 2), (3, 2, 2)),
    ],
    ids=lambda parts: str([tuple(p.shape) for p in parts]),
)
def test_refuses_shapes_that_do_not_fit(parts: list[Tensor]) -> None:
    with pytest.raises(InvalidArgumentError, match=r"means of shape \(3, 2\) need mixture_logits"):
        MixtureOfGaussians(*parts, covariance=as_covariance("full"))


@over_families
def test_families_by_name(family: str, generator: torch.Generator) -> None:
    mixture = random_layer(family, generator=generator).distribution()
    parts = (mixture.mixture_logits, mixture.means, mixture.scale)
    named = MixtureOfGaussians(*parts, family)
    assert named.covariance == mixture.covariance
    x = rows(5, 2, generator)
    assert torch.equal(named.log_prob(x), mixture.log_prob(x))
    assert named.with_parameters(*parts, family).covariance == mixture.covariance
    with pytest.raises(InvalidArgumentError, match="unknown covariance 'diagonal'; known are: "):
        MixtureOfGaussians(*parts, "diagonal")
    with pytest.raises(InvalidArgumentError, match="expected a covariance as a name"):
        MixtureOfGaussians(*parts, 3)  # type: ignore[arg-type]


def test_refuses_rows_of_another_width(generator: torch.Generator) -> None:
    two = random_layer("full", generator=generator).distribution()
    with pytest.raises(InvalidArgumentError, match=r"2 features in the last axis.*\(4, 3\)"):
        two.log_prob(torch.zeros(4, 3))
    with pytest.raises(InvalidArgumentError, match="last axis"):
        two.log_prob(torch.tensor(1.0))
    one = random_layer("full", num_features=1, generator=generator).distribution()
    with pytest.raises(InvalidArgumentError, match=r"write x\[:, None\]"):
        one.log_prob(torch.zeros(5))
    assert one.log_prob(torch.zeros(5)[:, None]).shape == (5,)


@pytest.mark.parametrize(
    ("k", "d", "family", "expected"),
    [
        (2, 3, "full", 19),
        (2, 3, "diag", 13),
        (3, 2, "full", 17),
        (2, 5, "spherical", 13),
        (2, 5, "diag", 21),
        (2, 5, "tied", 26),
        (2, 5, "full", 41),
        # The codes of mclust that are families here: EII, VII, EEI, VVI, EEE, VVV.
        (3, 4, "tied_spherical", 15),
        (3, 4, "spherical", 17),
        (3, 4, "tied_diag", 18),
        (3, 4, "diag", 26),
        (3, 4, "tied", 24),
        (3, 4, "full", 44),
    ],
)
def test_free_parameters(k: int, d: int, family: str, expected: int) -> None:
    assert GMMLayer(d, k, family).num_free_parameters == expected
