"""One pass over rows: two kernels and a plain reference, for every family, dtype and layout."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from support.random_layers import FAMILIES, random_layer, rows
from torch import Generator, Tensor, nn
from torch.distributions import MultivariateNormal
from torch.utils._python_dispatch import TorchDispatchMode

from gmm_lightning import GMMLayer, SufficientStatistics, e_step, fit_em
from gmm_lightning.covariances import Covariance
from gmm_lightning.em import (
    MixtureModel,
    MixtureParameters,
    Responsibilities,
    assignment,
    hard_responsibilities_,
    softmax_responsibilities_,
    tempered_responsibilities_,
)
from gmm_lightning.em import plan as planning
from gmm_lightning.em.assignment import assigned_statistics
from gmm_lightning.em.centred_kernel import difference_statistics
from gmm_lightning.em.component_kernel import component_statistics
from gmm_lightning.em.expectation import EStep, expected_statistics
from gmm_lightning.em.plan import EStepPlan, WhitenedTerms, is_small, make_plan
from gmm_lightning.em.pooled import pooled_statistics_about
from gmm_lightning.em.responsibilities import ASSIGNMENTS
from gmm_lightning.em.whitened import WhitenedComponents
from gmm_lightning.em.workspace import Workspace
from gmm_lightning.rows import Batch, as_source

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)
over_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)

# Shapes of a batch of mixtures, and of the rows they read: shared, partly shared, and their own.
LAYOUTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "single": ((), ()),
    "shared": ((3,), (1,)),
    "own": ((3,), (3,)),
    "all shared": ((2, 3), (1, 1)),
    "partly shared": ((2, 3), (1, 3)),
    "all own": ((2, 3), (2, 3)),
}
over_layouts = pytest.mark.parametrize("layout", LAYOUTS)
soft, hard = softmax_responsibilities_, hard_responsibilities_
KINDS: dict[str, Responsibilities] = {
    "soft": soft,
    "hard": hard,
    "tempered": tempered_responsibilities_(0.3),
}
# Rows enough for a plan, whatever the size of the case.
MANY = 1 << 20
# The plan allows an error of 6e-5 in a log density of float32, which sums of 23 rows inherit;
# these layers are far from the bound of float64, and the rest is the order of the additions.
CLOSE = {torch.float32: 3e-4, torch.float64: 1e-11}
N = 23


class Slope(nn.Module):
    """Evidence that is different for every component and row."""

    def forward(self, batch: Batch) -> Tensor:
        x = batch.x
        return x.sum(-1, keepdim=True).tanh() * torch.arange(3.0).to(x)


def case(
    family: str, layout: str, dtype: torch.dtype, d: int, generator: Generator
) -> tuple[GMMLayer, Tensor, Tensor]:
    """A layer, rows of whatever they share, and weights."""
    batch, own = LAYOUTS[layout]
    layer = random_layer(family, batch=batch, num_features=d, generator=generator).to(dtype)
    weight = torch.rand(N, *batch, generator=generator)
    weight[4] = 0.0
    return layer, rows(N, d, generator, own).to(dtype), weight.to(dtype)


@dataclass(frozen=True)
class Reference:
    """Statistics as the definition says, in float64."""

    counts: Tensor
    first: Tensor
    second: Tensor
    log_likelihood: Tensor

    @classmethod
    def of(cls, layer: GMMLayer, x: Tensor, weight: Tensor | None, kind: str) -> Reference:
        wide = GMMLayer(
            layer.num_features,
            layer.num_components,
            layer.covariance,
            batch_shape=tuple(layer.batch_shape),
        )
        wide.load_state_dict({k: v.double() for k, v in layer.state_dict().items()})
        batch = layer.batch_shape
        x = x.double().expand(len(x), *batch, x.shape[-1])
        dense = MultivariateNormal(wide.means, scale_tril=wide.scale_tril)
        joint = wide.weights.log() + dense.log_prob(x.unsqueeze(-2))
        if layer.evidence is not None:
            joint = joint + layer.evidence(Batch(x))
        if kind == "hard":
            log_prob, best = joint.max(-1)
            resp = torch.nn.functional.one_hot(best, layer.num_components).double()
        else:
            beta = 0.3 if kind == "tempered" else 1.0
            log_prob = (beta * joint).logsumexp(-1) / beta
            resp = (beta * joint).softmax(-1)
        if weight is not None:
            resp = resp * weight.double().unsqueeze(-1)
            log_prob = log_prob * weight.double()
        diff = x.unsqueeze(-2) - wide.means
        second = torch.einsum("n...k,n...ki,n...kj->...kij", resp, diff, diff)
        if layer.covariance.tied:
            second = second.sum(-3, keepdim=True)
        return cls(
            resp.sum(0).detach(),
            torch.einsum("n...k,n...ki->...ki", resp, diff).detach(),
            layer.covariance.project(second).detach(),
            log_prob.sum(0).detach(),
        )

    def agrees(self, stats: SufficientStatistics, tolerance: float) -> None:
        """Relative to the largest entry of each kind."""
        for name in ("counts", "first", "second", "log_likelihood"):
            ours, theirs = getattr(stats, name), getattr(self, name)
            assert ours.shape == theirs.shape, name
            assert ours.dtype == torch.float64
            assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max(), name


def plan_of(layer: GMMLayer, x: Tensor) -> EStepPlan | None:
    """The plan for many rows like these."""
    shared = x.shape[1:-1].numel() == 1
    return make_plan(
        MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer), MANY, shared=shared
    )


def by_components(
    layer: GMMLayer,
    x: Tensor,
    weight: Tensor | None,
    responsibilities: Responsibilities,
    workspace: Workspace | None = None,
    batches: list[Batch] | None = None,
) -> SufficientStatistics:
    """The kernel of a plan, whatever would have been chosen."""
    plan, parameters = plan_of(layer, x), MixtureParameters.from_layer(layer)
    assert plan is not None
    workspace = workspace or Workspace()
    size = workspace.rows_per_chunk(plan, parameters)
    return component_statistics(
        MixtureModel.from_layer(layer),
        parameters,
        plan,
        [
            chunk
            for batch in batches or [Batch(x, weight)]
            for chunk in batch.split(size)
            if len(chunk.x)
        ],
        workspace=workspace,
        responsibilities=responsibilities,
    ).reshape(layer.batch_shape)


def by_differences(
    layer: GMMLayer, x: Tensor, weight: Tensor | None, responsibilities: Responsibilities
) -> SufficientStatistics:
    """The centred kernel, whatever would have been chosen."""
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    stats = difference_statistics(model, parameters, [Batch(x, weight)], responsibilities)
    return stats.reshape(layer.batch_shape)


def by_plan(
    layer: GMMLayer, x: Tensor, weight: Tensor | None, pooled: SufficientStatistics | None = None
) -> SufficientStatistics:
    """The kernel that is chosen for many rows like these."""
    return expected_statistics(
        MixtureModel.from_layer(layer),
        MixtureParameters.from_layer(layer),
        plan_of(layer, x),
        [Batch(x, weight)],
        workspace=Workspace(),
        pooled=pooled,
    ).reshape(layer.batch_shape)


@pytest.mark.parametrize("kind", KINDS)
@over_layouts
@over_dtypes
@over_families
def test_both_kernels_are_the_definition(
    family: str, dtype: torch.dtype, layout: str, kind: str, generator: Generator
) -> None:
    responsibilities = KINDS[kind]
    for d in (1, 2, 3, 5, 8) if kind == "soft" else (2, 5):
        layer, x, weight = case(family, layout, dtype, d, generator)
        for w in (None, weight):
            expected = Reference.of(layer, x, w, kind)
            expected.agrees(by_components(layer, x, w, responsibilities), CLOSE[dtype])
            expected.agrees(by_differences(layer, x, w, responsibilities), CLOSE[dtype])


@over_layouts
@over_families
def test_both_kernels_hear_the_evidence(family: str, layout: str, generator: Generator) -> None:
    layer, x, weight = case(family, layout, torch.float64, 3, generator)
    without = by_components(layer, x, weight, soft)
    layer.evidence = Slope()
    expected = Reference.of(layer, x, weight, "soft")
    expected.agrees(by_components(layer, x, weight, soft), 1e-11)
    expected.agrees(by_differences(layer, x, weight, soft), 1e-11)
    assert not torch.allclose(without.counts, expected.counts, rtol=1e-3)


@over_layouts
@over_dtypes
@over_families
def test_any_chunks_add_up(
    family: str, dtype: torch.dtype, layout: str, generator: Generator
) -> None:
    layer, x, weight = case(family, layout, dtype, 3, generator)
    # The order of the additions, in the dtype of the sums of a chunk.
    close = {torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    for w in (None, weight):
        whole = by_components(layer, x, w, soft)
        expected = Reference(whole.counts, whole.first, whole.second, whole.log_likelihood)
        for size in (1, 7, 10**9):
            found = by_components(layer, x, w, soft, Workspace(size))
            expected.agrees(found, close)
            assert found.num_samples == N
        parts = [x[:0], *x.split(9), x[:0]]
        own = [None] * 5 if w is None else [w[:0], *w.split(9), w[:0]]
        batches = [Batch(*pair) for pair in zip(parts, own, strict=True)]
        expected.agrees(by_components(layer, x, None, soft, Workspace(4), batches), close)


@over_layouts
@over_dtypes
@over_families
def test_a_workspace_leaves_no_trace(
    family: str, dtype: torch.dtype, layout: str, generator: Generator
) -> None:
    layer, x, weight = case(family, layout, dtype, 5, generator)
    used = Workspace(10)
    large, narrow = 1e6 * x, x[:3]
    for other, w in ((large, None), (narrow, None), (x, weight)):
        by_components(layer, other, w, hard, used)
    again, fresh = (by_components(layer, x, None, soft, w) for w in (used, Workspace(10)))
    assert torch.equal(again.pack(), fresh.pack())
    # Statistics own their memory: the next pass does not write into those of the last.
    before = again.pack().clone()
    by_components(layer, large, weight, soft, used)
    assert torch.equal(again.pack(), before)


@over_layouts
@pytest.mark.parametrize("family", [f for f in FAMILIES if f.startswith("tied")])
def test_known_moments_of_all_rows_change_nothing(
    family: str, layout: str, generator: Generator
) -> None:
    layer, x, weight = case(family, layout, torch.float64, 3, generator)
    for w in (None, weight):
        about = torch.full((layer.batch_shape.numel(), 1, 3), 0.7)
        pooled = pooled_statistics_about([Batch(x, w)], MixtureModel.from_layer(layer), about)
        summed, known = by_plan(layer, x, w), by_plan(layer, x, w, pooled)
        Reference(summed.counts, summed.first, summed.second, summed.log_likelihood).agrees(
            known, 1e-12
        )


@over_families
def test_responsibilities_that_are_nothing_are_zero(family: str) -> None:
    for dtype in (torch.float32, torch.float64):
        layer = GMMLayer(2, 2, family, dtype=dtype)
        layer.set_parameters(means=torch.tensor([[0.0, 0.0], [40.0, 0.0]]))
        x = torch.zeros(5, 2, dtype=dtype)
        for stats in (by_components(layer, x, None, soft), by_differences(layer, x, None, soft)):
            # The other component is 800 nats away: nothing of it is left, not even 1e-261.
            assert stats.counts.tolist() == [5.0, 0.0]
            assert not stats.first[1].any()
            assert torch.isfinite(stats.pack()).all()


def test_one_row_belongs_to_no_component(generator: Generator) -> None:
    layer = random_layer("full", generator=generator)
    x = rows(6, 2, generator)
    x[2] = float("nan")
    for kind in KINDS.values():
        assert not torch.isfinite(by_components(layer, x, None, kind).log_likelihood)
        assert not torch.isfinite(by_differences(layer, x, None, kind).log_likelihood)


# -- which kernel -------------------------------------------------------------------------------


@over_layouts
@over_dtypes
@over_families
def test_a_finer_plan_gives_the_same(
    family: str,
    dtype: torch.dtype,
    layout: str,
    generator: Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer, x, weight = case(family, layout, dtype, 3, generator)
    expected = Reference.of(layer, x, weight, "soft")
    plan = plan_of(layer, x)
    assert plan is not None
    assert plan.dtypes == {dtype}
    # Products with features of squares, whitened rows, and differences to the means.
    for most in (2.0**-20, 0.0):
        monkeypatch.setitem(planning.MAX_CANCELLATION, dtype, most)
        plan = plan_of(layer, x)
        if plan is not None and plan.dtypes == {torch.float64}:
            # Rows and parameters are exact in float64, and so is what becomes of them.
            expected.agrees(by_plan(layer, x, weight), 1e-11)
        else:
            expected.agrees(by_plan(layer, x, weight), CLOSE[dtype])
    if plan is not None:
        assert not plan.products
        assert all(terms.centre is None for terms in plan.whitened)


@pytest.mark.parametrize("overlap", [1.0, 9.0])
@over_dtypes
def test_whitened_rows_and_products_give_the_same(
    dtype: torch.dtype, overlap: float, generator: Generator
) -> None:
    # Many features, so that the factors are cut into strips, the last of another height.
    layer = GMMLayer(35, 9, dtype=dtype)
    turn = torch.eye(35) + 0.02 * torch.randn(9, 35, 35, generator=generator)
    layer.set_parameters(
        means=0.4 * torch.randn(9, 35, generator=generator), covariance_matrix=turn @ turn.mT
    )
    x = layer.sample(400, generator=generator)
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    plan = make_plan(model, parameters, MANY, shared=True, overlap=overlap)
    assert plan is not None
    assert bool(plan.products) == (overlap > 1)
    workspace = Workspace()
    found = expected_statistics(model, parameters, plan, [Batch(x)], workspace=workspace)
    Reference.of(layer, x, None, "soft").agrees(found.reshape(()), CLOSE[dtype])
    assert workspace.overlap is not None
    assert 1 <= workspace.overlap <= 9


def apart(
    dtype: torch.dtype, generator: Generator, size: float = 1.0, n: int = 3000
) -> tuple[GMMLayer, Tensor]:
    """Three components of many features, computed by whitened rows alone, and rows of them."""
    layer, place = GMMLayer(32, 3, dtype=dtype), 5.0 * torch.arange(3.0)
    layer.set_parameters(
        means=size * (place[:, None] + 0.2).expand(3, 32),
        covariance_matrix=size**2 * torch.eye(32).expand(3, 32, 32),
    )
    noise = torch.randn(n, 32, generator=generator)
    x = (size * (noise + place[torch.arange(n) % 3, None])).to(dtype)
    plan = plan_of(layer, x)
    assert plan is not None
    assert not plan.products
    return layer, x


@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float32, 1e-16), (torch.float32, 1e12), (torch.float64, 1e-25)]
)
def test_weights_may_have_any_size(dtype: torch.dtype, size: float, generator: Generator) -> None:
    layer, x = apart(dtype, generator)
    weight = torch.rand(len(x), generator=generator).to(dtype)
    plain, scaled = (e_step(layer, x, w) for w in (weight, size * weight))
    for name in ("counts", "first", "second", "log_likelihood"):
        ours, theirs = getattr(scaled, name) / size, getattr(plain, name)
        # Of each weight, rounded anew, and of the sums of a thousand.
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=CLOSE[dtype] * len(x)), name


def test_a_small_share_of_each_row_counts(generator: Generator) -> None:
    layer, x = apart(torch.float32, generator)
    means = layer.means.detach()
    layer.set_parameters(weights=torch.tensor([1.0, 1.0, 1e-16]), means=means[[0, 1, 1]])
    x = x[1::3]
    found, exact = e_step(layer, x), Reference.of(layer, x, None, "soft")
    exact.agrees(found, CLOSE[x.dtype])
    for name in ("counts", "first", "second"):
        ours, theirs = getattr(found, name)[2], getattr(exact, name)[2]
        assert (ours - theirs).abs().max() <= CLOSE[x.dtype] * theirs.abs().max()


@pytest.mark.parametrize("size", [1e-25, 1e-18, 1e22])
def test_squares_of_many_float32_rows_are_kept(size: float, generator: Generator) -> None:
    layer, x = apart(torch.float32, generator, size)
    Reference.of(layer, x, None, "soft").agrees(e_step(layer, x), CLOSE[x.dtype])


@dataclass
class OneBuffer:
    """Batches that are read into the same memory."""

    x: Tensor
    size: int

    def __iter__(self) -> Iterator[Tensor]:
        buffer = torch.empty(self.size, self.x.shape[1], dtype=self.x.dtype)
        for part in self.x.split(self.size):
            yield buffer.copy_(part)


@over_dtypes
def test_batches_may_be_read_into_the_same_memory(dtype: torch.dtype, generator: Generator) -> None:
    layer, x = apart(dtype, generator)
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    sources = [as_source(rows, num_features=32) for rows in (x.split(500), OneBuffer(x, 500))]
    parts, buffer = (EStep(source, model, None)(model, parameters) for source in sources)
    assert torch.equal(parts.pack(), buffer.pack())
    for limit in (len(x), 100):
        sampled = [source.sample(limit, Generator().manual_seed(0)).x for source in sources]
        assert torch.equal(*(some.to(dtype) for some in sampled))


def test_few_responsibilities_of_many_components_are_kept(generator: Generator) -> None:
    n, k = 4096, 4096
    layer = random_layer("full", num_components=k, num_features=2, generator=generator)
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    index, scale = torch.arange(k), model.scale(parameters).flatten(0, 1)
    whitened = WhitenedTerms(index, scale, scale[:, 0, 0], scale)
    found = WhitenedComponents(model.family, whitened, parameters)
    with Largest() as seen:
        for part in rows(n, 2, generator).split(64):
            found.add(part, torch.full((1, k, len(part)), 0.0))
    # Those of 64 MiB at most, and the same once more where they are joined.
    assert seen.elements <= 1 << 23


def test_overlap_is_that_of_a_mixture(generator: Generator) -> None:
    """An extrapolation that is undone has an E-step of some of the mixtures, and then all go on."""
    layer, x = apart(torch.float64, generator)
    model, parameters = MixtureModel.from_layer(layer, 4), MixtureParameters.from_layer(layer, 4)
    step, some = EStep(as_source(x, num_features=32), model, None), torch.tensor([2])
    step(model, parameters)
    overlap = step.overlap
    step(model.select(some), parameters.select(some))
    assert overlap == step.overlap


@dataclass(frozen=True)
class Parallel(Covariance):
    """A third party's family: a dense factor per component, and nothing but what is required."""

    name: ClassVar[str] = "parallel"

    def shape(self, num_components: int, num_features: int) -> tuple[int, ...]:
        return (num_components, num_features, num_features)

    def scale(self, raw: Tensor) -> Tensor:
        return raw.tril(-1) + raw.diagonal(dim1=-2, dim2=-1).exp().diag_embed()

    def raw(self, scale: Tensor) -> Tensor:
        return scale.tril(-1) + scale.diagonal(dim1=-2, dim2=-1).log().diag_embed()

    def estimate(self, scatter: Tensor, dof: Tensor) -> Tensor:
        return torch.linalg.cholesky(scatter / dof[..., None, None])

    def num_free_parameters(self, num_components: int, num_features: int) -> int:
        return num_components * num_features * (num_features + 1) // 2


@pytest.mark.parametrize("prior", [None, "niw"])
def test_a_family_without_features_takes_whitened_rows(
    prior: str | None, generator: Generator
) -> None:
    x = rows(60, 3, generator)
    layer = random_layer("full", num_features=3, generator=generator)
    plain = GMMLayer(3, layer.num_components, Parallel())
    plain.load_state_dict(layer.state_dict())
    plan = plan_of(plain, x)
    assert plan is not None
    assert not plan.products
    Reference.of(layer, x, None, "soft").agrees(by_plan(plain, x, None), CLOSE[x.dtype])
    fitted = []
    for family in (Parallel(), "full"):
        layer = GMMLayer(3, 3, family, prior)
        seeded = Generator(x.device).manual_seed(1)
        result = fit_em(
            layer,
            x,
            tol=0.0,
            max_iter=12,
            num_restarts=3,
            prune=False,
            acceleration=None,
            generator=seeded,
        )
        fitted.append((layer, result))
    (theirs, one), (ours, other) = fitted
    # Twelve steps amplify the rounding of sums by little. Two starts may end at the same place
    # with the components in another order, so densities are compared.
    assert one.restart_objectives == pytest.approx(other.restart_objectives, rel=1e-10)
    assert torch.allclose(theirs(x), ours(x), rtol=1e-7)


# -- what surrounds a pass ----------------------------------------------------------------------


@over_families
def test_coarse_products_elsewhere_do_not_reach_the_sums(family: str, generator: Generator) -> None:
    layer, x, weight = case(family, "shared", torch.float32, 8, generator)
    plain = e_step(layer, x, weight).pack()
    centred = by_differences(layer, x, weight, soft).pack()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            assert torch.equal(e_step(layer, x, weight).pack(), plain)
            assert torch.equal(by_differences(layer, x, weight, soft).pack(), centred)
            assert torch.is_autocast_enabled(x.device.type)
        assert torch.get_float32_matmul_precision() == "medium"
        with pytest.raises(ValueError, match="expected rows"):
            e_step(layer, x[..., :2])
        layer.evidence = nn.Linear(5, 3)
        with pytest.raises(TypeError):
            e_step(layer, x)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch 2.9 brought it"
)
def test_the_newer_setting_is_obeyed_and_restored(generator: Generator) -> None:
    # Once it was used, torch refuses to tell what the older one is.
    layer, x, weight = case("full", "single", torch.float32, 3, generator)
    plain = e_step(layer, x, weight).pack()
    kinds = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    before = [kind.fp32_precision for kind in kinds]
    try:
        kinds[0].fp32_precision = "tf32"
        kinds[1].fp32_precision = "bf16"
        assert torch.equal(e_step(layer, x, weight).pack(), plain)
        assert [kind.fp32_precision for kind in kinds] == ["tf32", "bf16"]
    finally:
        for kind, asked in zip(kinds, before, strict=True):
            kind.fp32_precision = asked


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, tuple | list) else (made,):
            if isinstance(value, Tensor) and not is_view(value, args):
                self.elements = max(self.elements, value.numel())
        return made


def is_view(value: Tensor, args: Any) -> bool:
    """Whether a result lies in the memory of an argument."""
    flat = itertools.chain.from_iterable(a if isinstance(a, list | tuple) else (a,) for a in args)
    given = [a for a in flat if isinstance(a, Tensor)]
    return any(a.untyped_storage().data_ptr() == value.untyped_storage().data_ptr() for a in given)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        *((family, {}) for family in FAMILIES),
        ("full", {"collapse": "reseed", "num_restarts": 2}),
        ("diag", {"acceleration": "squarem", "hard": True}),
    ],
    ids=str,
)
def test_nothing_of_the_size_rows_by_components_exists(
    family: str, options: dict[str, Any], generator: Generator
) -> None:
    n, k, d = 60_000, 16, 2
    x = torch.randn(n, d, generator=generator, dtype=torch.float32)
    layer = GMMLayer(d, k, family, dtype=torch.float32)
    options = options | {"initializer": "random_from_data", "max_iter": 1, "tol": 0.0}
    with Largest() as seen:
        fit_em(layer, x, generator=generator, **options)
    # What is made is the rows again at most, or a chunk that stays in cache.
    assert seen.elements < n * k // 2
    with torch.no_grad(), Largest() as seen:
        layer.log_prob(x)
        layer.predict(x)
    assert seen.elements <= 1 << 20
    with torch.no_grad(), Largest() as seen:
        layer.responsibilities(x)
    # The answer alone is of that size.
    assert seen.elements <= max(n * k, 1 << 20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", ["single", "shared"])
@pytest.mark.parametrize("family", ["full", "diag", "spherical"])
def test_tight_components_are_computed_beside_the_others(
    family: str, layout: str, dtype: torch.dtype, generator: Generator
) -> None:
    batch = () if layout == "single" else (2,)
    layer, tight = GMMLayer(3, 9, family, batch_shape=batch), {torch.float32: 1e-3}.get(dtype, 1e-5)
    spread = torch.ones(9)
    spread[4] = tight
    dense = torch.eye(3) * spread.square()[:, None, None]
    means = 4 * torch.randn(9, 3, generator=generator)
    layer.set_parameters(
        means=means.expand(*batch, 9, 3), covariance_matrix=dense.expand(*batch, 9, 3, 3)
    )
    near = means[4] + tight * torch.randn(40, 3, generator=generator)
    x = torch.cat([near, 4 * torch.randn(60, 3, generator=generator)])
    x = x.reshape(100, *[1] * len(batch), 3).to(dtype)
    weight = torch.rand(100, *batch, generator=generator)
    layer = layer.to(dtype)
    exact = Reference.of(layer, x, weight, "soft")
    plan = plan_of(layer, x)
    assert plan is not None
    # One by itself: by whitened rows, or by products in float64, which cost less where
    # covariances have no correlations.
    others, *wide = plan.products
    assert others.natural.dtype == dtype
    groups = [terms.index for terms in (*wide, *plan.whitened)]
    assert [index.tolist() for index in groups if index is not None] == [
        [4] if layout == "single" else [4, 13]
    ]
    exact.agrees(by_plan(layer, x, weight), CLOSE[dtype])


class Learned(nn.Module):
    """Evidence by a module that has parameters of the layer's dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3, dtype=torch.float32)

    def forward(self, batch: Batch) -> Tensor:
        return self.linear(batch.x)


def test_evidence_sees_rows_in_the_dtype_of_the_layer() -> None:
    layer = GMMLayer(2, 3, dtype=torch.float32)
    layer.evidence = Learned()
    for n in (40, 20_000):
        assert fit_em(layer, torch.randn(n, 2, dtype=torch.float64), max_iter=2).num_e_steps >= 2


@pytest.mark.parametrize("size", [1e-30, 1e25])
def test_squares_of_few_float32_rows_are_kept(size: float) -> None:
    x, found = torch.randn(100, 2, generator=Generator().manual_seed(0)), []
    for unit in (1.0, size):
        layer = GMMLayer(2, 2, dtype=torch.float32)
        fit_em(layer, x * unit, generator=Generator().manual_seed(1))
        found.append(layer.scale.double() / unit)
    assert torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-4)


@over_dtypes
@pytest.mark.parametrize("few", [True, False])
def test_statistics_of_some_mixtures_replace_those_of_all(
    dtype: torch.dtype, few: bool, generator: Generator
) -> None:
    # All have a plan; of one mixture differences are taken where its rows are few.
    m, n, some = 40, 100 if few else 600, torch.tensor([5])
    layer = random_layer("full", batch=(m,), num_components=8, num_features=3, generator=generator)
    layer, x = layer.to(dtype), rows(n * m, 3, generator).reshape(n, m, 3).to(dtype)
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    assert is_small(parameters.select(some), n) == few
    assert not is_small(parameters, n)
    step = EStep(as_source(x, None, num_features=3, batch_shape=(m,)), model, None)
    whole = step(model, parameters)
    changed = whole.replace(some, step(model.select(some), parameters.select(some)))
    assert torch.equal(changed.shift, whole.shift)
    far = float((x.unsqueeze(-2) - parameters.means).detach().abs().amax())
    for name, unit in (("counts", 1), ("first", far), ("second", far**2), ("log_likelihood", 1)):
        before, after = getattr(whole, name), getattr(changed, name)
        assert after.dtype == before.dtype
        assert torch.allclose(after, before, rtol=0.0, atol=n * CLOSE[dtype] * unit)


@pytest.mark.parametrize("family", ["full", "diag", "spherical"])
def test_labels_are_summed_component_by_component_as_by_products(
    family: str, generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = 3 * torch.randn(90, 3, generator=generator) + 10
    weight = torch.rand(90, generator=generator)
    weight[::7] = 0.0
    # The last component has no rows, the one before it rows of no weight alone.
    labels = torch.randint(3, (90, 2), generator=generator)
    labels[::7] = 3
    layer = GMMLayer(3, 5, family)
    model, parameters = MixtureModel.from_layer(layer, 2), MixtureParameters.from_layer(layer, 2)
    rows = Batch(x, weight, extra={ASSIGNMENTS: labels})
    found = []
    for pays in (True, False):
        monkeypatch.setattr(assignment, "_sums_pay", lambda *arguments, pays=pays: pays)
        found.append(assigned_statistics(model, parameters, rows))
    ours, products = found
    products = products.about(ours.shift, layer.covariance)
    for name in ("counts", "first", "second"):
        close = {"rtol": 0, "atol": 1e-12 * float(products.second.abs().max())}
        torch.testing.assert_close(getattr(ours, name), getattr(products, name), **close)
    mean = (weight @ x) / weight.sum()
    torch.testing.assert_close(ours.shift[:, 3:], mean.expand(2, 2, 3))
