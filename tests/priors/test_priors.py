"""Priors by hand, against torch's densities, and at the edges of their domains."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from support.covering import covering
from support.random_layers import (
    FAMILIES,
    HYPER,
    PRIORS,
    finite,
    make_priors,
    random_layer,
    rows,
    served,
)
from torch import Tensor

from gmm_lightning import GMMLayer, e_step, fit_em, m_step, resolve_priors
from gmm_lightning.covariances import Covariance
from gmm_lightning.covariances import registry as covariances
from gmm_lightning.distributions import MixtureOfGaussians
from gmm_lightning.errors import InvalidArgumentError, UnresolvedPriorError
from gmm_lightning.priors import (
    LKJ,
    Dirichlet,
    HalfCauchy,
    HalfNormal,
    IndependentNormal,
    InverseGamma,
    InverseWishart,
    LogNormal,
    MixtureShape,
    NormalInverseWishart,
    NormalMeans,
    Prior,
    SparseDirichlet,
    StickBreaking,
    as_priors,
    registry,
)
from gmm_lightning.statistics import Moments

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)
over_priors = pytest.mark.parametrize("prior", registry.names)
# Those with a closed form, and all that every family has.
BY_EM = [prior for prior in PRIORS if served("full", prior)]
EVERYWHERE = [p for p in PRIORS[1:] if all(served(f, p, "gradient") for f in FAMILIES)]

# "One component under priors" of tests/golden/README.md, and docs/numerics.md, 3.
ROWS = [[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0], [1.0, 4.0]]
NIW: dict[str, Any] = {
    "loc": [0.0, 0.0],
    "mean_precision": 2.0,
    "df": 4.0,
    "scale_matrix": [[1.0, 0.0], [0.0, 1.0]],
}
MEAN = torch.tensor([0.71428571, 1.14285714], dtype=torch.float64)
SCATTER = torch.tensor([[6.42857143, 2.28571429], [2.28571429, 15.85714286]], dtype=torch.float64)
# The reference numbers carry eight decimals.
PRINTED = {"rtol": 0.0, "atol": 1e-8}


def one_step(x: Tensor, num_components: int, family: str, prior: Any) -> GMMLayer:
    layer = GMMLayer(x.shape[1], num_components, family, prior)
    resolve_priors(layer, x)
    m_step(layer, e_step(layer, x))
    return layer


@over_families
def test_niw_of_the_design(family: str) -> None:
    layer = one_step(torch.tensor(ROWS), 1, family, NormalInverseWishart(**NIW))
    assert torch.allclose(layer.means[0], MEAN, **PRINTED)
    # One component: tied and free agree, and every family sees its part of the mode.
    mode = SCATTER / 13
    expected = {
        "full": mode,
        "diag": mode.diagonal().diag_embed(),
        "spherical": mode.diagonal().mean() * torch.eye(2),
    }[family.removeprefix("tied_").replace("tied", "full")]
    assert torch.allclose(layer.covariance_matrix[0], expected, **PRINTED)
    if family == "full":
        printed = torch.tensor([[0.49450549, 0.17582418], [0.17582418, 1.21978022]])
        assert torch.allclose(layer.covariance_matrix[0], printed, **PRINTED)


@over_families
def test_inverse_wishart_alone(family: str) -> None:
    # "One component under priors": the IW-only mode, n + df + D + 1 = 12.
    prior = InverseWishart(df=NIW["df"], scale_matrix=NIW["scale_matrix"])
    layer = one_step(torch.tensor(ROWS), 1, family, prior)
    variances = torch.tensor([0.41666667, 1.01666667])
    if family.endswith("spherical"):
        variances = variances.mean().expand(2)
    assert torch.allclose(layer.covariance_matrix[0].diagonal(), variances, **PRINTED)
    assert torch.allclose(layer.means[0], torch.tensor([1.0, 1.6]), rtol=1e-14)


def test_the_parts_make_the_whole() -> None:
    whole = one_step(torch.tensor(ROWS), 1, "full", NormalInverseWishart(**NIW))
    parts = [NormalMeans(NIW["loc"], 2.0), InverseWishart(4.0, NIW["scale_matrix"])]
    other = one_step(torch.tensor(ROWS), 1, "full", parts)
    # The two layers took their sums about different means.
    for a, b in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-13, atol=1e-13)
    assert torch.allclose(whole.log_prior(), other.log_prior(), rtol=1e-13)


@pytest.mark.parametrize("tied", [False, True])
def test_degrees_of_freedom_of_many_components(*, tied: bool) -> None:
    # Section 5: a tied family has one inverse-Wishart and K normals.
    family, x = ("tied" if tied else "full"), torch.tensor(ROWS)
    layer = GMMLayer(2, 2, family, NormalInverseWishart(**NIW))
    stats = e_step(layer, x)
    n = stats.counts
    centred = x - (stats.shift + stats.first / n.unsqueeze(-1)).unsqueeze(1)
    resp = layer.responsibilities(x).detach()
    scatter = torch.einsum("nk,kni,knj->kij", resp, centred, centred)
    gap = stats.shift + stats.first / n.unsqueeze(-1)
    shrunk = (2 * n / (2 + n))[:, None, None] * gap.unsqueeze(-1) * gap.unsqueeze(-2)
    psi = torch.eye(2)
    if tied:
        expected = ((scatter + shrunk).sum(0) + psi) / (5 + 4 + 2 + 1 + 2)
        expected = expected.expand(2, 2, 2)
    else:
        expected = (scatter + shrunk + psi) / (n + 4 + 2 + 2)[:, None, None]
    m_step(layer, stats)
    assert torch.allclose(layer.covariance_matrix, expected, rtol=1e-12)
    assert torch.allclose(layer.means, gap * (n / (n + 2)).unsqueeze(-1), rtol=1e-12)


@over_families
def test_the_density_of_the_normal_is_torchs(family: str, generator: torch.Generator) -> None:
    layer = random_layer(family, "normal", generator=generator, given=True)
    prior = layer.priors["means"]
    covariance = layer.covariance_matrix / prior.mean_precision[:, None, None]
    theirs = torch.distributions.MultivariateNormal(prior.loc, covariance).log_prob(layer.means)
    constant = 0.5 * 2 * (prior.mean_precision.log() - math.log(2 * math.pi))
    assert torch.allclose(layer.log_prior(), (theirs - constant).sum(), rtol=1e-12)


@over_families
def test_the_density_of_the_inverse_wishart_is_torchs(
    family: str, generator: torch.Generator
) -> None:
    layer = random_layer(family, "inverse_wishart", generator=generator, given=True)
    distinct = 1 if layer.covariance.tied else 3
    psi = torch.tensor(HYPER["inverse_wishart"]["scale_matrix"])
    if not torch.equal(layer.covariance.project(psi), psi):
        psi = layer.covariance.variances(layer.covariance.project(psi[None]), 2)[0].diag_embed()
    df, precision = 7.0, layer.precision_matrix[:distinct]
    wishart = torch.distributions.Wishart(torch.tensor(df), torch.linalg.inv(psi))
    # The inverse-Wishart density of Sigma is the Wishart one of its inverse, times |Sigma|^-(D+1).
    theirs = wishart.log_prob(precision) - 3 * torch.logdet(layer.covariance_matrix[:distinct])
    log_gamma = torch.special.multigammaln(torch.tensor(df / 2), 2)
    constant = 0.5 * df * torch.logdet(psi) - 0.5 * df * 2 * math.log(2) - log_gamma
    assert torch.allclose(layer.log_prior(), (theirs - constant).sum(), rtol=1e-11)


def test_the_density_of_the_dirichlet_is_torchs(generator: torch.Generator) -> None:
    alpha = torch.tensor([1.5, 2.0, 4.0])
    layer = GMMLayer(2, 3, priors=Dirichlet(alpha))
    layer.set_parameters(weights=torch.tensor([0.2, 0.5, 0.3]))
    theirs = torch.distributions.Dirichlet(alpha)
    constant = torch.lgamma(alpha.sum()) - torch.lgamma(alpha).sum()
    expected = theirs.log_prob(layer.weights) - constant
    assert torch.allclose(layer.log_prior(), expected, rtol=1e-12)


def with_counts(counts: list[int], prior: Prior) -> GMMLayer:
    """One M-step on rows with these many of each label."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    x = torch.randn(len(labels), 2)
    layer = GMMLayer(2, len(counts), priors=prior)
    fit_em(layer, x, initializer=labels, max_iter=0)
    return layer


def test_dirichlet_map() -> None:
    # "Weights under a Dirichlet prior" of tests/golden/README.md.
    layer = with_counts([6, 3, 1], Dirichlet(2.0))
    assert torch.allclose(layer.weights, torch.tensor([7.0, 4.0, 2.0]) / 13, rtol=1e-14)


def test_a_sparse_dirichlet_drops_a_component() -> None:
    # "Weights under a Dirichlet prior": an empty component under alpha = 0.05.
    layer = with_counts([7, 3, 0], Dirichlet(0.05))
    assert float(layer.weights.detach().sum()) == 1.0
    assert torch.allclose(layer.weights, torch.tensor([6.05, 2.05, 0.0]) / 8.1, rtol=1e-14)
    assert finite(layer)
    # Its log-prior is evaluated at 1e-12: with -0.95 log(1e-12) in it.
    expected = -0.95 * (layer.weights[:2].log().sum() + math.log(1e-12))
    assert torch.allclose(layer.log_prior(), expected, rtol=1e-12)
    sample = layer.sample(1000, return_component=True)
    assert int(sample[1].max()) == 1


def test_a_sparse_dirichlet_without_mode_follows_the_data() -> None:
    layer = GMMLayer(2, 2, priors=Dirichlet(0.05))
    m_step(layer, e_step(layer, torch.zeros(1, 2)))
    assert float(layer.weights.detach().sum()) == pytest.approx(1.0, abs=1e-15)
    assert finite(layer)


@over_families
def test_the_defaults_of_fraley_and_raftery(family: str, generator: torch.Generator) -> None:
    x = rows(50, 2, generator)
    weight = torch.rand(50, generator=generator)
    prior = NormalInverseWishart(convention="fraley_raftery")
    layer = GMMLayer(2, 3, family, ["dirichlet", prior])
    resolve_priors(layer, x, weight)
    niw, dirichlet = layer.priors["components"], layer.priors["weights"]
    mean = (weight.unsqueeze(-1) * x).sum(0) / weight.sum()
    gap = x - mean
    covariance = torch.einsum("n,ni,nj->ij", weight, gap, gap) / weight.sum()
    assert torch.allclose(niw.loc, mean.expand(3, 2), rtol=1e-12)
    assert torch.equal(niw.mean_precision, torch.full((3,), 0.01))
    assert torch.equal(niw.df, torch.full((layer.covariance.groups(3),), 4.0))
    expected = layer.covariance.project(covariance[None] / 3 ** (2 / 2))
    assert torch.allclose(niw.scale_matrix, expected.expand_as(niw.scale_matrix), rtol=1e-12)
    assert torch.equal(dirichlet.concentration, torch.ones(3))


@pytest.mark.parametrize("prior", [NormalInverseWishart, InverseWishart])
@over_families
def test_the_inverse_of_the_expected_precision(
    family: str, prior: type[Prior], generator: torch.Generator
) -> None:
    """`Psi_n / (df + n)` is a fixed point of EM and of gradients alike."""
    x = rows(60, 2, generator)
    layer = GMMLayer(2, 1, family, prior(df=5.0, convention="expected_precision"))
    fit_em(layer, x, tol=0, max_iter=3)
    layer.objective(x).backward()
    assert float(layer.raw_scale.grad.abs().max()) < 1e-12
    own = layer.priors.to_list()[0]
    gap = x - layer.means.detach()[0]
    numerator = layer.covariance.project((gap.T @ gap)[None]) + own.scale_matrix
    if prior is NormalInverseWishart:
        pull = layer.means.detach()[0] - own.loc[0]
        pull = float(own.mean_precision) * torch.outer(pull, pull)
        numerator = numerator + layer.covariance.project(pull[None])
    expected = numerator / (60 + 5)
    found = layer.covariance.project(layer.covariance_matrix.detach()[:1])
    assert torch.allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("prior", ["niw", "inverse_wishart"])
@over_families
def test_the_mode_of_one_component_is_not_biased(
    family: str, prior: str, generator: torch.Generator
) -> None:
    """Variances are those of the data, whatever the number of rows."""
    for n, d in ((6, 8), (40, 3)):
        x = 3 * torch.randn(n, d, generator=generator) + 5
        layer = GMMLayer(d, 1, family, prior)
        fit_em(layer, x, generator=generator)
        variance = x.var(0, correction=0)
        if family.endswith("spherical"):
            variance = variance.mean().expand(d)
        found = layer.covariance_matrix[0].diagonal()
        assert torch.allclose(found, variance, rtol=1e-10)
        assert torch.allclose(layer.means[0], x.mean(0), rtol=1e-10)


@pytest.mark.parametrize("family", ["full", "tied", "diag"])
def test_a_default_prior_regularizes_fewer_rows_than_features(family: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 60, generator=generator)
    test = torch.randn(500, 60, generator=generator)
    layer = GMMLayer(60, 2, family, "niw")
    result = fit_em(layer, x, generator=generator)
    assert not result.events
    # The truth, a standard normal, has -85.1 on average.
    assert float(layer(test).mean().detach()) > -100


def test_defaults_do_not_depend_on_order_copies_or_scale(generator: torch.Generator) -> None:
    x = rows(60, 2, generator)
    times = torch.randint(1, 4, (60,), generator=generator)

    def hyper(data: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
        layer = GMMLayer(2, 3, priors="niw")
        resolve_priors(layer, data, weight)
        niw = layer.priors["components"]
        return niw.df, niw.scale_matrix

    df, scale = hyper(x, times.double())
    order = torch.randperm(60, generator=generator)
    unit = torch.tensor([1e-3, 1e4])
    for data, weight in ((x[order], times[order].double()), (x.repeat_interleave(times, 0), None)):
        again = hyper(data, weight)
        assert torch.equal(again[0], df)
        assert torch.allclose(again[1], scale, rtol=1e-9)
    again = hyper(x * unit + 7, times.double())
    assert torch.equal(again[0], df)
    assert torch.allclose(again[1], scale * unit * unit[:, None], rtol=1e-8)


def test_given_values_stay() -> None:
    layer = GMMLayer(2, 3, priors=NormalInverseWishart(df=9.0, loc=[1.0, 2.0]))
    resolve_priors(layer, torch.randn(20, 2) + 5)
    niw = layer.priors["components"]
    assert torch.equal(niw.df, torch.full((3,), 9.0))
    assert torch.equal(niw.loc, torch.tensor([1.0, 2.0]).expand(3, 2))
    assert not torch.isnan(niw.scale_matrix).any()


@pytest.mark.parametrize(("family", "prior", "scale"), covering(FAMILIES, BY_EM, [1e-8, 1.0, 1e12]))
def test_default_priors_do_not_know_the_units(
    family: str, prior: str, scale: float, generator: torch.Generator
) -> None:
    x = rows(45, 2, generator)
    start = torch.arange(45) % 3
    fitted = []
    for factor, offset in ((1.0, 0.0), (scale, 3 * scale)):
        layer = GMMLayer(2, 3, family, make_priors(prior))
        fit_em(layer, factor * x + offset, initializer=start, max_iter=5, tol=0.0)
        fitted.append((layer, (layer.means.detach() - offset) / factor))
    (plain, means), (_, other) = fitted
    # Five steps on rows rounded after the change of units.
    assert torch.allclose(means, other, rtol=1e-7, atol=1e-7)
    assert torch.allclose(plain.weights, fitted[1][0].weights, rtol=1e-7)


@pytest.mark.parametrize("prior", [p for p in PRIORS if p != "none"])
def test_unresolved_priors_say_so(prior: str) -> None:
    layer = GMMLayer(2, 3, priors=make_priors(prior))
    if all(p.resolved for p in layer.priors.values()):
        assert torch.isfinite(layer.log_prior())
        return
    with pytest.raises(UnresolvedPriorError, match="resolve_priors") as caught:
        layer.log_prior()
    assert any(repr(p.name) in str(caught.value) for p in layer.priors.values())
    with pytest.raises(UnresolvedPriorError, match="no value yet"):
        layer.objective(torch.zeros(4, 2))
    if not served("full", prior):
        return
    with pytest.raises(UnresolvedPriorError, match="no value yet"):
        m_step(layer, e_step(layer, torch.randn(9, 2)))
    # The density itself needs no prior.
    assert torch.isfinite(layer(torch.zeros(4, 2))).all()


@over_priors
def test_buffers_have_full_shape_from_the_start(prior: str) -> None:
    layer = GMMLayer(2, 3, priors=prior, batch_shape=(2,))
    before = {k: v.shape for k, v in layer.state_dict().items()}
    resolve_priors(layer, torch.randn(30, 1, 2))
    assert before == {k: v.shape for k, v in layer.state_dict().items()}
    fresh = GMMLayer(2, 3, priors=prior, batch_shape=(2,))
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh.log_prior(), layer.log_prior())
    assert layer.log_prior().shape == (2,)


@over_priors
def test_configuration_rebuilds_the_prior(prior: str) -> None:
    one = registry.get(prior)(**HYPER.get(prior, {}))
    twin = registry.get(prior)(**one.config())
    assert twin.config() == one.config()
    assert repr(twin) == repr(one)


@over_priors
def test_a_layer_copies_its_prior(prior: str) -> None:
    one = registry.create(prior)
    a, b = GMMLayer(2, 3, priors=one), GMMLayer(3, 2, priors=one)
    assert not list(one.buffers())
    if prior != "stick_breaking":  # It has one number for all components.
        assert [v.shape for v in a.priors.buffers()] != [v.shape for v in b.priors.buffers()]


@over_priors
def test_float32_layers_have_float32_priors(prior: str) -> None:
    layer = GMMLayer(2, 3, priors=prior, dtype=torch.float32)
    assert {b.dtype for b in layer.buffers()} == {torch.float32}
    resolve_priors(layer, torch.randn(20, 2))
    assert layer.log_prior().dtype == torch.float32
    assert {b.dtype for b in layer.double().buffers()} == {torch.float64}


BAD: list[tuple[type[Prior], dict[str, Any], str]] = [
    (Dirichlet, {"concentration": 0.0}, r"concentration .*'dirichlet' must be > 0.*got 0.0"),
    (Dirichlet, {"concentration": [1.0, -2.0]}, r"must be > 0 and finite, got \[1.0, -2.0\]"),
    (Dirichlet, {"concentration": math.nan}, "must be > 0 and finite, got nan"),
    (NormalMeans, {"mean_precision": 0.0}, r"mean_precision .*> 0.*got 0.0"),
    (NormalMeans, {"mean_precision": math.inf}, r"mean_precision .*finite, got inf"),
    (NormalMeans, {"loc": [math.inf, 0.0]}, "loc .* must be finite"),
    (NormalInverseWishart, {"mean_precision": -1.0}, "mean_precision .*got -1.0"),
    (InverseWishart, {"scale_matrix": [[1.0, 2.0], [2.0, 1.0]]}, "positive definite .*-1"),
    (InverseWishart, {"scale_matrix": [[1.0, 2.0], [0.0, 1.0]]}, "symmetric"),
    (InverseWishart, {"scale_matrix": [1.0, 2.0]}, r"symmetric \(D, D\).*got shape \(2,\)"),
    (InverseWishart, {"scale_matrix": [[math.nan]]}, "symmetric|positive definite"),
    (HalfCauchy, {"scale": 0.0}, r"scale .*'half_cauchy' must be > 0.*got 0.0"),
    (HalfNormal, {"scale": [1.0, -1.0]}, r"'half_normal' must be > 0.*got \[1.0, -1.0\]"),
    (LogNormal, {"loc": math.inf}, "loc .* must be finite"),
    (LogNormal, {"scale": -1.0}, "scale .*got -1.0"),
    (InverseGamma, {"concentration": 0.0}, "concentration .*got 0.0"),
    (InverseGamma, {"scale": 0.0}, "scale .*got 0.0"),
    (LKJ, {"concentration": 0.0}, "concentration .*got 0.0"),
    (SparseDirichlet, {"concentration": -1.0}, "concentration .*got -1.0"),
    (StickBreaking, {"concentration": 0.0}, "concentration .*got 0.0"),
    (StickBreaking, {"concentration_shape": 2.0}, "got 2.0 and None: give both"),
    (IndependentNormal, {"loc": [math.nan, 0.0]}, "loc .* must be finite"),
    (IndependentNormal, {"covariance": -2.0}, "covariance .*got -2.0"),
    (IndependentNormal, {"covariance": [1.0, 0.0]}, r"covariance .*got \[1.0, 0.0\]"),
    (IndependentNormal, {"covariance": [[1.0, 2.0], [2.0, 1.0]]}, "positive definite .*-1"),
    (IndependentNormal, {"covariance": [[1.0, 2.0], [0.0, 1.0]]}, "symmetric"),
    (
        InverseWishart,
        {"df": -3.5, "scale_matrix": [[1.0, 0.0], [0.0, 1.0]]},
        r"> .* = -3, got -3.5",
    ),
]


@pytest.mark.parametrize(("cls", "hyper", "words"), BAD)
def test_refuses_bad_values(cls: type[Prior], hyper: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        cls(**hyper)


UNFIT: list[tuple[Prior, str]] = [
    (Dirichlet([1.0, 2.0]), r"concentration .*broadcast to \(3,\), got shape \(2,\)"),
    (NormalMeans(loc=[0.0, 0.0, 0.0]), r"loc .*broadcast to \(3, 2\), got shape \(3,\)"),
    (InverseWishart(df=-3.0), r"-\(num_features \+ 1\) = -3, got -3.0"),
    (NormalInverseWishart(df=-4.0), r"-\(num_features \+ 1\) = -3, got -4.0"),
    (InverseWishart(scale_matrix=torch.eye(3)), r"broadcast to \(3, 2, 2\), got shape \(3, 3\)"),
    (HalfCauchy(scale=[1.0, 1.0, 1.0]), r"scale .*broadcast to \(3, 2\), got shape \(3,\)"),
    (IndependentNormal(covariance=torch.eye(3)), r"broadcast to \(1, 2, 2\), got shape \(3, 3\)"),
]


@pytest.mark.parametrize(("prior", "words"), UNFIT)
def test_refuses_what_does_not_fit_the_layer(prior: Prior, words: str) -> None:
    with pytest.raises(InvalidArgumentError, match=words):
        GMMLayer(2, 3, priors=prior)


@pytest.mark.parametrize(
    "pair",
    [
        ["dirichlet", "dirichlet"],
        ["niw", "normal"],
        ["niw", "inverse_wishart"],
        ["niw", "niw"],
        [NormalMeans(), "normal"],
        ["half_cauchy", "log_normal"],
        ["half_cauchy", "inverse_wishart"],
        ["lkj", "niw"],
        ["independent_normal", "niw"],
        ["dirichlet", "sparse_dirichlet"],
    ],
    ids=str,
)
def test_two_priors_of_one_thing_are_an_error(pair: list) -> None:
    with pytest.raises(InvalidArgumentError, match="are both on the"):
        GMMLayer(2, 3, priors=pair)


def test_every_way_to_ask_for_priors() -> None:
    niw = NormalInverseWishart()
    for spec in ("niw", niw, ["niw"], [niw], ("niw",), {"anything": niw}, {"niw": "niw"}):
        assert list(as_priors(spec)) == ["components"]
    assert as_priors(None) == as_priors([]) == {}
    for wrong in (3, [3], object()):
        with pytest.raises(InvalidArgumentError, match="expected a prior as a name"):
            as_priors(wrong)
    with pytest.raises(InvalidArgumentError, match="unknown prior 'wishart'; known are: dirichlet"):
        as_priors("wishart")


# -- batches of mixtures ------------------------------------------------------------------------

over_batches = pytest.mark.parametrize(
    ("family", "prior", "batch"), covering(FAMILIES, EVERYWHERE, [(3,), (2, 3)])
)


def batch_of(
    family: str, prior: str, batch: tuple[int, ...], generator: torch.Generator
) -> tuple[GMMLayer, Moments]:
    """A layer whose priors differ from mixture to mixture, and moments of its batch shape."""
    layer = random_layer(family, prior, generator=generator, batch=batch)
    for buffer in layer.priors.buffers():
        factor = torch.rand(*batch, *[1] * (buffer.dim() - len(batch)), generator=generator)
        buffer.mul_(1 + factor)
    return layer, moments_of(layer, rows(20, 2, generator, batch))


def moments_of(layer: GMMLayer, x: Tensor) -> Moments:
    return Moments.from_statistics(e_step(layer, x), layer.covariance)


def taken(value: Any, pick: Any) -> Any:
    """A distribution or moments with every tensor picked from."""
    if isinstance(value, Moments):
        return Moments(*(pick(getattr(value, field.name)) for field in fields(value)))
    parts = (pick(part) for part in (value.mixture_logits, value.means, value.scale))
    return MixtureOfGaussians(*parts, value.covariance)


def assert_equal_moments(found: Moments, expected: Moments) -> None:
    for field in fields(expected):
        assert torch.equal(getattr(found, field.name), getattr(expected, field.name)), field.name


@over_batches
def test_a_selected_prior_is_that_of_its_mixtures(
    family: str, prior: str, batch: tuple[int, ...], generator: torch.Generator
) -> None:
    layer, moments = batch_of(family, prior, batch, generator)
    index = torch.tensor([2, 0, 2])
    before = {name: value.clone() for name, value in layer.state_dict().items()}

    def pick(value: Tensor) -> Tensor:
        return value.reshape(-1, *value.shape[len(batch) :])[index]

    mixture = layer.distribution()
    for whole in layer.all_priors:
        some = whole.select(index)
        assert some is not whole
        # Bit for bit: the same operations on the same numbers.
        assert torch.equal(some.log_prob(taken(mixture, pick)), pick(whole.log_prob(mixture)))
        if "em" in whole.fits:
            expected = taken(whole.update(moments, layer.covariance), pick)
            assert_equal_moments(some.update(taken(moments, pick), layer.covariance), expected)
        assert some.batch_shape == (3,)
        again = some.select(torch.tensor([1]))
        assert torch.equal(
            again.log_prob(taken(mixture, lambda v: pick(v)[1:2])),
            some.log_prob(taken(mixture, pick))[1:2],
        )
        for buffer in some.buffers():
            buffer.zero_()
    after = layer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@over_priors
def test_the_prior_of_one_mixture_is_selected_as_it_is(prior: str) -> None:
    (one,) = GMMLayer(2, 3, priors=prior).all_priors
    assert one.select(torch.tensor([0, 0])) is one


@pytest.mark.parametrize(("family", "prior", "batch"), covering(FAMILIES, EVERYWHERE, [(), (3,)]))
def test_a_prior_broadcasts_over_leading_axes(
    family: str, prior: str, batch: tuple[int, ...], generator: torch.Generator
) -> None:
    layer, _ = batch_of(family, prior, batch, generator)
    starts = [random_layer(family, generator=generator, batch=batch) for _ in range(4)]
    mixtures = [start.distribution() for start in starts]
    x = rows(20, 2, generator, batch)
    moments = [moments_of(start, x) for start in starts]
    names = ("mixture_logits", "means", "scale")
    stacked = [torch.stack([getattr(m, name) for m in mixtures]) for name in names]
    together = MixtureOfGaussians(*stacked, layer.covariance)
    several = Moments(
        *(torch.stack([getattr(m, f.name) for m in moments]) for f in fields(Moments))
    )
    for one in layer.all_priors:
        each = torch.stack([*map(one.log_prob, mixtures)])
        # A solve rounds by the number of its rows.
        assert torch.allclose(one.log_prob(together), each, rtol=1e-13)
        if "em" not in one.fits:
            continue
        updated = one.update(several, layer.covariance)
        for r, own in enumerate(moments):
            expected = one.update(own, layer.covariance)
            assert_equal_moments(taken(updated, lambda v, r=r: v[r]), expected)


class Picky(Prior):
    """Serves no family that is tied, and has no closed form."""

    name, slot, fits = "picky", "weights", frozenset({"gradient"})

    def supports(self, covariance: Covariance) -> bool:
        return not covariance.tied

    def bind(self, shape: MixtureShape) -> None:
        pass

    def log_prob(self, mixture: MixtureOfGaussians) -> Tensor:
        return mixture.log_weights.sum(-1)


def test_a_prior_of_a_third_party() -> None:
    layer = GMMLayer(2, 3, priors=Picky())
    assert torch.allclose(layer.log_prior(), torch.tensor(3 * math.log(1 / 3)), rtol=1e-14)
    with pytest.raises(InvalidArgumentError, match="'picky' has no closed form for EM"):
        m_step(layer, e_step(layer, torch.randn(9, 2)))
    tied = [name for name in covariances.names if covariances.get(name).tied]
    for name in tied:
        with pytest.raises(InvalidArgumentError, match=f"'picky' does not support .* '{name}'"):
            GMMLayer(2, 3, name, Picky())
