"""What every family promises with every prior and batch shape."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from support.random_layers import (
    BATCHES,
    FAMILIES,
    cases,
    collapsing_rows,
    finite,
    parameters,
    random_layer,
    rows,
)
from torch import Tensor, nn
from torch.func import functional_call

from gmm_lightning import GMMLayer, SufficientStatistics, e_step, fit_em, m_step, resolve_priors
from gmm_lightning.covariances import registry as covariances
from gmm_lightning.errors import InvalidArgumentError

pytestmark = pytest.mark.usefixtures("double")
ON_GPU = True

CASES = cases()
over_families = pytest.mark.parametrize("family", FAMILIES)
over_cases = pytest.mark.parametrize(("family", "prior"), CASES)
over_batches = pytest.mark.parametrize("batch", BATCHES, ids=str)


def assert_same(a: SufficientStatistics, b: SufficientStatistics, tolerance: float) -> None:
    """Equal sums, each relative to the largest entry of its kind."""
    assert torch.equal(a.shift, b.shift)
    assert torch.equal(a.num_samples, b.num_samples)
    for name in ("counts", "first", "second", "log_likelihood"):
        one, other = getattr(a, name), getattr(b, name)
        assert one.shape == other.shape
        assert (one - other).abs().max() <= tolerance * other.abs().max(), name


class Objective(nn.Module):
    """The penalised objective as a forward pass, so that `functional_call` reaches it."""

    def __init__(self, layer: GMMLayer, x: Tensor) -> None:
        super().__init__()
        self.layer, self.x = layer, x

    def forward(self) -> Tensor:
        return self.layer.objective(self.x, num_samples=7)


# -- 1 ------------------------------------------------------------------------------------------


@over_batches
@over_families
def test_1_log_prob_equals_torch(family: str, batch: tuple, generator: torch.Generator) -> None:
    layer = random_layer(family, batch=batch, generator=generator)
    x = rows(11, 2, generator, batch)
    theirs = layer.distribution().to_torch()
    # Two orders of the same float64 operations on numbers of order ten.
    assert torch.allclose(layer(x), theirs.log_prob(x), rtol=1e-12, atol=1e-12)
    assert layer(x).shape == (11, *batch)
    assert layer(x[0]).shape == batch
    dense = torch.distributions.MultivariateNormal(layer.means, layer.covariance_matrix)
    joint = layer.weights.log() + dense.log_prob(x.unsqueeze(-2))
    assert torch.allclose(layer.log_joint(x), joint, rtol=1e-12, atol=1e-12)
    moments = layer.distribution()
    assert torch.allclose(moments.mean, theirs.mean, rtol=1e-12, atol=1e-12)
    assert torch.allclose(moments.variance, theirs.variance, rtol=1e-12, atol=1e-12)


# -- 2 ------------------------------------------------------------------------------------------


@over_batches
@over_families
def test_2_gradcheck_of_the_density(family: str, batch: tuple, generator: torch.Generator) -> None:
    layer = random_layer(family, batch=batch, num_components=2, generator=generator)
    names = [name for name, _ in layer.named_parameters()]
    inputs = [p.detach().clone().requires_grad_() for p in layer.parameters()]

    def log_prob(x: Tensor, *values: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    x = rows(3, 2, generator, batch).requires_grad_()
    assert torch.autograd.gradcheck(log_prob, (x, *inputs), fast_mode=bool(batch))


@over_cases
def test_2_gradcheck_of_the_objective(family: str, prior: str, generator: torch.Generator) -> None:
    layer = random_layer(family, prior, generator=generator, given=True)
    module = Objective(layer, rows(5, 2, generator))
    names = [name for name, _ in module.named_parameters()]
    inputs = [p.detach().clone().requires_grad_() for p in module.parameters()]

    def objective(*values: Tensor) -> Tensor:
        return functional_call(module, dict(zip(names, values, strict=True)), ())

    assert torch.autograd.gradcheck(objective, tuple(inputs))


# -- 3 ------------------------------------------------------------------------------------------


@over_batches
@over_cases
def test_3_copies_are_bit_identical(
    family: str, prior: str, batch: tuple, generator: torch.Generator
) -> None:
    layer = random_layer(family, prior, batch=batch, generator=generator)
    buffer = io.BytesIO()
    torch.save({"state": layer.state_dict(), "config": layer.to_config()}, buffer)
    buffer.seek(0)
    stored = torch.load(buffer, weights_only=True)
    rebuilt = GMMLayer.from_config(stored["config"])
    rebuilt.load_state_dict(stored["state"])
    x = rows(9, 2, generator, batch)
    for twin in (rebuilt, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert twin is not layer
        assert twin.state_dict().keys() == layer.state_dict().keys()
        for name, value in layer.state_dict().items():
            assert torch.equal(twin.state_dict()[name], value)
        assert torch.equal(twin(x), layer(x))
        assert torch.equal(twin.log_prior(), layer.log_prior())
        # Not the same memory: a fit of the copy leaves the original alone.
        m_step(twin, e_step(twin, x))
        assert not torch.equal(twin.means, layer.means)


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
@over_families
def test_3_compiles_as_one_graph(family: str, batch: tuple, generator: torch.Generator) -> None:
    torch._dynamo.reset()
    layer = random_layer(family, batch=batch, generator=generator)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    x = rows(30, 2, generator, batch)
    assert torch.equal(compiled(x), layer(x))
    before = layer(x)
    m_step(layer, e_step(layer, x))
    with torch._dynamo.config.patch(error_on_recompile=True):
        after = compiled(x)
    assert torch.equal(after, layer(x))
    assert not torch.equal(after, before)


# Inductor itself still uses what torch 2.13 deprecates.
@pytest.mark.filterwarnings("ignore:.*_prims_common.check:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.slow
@over_families
def test_3_compiles_with_inductor(family: str, generator: torch.Generator) -> None:
    torch._dynamo.reset()
    layer = random_layer(family, generator=generator)
    x = rows(30, 2, generator)
    # Fused kernels add in another order.
    compiled = torch.compile(layer, fullgraph=True)
    assert torch.allclose(compiled(x), layer(x), rtol=1e-12, atol=1e-12)


# -- 4 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [False, True], ids=["defaults", "given"])
@over_cases
def test_4_em_never_lowers_the_objective(
    family: str, prior: str, given: bool, generator: torch.Generator
) -> None:
    n = 90
    layer = random_layer(family, prior, generator=generator, given=given)
    x = rows(n, 2, generator)
    result = fit_em(layer, x, initializer="random", max_iter=25, tol=0.0, generator=generator)
    history = n * torch.tensor(result.history)
    # Sums of 90 terms of order ten round at 1e-12.
    assert (history.diff() > -1e-9).all()
    assert history[-1] > history[0]
    # What is monitored is the layer's own objective.
    with torch.no_grad():
        assert math.isclose(result.objective, layer.objective(x), rel_tol=1e-12)
        assert math.isclose(result.log_likelihood, layer(x).mean(), rel_tol=1e-12)


@pytest.mark.parametrize("data", ["duplicates", "collinear", "line", "outlier"])
@over_cases
def test_4_em_never_lowers_the_objective_where_components_collapse(
    family: str, prior: str, data: str, generator: torch.Generator
) -> None:
    plane = torch.randn(30, 2, generator=generator, device=generator.device)
    far = plane.clone()
    far[7] = 1e10
    x = {
        "duplicates": collapsing_rows(),
        "collinear": torch.cat([plane, plane.sum(1, keepdim=True), 2 * plane[:, :1]], 1),
        "line": plane[:4, :1] * torch.ones(2),
        "outlier": far,
    }[data]
    layer = random_layer(
        family, prior, num_components=4, num_features=x.shape[1], generator=generator
    )
    result = fit_em(layer, x, max_iter=12, tol=0.0, generator=generator)
    history = torch.tensor(result.history)
    # The floor allows condition numbers of 1e8, and the slope there is not zero: an M-step rounds
    # at some 1e8 eps per feature.
    assert (history.diff() > -1e-6).all()
    assert finite(layer)
    if prior == "none" and data == "duplicates":
        assert result.events, "four components on two distinct rows must be reported"


# -- 5 ------------------------------------------------------------------------------------------


def gradient(layer: GMMLayer, x: Tensor, *, penalised: bool = True) -> float:
    """Largest entry of the gradient per row with respect to the raw parameters."""
    value = layer.objective(x) if penalised else layer(x).mean(0)
    found = torch.autograd.grad(value.sum(), list(layer.parameters()))
    return max(float(part.abs().max()) for part in found)


def settle(layer: GMMLayer, x: Tensor) -> int:
    """EM until the parameters stand still; how many passes that took."""
    for passes in range(0, 4000, 40):
        before = parameters(layer)
        for _ in range(40):
            m_step(layer, e_step(layer, x))
        moved = [(a - b).abs().max() for a, b in zip(before, parameters(layer), strict=True)]
        if max(moved) < 1e-11:
            return passes
    return 4000


@pytest.mark.parametrize("given", [False, True], ids=["defaults", "given"])
@over_cases
def test_5_keystone(family: str, prior: str, given: bool, generator: torch.Generator) -> None:
    x = rows(150, 2, generator)
    layer = random_layer(family, prior, generator=generator, given=given)
    assert gradient(layer, x) > 1e-2
    result = fit_em(layer, x, max_iter=60, tol=0.0, generator=generator)
    assert not result.events, "a floor moves the fixed point"
    passes = settle(layer, x)
    # EM contracts linearly, so a fixed point is reached to any accuracy above rounding.
    assert gradient(layer, x) < 1e-8, f"not at a fixed point after {passes} passes"
    flat = prior == "none" or (prior == "dirichlet" and not given)
    if not flat:
        # The same point is far from the mode of the likelihood: the prior's half is not idle.
        assert gradient(layer, x, penalised=False) > 1e-5


@pytest.mark.slow
@over_cases
def test_5_keystone_for_a_batch(family: str, prior: str, generator: torch.Generator) -> None:
    x = rows(60, 2, generator, (2,))
    layer = random_layer(family, prior, batch=(2,), num_components=2, generator=generator)
    fit_em(layer, x, max_iter=60, tol=0.0, generator=generator)
    settle(layer, x)
    assert gradient(layer, x) < 1e-8


# -- 6 ------------------------------------------------------------------------------------------


@over_batches
@over_families
def test_6_statistics_add_over_any_split(
    family: str, batch: tuple, generator: torch.Generator
) -> None:
    layer = random_layer(family, batch=batch, generator=generator)
    x = rows(23, 2, generator, batch)
    whole = e_step(layer, x)
    for sizes in ([10, 10, 3], [1] * 23, [0, 23, 0], [22, 1]):
        first, *rest = (e_step(layer, part) for part in x.split(sizes))
        # The order of 23 float64 additions.
        assert_same(sum(rest, start=first), whole, 1e-13)
    assert_same(e_step(layer, x, chunk_size=7), whole, 1e-13)
    assert whole.num_samples == 23
    assert torch.allclose(whole.total_weight, torch.full(batch, 23.0), rtol=1e-13)


@pytest.mark.parametrize("batch", [(3,), (2, 3)], ids=str)
@over_cases
def test_6_batched_equals_looped(
    family: str, prior: str, batch: tuple, generator: torch.Generator
) -> None:
    layer = random_layer(family, prior, batch=batch, generator=generator)
    x = rows(31, 2, generator, batch)
    stats = e_step(layer, x)
    singles = {}
    for index in torch.cartesian_prod(*map(torch.arange, batch)).reshape(-1, len(batch)).tolist():
        at = tuple(index)
        one = random_layer(family, prior, generator=generator)
        with torch.no_grad():
            for mine, all_of_them in zip(one.parameters(), layer.parameters(), strict=True):
                mine.copy_(all_of_them[at])
        own = x[(slice(None), *at)]
        resolve_priors(one, own)
        part = e_step(one, own)
        # Batched matrix products may add in another order.
        for name in ("counts", "first", "second", "log_likelihood"):
            assert torch.allclose(getattr(stats, name)[at], getattr(part, name), rtol=1e-12)
        m_step(one, part)
        singles[at] = one
    resolve_priors(layer, x)
    m_step(layer, stats)
    assert len(singles) == math.prod(batch)
    for at, one in singles.items():
        for mine, all_of_them in zip(one.parameters(), layer.parameters(), strict=True):
            assert torch.allclose(all_of_them[at], mine, rtol=1e-11, atol=1e-11)


@over_families
def test_6_a_shared_data_set_is_broadcast(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, batch=(3,), generator=generator)
    x = rows(20, 2, generator)
    assert_same(e_step(layer, x[:, None]), e_step(layer, x[:, None].repeat(1, 3, 1)), 1e-13)


@over_batches
@over_families
def test_6_weights_count_rows(family: str, batch: tuple, generator: torch.Generator) -> None:
    layer = random_layer(family, batch=batch, generator=generator)
    x = rows(12, 2, generator, batch)
    plain = e_step(layer, x)
    ones = e_step(layer, x, torch.ones(12, *batch))
    assert torch.equal(ones.pack(), plain.pack())
    weight = torch.ones(12)
    weight[3], weight[5] = 2.0, 0.0
    weight = weight.reshape(12, *[1] * len(batch))
    kept = [0, 1, 2, 3, 3, 4, *range(6, 12)]
    weighted, duplicated = e_step(layer, x, weight), e_step(layer, x[kept])
    # The order of 12 float64 additions.
    for name in ("counts", "first", "second", "log_likelihood"):
        assert torch.allclose(getattr(weighted, name), getattr(duplicated, name), rtol=1e-12)
    twin = copy.deepcopy(layer)
    m_step(layer, weighted)
    m_step(twin, duplicated)
    for a, b in zip(layer.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-11)


@over_families
def test_6_whole_fits_with_weights(family: str, generator: torch.Generator) -> None:
    # "Weights count rows" of tests/golden/README.md, through every step of a fit.
    x = rows(40, 2, generator)
    labels = torch.arange(40) % 3
    weight = torch.ones(40)
    weight[:5], weight[5:8] = 3.0, 0.0
    kept = torch.arange(40).repeat_interleave(weight.long())
    fitted = []
    for data, start, w in (
        (x, labels, weight),
        (x[kept], labels[kept], None),
        (x[kept], labels[kept], torch.ones(len(kept))),
    ):
        layer = GMMLayer(2, 3, family)
        fit_em(layer, data, initializer=start, sample_weight=w, max_iter=10, tol=0.0)
        fitted.append(parameters(layer))
    for a, b, c in zip(*fitted, strict=True):
        # Ten steps amplify the rounding of a sum by little.
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)
        assert torch.equal(b, c)


@over_batches
@over_families
def test_6_pack_and_unpack(family: str, batch: tuple, generator: torch.Generator) -> None:
    layer = random_layer(family, batch=batch, generator=generator)
    stats = e_step(layer, rows(9, 2, generator, batch))
    flat = stats.pack()
    assert flat.dim() == 1
    assert flat.dtype == torch.float64
    back = stats.unpack(flat)
    for name in ("counts", "first", "second", "shift", "log_likelihood", "num_samples"):
        assert torch.equal(getattr(back, name), getattr(stats, name))
    twice = stats.unpack(flat + flat)
    assert torch.equal((stats + stats).pack(), twice.pack())


@over_families
def test_6_refuses_to_add_over_an_m_step(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, generator=generator)
    x = rows(20, 2, generator)
    before = e_step(layer, x)
    m_step(layer, before)
    with pytest.raises(InvalidArgumentError, match="same means"):
        before + e_step(layer, x)


# -- 7 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [(), (2,)], ids=str)
@over_families
def test_7_samples_match_moments_and_shares(
    family: str, batch: tuple, generator: torch.Generator
) -> None:
    n = 40_000
    layer = random_layer(family, batch=batch, generator=generator)
    mixture = layer.distribution()
    x, z = layer.sample(n, return_component=True, generator=generator)
    share = torch.nn.functional.one_hot(z, 3).double().mean(0)
    error = (layer.weights * (1 - layer.weights) / n).sqrt()
    # Five standard errors; the seed is fixed.
    assert ((share - layer.weights).abs() < 5 * error).all()
    assert ((x.mean(0) - mixture.mean).abs() < 5 * (mixture.variance / n).sqrt()).all()
    gap = x - mixture.mean
    products = gap.unsqueeze(-1) * gap.unsqueeze(-2)
    error = products.std(0) / math.sqrt(n)
    assert ((products.mean(0) - mixture.covariance_matrix).abs() < 5 * error).all()
    # Within the components too.
    for k in range(3):
        own = layer.sample(n, component=k, generator=generator)
        error = layer.covariance_matrix[..., k, :, :].diagonal(dim1=-2, dim2=-1) / n
        assert ((own.mean(0) - layer.means[..., k, :]).abs() < 5 * error.sqrt()).all()


@pytest.mark.parametrize("d", [1, 2])
@over_families
def test_7_densities_integrate_to_one(family: str, d: int, generator: torch.Generator) -> None:
    layer = random_layer(family, num_features=d, generator=generator)
    edge = torch.linspace(-30, 30, 601)
    grid = torch.cartesian_prod(*[edge] * d).reshape(-1, d)
    total = layer(grid).detach().exp().sum() * (edge[1] - edge[0]) ** d
    # The trapezoid rule on a smooth density that vanishes at the border converges exponentially.
    assert abs(float(total) - 1) < 1e-9


def test_the_registry_is_covered() -> None:
    assert set(covariances.names) == {family for family, _ in CASES}
    assert len(CASES) >= len(FAMILIES)
