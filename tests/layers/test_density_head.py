"""The head: a mixture for every row of features, finite whatever comes."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from support.covering import covering
from support.random_layers import FAMILIES, make_priors, random_layer, rows, served
from torch import Generator, Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from gmm_lightning import DensityHead, GMMLayer, fit_em
from gmm_lightning.covariances import registry as covariances
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError, UnresolvedPriorError
from gmm_lightning.layers import _row_chunks

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)
over_sharing = pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
# Every family, its scale shared or not; the other pairs are slow.
family_and_sharing = pytest.mark.parametrize(
    ("family", "shared"), covering(FAMILIES, [False, True], strength=1)
)
IN, D, K = 4, 3, 2
# Tolerances here are for the same float64 operations in another order: sums of some 10 terms of
# order 10 to 100 after factors of condition numbers up to 1e2. Where units differ by 1e3 or 1e5,
# or covariances went through another form, digits for that are allowed for beside them.


def made(family: str, shared: bool = False, **options: Any) -> DensityHead:
    """A head away from every default: units, offsets, and weights that matter."""
    head = DensityHead(IN, D, K, family, shared_scale=shared, **options)
    scale = 1 + torch.arange(D, dtype=torch.get_default_dtype())
    mixture = MixtureOfGaussians(
        torch.zeros(K), torch.randn(K, D) * scale, (0.5 * scale.diag_embed()).expand(K, D, D)
    )
    head.initialize_from(mixture)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return head


@over_sharing
@over_families
def test_it_is_a_mixture_per_row(family: str, shared: bool) -> None:
    head = made(family, shared)
    h, y = torch.randn(5, 2, IN), torch.randn(5, 2, D)
    mixture = head(h)
    assert mixture.batch_shape == (5, 2)
    assert mixture.means.shape == (5, 2, K, D)
    reference = mixture.to_torch().log_prob(y)
    assert torch.allclose(mixture.log_prob(y), reference, rtol=1e-11, atol=1e-11)
    # The same formulas; rows may be grouped otherwise in the products.
    assert torch.allclose(head.log_prob(h, y), mixture.log_prob(y), rtol=1e-13, atol=1e-13)
    tril = mixture.scale_tril
    if covariances.get(family).tied:
        assert torch.equal(tril[:, :, 0], tril[:, :, 1])
    if shared:
        assert torch.equal(tril[0, 0], tril[4, 1])
    # One row alone is a batch of no shape.
    assert torch.allclose(head(h[2, 1]).log_prob(y[2, 1]), reference[2, 1], atol=1e-11)


@family_and_sharing
def test_gradients(family: str, shared: bool) -> None:
    head = made(family, shared)
    names = [name for name, _ in head.named_parameters()]
    h, y = torch.randn(3, IN, requires_grad=True), torch.randn(3, D, requires_grad=True)

    def value(h: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(head, state, (h,)).log_prob(y)

    assert gradcheck(value, (h, y, *head.parameters()))


@over_families
def test_chunks_are_the_whole(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    head = made(family)
    h, y = torch.randn(70, IN, requires_grad=True), torch.randn(70, D, requires_grad=True)
    weight = torch.rand(70)
    wanted = (h, y, *head.parameters())
    whole = head.log_prob(h, y)
    expected = torch.autograd.grad((weight * whole).sum(), wanted)
    monkeypatch.setattr(_row_chunks, "_rows_per_chunk", lambda *_: 32)
    parts = head.log_prob(h, y)
    chunked = "RowChunks"
    assert chunked in str(parts.grad_fn.next_functions)
    assert chunked not in str(whole.grad_fn.next_functions)
    assert torch.allclose(parts, whole, rtol=1e-13)
    for a, b in zip(torch.autograd.grad((weight * parts).sum(), wanted), expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-13)
    with torch.no_grad():
        assert torch.allclose(head.log_prob(h, y), whole, rtol=1e-13)


@over_families
def test_chunks_are_as_exact_where_autocast_is_on(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_row_chunks, "_rows_per_chunk", lambda *_: 32)
    head = made(family)
    h, y = torch.randn(70, IN), torch.randn(70, D)
    outputs = head.linear(h).detach().requires_grad_()
    head.linear = nn.Identity()
    head.in_features = outputs.shape[-1]
    (expected,) = torch.autograd.grad(head.loss(outputs, y), outputs)
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = torch.autograd.grad(head.loss(outputs, y), outputs)
    assert torch.equal(found, expected)


@family_and_sharing
def test_chunks_keep_only_their_arguments(
    family: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = made(family, shared)
    h, y = torch.randn(900, IN), torch.randn(900, D)
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes() // x.element_size()
        return x

    def kept_numbers() -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            head.log_prob(h, y)
        return sum(kept.values())

    whole = kept_numbers()
    monkeypatch.setattr(_row_chunks, "_rows_per_chunk", lambda *_: 64)
    # Features, targets, outputs of the map, its weights; constants have less than 100 numbers.
    outputs = head.linear.out_features
    assert kept_numbers() <= 900 * (IN + D + outputs) + IN * outputs + 100 < whole


def test_gradients_of_gradients_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_row_chunks, "_rows_per_chunk", lambda *_: 2)
    head = made("full")
    h, y = torch.randn(5, IN, requires_grad=True), torch.randn(5, D, requires_grad=True)
    assert gradcheck(head.log_prob, (h, y))
    assert gradgradcheck(head.log_prob, (h, y))


@family_and_sharing
def test_training_starts_at_the_marginal(family: str, shared: bool, generator: Generator) -> None:
    y = 50.0 * rows(300, D, generator) * torch.tensor([1.0, 1e3, 1e-3]) + 7.0
    layer = GMMLayer(D, K, family)
    fit_em(layer, y, generator=generator)
    head = DensityHead(IN, D, K, family, shared_scale=shared)
    head.initialize_from(layer)
    h = torch.randn(300, IN)
    # Covariances of condition numbers up to 1e12 pass through Cholesky factors of their dense form.
    assert torch.allclose(head.log_prob(h, y), layer(y), rtol=1e-8)
    assert head.loss(h, y).item() == pytest.approx(-head.log_prob(h, y).mean().item())


@over_families
def test_units_are_arbitrary(family: str, generator: Generator) -> None:
    factor = 1e5
    y, h = rows(60, D, generator), torch.randn(60, IN, generator=generator)
    steps = []
    for unit in (1.0, factor):
        layer = random_layer(
            family, generator=Generator().manual_seed(3), num_features=D, num_components=K
        )
        layer.set_parameters(
            means=unit * layer.means, covariance_matrix=unit**2 * layer.covariance_matrix
        )
        torch.manual_seed(0)
        head = DensityHead(IN, D, K, family)
        head.initialize_from(layer)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            head.loss(h, unit * y).backward()
            optimizer.step()
        loss = head.loss(h, unit * y)
        steps.append(loss.item() - D * torch.tensor(unit).log().item())
    assert steps[0] == pytest.approx(steps[1], rel=1e-6)


@over_families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mixed", [False, True], ids=["plain", "bf16"])
def test_it_stays_finite(family: str, dtype: torch.dtype, mixed: bool) -> None:
    d = 8
    head = DensityHead(IN, d, K, family, dtype=dtype)
    h = 1e4 * torch.randn(40, IN, dtype=dtype)
    y = 10.0 * torch.sign(torch.randn(40, d, dtype=dtype))
    encoder = nn.Linear(IN, IN, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        loss = head.loss(encoder(h), y)
    loss.backward()
    assert loss.dtype == dtype
    assert bool(torch.isfinite(loss))
    for parameter in (*head.parameters(), *encoder.parameters()):
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())


@pytest.mark.parametrize(
    "steps", [pytest.param(10_000, marks=pytest.mark.slow), 200], ids=["long", "short"]
)
@pytest.mark.parametrize(
    ("family", "optimizer"),
    covering(["full", "diag", "tied"], [torch.optim.Adam, torch.optim.SGD], strength=1),
)
def test_adversarial_batches_leave_finite_parameters(
    family: str, optimizer: Any, steps: int, generator: Generator
) -> None:
    model = nn.Sequential(nn.Linear(IN, 16), nn.Tanh()).float()
    head = DensityHead(16, D, K, family, priors="dirichlet", dtype=torch.float32)
    parameters = [*model.parameters(), *head.parameters()]
    descent = optimizer(parameters, lr=0.01)
    for step in range(steps):
        n = 1 if step % 5 == 0 else 32
        x, y = torch.randn(n, IN, generator=generator), torch.randn(n, D, generator=generator)
        match step % 4:
            case 1:
                y[0] = 1e6
            case 2:
                y[:] = 3.0
            case 3:
                x, y = x[:1].expand(n, -1), y[:1].expand(n, -1)
        descent.zero_grad()
        head.loss(model(x.float()), y.float()).backward()
        if optimizer is torch.optim.SGD:
            # Plain steps as long as an outlier of 1e6 asks for leave any network.
            nn.utils.clip_grad_norm_(parameters, 1.0)
        descent.step()
    assert all(bool(torch.isfinite(p).all()) for p in parameters)


@over_families
def test_scales_stay_within_their_range(family: str) -> None:
    head = DensityHead(IN, D, K, family, scale_range=50.0)
    mixture = head(1e6 * torch.randn(20, IN))
    lengths = mixture.scale_tril.detach().diagonal(dim1=-2, dim2=-1)
    assert float(lengths.min()) >= 1 / 50 * (1 - 1e-9)
    assert float(lengths.max()) <= 50 * (1 + 1e-9)


def test_a_head_is_described_by_the_family_that_was_asked_for() -> None:
    for family in ("full", "tied", "diag"):
        head = DensityHead(IN, D, K, family)
        assert head.covariance == covariances.create(family)
        assert head.to_config()["covariance"]["name"] == family
        assert f"covariance='{family}'" in repr(head)
    # Dense families are predicted in another form, and this one has a name of its own.
    predicted = [DensityHead(IN, D, K, f)(torch.zeros(IN)).covariance for f in ("full", "tied")]
    assert [f.name for f in predicted] == ["precision_cholesky", "tied_precision_cholesky"]
    regular = DensityHead(IN, D, K, covariances.get("full")(reg_covar=0.5))
    assert regular.parametrization.covariance.config() == regular.covariance.config()


@over_families
def test_temperature_is_that_of_samples(family: str) -> None:
    head = made(family)
    warm = copy.deepcopy(head)
    warm.temperature = 4.0
    h = torch.randn(6, IN)
    cold, hot = head(h), warm(h)
    assert torch.allclose(hot.weights, (cold.mixture_logits / 4).softmax(-1), rtol=1e-12)
    assert torch.equal(hot.means, cold.means)
    assert torch.allclose(hot.component_covariances, 4 * cold.component_covariances, rtol=1e-9)


# -- priors and targets -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "prior"),
    covering(FAMILIES, ["dirichlet", "normal", "inverse_wishart", "niw"], strength=1),
)
def test_priors(family: str, prior: str, generator: Generator) -> None:
    if not served(family, prior):
        pytest.skip("not served")
    head = DensityHead(IN, 2, K, family, make_priors(prior, given=True))
    layer = random_layer(family, prior, generator=generator, num_features=2, num_components=K)
    head.initialize_from(layer)
    h, y = torch.randn(9, IN), torch.randn(9, 2)
    # Every row has the mixture of a layer with the same prior.
    twin = GMMLayer(2, K, family, make_priors(prior, given=True))
    twin.set_parameters(layer.weights, layer.means, layer.covariance_matrix)
    assert torch.allclose(head.log_prior(head(h)), twin.log_prior().expand(9), rtol=1e-8)
    loss = head.loss(h, y, num_samples=100)
    expected = -(head.log_prob(h, y).mean() + twin.log_prior() / 100)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-8)


def test_open_priors_wait_for_a_source(generator: Generator) -> None:
    head = DensityHead(IN, 2, K, "full", "niw")
    h, y = torch.randn(9, IN), torch.randn(9, 2)
    with pytest.raises(UnresolvedPriorError):
        head.loss(h, y)
    head.initialize_from(
        random_layer("full", generator=generator, num_features=2, num_components=K)
    )
    assert torch.isfinite(head.loss(h, y))


def test_a_dirichlet_keeps_components() -> None:
    torch.manual_seed(0)
    h = torch.randn(200, IN)
    y = h[:, :1] + 0.1 * torch.randn(200, 1)
    least = []
    for priors in (None, make_priors("dirichlet", given=True)):
        torch.manual_seed(1)
        head = DensityHead(IN, 1, 4, "diag", priors)
        optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(40):
            optimizer.zero_grad()
            head.loss(h, y, num_samples=10).backward()
            optimizer.step()
        least.append(head(h).weights.mean(0).min().item())
    assert least[1] > least[0]


# -- as a module --------------------------------------------------------------------------------


@family_and_sharing
def test_state_dict_and_copies(family: str, shared: bool) -> None:
    head = made(family, shared)
    h, y = torch.randn(5, IN), torch.randn(5, D)
    stored = io.BytesIO()
    torch.save(head.state_dict(), stored)
    stored.seek(0)
    twin = DensityHead(IN, D, K, family, shared_scale=shared)
    twin.load_state_dict(torch.load(stored, weights_only=True))
    assert torch.equal(twin.log_prob(h, y), head.log_prob(h, y))
    assert torch.equal(copy.deepcopy(head).log_prob(h, y), head.log_prob(h, y))
    single = head.float()(h.float())
    assert single.means.dtype == torch.float32


def test_they_compile_as_one_graph() -> None:
    heads = [made(family) for family in FAMILIES]
    h, y = torch.randn(5, IN), torch.randn(5, D)

    def log_probs(h: Tensor, y: Tensor) -> list[Tensor]:
        return [head.log_prob(h, y) for head in heads]

    # Dynamo's set-up is paid for once.
    compiled = torch.compile(log_probs, fullgraph=True, backend="eager")
    for found, head in zip(compiled(h, y), heads, strict=True):
        assert torch.allclose(found, head.log_prob(h, y))


def test_what_follows_from_the_mixture() -> None:
    head = made("full")
    mixture = head(torch.randn(4, IN))
    assert mixture.sample((6,)).shape == (6, 4, D)
    assert mixture.rsample((6,)).shape == (6, 4, D)
    assert mixture.variance.shape == (4, D)
    first = mixture.marginal([1])
    assert first.means.shape == (4, K, 1)
    y = torch.randn(4, D)
    whole = mixture.log_prob(y)
    rest = mixture.condition([1], y[:, [1]])
    assert torch.allclose(first.log_prob(y[:, [1]]) + rest.log_prob(y[:, [0, 2]]), whole)
    assert "full" in repr(head)


# -- bad input ----------------------------------------------------------------------------------


def test_rows_that_are_not_finite() -> None:
    head = DensityHead(IN, 2, K)
    h, y = torch.randn(6, IN), torch.randn(6, 2)
    clean = head.loss(h[[0, 1, 3, 5]], y[[0, 1, 3, 5]])
    y[2, 1], h[4, 0] = float("nan"), float("inf")
    with pytest.raises(InvalidDataError, match=r"the features are not finite in row\(s\) 4;"):
        head.loss(h, y)
    h[4] = 0.0
    y[4] = float("nan")
    with pytest.raises(InvalidDataError, match=r"the targets are not finite in row\(s\) 2, 4;"):
        head.loss(h, y)
    loss = head.loss(h, y, skip_nonfinite=True)
    assert head.num_skipped == 2
    assert torch.equal(loss, clean)
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in head.parameters() if p.grad is not None)
    nothing = head.loss(h, torch.full_like(y, float("nan")), skip_nonfinite=True)
    assert nothing == 0
    nothing.backward()
    # A target beyond the numbers has its own words.
    with pytest.raises(InvalidDataError, match="out of reach"):
        DensityHead(IN, 2, K, dtype=torch.float32).loss(
            torch.zeros(1, IN), torch.full((1, 2), 1e30)
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, 2, 3), "in_features must be an integer >= 1, got 0"),
        ((4, 0, 3), "num_features must be an integer >= 1, got 0"),
        ((4, 2, 0), "num_components must be an integer >= 1, got 0"),
        ((4, 2, 2.0), "num_components must be an integer >= 1, got 2.0"),
        ((4, 2, 3, "ful"), "full"),
    ],
)
def test_sizes(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        DensityHead(*arguments)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale_range": 1.0}, "scale_range must be a finite number > 1, got 1.0"),
        ({"scale_range": "a"}, "scale_range must be a finite number > 1, got 'a'"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0, got 0.0"),
        ({"dtype": torch.float16}, "dtype must be float32 or float64"),
    ],
)
def test_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgumentError, match=said):
        DensityHead(4, 2, 3, **options)


def test_shapes_name_both_sides() -> None:
    head = DensityHead(IN, 1, K)
    h = torch.randn(6, IN)
    with pytest.raises(InvalidArgumentError, match=r"features \(\*S, 4\), got shape \(6, 3\)"):
        head(h[:, :3])
    with pytest.raises(
        InvalidArgumentError, match=r"shape \(6, 4\) need targets of shape \(6, 1\), got shape \(5"
    ):
        head.loss(h, torch.randn(5, 1))
    with pytest.raises(InvalidArgumentError, match=r"write y\[..., None\]"):
        head.log_prob(h, torch.randn(6))
    with pytest.raises(InvalidArgumentError, match=r"write torch.as_tensor"):
        head([[1.0] * IN])


def test_sources_name_both_sides(generator: Generator) -> None:
    head = DensityHead(IN, 2, K)
    with pytest.raises(InvalidArgumentError, match=r"\(2, 2\), got means of shape \(3, 2\)"):
        head.initialize_from(GMMLayer(2, 3))
    with pytest.raises(InvalidArgumentError, match="source must be a mixture or a layer with"):
        head.initialize_from("x")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@over_families
def test_half_precision_is_computed_in_float32(family: str, dtype: torch.dtype) -> None:
    head = made(family).to(dtype)
    h, y = torch.randn(5, IN, dtype=dtype), torch.randn(5, D, dtype=dtype)
    values = head.log_prob(h, y)
    assert values.dtype == torch.float32
    assert torch.allclose(values, head(h).log_prob(y), rtol=1e-5)
    head.loss(h, y).backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in head.parameters())


def test_an_empty_batch_has_draws() -> None:
    head = made("full")
    for mixture in (head(torch.zeros(0, IN)), head(torch.zeros(2, 0, IN))):
        assert mixture.sample((3,)).shape == (3, *mixture.batch_shape, D)
        assert mixture.rsample((3,)).shape == (3, *mixture.batch_shape, D)
