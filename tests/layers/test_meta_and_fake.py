"""Modules without values: on the meta device, and as fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.covering import covering
from support.random_layers import FAMILIES, PRIORS, make_priors, served
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from gmm_lightning import (
    DensityHead,
    GMMLayer,
    MixtureClassifier,
    StepwiseEM,
    e_step,
    fit_classifier,
    fit_em,
    resolve_priors,
)
from gmm_lightning.errors import InvalidArgumentError
from gmm_lightning.layers import SamplingHead, Standardize
from gmm_lightning.losses import negative_log_likelihood
from gmm_lightning.priors import InverseWishart, NormalInverseWishart

IN, D, K = 3, 2, 3
Make = Callable[..., nn.Module]
MODULES: dict[str, Make] = {
    "layer": lambda *a: GMMLayer(D, K, *a),
    "batch": lambda *a: GMMLayer(D, K, *a, batch_shape=(2,)),
    "head": lambda *a: DensityHead(IN, D, K, *a),
    "head of a batch": lambda *a: DensityHead(IN, D, K, *a, batch_shape=(2,)),
    "shared head": lambda *a: DensityHead(IN, D, K, *a, shared_scale=True),
    "classifier": lambda *a: MixtureClassifier(GMMLayer(D, K, *a, batch_shape=(2,))),
    "sampler": lambda *a: SamplingHead(GMMLayer(D, K, *a), seed=0),
    "units": lambda *_: Standardize(D),
}


def state(module: nn.Module) -> dict[str, Tensor]:
    return dict(module.state_dict())


# With the densities that no closed form of EM reads.
BAYES = "dirichlet+independent_normal+half_cauchy+lkj"
NEW = ("log_normal", "inverse_gamma", "half_normal", "stick_breaking", "sparse_dirichlet")


@pytest.mark.parametrize("given", [False, True], ids=["open", "given"])
@pytest.mark.parametrize(("kind", "family", "prior"), covering(MODULES, FAMILIES, PRIORS))
def test_reset_parameters_is_the_constructor(
    kind: str, family: str, prior: str, given: bool
) -> None:
    if not served(family, prior, "gradient"):
        pytest.skip("not served")
    make = MODULES[kind]
    torch.manual_seed(0)
    expected = make(family, make_priors(prior, given=given))
    with torch.device("meta"):
        module = make(family, make_priors(prior, given=given))
    assert {value.device.type for value in state(module).values()} == {"meta"}
    module.to_empty(device=torch.get_default_device())
    for again in range(2):
        for number, value in enumerate(state(module).values()):
            value.fill_(7.0 + number + again)
        torch.manual_seed(0)
        module.reset_parameters()
        for name, value in state(expected).items():
            torch.testing.assert_close(
                state(module)[name], value, rtol=0, atol=0, equal_nan=True, msg=name
            )


def test_every_module_with_parameters_can_be_reset() -> None:
    for make in MODULES.values():
        for module in make("full", ["dirichlet", "niw"]).modules():
            if [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
                assert callable(getattr(module, "reset_parameters", None)), type(module)


def test_a_head_that_was_used_is_as_new() -> None:
    layer, y = GMMLayer(D, K, priors="niw"), 5 + torch.randn(50, D)
    fit_em(layer, y, max_iter=2, tol=0.0)
    head = DensityHead(IN, D, K, priors="niw")
    head.initialize_from(layer)
    assert bool((head.parametrization.loc != 0).all())
    for module in (layer, head):
        module.reset_parameters()
        assert not module.all_priors[0].resolved
    assert head.parametrization.loc.count_nonzero() == 0
    sampler = SamplingHead(GMMLayer(D, K), seed=3)
    first = sampler(4)
    means = sampler.source.means.detach().clone()
    sampler.reset_parameters()
    with torch.no_grad():
        sampler.source.means.copy_(means)
    assert torch.equal(sampler(4), first)
    with pytest.raises(InvalidArgumentError, match="no reset_parameters: reset its parts"):
        SamplingHead(nn.Sequential(DensityHead(IN, D, K))).reset_parameters()
    # What is no module has nothing to reset.
    SamplingHead(layer.distribution().with_parameters).reset_parameters()


FITS: dict[str, Callable[[GMMLayer, Tensor], Any]] = {
    "fit_em": fit_em,
    "e_step": e_step,
    "resolve_priors": resolve_priors,
    "stepwise": lambda layer, x: StepwiseEM(layer).partial_fit(x),
}


@pytest.mark.parametrize("prior", [None, "niw"])
@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_fits_need_a_layer_with_values(
    fit: Callable[[GMMLayer, Tensor], Any], prior: str | None
) -> None:
    with pytest.raises(InvalidArgumentError, match="call to_empty"):
        fit(GMMLayer(D, K, priors=prior, device="meta"), torch.randn(9, D))


def test_a_classifier_without_values_is_not_fitted() -> None:
    classifier = MixtureClassifier(GMMLayer(D, K, batch_shape=(2,), device="meta"))
    with pytest.raises(InvalidArgumentError, match="call to_empty"):
        fit_classifier(classifier, torch.randn(9, D), torch.arange(9) % 2)


@pytest.mark.parametrize("prior", [InverseWishart, NormalInverseWishart])
def test_a_prior_without_values_is_shown_and_refused(
    prior: type[InverseWishart | NormalInverseWishart],
) -> None:
    scale = torch.eye(D, device="meta")
    layer = GMMLayer(D, K, priors=prior(scale_matrix=scale), device="meta")
    assert "scale_matrix=Tensor of shape (2, 2)" in repr(layer)
    layer.to_empty(device="cpu")
    for use_values in (layer.reset_parameters, layer.all_priors[0].config):
        with pytest.raises(InvalidArgumentError, match="must have values"):
            use_values()


def use(family: str, prior: str) -> None:
    """Densities, losses and gradients of everything, with values that nobody can look at."""
    h, y, n = torch.randn(700, IN), torch.randn(700, D), 700
    priors = make_priors(prior, given=True)
    head = DensityHead(IN, D, K, family, priors)
    assert head.log_prob(h, y).shape == (n,)
    weight = torch.rand(n)
    head.loss(h, y, weight=weight, mask=weight > 0.5, skip_nonfinite=True).backward()
    assert head.linear.weight.grad is not None
    assert head.num_skipped == 0
    assert head(h).log_prob(y).shape == (n,)
    layer = GMMLayer(D, K, family, priors)
    (negative_log_likelihood(layer, y, weight=weight) - layer.objective(y)).backward()
    classifier = MixtureClassifier(GMMLayer(D, K, family, priors, batch_shape=(2,)))
    classifier.objective(y, torch.arange(n) % 2).backward()
    # Shapes are known.
    with pytest.raises(InvalidArgumentError, match="need targets"):
        head.loss(h, y[1:])
    with pytest.raises(InvalidArgumentError, match="mask must be boolean"):
        head.loss(h, y, mask=weight)


WITHOUT_VALUES: dict[str, Callable[[], Any]] = {
    "meta": lambda: torch.device("meta"),
    "fake": FakeTensorMode,
    "symbols": lambda: FakeTensorMode(shape_env=ShapeEnv()),
}


@pytest.mark.parametrize(
    ("kind", "family", "prior"),
    covering(WITHOUT_VALUES, FAMILIES, ["none", "dirichlet", "niw", BAYES, *NEW]),
)
def test_modules_work_without_values(kind: str, family: str, prior: str) -> None:
    if not served(family, prior, "gradient"):
        pytest.skip("not served")
    with WITHOUT_VALUES[kind]():
        use(family, prior)


def test_fake_rows_for_a_real_head() -> None:
    head = DensityHead(IN, D, K)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert head.loss(torch.randn(5, IN), torch.randn(5, D)).shape == ()
    h, y = torch.randn(5, IN), torch.randn(5, D)
    traced = make_fx(lambda h, y: head.loss(h, y))(h, y)
    assert torch.equal(traced(h, y), head.loss(h, y))


@pytest.mark.parametrize("prior", [None, "niw"])
def test_losses_compile_as_one_graph(prior: str | None) -> None:
    torch._dynamo.reset()
    head = DensityHead(IN, D, K, priors=prior)
    head.initialize_from(GMMLayer(D, K))
    h, y, weight = torch.randn(5, IN), torch.randn(5, D), torch.rand(5)
    y[2] = torch.nan

    def loss(h: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        return head.loss(h, y, weight=weight, mask=weight > 0.1, skip_nonfinite=True)

    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    # The same operations; a graph may add in another order.
    torch.testing.assert_close(compiled(h, y, weight), loss(h, y, weight))


def test_a_loss_is_exported() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = DensityHead(IN, D, K, batch_shape=(4,))

        def forward(self, h: Tensor, y: Tensor, mask: Tensor) -> Tensor:
            return self.head.loss(h, y, mask=mask)

    def given(n: int) -> tuple[Tensor, ...]:
        return torch.randn(n, IN), torch.randn(n, 4, D), torch.rand(n, 4) > 0.3

    module = Loss()
    rows = {0: torch.export.Dim("rows")}
    program = torch.export.export(module, given(6), dynamic_shapes=(rows, rows, rows))
    some = given(9)
    torch.testing.assert_close(program.module()(*some), module(*some))
