"""EM on rows with errors of measurement: exact, and what rows say of the true ones."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.random_layers import FAMILIES, parameters, random_layer, rows
from support.uncertain_loop import loop_statistics
from torch import Generator, Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from gmm_lightning import GMMLayer, e_step, fit_em
from gmm_lightning.distributions import deconvolve
from gmm_lightning.errors import InvalidArgumentError, InvalidDataError
from gmm_lightning.rows import Batch

pytestmark = pytest.mark.usefixtures("double")
over_families = pytest.mark.parametrize("family", FAMILIES)
KINDS = ("variances", "matrices")
nan = float("nan")


def errors(kind: str, n: int, d: int, generator: Generator) -> Tensor:
    """Covariances of errors, a fifth of them 0."""
    root = torch.randn(n, d, d, generator=generator)
    found = root @ root.mT / d
    found[::5] = 0
    return found if kind == "matrices" else found.diagonal(dim1=-2, dim2=-1).clone()


def noisy(x: Tensor, covariance: Tensor, generator: Generator) -> Tensor:
    """Rows with errors drawn."""
    dense = covariance if covariance.dim() == 3 else covariance.diag_embed()
    values, axes = torch.linalg.eigh(dense)
    z = torch.randn(x.shape, generator=generator) * values.clamp(min=0).sqrt()
    return x + (axes @ z.unsqueeze(-1)).squeeze(-1)


def batch_of(x: Tensor, covariance: Tensor) -> Batch:
    return Batch(x, extra={"error_covariance": covariance})


@pytest.mark.parametrize("missing", [None, "em"])
@pytest.mark.parametrize("kind", KINDS)
@over_families
def test_an_e_step_equals_a_loop_over_rows(
    family: str, kind: str, missing: str | None, generator: Generator
) -> None:
    layer = random_layer(family, generator=generator, num_features=3)
    x, given = rows(50, 3, generator), errors(kind, 50, 3, generator)
    if missing is not None:
        x[torch.rand(50, 3, generator=generator) < 0.3] = nan
        x[0] = nan
    reference = loop_statistics(layer, x, given)
    if missing is not None:
        # Errors of missing entries are not read.
        given[0], given[x.isnan()] = nan, nan
    for size in (None, 7):
        stats = e_step(layer, batch_of(x, given), missing=missing, chunk_size=size)
        for name in ("counts", "first", "second", "log_likelihood"):
            mine, theirs = getattr(stats, name), getattr(reference, name)
            assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-10), name


@over_families
def test_errors_of_zero_are_ordinary_em_bit_for_bit(family: str, generator: Generator) -> None:
    x, fitted = rows(120, 2, generator), []
    for given in (None, torch.zeros(120, 2), torch.zeros(120, 2, 2)):
        layer = GMMLayer(2, 2, family)
        fit_em(layer, x, error_covariance=given, generator=0)
        fitted.append(parameters(layer))
    for other in fitted[1:]:
        assert all(torch.equal(a, b) for a, b in zip(fitted[0], other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@over_families
def test_em_ends_where_the_gradient_is_zero(family: str, kind: str, generator: Generator) -> None:
    given = errors(kind, 150, 2, generator)
    x = noisy(rows(150, 2, generator), given, generator)
    x[3:9, 1] = nan
    layer = GMMLayer(2, 2, family)
    how: dict[str, Any] = {"missing": "em", "error_covariance": given, "initializer": "kmeans"}
    result = fit_em(layer, x, tol=0, max_iter=5000, generator=0, **how)
    # Rounding of the sums of 150 log densities.
    assert torch.tensor(result.history).diff().min() >= -1e-12
    likelihood = layer.log_prob(batch_of(x, given), missing="marginalize").mean()
    slopes = torch.autograd.grad(likelihood, list(layer.parameters()))
    # Linear convergence: what is left of a step is about the square root of a gain of 1e-15.
    assert max(float(slope.abs().max()) for slope in slopes) < 2e-6


def test_the_spread_of_the_errors_is_taken_off(generator: Generator) -> None:
    true = torch.randn(20_000, 1, generator=generator)
    given = torch.rand(20_000, 1, generator=generator) * 8
    layer = GMMLayer(1, 1)
    fit_em(layer, noisy(true, given, generator), error_covariance=given)
    # Five standard errors of a variance of 1 from rows with errors of variance 4 and less.
    assert abs(float(layer.covariance_matrix.detach()) - 1) < 5 * 5 * math.sqrt(2 / 20_000)


# -- densities and true rows --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@over_families
def test_the_density_is_that_of_the_sum(family: str, kind: str, generator: Generator) -> None:
    layer = random_layer(family, generator=generator, num_features=3)
    x, given = rows(20, 3, generator), errors(kind, 20, 3, generator)
    dense = given if kind == "matrices" else given.diag_embed()
    total = layer.covariance_matrix + dense.unsqueeze(1)
    weights = Categorical(layer.weights.expand(20, -1))
    means = layer.means.expand(20, -1, -1)
    expected = MixtureSameFamily(weights, MultivariateNormal(means, total)).log_prob(x)
    assert torch.allclose(layer.log_prob(batch_of(x, given)), expected, rtol=1e-10)
    mixture = layer.distribution()
    own = mixture.log_prob(x, error_covariance=given)
    assert torch.allclose(own, expected, rtol=1e-10)
    responsibilities = layer.responsibilities(batch_of(x, given))
    assert torch.allclose(responsibilities.sum(-1), torch.ones(20), rtol=1e-12)
    x[0, 1] = nan
    assert mixture.log_prob(x, error_covariance=given)[0].isnan()
    assert mixture.log_prob(x, "marginalize", given).isfinite().all()


def test_densities_of_a_batch_of_mixtures(generator: Generator) -> None:
    layer = random_layer("full", generator=generator, batch=(3,))
    x, given = rows(10, 2, generator, (3,)), errors("matrices", 10, 2, generator)
    found = layer.log_prob(batch_of(x, given))
    for b in range(3):
        mixture = layer.distribution().map_parameters(lambda values, b=b: values[b])
        assert torch.allclose(found[:, b], mixture.log_prob(x[:, b], None, given))


@pytest.mark.parametrize("kind", KINDS)
def test_true_rows_have_the_moments_of_the_conditional(kind: str, generator: Generator) -> None:
    layer = random_layer("full", generator=generator, num_components=1)
    number = 20_000
    x = torch.tensor([1.5, -0.5]).expand(number, 2).clone()
    given = errors(kind, 2, 2, generator)[1].expand(number, *[2] * KINDS.index(kind), 2)
    error = given[0] if kind == "matrices" else given[0].diag()
    covariance, centre = layer.covariance_matrix[0].detach(), layer.means[0].detach()
    gain = covariance @ torch.linalg.inv(covariance + error)
    mean = deconvolve(layer, x, given).detach()
    assert torch.allclose(mean, centre + (x - centre) @ gain.T, rtol=1e-10)
    draws = deconvolve(layer, x, given, "draw", generator).detach()
    expected = covariance - gain @ covariance
    # Five standard errors of means and covariances.
    spread = expected.diagonal().sqrt()
    assert ((draws.mean(0) - mean[0]).abs() < 5 * spread / number**0.5).all()
    bound = 5 * spread.outer(spread) * (2 / number) ** 0.5
    assert ((draws.T.cov() - expected).abs() < bound).all()


def test_true_rows_fill_in_what_is_missing_and_keep_what_is_known(generator: Generator) -> None:
    layer = random_layer("full", generator=generator)
    x, given = rows(30, 2, generator), errors("variances", 30, 2, generator)
    x[::3, 0] = nan
    for kind in ("mean", "draw"):
        found = deconvolve(layer, x, given, kind, 0)
        assert found.isfinite().all()
        known = ~x.isnan() & (given == 0)
        assert torch.equal(found[known], x[known])
        assert not torch.equal(found[1], x[1])
    assert torch.equal(
        deconvolve(layer, x, given, "draw", 0), deconvolve(layer, x, given, "draw", 0)
    )


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.ones(19, 2), r"shape \(20, 2\) or matrices of shape \(20, 2, 2\)"),
        (torch.ones(20), "one for each row, got shape"),
        (torch.ones(20, 2, 3), "one for each row, got shape"),
        (-torch.ones(20, 2), r"finite and >= 0; it is not in row\(s\) 0, 1"),
        (torch.full((20, 2), nan), "finite and >= 0"),
        (torch.full((20, 2), torch.inf), "finite and >= 0"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]).expand(20, 2, 2), "positive semidefinite"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]).expand(20, 2, 2), "symmetric"),
        ("large", "error_covariance"),
        (torch.ones(20, 2) * 1j, "real numbers"),
    ],
)
def test_bad_errors_are_refused_in_a_sentence(given: Any, words: str, generator: Generator) -> None:
    layer, x = GMMLayer(2, 2), rows(20, 2, generator)
    before = parameters(layer)
    with pytest.raises(InvalidDataError, match=words):
        fit_em(layer, x, error_covariance=given)
    with pytest.raises(InvalidDataError, match=words):
        deconvolve(layer, x, given)
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(layer), strict=True))


def test_errors_beside_batches_are_refused(generator: Generator) -> None:
    x, given = rows(20, 2, generator), torch.ones(20, 2)
    for own in (Batch(x), [x[:10], x[10:]]):
        with pytest.raises(InvalidArgumentError, match="batches carry their own"):
            fit_em(GMMLayer(2, 2), own, error_covariance=given)


def test_batches_have_errors_of_one_kind(generator: Generator) -> None:
    x = rows(20, 2, generator)
    given = (torch.ones(20, 2), torch.eye(2).expand(20, 2, 2))
    for other in (Batch(x), batch_of(x, given[1])):
        with pytest.raises(InvalidDataError, match="from row 20 on it is not as before"):
            fit_em(GMMLayer(2, 2), [batch_of(x, given[0]), other])


def test_missing_entries_beside_errors_are_refused_unless_asked_for(generator: Generator) -> None:
    x, given = rows(20, 2, generator), torch.ones(20, 2)
    x[4, 1] = nan
    layer = GMMLayer(2, 2)
    with pytest.raises(InvalidDataError, match=r"row\(s\) 4"):
        fit_em(layer, x, error_covariance=given)
    with pytest.raises(InvalidDataError, match=r"row\(s\) 4"):
        e_step(layer, batch_of(x, given))


def test_true_rows_need_one_mixture_and_a_known_kind(generator: Generator) -> None:
    x, given = rows(20, 2, generator), torch.ones(20, 2)
    with pytest.raises(InvalidArgumentError, match="single mixture"):
        deconvolve(GMMLayer(2, 2, batch_shape=(3,)), x[:, None], given)
    with pytest.raises(InvalidArgumentError, match="unknown kind"):
        deconvolve(GMMLayer(2, 2), x, given, "mode")
    with pytest.raises(InvalidArgumentError, match="missing must be None or"):
        GMMLayer(2, 2).log_prob(batch_of(x, given), missing="em")
